"""Facts about public data sets: names, label order, first label, pixels, images per class.

Totals come from the published runs' logs (layouts/published.py). The logs have class counts for
Occlu-FER only. RAF-DB's class counts come from its list, AffectNet's from its lists. RAF-DB's
counts add up to the logs' totals, and so do AffectNet's with at most 5,000 images a class.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from orsanet_cache.layouts import affectnet_release, ferplus, occlu_fer, rafdb
from orsanet_cache.layouts.published import published_counts

PUBLISHED_CAP = 5_000

# Name used here -> other common spellings, in lower case.
_SPELLINGS = {
    "anger": ("angry",),
    "contempt": ("contemptuous",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid", "scared"),
    "happiness": ("happy", "joy"),
    "neutral": ("neutrality",),
    "sadness": ("sad",),
    "surprise": ("surprised",),
}
_MEANING = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in (name, *spellings)}


@dataclass(frozen=True)
class Known:
    """A public data set. `counts`: split -> class -> images (AffectNet's train split: uncapped)."""

    title: str
    name: str  # the manifest's name, which presets and reports use
    classes: tuple[str, ...]
    first_label: int  # the number that stands for classes[0] in its lists and folders
    side: int | None  # pixels of its pictures, if all have the same size
    totals: Mapping[str, int]
    counts: Mapping[str, Mapping[str, int]]


def known_data_set(name: str, number_of_classes: int) -> Known | None:
    """Return the public data set that a manifest's name means, in any spelling.

    AffectNet without 7 or 8 in its name is distinguished by its number of classes.
    """
    plain = "".join(character for character in name.lower().replace("+", "plus") if character.isalnum())
    if "rafdb" in plain:
        return RAFDB
    if "affectnet" in plain:
        after = plain.split("affectnet", 1)[1][:1]
        return AFFECTNET[int(after) if after in ("7", "8") else 7 if number_of_classes == 7 else 8]
    if "occlufer" in plain:
        return OCCLU_FER
    if "ferplus" in plain:
        return FERPLUS
    return None


def meaning(class_name: str) -> str:
    """Return a class's name in the spelling used here; Occlu-FER's AN … SU are translated too.

    A name that is none of the eight expressions is returned unchanged.
    """
    return occlu_fer.CLASSES.get(class_name) or _MEANING.get(class_name.strip().lower(), class_name)


def _totals(name: str, cap: int | None = None) -> dict[str, int]:
    return {split: known.total for split, known in published_counts(name, cap).items()}


def _affectnet(number_of_classes: int) -> Known:
    name, classes = f"affectnet{number_of_classes}", affectnet_release.CLASSES[:number_of_classes]
    train = dict(zip(classes, (74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750), strict=False))
    counts = {"train": train, "valid": dict.fromkeys(classes, 500)}
    return Known(
        f"AffectNet with {number_of_classes} classes", name, classes, 0, None, _totals(name, PUBLISHED_CAP), counts
    )


AFFECTNET = {number: _affectnet(number) for number in (7, 8)}
RAFDB = Known(
    "RAF-DB", "rafdb", rafdb.CLASSES, 1, 100, _totals("rafdb"),
    {
        "train": dict(zip(rafdb.CLASSES, (1_290, 281, 717, 4_772, 1_982, 705, 2_524), strict=True)),
        "test": dict(zip(rafdb.CLASSES, (329, 74, 160, 1_185, 478, 162, 680), strict=True)),
    },
)  # fmt: skip
OCCLU_FER = Known(
    "Occlu-FER", "occlu-fer", tuple(occlu_fer.CLASSES.values()), 0, None, _totals("occlu-fer"),
    {split: known.classes for split, known in published_counts("occlu-fer").items()},
)  # fmt: skip
FERPLUS = Known("FERPlus", "ferplus", ferplus.CLASSES, 0, 48, {}, {})
