"""Input of a build: manifests, decoded pictures, their views, and faces found and cropped.

No module imports torch.
"""
