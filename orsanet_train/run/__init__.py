"""A training run: its folder, its state, its epochs; several seeds and ablations."""
