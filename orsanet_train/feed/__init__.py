"""Batches: the rows of a split and their order; reading ahead and keeping data in memory."""
