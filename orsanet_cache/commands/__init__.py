"""The commands of orsanet-cache. Each module translates options into one call, and decides nothing."""
