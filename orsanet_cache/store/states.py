"""What the manifest means in a store that has grown: an index over rows that were sealed before.

    STORE/train/sample_id, STORE/train/<view>/…        a segment: rows that were sealed together, never changed by growth
    STORE/train.2/sample_id, STORE/train.2/<view>/…    another one: the rows that a longer manifest added
    STORE/train/sample_id.2   uint8 [M, L]             state 2 of split train: the samples, in the manifest's order
    STORE/train/row.2         int64 [M, 2]             each one's segment (position in the list below) and row in it
    STORE/zarr.json           attributes: orsanet_splits = {train: {state: 2, states: {"2": {segments: ["train", "train.2"], sha256}}}}

A split that is not named there has not grown: its samples are the rows of the segment of its name,
which is its state 1. A state may point into the segments of other splits, name a row twice, and leave
rows out. States are only added. `state` is the number of the one that counts, for all splits in one
file, which is written last. So a reader has the manifest before or the manifest after, and a run can
go on in the states that it began in.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.store.container import Container, ContainerWriter
from orsanet_cache.store.recipe import as_json
from orsanet_cache.store.schema import SAMPLE_ID_AXES, decode_ids, encode_ids

SPLITS = "orsanet_splits"  # the root attribute that names the states of splits
FIRST = 1  # the number of the state that is no index
PLACE_AXES = ("sample", "place")
_SEGMENT = re.compile(r"(?P<split>[^.]+)(?:\.(?P<number>[2-9]|[1-9][0-9]+))?")


@dataclass(frozen=True)
class State:
    """The samples of a split, each with the row that it is. M = samples."""

    ids: tuple[str, ...]
    segments: tuple[str, ...]
    places: NDArray[np.int64]  # [M, 2]: position in `segments`, row of that segment

    @cached_property
    def sha256(self) -> str:
        """Identifies the samples, their order and their rows by number; not what is in the rows."""
        digest = hashlib.sha256(as_json(self.segments).encode())
        for array in (encode_ids(self.ids), self.places):
            digest.update(as_json(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def seal(self, mark: Mapping[str, Any], place: str, seals: Mapping[str, str]) -> str:
        """The seal of a view (`place`: split/view) in this state, from the seals of its segments."""
        content = {
            **mark,
            "place": place,
            "state": self.sha256,
            "segments": [[name, seals[name]] for name in self.segments],
        }
        return hashlib.sha256(as_json(content).encode()).hexdigest()


def segment_of(split: str, number: int) -> str:
    """The name of a split's segment. No split has such a name, unless the number is FIRST."""
    return split if number == FIRST else f"{split}.{number}"


def split_of(segment: str) -> tuple[str, int]:
    """The split whose growth made a segment, and the segment's number."""
    found = _SEGMENT.fullmatch(segment)
    return (segment, FIRST) if found is None else (found["split"], int(found["number"] or FIRST))


@dataclass(frozen=True)
class States:
    """The states of all splits, as the root attributes name them."""

    by_split: Mapping[str, Any]

    @classmethod
    def of(cls, container: Container) -> Self:
        """Raises one of DAMAGE."""
        return cls(dict(container.attributes("").get(SPLITS, {})))

    def current(self, split: str) -> int:
        """The number of the state that counts. Raises one of DAMAGE."""
        number = self.by_split[split]["state"] if split in self.by_split else FIRST
        if type(number) is not int or number < FIRST:
            raise ValueError(f"{split}: its state is {number!r}")
        return number

    def numbers(self, split: str) -> tuple[int, ...]:
        """The numbers of a split's states but the first, ascending. Raises one of DAMAGE."""
        return tuple(sorted(map(int, self.by_split[split]["states"]))) if split in self.by_split else ()

    def read(self, container: Container, split: str, number: int) -> State:
        """A state that is an index. Raises one of DAMAGE, also if it does not match its digest."""
        entry = self.by_split[split]["states"][str(number)]
        ids = decode_ids(container.small(f"{split}/sample_id.{number}"))
        places = container.small(f"{split}/row.{number}")
        state = State(ids, tuple(map(str, entry["segments"])), places)
        if places.shape != (len(ids), 2) or state.sha256 != entry["sha256"]:
            raise ValueError(f"state {number} of {split} does not match its digest")
        return state

    def with_state(self, split: str, number: int, state: State | None) -> "States":
        """The same with `number` as the state that counts. `state` is what it is, unless it is the first."""
        known = self.by_split.get(split, {"states": {}})["states"]
        added = {} if state is None else {str(number): {"segments": list(state.segments), "sha256": state.sha256}}
        return States({**self.by_split, split: {"state": number, "states": {**known, **added}}})


def write_state(writer: ContainerWriter, split: str, number: int, state: State) -> None:
    """Write a state's arrays, in the group of its split. The attributes that name it are written after them."""
    writer.small(f"{split}/sample_id.{number}", encode_ids(state.ids), SAMPLE_ID_AXES)
    writer.small(f"{split}/row.{number}", state.places, PLACE_AXES)


def has_rows(container: Container, group: str) -> bool:
    """Whether a group is a segment. The group of a split may hold states alone."""
    return "sample_id" in container.arrays(group)
