"""The trainable network, its checkpoints, and the frozen networks that belong to a run."""
