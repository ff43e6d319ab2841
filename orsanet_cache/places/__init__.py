"""Where a store lies: a folder of this machine, or an object store, and the copies of its files on this machine.

No module imports torch, and obstore is imported only when a URL is used.
"""
