"""Benchmarks that users can run: `orsanet-cache bench read` and `orsanet-cache bench build`."""
