"""How many images each public data set has, by split and class: the data sets' own numbers, which the paper's totals agree with.

RAF-DB: its partition list. AffectNet: its training list, 500 images of each class for validation; the paper's totals follow with at most
5,000 a class. Occlu-FER: the published training log.
"""

Counts = dict[str, dict[str, int]]

_AFFECTNET_TRAIN = {
    "neutral": 74_874, "happiness": 134_415, "sadness": 25_459, "surprise": 14_090,
    "fear": 6_378, "disgust": 3_803, "anger": 24_882, "contempt": 3_750,
}  # fmt: skip
_AFFECTNET_7 = [name for name in _AFFECTNET_TRAIN if name != "contempt"]

_COUNTS: dict[str, Counts] = {
    "rafdb": {
        "train": {
            "surprise": 1290, "fear": 281, "disgust": 717, "happiness": 4772, "sadness": 1982, "anger": 705,
            "neutral": 2524,
        },
        "test": {
            "surprise": 329, "fear": 74, "disgust": 160, "happiness": 1185, "sadness": 478, "anger": 162,
            "neutral": 680,
        },
    },
    "affectnet7": {
        "train": {name: _AFFECTNET_TRAIN[name] for name in _AFFECTNET_7},
        "valid": dict.fromkeys(_AFFECTNET_7, 500),
    },
    "affectnet8": {"train": _AFFECTNET_TRAIN, "valid": dict.fromkeys(_AFFECTNET_TRAIN, 500)},
    "occlu-fer": {
        "train": {
            "anger": 669, "contempt": 380, "disgust": 533, "fear": 927, "happiness": 1130, "neutral": 1114,
            "sadness": 960, "surprise": 1125,
        },
        "valid": {
            "anger": 86, "contempt": 37, "disgust": 69, "fear": 136, "happiness": 133, "neutral": 144, "sadness": 127,
            "surprise": 148,
        },
    },
}  # fmt: skip


def published_counts(name: str, cap_per_class: int | None = None) -> Counts | None:
    """split -> class -> images of the data set with that manifest name, None where none are known.

    `cap_per_class` limits the training classes, as `manifest affectnet --cap-per-class` does.
    """
    counts = _COUNTS.get(name)
    if counts is None:
        return None
    limit = cap_per_class if cap_per_class is not None else max(max(split.values()) for split in counts.values())
    return {
        split: {label: min(count, limit) if split == "train" else count for label, count in classes.items()}
        for split, classes in counts.items()
    }
