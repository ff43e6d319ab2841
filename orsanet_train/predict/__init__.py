"""Predictions of a trained run for new pictures: `orsanet-train predict`. Start at predict.py."""
