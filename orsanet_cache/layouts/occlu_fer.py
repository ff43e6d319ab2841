"""Occlu-FER: class folders AN CO DI FE HA NE SA SU.

    train/AN/….jpg   valid/AN/….jpg   …      `val`, `validation` and `dev` mean `valid`

Their (alphabetical) order is the label order of the published test script.
"""

from pathlib import Path

from orsanet_cache.layouts.folders import read_folders
from orsanet_cache.layouts.found import DataSet, require_train_is_largest

CLASSES = {
    "AN": "anger", "CO": "contempt", "DI": "disgust", "FE": "fear", "HA": "happiness", "NE": "neutral", "SA": "sadness", "SU": "surprise",
}  # fmt: skip
SPLITS = ("train", "valid")


def read_occlu_fer(root: Path) -> DataSet:
    """Read Occlu-FER below `root`.

    Raises OrsanetError as `read_folders` does, and for exchanged splits.
    """
    found = read_folders(root, "occlu-fer", CLASSES, SPLITS)
    require_train_is_largest(root, found.samples)
    return found
