"""A data set looked over before hours are spent on it: what is wrong, where, and what to do.

manifest → look.py (one pass over the pictures) → a table → judges → findings → report.py

Judges are functions from the table to findings and open no file, but for copies.py, which looks again at pictures that may be copies.
"""
