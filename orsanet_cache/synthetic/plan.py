"""The plan of picture number `index` of a seed: person, class, split and occluders.

Persons are distributed over ten lanes: seven train, one valid, two test. So no person is in two
splits. In each lane every hundred pictures have exactly PER_HUNDRED pictures of each class, in a
seeded order. So each split of every thousand pictures has exactly these proportions.

`person_plan` is the plan of another kind of data set: many pictures of each person.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from orsanet_cache.synthetic.occluders import REGIONS, TAGS

IMAGES_PER_PERSON = 4
LANES = ("train", "test", "train", "train", "valid", "train", "train", "test", "train", "train")
# Close to RAF-DB's training set, with fear and disgust rounded up. RAF-DB has, in per cent: 10.5,
# 2.3, 5.8, 38.9, 16.2, 5.7, 20.6.
PER_HUNDRED = {"surprise": 10, "fear": 3, "disgust": 6, "happiness": 39, "sadness": 16, "anger": 6, "neutral": 20}
# Training has few occlusions, like real data sets. Half of valid and test is occluded, so the
# numbers of both halves are equally precise.
OCCLUDED_SHARE = {"train": 0.25, "valid": 0.5, "test": 0.5}
SECOND_OCCLUDER_SHARE = 0.15

# Independent random streams: without its occluders a picture is otherwise the same.
_STREAMS = (
    "labels",
    "occluders",
    "identity",
    "expression",
    "pose",
    "light",
    "ground",
    "occluder look",
    "camera",
    "passer-by",
)


@dataclass(frozen=True)
class Plan:
    """One picture of the data set."""

    index: int
    identity: int
    split: str
    label: str
    occluders: tuple[str, ...]  # in the order they are painted

    @property
    def tags(self) -> tuple[str, ...]:
        return tags_of(self.occluders)


def tags_of(occluders: tuple[str, ...]) -> tuple[str, ...]:
    """Return `occluded` and the occluders' names, or `unoccluded`, so both halves have a tag."""
    return ("occluded", *occluders) if occluders else ("unoccluded",)


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return the random stream of one purpose and its numbers."""
    return np.random.default_rng([seed, _STREAMS.index(purpose), *numbers])


def plan(seed: int, index: int) -> Plan:
    """Return the plan of picture `index` of `seed`, a pure function of both."""
    identity, picture = divmod(index, IMAGES_PER_PERSON)
    round_, lane = divmod(identity, len(LANES))
    hundred, place = divmod(round_ * IMAGES_PER_PERSON + picture, 100)
    split = LANES[lane]
    label = _labels(seed, lane, hundred)[place]
    return Plan(index, identity, split, label, _occluders(stream(seed, "occluders", index), OCCLUDED_SHARE[split]))


def person_plan(seed: int, index: int, pictures: int) -> Plan:
    """Return the plan of picture `index` where every person has `pictures` pictures.

    For telling people apart: any expression is equally likely, and the people of the split `valid`,
    every tenth, are not in `train`. Both splits are occluded as training faces are.
    """
    identity = index // pictures
    split = "valid" if LANES[identity % len(LANES)] == "valid" else "train"
    label = tuple(PER_HUNDRED)[stream(seed, "labels", index).integers(len(PER_HUNDRED))]
    return Plan(index, identity, split, label, _occluders(stream(seed, "occluders", index), OCCLUDED_SHARE["train"]))


@lru_cache(maxsize=64)
def _labels(seed: int, lane: int, hundred: int) -> tuple[str, ...]:
    names = [name for name, count in PER_HUNDRED.items() for _ in range(count)]
    return tuple(names[at] for at in stream(seed, "labels", lane, hundred).permutation(100))


def _occluders(rng: np.random.Generator, share: float) -> tuple[str, ...]:
    if rng.random() >= share:
        return ()
    first = TAGS[rng.integers(len(TAGS))]
    if rng.random() >= SECOND_OCCLUDER_SHARE:
        return (first,)
    others = [tag for tag in TAGS if REGIONS[tag] != REGIONS[first]]
    chosen = {first, others[rng.integers(len(others))]}
    return tuple(tag for tag in TAGS if tag in chosen)
