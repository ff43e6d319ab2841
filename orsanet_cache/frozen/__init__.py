"""The frozen networks, their weights, and the priors that they compute."""
