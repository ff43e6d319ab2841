"""A trained run as ONNX files and a model card: `orsanet-train export`. Begin to read at export.py."""
