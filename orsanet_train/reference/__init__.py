"""The frozen networks in every step, as the published code runs them: for comparison."""
