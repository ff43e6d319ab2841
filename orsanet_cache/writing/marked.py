"""The markers and shards of a store that is written, by their names: which units are committed, and still as they were.

    marker ─ every shard there, of its size ─▶ committed ─ of its e_tag, or read back ─▶ unchanged

Nothing here decides what happens to a unit: writer.py does.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from errno import ESTALE

from orsanet_cache.errors import UnreachableError, refuse_shortage
from orsanet_cache.places.destination import Destination
from orsanet_cache.places.files import Files
from orsanet_cache.store.container import DAMAGE
from orsanet_cache.store.rows import MAX_METADATA_BYTES
from orsanet_cache.store.schema import Field
from orsanet_cache.store.seal import damaged_units
from orsanet_cache.store.units import Marker, Unit, marker_folder, marker_name
from orsanet_cache.store.zarr_folder import ZarrFolder
from orsanet_cache.writing.zarr_writer import shard_of

TAKEN_BACK = "taken-back"  # a note in an object store: units of the view have lost their markers
WINDOW = 64  # markers that are fetched at once


class MarkedUnits:
    """Committed units at a place. `fields` returns those of a view."""

    def __init__(self, to: Destination, fields: Callable[[str], Mapping[str, Field]]) -> None:
        self._to = to
        self._fields = fields

    def look(self, split: str, view: str) -> Files:
        """A view's markers and shards."""
        return self._to.look(marker_folder(split, view), f"{split}/{view}")

    def markers(self, files: Files, units: Sequence[Unit], view: str) -> Iterator[tuple[Unit, Marker | None]]:
        """Every unit with its marker among `files`, as `marker`."""
        for start in range(0, len(units), WINDOW):
            window = units[start : start + WINDOW]
            files.expect([marker_name(unit, view) for unit in window])
            for unit in window:
                yield unit, self.marker(files, unit, view)

    def marker(self, files: Files, unit: Unit, view: str) -> Marker | None:
        """A unit's marker; None unless it and all its shards are there and whole by their sizes."""
        try:
            marker = Marker.decode(files.read(marker_name(unit, view), MAX_METADATA_BYTES), unit, view)
            if marker.shards.keys() == self._fields(view).keys() and all(
                files.entry(self.shard(unit, view, name)).size == shard["bytes"]
                for name, shard in marker.shards.items()
            ):
                return marker
        except DAMAGE as error:
            if not (isinstance(error, UnreachableError) and error.errno == ESTALE):  # taken back since the listing
                refuse_shortage(error, self._to.place)
        return None

    def note(self, split: str, view: str, name: str, content: bytes) -> bytes:
        """Leave a note with a view's markers, unless there is one of this name -> the note that is there."""
        file = f"{marker_folder(split, view)}/{name}"
        if self._to.stamp(file) is None and self._to.create(file, [content]) is not None:
            return content
        return self._to.files.read(file, MAX_METADATA_BYTES)

    def notes(self, split: str, view: str, begin: str) -> list[bytes]:
        """The notes of a view whose names begin with `begin`, sorted by name."""
        folder = marker_folder(split, view)
        with suppress(FileNotFoundError):  # another process has sealed the view meanwhile, and deleted them
            names = sorted(name for name in self._to.names(folder) if name.startswith(begin))
            return [self._to.files.read(f"{folder}/{name}", MAX_METADATA_BYTES) for name in names]
        return []

    def differing(self, files: Files, view: str, markers: Mapping[Unit, Marker]) -> set[Unit]:
        """The units whose values are not the committed ones. Shards with the committed e_tag are not read."""
        suspects = {}
        for unit, marker in markers.items():
            shards = {
                name: shard
                for name, shard in marker.shards.items()
                if "e_tag" not in shard or not self._has_tag(files, unit, view, name, shard["e_tag"])
            }
            if shards:
                suspects[unit] = replace(marker, shards=shards)
        container = ZarrFolder(self._to.files, self._to.copies())
        return damaged_units(container, view, suspects) if suspects else set()

    def _has_tag(self, files: Files, unit: Unit, view: str, field: str, e_tag: str) -> bool:
        try:
            return files.entry(self.shard(unit, view, field)).e_tag == e_tag
        except FileNotFoundError:
            return False

    def changed(
        self, before: Files, stamps: Mapping[str, Hashable], view: str, markers: Mapping[Unit, Marker]
    ) -> list[Unit] | None:
        """What other processes did to a view between a look and its sealing: units whose values they replaced.

        None if they did nothing that the seal does not tell.
        """
        split = next(iter(markers)).split
        after = self.look(split, view)
        old, new = before.entries(), after.entries()
        shards = {unit: [self.shard(unit, view, name) for name in self._fields(view)] for unit in markers}
        replaced = {
            unit: markers[unit]
            for unit, names in shards.items()
            if any(old.get(name) != new.get(name) for name in names)
        }
        changed = sorted(self.differing(after, view, replaced))
        note = f"{marker_folder(split, view)}/{TAKEN_BACK}"
        is_taken_back = new.get(note) not in (None, stamps.get(note))  # sealing by another process deletes it
        return changed if changed or is_taken_back else None

    def sizes(self, split: str, view: str, fields: Iterable[str]) -> Callable[[Unit], dict[str, int]]:
        """A function that returns the sizes of a unit's shards by field, without those that are lost."""
        files = self._to.look(f"{split}/{view}")

        def sizes(unit: Unit) -> dict[str, int]:
            found = {}
            for field in fields:
                with suppress(FileNotFoundError):
                    found[field] = files.entry(self.shard(unit, view, field)).size
            return found

        return sizes

    def shard(self, unit: Unit, view: str, field: str) -> str:
        """The name of a unit's shard."""
        return shard_of(f"{unit.split}/{view}", self._fields(view)[field], unit.index)
