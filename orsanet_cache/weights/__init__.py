"""The published weights: their sources, download, check and conversion."""
