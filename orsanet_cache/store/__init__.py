"""The store: format, writer, reader, seals, conversion to HDF5 and back, verification.

No module imports torch.
"""
