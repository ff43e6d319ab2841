"""The store: its format, how it is read, its seals and their verification.

No module imports torch, and none writes.
"""
