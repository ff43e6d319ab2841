"""orsanet-train bench: speed of a training step and of an evaluation; DARELoss outside faces."""
