"""A training step: losses, SAM, precision, graphs, several processes."""
