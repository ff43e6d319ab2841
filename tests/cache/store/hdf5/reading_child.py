"""Reads a row of every field that it is told, and says what was refused and how much memory that took."""

import re
import sys
from pathlib import Path

import numpy as np

import orsanet_cache.store.hdf5_file  # noqa: F401  (before the first measurement)
from orsanet_cache import OrsanetError, PriorStore


def peak() -> int:
    """KiB; getrusage would say the peak of the process that started this one."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def main(arguments: list[str]) -> None:
    store, *fields = arguments
    before, refused = peak(), 0
    for field in fields:
        try:
            PriorStore.open(Path(store)).read("train", "clean", field, np.array([0]))
        except OrsanetError as error:
            refused += 1
            print(error)
    print(peak() - before, "KiB more")
    sys.exit(0 if refused else 1)
