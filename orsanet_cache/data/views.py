"""The names of views. A view is a deterministic change of the picture that both frozen networks see too.

    clean   hflip   erase-30   erase-30-seed2   mask   mask-seed1

Each has its own group in a store. A seed, counted from 0, stands for another draw of place and look; 0 is not written.
"""

import re
from dataclasses import dataclass
from typing import Self

from orsanet_cache.errors import OrsanetError

CLEAN = "clean"
HFLIP = "hflip"
UNSEEDED = (CLEAN, HFLIP)
# The published artificial occlusion: a square of N % of the image, at a random place.
ERASED = ("erase-10", "erase-20", "erase-30")
# Drawn by occluders.py where the landmarks of the clean view say.
PLACED = ("sunglasses", "mask", "hand", "half-face", "cap", "second-face")
POSSIBLE_VIEWS = f"{', '.join((*UNSEEDED, *ERASED, *PLACED))}; all but {' and '.join(UNSEEDED)} also with -seedN, N from 1, as in mask-seed1"


@dataclass(frozen=True)
class View:
    """What is done to the picture, and by which draw."""

    kind: str
    seed: int = 0

    @classmethod
    def parse(cls, name: str) -> Self:
        """A view by its name; every view has exactly one. Raises OrsanetError, which says what is possible, for any other."""
        kind, marked, seed = name.partition("-seed")
        seeded = bool(re.fullmatch("[1-9][0-9]{0,8}", seed)) and kind not in UNSEEDED
        if kind not in (*UNSEEDED, *ERASED, *PLACED) or (marked and not seeded):
            raise OrsanetError(f"there is no view {name!r}; there are {POSSIBLE_VIEWS}")
        return cls(kind, int(seed or 0))

    @property
    def is_placed(self) -> bool:
        """Does it need the landmarks of the clean view?"""
        return self.kind in PLACED

    def __str__(self) -> str:
        return f"{self.kind}-seed{self.seed}" if self.seed else self.kind
