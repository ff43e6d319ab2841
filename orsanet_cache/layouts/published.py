"""Numbers of images in the published runs' logs: totals, and for Occlu-FER every class.

AffectNet's training totals are those with at most 5,000 images a class. No total without that cap
was published.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """Images of one split."""

    total: int
    classes: Mapping[str, int] = {}  # class -> images, if the logs have them
    cap_per_class: int | None = None  # the cap with which the total was counted


_COUNTS: dict[str, dict[str, Published]] = {
    "rafdb": {"train": Published(12_271), "test": Published(3_068)},
    "affectnet7": {"train": Published(33_803, cap_per_class=5_000), "valid": Published(3_500)},
    "affectnet8": {"train": Published(37_553, cap_per_class=5_000), "valid": Published(4_000)},
    "occlu-fer": {
        "train": Published(
            6_838,
            {
                "anger": 669, "contempt": 380, "disgust": 533, "fear": 927, "happiness": 1130, "neutral": 1114,
                "sadness": 960, "surprise": 1125,
            },
        ),
        "valid": Published(
            880,
            {
                "anger": 86, "contempt": 37, "disgust": 69, "fear": 136, "happiness": 133, "neutral": 144,
                "sadness": 127, "surprise": 148,
            },
        ),
    },
}  # fmt: skip


def published_counts(name: str, cap_per_class: int | None = None) -> dict[str, Published]:
    """Return split -> published numbers of the data set with that manifest name.

    The training split is included only if it was published with the same cap per class.
    """
    counts = _COUNTS.get(name, {})
    return {split: known for split, known in counts.items() if split != "train" or known.cap_per_class == cap_per_class}
