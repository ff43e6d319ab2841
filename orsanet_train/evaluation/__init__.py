"""From a checkpoint and a store to predictions, metrics and comparisons."""
