"""The commands of orsanet-cache. Each module translates options into one call, and decides nothing.

torch and zarr are imported inside the commands' bodies, so that `--help` is instant.
"""
