"""The names of views.

A view is a deterministic change of the picture; both frozen networks get the changed picture.

    clean   hflip   augmented   augmented-seed3   erase-30   erase-30-seed2   mask   mask-seed1

Each view has its own group in a store. A seed, counted from 0, selects another draw of position and
appearance. Seed 0 is not written in the name. In a list of views `augmented-K` stands for the first
K draws of the augmented view, so a store with four draws of each picture can later get more.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from orsanet_cache.errors import OrsanetError, did_you_mean

CLEAN = "clean"
HFLIP = "hflip"
UNSEEDED = (CLEAN, HFLIP)
# Flipped and erased as training does it (augmentation.py). Training draws flip and rectangle again
# from the picture's digest, so another law needs another name.
AUGMENTED = "augmented"
MOST_DRAWS = 1000  # of `augmented-K`: more is a typing error
# The published artificial occlusion: a square of N % of the image, at a random position.
ERASED = ("erase-10", "erase-20", "erase-30")
# Drawn by occluders.py at the landmarks of the clean view.
PLACED = ("sunglasses", "mask", "hand", "half-face", "cap", "second-face")
KINDS = (*UNSEEDED, AUGMENTED, *ERASED, *PLACED)
POSSIBLE_VIEWS = (
    f"{', '.join(KINDS)}; all but {' and '.join(UNSEEDED)} also with -seedN, N from 1, as in mask-seed1; "
    f"{AUGMENTED}-K for K draws of {AUGMENTED}"
)


@dataclass(frozen=True)
class View:
    """A kind of change, and the seed of its draw."""

    kind: str
    seed: int = 0

    @classmethod
    def parse(cls, name: str) -> Self:
        """The view of that name; every view has exactly one name.

        Raises OrsanetError with the possible names for any other name.
        """
        kind, marked, seed = name.partition("-seed")
        seeded = bool(re.fullmatch("[1-9][0-9]{0,8}", seed)) and kind not in UNSEEDED
        if kind not in KINDS or (marked and not seeded):
            raise OrsanetError(f"unknown view {name!r}; the views are {POSSIBLE_VIEWS}{did_you_mean(name, KINDS)}")
        return cls(kind, int(seed or 0))

    @property
    def is_placed(self) -> bool:
        """Whether the view needs the landmarks of the clean view."""
        return self.kind in PLACED

    def __str__(self) -> str:
        return f"{self.kind}-seed{self.seed}" if self.seed else self.kind


def view_names(given: Sequence[str]) -> tuple[str, ...]:
    """A list of views with every `augmented-K` replaced by the names of its K draws.

    Raises OrsanetError for an unknown view, and for a view that is named twice.
    """
    names: list[str] = []
    for name in given:
        draws = re.fullmatch(f"{AUGMENTED}-([1-9][0-9]*)", name)
        if draws is None:
            names.append(str(View.parse(name)))
        elif int(draws[1][:9]) > MOST_DRAWS:
            raise OrsanetError(f"{name}: a picture has at most {MOST_DRAWS:,} stored draws")
        else:
            names += [str(View(AUGMENTED, number)) for number in range(int(draws[1]))]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise OrsanetError(f"{','.join(given)}: name each view once; {', '.join(twice)} is there twice")
    return tuple(names)
