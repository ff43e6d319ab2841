"""Priors looked at: how far they can be trusted, and contact sheets. No torch."""
