"""Where the manifest's pictures are in a store: segments of rows, and what the splits mean in them.

    manifest ─ growth.py ─▶ Layout: of every split the segments it lies in, of every segment its rows and their files now

In a store that has not grown, a split's only segment is the split itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orsanet_cache.builder.hashes import Hashes
from orsanet_cache.data.manifest import Sample
from orsanet_cache.store.states import State
from orsanet_cache.store.units import Unit

# Why a row of a view added later has no values: its picture was in no manifest then.
GONE = "was no longer in the manifest when this view was built"

ViewsOf = Mapping[str, Sequence[str]]  # segment -> views


@dataclass(frozen=True)
class Segment:
    """Rows that are sealed together. n = rows."""

    name: str
    samples: tuple[Sample, ...]  # [n], by the names under which they were first built
    files: tuple[str | None, ...]  # [n], the manifest's name of the picture now; None: it no longer has the picture


@dataclass(frozen=True)
class Meaning:
    """A split, as the manifest has it now."""

    split: str
    views: tuple[str, ...]  # that the split is to have
    segments: tuple[str, ...]
    state: State | None  # None: the split is the segment of its name
    kept: int  # samples whose rows the store has already, or is building
    grows: bool = False  # whether rows are added


@dataclass(frozen=True)
class Layout:
    """The segments of a build, and the splits that they make up."""

    segments: Mapping[str, Segment]
    splits: tuple[Meaning, ...]
    hashes: Hashes

    @property
    def views(self) -> ViewsOf:
        """The views that every segment is to have."""
        views: dict[str, tuple[str, ...]] = dict.fromkeys(self.segments, ())
        for meaning in self.splits:
            for name in meaning.segments:
                views[name] = tuple(dict.fromkeys((*views[name], *meaning.views)))
        return views

    @property
    def grows(self) -> bool:
        """Whether rows are added to a store that has others, from which some may be copied."""
        return any(meaning.grows for meaning in self.splits)

    def samples(self, unit: Unit) -> Sequence[Sample]:
        """The samples of a unit."""
        return self.segments[unit.split].samples[unit.rows]

    def files(self, unit: Unit) -> Sequence[str | None]:
        """The files of a unit's pictures, None for those that the manifest no longer has."""
        return self.segments[unit.split].files[unit.rows]
