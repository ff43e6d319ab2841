"""Synthetic faces: a face drawn from a seed, with its ground truth, and data sets of them."""
