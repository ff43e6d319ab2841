"""Synthetic faces: one drawn from a seed with everything that is true of it, and a data set of them."""
