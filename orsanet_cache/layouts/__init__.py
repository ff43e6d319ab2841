"""Downloaded data sets as manifests: one module per layout turns a folder into labelled samples.

folder as downloaded → DataSet (found.py) → tags of further lists (tag_lists.py)
                     → NAME.csv and NAME.toml (write.py)
"""
