"""A trained run as ONNX files and a model card: `orsanet-train export`. Start at export.py."""
