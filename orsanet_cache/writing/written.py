"""What is there of a store that is being written: its segments, views and committed units.

Nothing here changes the store. writer.py commits units, sealing.py folds their markers into seals,
and growing.py writes what splits mean.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.places.destination import Destination
from orsanet_cache.store.container import DAMAGE
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import NETWORK, Addition, Field, view_and_addition
from orsanet_cache.store.seal import SealedView, byte_digests, hex_digests
from orsanet_cache.store.units import Marker, Share, Unit, marker_name, units_of
from orsanet_cache.store.zarr_folder import ZarrFolder
from orsanet_cache.writing.marked import MarkedUnits
from orsanet_cache.writing.zarr_writer import ZarrWriter


class WrittenStore:
    """A store at a place where it is written, as this and other processes have left it.

    Args:
        to: where its files get their names.
        fields: the fields of every view.
        part: this process's share of the units.
        rows_per_unit: rows of a unit.
        additions: fields that are added to views, among them all that the store has.
    """

    def __init__(
        self,
        to: Destination,
        fields: Sequence[Field],
        part: Share,
        rows_per_unit: int,
        additions: Sequence[Addition] = (),
    ) -> None:
        self.path = to.place
        self.part = part
        self.rows_per_unit = rows_per_unit
        self.to = to
        self._fields = {field.name: field for field in fields}
        self._additions = {addition.name: addition for addition in additions}
        self.container = ZarrFolder(to.files)
        self.files = ZarrWriter(to, rows_per_unit)
        self.marked = MarkedUnits(to, self.fields_of)
        self.ids: dict[str, tuple[str, ...]] = {}
        self._of_seal: dict[tuple[str, str], SealedView] = {}  # by (split, view)
        self._of_marker: dict[tuple[Unit, str], tuple[Hashable, NDArray[np.uint8]]] = {}  # of one unit -> image digests

    def segments(self) -> PriorStore:
        """What is in the store now, with each segment as a split; its rows cannot be read from an object store."""
        return PriorStore(self.container)

    def folders(self) -> list[str]:
        """Names of the folders that are or may be splits, damaged ones included."""
        return self.to.folders()

    def units(self, split: str) -> list[Unit]:
        """All units of a split."""
        count = len(self.ids[split])
        return units_of(split, count, self.rows_per_unit)

    def views(self, split: str) -> tuple[str, ...]:
        """The views of a split and its groups of added fields (VIEW.NAME), finished or not.

        Raises OrsanetError if a view's metadata is damaged.
        """
        try:
            return self.container.groups(split)
        except DAMAGE as error:
            refuse_shortage(error, self.path)
            raise OrsanetError(
                f"{self.path}: a zarr.json in {split} is damaged ({error}); delete the folder that contains it and run the same command again"
            ) from error

    def is_sealed(self, split: str, view: str) -> bool:
        try:
            return "seal" in self.container.attributes(f"{split}/{view}")
        except FileNotFoundError:
            return False
        except DAMAGE as error:
            refuse_shortage(error, self.path)
            raise OrsanetError(
                f"{self.path}: {split}/{view} is damaged ({error}); "
                f"delete {self.path / split / view} and run the same command again, which computes only that view"
            ) from error

    def marker(self, unit: Unit, view: str) -> Marker | None:
        """A committed unit's marker.

        None if the unit is not committed, or its marker or one of its shards is damaged.
        """
        return self.marked.marker(self.to.files, unit, view)

    def markers(self, split: str, view: str) -> Iterator[tuple[Unit, Marker | None]]:
        """Every unit of a view with its marker, as `marker`."""
        return self.marked.markers(self.marked.look(split, view), self.units(split), view)

    def missing(self, split: str, view: str) -> list[Unit]:
        """The units of a view that are not committed."""
        if self.is_sealed(split, view):
            return []
        lacking = [unit for unit, marker in self.markers(split, view) if marker is None]
        return [] if lacking and self.is_sealed(split, view) else lacking  # sealed meanwhile: its markers are deleted

    def image_sha256(self, split: str, view: str) -> dict[Unit, NDArray[np.uint8]]:
        """The image digests of each committed unit, [n, 32]; zeros for an unreadable file."""
        while True:
            if self.is_sealed(split, view):
                with self.to.locked():
                    if self.is_sealed(split, view):  # still
                        stored = self.segments().sealed(split, view).image_sha256
                        return {unit: stored[unit.rows] for unit in self.units(split)}
            found = {
                unit: byte_digests(marker.record.image_sha256)
                for unit, marker in self.markers(split, view)
                if marker is not None
            }
            if not self.is_sealed(split, view):  # sealing deletes the markers, which may have happened meanwhile
                return found

    def digests(self, unit: Unit) -> list[str]:
        """The image digests of a unit in hex, from any view that has it committed; empty ones if none has."""
        with self.to.locked():
            for view in self.views(unit.split):
                known = self.committed_digests(unit, view)
                if known is not None:
                    return hex_digests(known)
        return [""] * (unit.stop - unit.start)

    def notes(self, split: str, view: str, begin: str) -> list[bytes]:
        """The notes of a view whose names begin with `begin`, sorted by name."""
        return self.marked.notes(split, view, begin)

    def committed_digests(self, unit: Unit, view: str) -> NDArray[np.uint8] | None:
        """The image digests [rows, 32] of a unit in a view, zeros for an unreadable file; None if not committed."""
        if not self.is_sealed(unit.split, view):
            stamp = self.to.stamp(marker_name(unit, view))
            if stamp is None:
                return None
            if self._of_marker.get((unit, view), (None,))[0] != stamp:
                marker = self.marker(unit, view)
                if marker is None:
                    return None
                self.remember(unit, view, stamp, marker)
            return self._of_marker[unit, view][1]
        return self.sealed(unit.split, view).image_sha256[unit.rows]

    def sealed(self, split: str, view: str) -> SealedView:
        """The records of a sealed view, which are read again only if it was sealed again."""
        seal = self.container.attributes(f"{split}/{view}")["seal"]
        if (split, view) not in self._of_seal or self._of_seal[split, view].seal != seal:
            self._of_seal[split, view] = self.segments().sealed(split, view)
        return self._of_seal[split, view]

    def remember(self, unit: Unit, view: str, stamp: Hashable, marker: Marker) -> None:
        """Keep the image digests of a unit's views, until those of another unit are needed."""
        others = {of: known for of, known in self._of_marker.items() if of[0] == unit}
        self._of_marker = {**others, (unit, view): (stamp, byte_digests(marker.record.image_sha256))}

    def fields_of(self, view: str) -> Mapping[str, Field]:
        """The fields of a view, or of a group of added ones."""
        _, name = view_and_addition(view)
        return {field.name: field for field in self._additions[name].fields} if name else self._fields

    def unsealed(self, view: str) -> dict[str, Any]:
        """The attributes of a view without a seal."""
        _, name = view_and_addition(view)
        return {NETWORK: self._additions[name].described()} if name else {}
