"""The published weights: where they are, how they are fetched, checked and converted."""
