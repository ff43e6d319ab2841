"""Checks of a data set before hours are spent on it: what is wrong, where, and what to do.

    manifest → look.py (one pass over the pictures) → a table → judges → findings → report.py

Judges are functions from the table to findings. They open no file. The exception is copies.py,
which reads again the pictures that may be copies.
"""
