"""Units of work, shares of them, and the markers of committed units."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Self

COMMITS = ".commits"  # the folder of markers in a store; no split can have this name


@dataclass(frozen=True)
class Share:
    """Share `index` of `count`, counted from 1: every count-th unit.

    A share is a process's part of a build, or a sample to verify.
    """

    index: int
    count: int

    def has(self, position: int) -> bool:
        """Whether the share contains the unit at this position, counted from 0 over all splits."""
        return position % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Share(1, 1)


@dataclass(frozen=True, order=True)
class Unit:
    """Rows start … stop of a split, one shard of each array."""

    split: str
    index: int
    start: int
    stop: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class UnitRecord:
    """The image digests and rejected samples of a unit in one view."""

    image_sha256: list[str]  # per row, of the image file; empty if it could not be read
    rejected: dict[str, str]  # sample id -> reason


@dataclass(frozen=True)
class Marker:
    """A committed unit of a view."""

    record: UnitRecord
    # field -> {bytes: size of its file, sha256: of its values, in hex, crc32c: of every row}; in an object store also e_tag
    shards: dict[str, dict[str, Any]]
    attempt: str = ""  # in an object store: tells the marker from that of every other writer

    def encode(self, unit: Unit, view: str) -> bytes:
        """The marker's file. It names the unit and the view, so that it counts at no other place."""
        content = {
            "place": _place(unit, view),
            "image_sha256": self.record.image_sha256,
            "rejected": self.record.rejected,
            "shards": self.shards,
            **({"attempt": self.attempt} if self.attempt else {}),
        }
        text = json.dumps(content, sort_keys=True).encode()
        return hashlib.sha256(text).hexdigest().encode() + b"\n" + text

    @classmethod
    def decode(cls, data: bytes, unit: Unit, view: str) -> Self:
        """The inverse of `encode`.

        Raises ValueError for damaged data, and for the marker of another unit or view.
        """
        checksum, _, text = data.partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != checksum:
            raise ValueError("a marker has a wrong checksum")
        content = json.loads(text)
        if content["place"] != _place(unit, view):
            raise ValueError(f"a marker of {content['place']} lies at the place of {_place(unit, view)}")
        if not all(isinstance(shard, dict) for shard in content["shards"].values()):
            raise ValueError("a marker does not describe its shards")
        record = UnitRecord(content["image_sha256"], content["rejected"])
        return cls(record, content["shards"], str(content.get("attempt", "")))


def _place(unit: Unit, view: str) -> str:
    return f"{unit.split}/{view}/{unit.index}"


def marker_folder(split: str, view: str) -> str:
    """The folder of a view's markers and notes, by its name in the store. It exists until the view is sealed."""
    return f"{COMMITS}/{split}/{view}"


def marker_name(unit: Unit, view: str) -> str:
    """A unit's marker, by its name in the store."""
    return f"{marker_folder(unit.split, view)}/{unit.index:06d}.json"


def units_of(split: str, count: int, rows_per_unit: int) -> list[Unit]:
    """The units of a split with `count` samples."""
    starts = range(0, count, rows_per_unit)
    return [Unit(split, index, start, min(start + rows_per_unit, count)) for index, start in enumerate(starts)]
