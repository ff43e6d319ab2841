"""orsanet-train bench: what this machine makes of a training step and of an evaluation, and what DARELoss does outside faces."""
