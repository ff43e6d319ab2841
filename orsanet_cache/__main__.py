"""`python -m orsanet_cache`, which is how torchrun starts it."""

from orsanet_cache.cli import main

main(prog_name="orsanet-cache")
