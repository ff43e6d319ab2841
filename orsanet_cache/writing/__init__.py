"""Writing stores: by a build, by conversion and by compaction, into a folder, an object store or an HDF5 file.

No module imports torch.
"""
