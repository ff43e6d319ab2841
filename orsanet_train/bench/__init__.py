"""orsanet-train bench: what this machine makes of a training step."""
