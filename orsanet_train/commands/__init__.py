"""The commands of orsanet-train. Each module only translates options into one call.

torch is imported inside the commands' bodies, so that `--help` is instant.
"""
