"""The fields of the small HDF5 store, and what may be said of a damaged copy of it."""

from pathlib import Path

import numpy as np

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.store.schema import schema

FIELDS = schema(segmentation_channels=6, landmark_channels=4, feature_dtype="float16")
COUNT = 12
VIEW = "train/clean"


def is_right_or_refused(path: Path, expected: dict[str, np.ndarray]) -> bool:
    """Read every row of every field one by one: is each the original or an OrsanetError? Says whether any was an error."""
    refused = False
    try:
        opened = PriorStore.open(path)
        opened.sealed("train", "clean")
    except OrsanetError:
        return True
    for field, values in expected.items():
        for row in [*range(COUNT), *range(COUNT)]:  # checked, then perhaps unchecked
            try:
                found = opened.read("train", "clean", field, np.array([row]))
            except OrsanetError:
                refused = True
            else:
                assert np.array_equal(found[0], values[row]), (field, row)
    return refused
