"""Stage two: train and evaluate ORSANet on cached priors."""
