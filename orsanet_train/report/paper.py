"""The paper's own numbers (arXiv 2507.15401), shown beside a report of the same data set.

They are never mixed with our numbers. Each is the overall accuracy of the published full model, at
the epoch that was best on the measured images.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Published(NamedTuple):
    """One number of the paper, and the group of our evaluation with the same images."""

    what: str
    group: str
    accuracy: float  # a share
    images: int


_SEVEN = {"surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"}
_CLASSES = {
    "rafdb": _SEVEN,
    "affectnet7": _SEVEN,
    "affectnet8": _SEVEN | {"contempt"},
    "occlu-fer": _SEVEN | {"contempt"},
}
_NUMBERS = {
    "rafdb": [
        Published("RAF-DB", "test", 0.9228, 3068),
        Published("RAF-DB, 10 % of the image erased (Table 3)", "test@erase-10", 0.9051, 3068),
        Published("RAF-DB, 20 % of the image erased (Table 3)", "test@erase-20", 0.8787, 3068),
        Published("RAF-DB, 30 % of the image erased (Table 3)", "test@erase-30", 0.8402, 3068),
        Published("RAF-DB, occluded subset", "test:occluded", 0.8775, 734),  # 735 lines of its list, one name twice
    ],
    "affectnet7": [Published("AffectNet, 7 classes", "valid", 0.6669, 3500)],
    "affectnet8": [Published("AffectNet, 8 classes", "valid", 0.6295, 4000)],
    "occlu-fer": [Published("Occlu-FER", "valid", 0.6807, 880)],
}


def published(manifest: str, classes: Sequence[str]) -> list[Published]:
    """The paper's numbers for the data set of a shipped descriptor (manifests/).

    Empty unless both the manifest's name and its classes are those of the descriptor.
    """
    return _NUMBERS[manifest] if set(classes) == _CLASSES.get(manifest) else []
