"""The commands of orsanet-train. Each module translates options into one call, and decides nothing.

torch is imported inside the commands' bodies, so that `--help` is instant.
"""
