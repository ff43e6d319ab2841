"""A training run: its folder, its state, its epochs, and several seeds."""
