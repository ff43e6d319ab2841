"""Inspection of priors: quality measures and contact sheets. No torch."""
