"""The commands of orsanet-train. Each module translates options into one call, and decides nothing."""
