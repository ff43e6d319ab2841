"""Batches: which rows a split has, in which order they come, read ahead or kept in memory."""
