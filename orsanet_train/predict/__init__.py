"""A trained run on pictures of one's own: `orsanet-train predict`. Begin to read at predict.py."""
