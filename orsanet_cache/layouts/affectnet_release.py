"""The common form of both AffectNet releases: annotated pictures."""

from dataclasses import dataclass

CLASSES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
EXPRESSIONS = {**dict(enumerate(CLASSES)), 8: "none", 9: "uncertain", 10: "no face"}
SPLITS = ("train", "valid")


@dataclass(frozen=True)
class Annotation:
    """One line of a list, or one annotation file."""

    image: str  # relative to the data set's root
    expression: int  # 0 … 10
    split: str
    box: tuple[str, ...] = ()  # x, y, width, height as listed; empty if the picture is a face crop


@dataclass(frozen=True)
class Release:
    """All annotations, and the folders of the pictures."""

    annotations: list[Annotation]
    pictures: dict[str, str]  # split -> folder of its pictures, relative to the root
    notes: tuple[str, ...] = ()
