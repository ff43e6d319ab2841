"""Host memory that a step frees is kept for the next step, which allocates the same blocks.

By default glibc returns large blocks to the system at once and gets them again page by page,
zeroed, which takes a tenth of a step's time on a CPU.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_GLIBC_MMAP_MAX = 65_536
_GLIBC_LARGEST = 32 << 20  # bytes; glibc's final threshold in a process that frees large blocks


def keep_freed_memory(keep: bool = True) -> None:
    """Keep freed memory, or restore glibc's default. Has no effect without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_MAX, 0 if keep else _GLIBC_MMAP_MAX)
    mallopt(_M_TRIM_THRESHOLD, -1 if keep else 2 * _GLIBC_LARGEST)
    mallopt(_M_MMAP_THRESHOLD, _GLIBC_LARGEST)
