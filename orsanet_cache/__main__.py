"""`python -m orsanet_cache`; torchrun starts the command line in this way."""

from orsanet_cache.cli import main

main(prog_name="orsanet-cache")
