"""The commands of orsanet-cache.

Each module translates options into one call and makes no decision.

torch and zarr are imported inside the commands' bodies, so `--help` starts quickly.
"""
