"""The store: its format, the only writer and the reader, seals, conversion to HDF5 and back, verification. No torch."""
