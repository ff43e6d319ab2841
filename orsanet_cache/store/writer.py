"""Writing a store, by one process or by many that know nothing of each other.

A unit is one shard's rows of one (split, view).

    its shards, written and fsynced under temporary names → renamed, folders fsynced → its marker, created exclusively

    STORE/.commits/
      parts/2of4.lock                    held by the process that builds part 2 of 4, for as long as it lives
      parts/2of4/                        its temporary files
      <split>/<view>/<unit>.json         marker: checksums of the unit's shards, and what became of each row

What has no marker is computed again, so a kill costs at most two units of a view: the one being written and the one being computed.
When every unit of a view is marked and its shards read back as they were computed, the markers are folded (sealing.py) into the view's
records and its seal, which are the same whoever built them. When all views are sealed, `.commits` goes and only plain Zarr is left.

The store's lock, which is the lock of its root `zarr.json`, is held only while names are given, never while anything is computed.
"""

import hashlib
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.durable import locked, make_folder, publish_new, sync_folder, write_temporary
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.store.container import DAMAGE, open_container, root_mark
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.recipe import recipe_differences
from orsanet_cache.store.rows import row_checksums
from orsanet_cache.store.schema import MARK, ROWS_PER_UNIT, SAMPLE_ID_AXES, Field, decode_ids, encode_ids
from orsanet_cache.store.seal import CHECKSUMS, damaged_units, fold, hex_digests, unfold, write_records
from orsanet_cache.store.units import COMMITS, WHOLE, Marker, Share, Unit, UnitRecord, marker_path, units_of
from orsanet_cache.store.zarr_folder import METADATA, ZarrFolder, read_whole
from orsanet_cache.store.zarr_writer import ZarrWriter, group_document


class StoreWriter:
    """The only code that changes a store that exists. A context manager: it holds its part's lock."""

    def __init__(self, path: Path, fields: Sequence[Field], part: Share, rows_per_unit: int) -> None:
        self.path = path
        self.part = part
        self.rows_per_unit = rows_per_unit
        self._fields = {field.name: field for field in fields}
        self._container = ZarrFolder(path)
        self._ids: dict[str, tuple[str, ...]] = {}
        self._held = ExitStack()
        self._commits = path / COMMITS
        self._parts = self._commits / "parts"
        self._temporary = self._parts / f"{part.index}of{part.count}"
        self._files = ZarrWriter(path, rows_per_unit, self._temporary / "published")

    @classmethod
    def open(
        cls,
        path: Path,
        recipe: Mapping[str, Any],
        fields: Sequence[Field],
        part: Share = WHOLE,
        rows_per_unit: int | None = None,
    ) -> Self:
        """Create the store, or continue one with the same recipe, and take the part's lock.

        `rows_per_unit` is a new store's; one that exists keeps its own. Raises OrsanetError where the recipes differ, or where another
        process builds this part.
        """
        if path.exists() and not path.is_dir():
            raise OrsanetError(
                f"{path}: a file is in the way of the store. A build writes a Zarr folder, of which nothing is lost when it is "
                f"interrupted; choose another --out, then `orsanet-cache convert` makes an HDF5 file of it"
            )
        _refuse_links(path)
        if _is_new(path):
            make_folder(path / COMMITS)
            root = root_mark(dict(recipe), rows_per_unit or ROWS_PER_UNIT)
            temporary = path / COMMITS / f"begun-{socket.gethostname()}-{os.getpid()}"
            # Not found: another process was faster, finished the whole store, and took .commits away.
            with suppress(FileNotFoundError):
                publish_new(path / METADATA, [group_document({MARK: root})], temporary)
        written = open_container(path).attributes("")[MARK]
        differences = list(recipe_differences(written["recipe"], dict(recipe)))
        if differences:
            raise OrsanetError(
                f"{path} was built by another recipe; pass its options again, or build into another folder:\n"
                f"{listed(differences)}"
            )
        writer = cls(path, fields, part, int(written["rows_per_unit"]))
        with locked(path / METADATA):
            writer._take_part()
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Leave the part; where every view is sealed and no other process is at work, leave only the store."""
        try:
            with locked(self.path / METADATA):
                shutil.rmtree(self._temporary)
                self._held.close()  # before the store's lock: of two that leave, the second must see that the first is gone
                if self._is_finished() and not any(self._other_locks(free=False)):
                    shutil.rmtree(self._commits)
        finally:
            self._held.close()

    def add_split(self, split: str, ids: Sequence[str]) -> None:
        """Fix the split's samples and their order. Raises OrsanetError if the store has others."""
        if Path(split).name != split:
            raise ValueError(f"{split!r} is not a folder name")
        self._ids[split] = tuple(ids)
        with locked(self.path / METADATA):
            is_new = not (self.path / split / METADATA).exists()
            if is_new:
                self._files.small(f"{split}/sample_id", encode_ids(ids), SAMPLE_ID_AXES)
            elif not any(self.is_sealed(split, view) for view in self.views(split)):
                self._files.mend_small(f"{split}/sample_id", encode_ids(ids), SAMPLE_ID_AXES)
            self._files.group(split, {})
            if is_new:
                return
        try:
            stored = decode_ids(self._container.small(f"{split}/sample_id"))
        except DAMAGE as error:
            raise OrsanetError(
                f"{self.path}: {split}/sample_id is damaged ({error}); delete {self.path / split} and run the same command again"
            ) from error
        if stored != tuple(ids):
            gone, new = sorted(set(stored) - set(ids)), sorted(set(ids) - set(stored))
            detail = [f"only in the store: {name}" for name in gone] + [f"only in the manifest: {name}" for name in new]
            raise OrsanetError(
                f"{self.path}: split '{split}' was built from another list of images; build into another folder:\n"
                f"{listed(detail or ['the same images in another order'])}"
            )

    def add_view(self, split: str, view: str) -> None:
        """Make room for a view that is not sealed, unless there is; array metadata that is damaged is written again."""
        count = len(self._ids[split])
        with locked(self.path / METADATA):
            if self.is_sealed(split, view):  # asked under the lock: another process may just have sealed it
                return
            for field in self._fields.values():
                self._files.field(f"{split}/{view}", field, count)
            self._files.group(f"{split}/{view}", {})

    def units(self, split: str) -> list[Unit]:
        """All units of a split."""
        count = len(self._ids[split])
        return units_of(split, count, self.rows_per_unit)

    def views(self, split: str) -> tuple[str, ...]:
        """The views of a split begun so far. Raises OrsanetError where that cannot be told."""
        try:
            return self._container.groups(split)
        except DAMAGE as error:
            raise OrsanetError(
                f"{self.path}: a zarr.json in {split} is damaged ({error}); delete the folder that it is in and run the same command again"
            ) from error

    def image_sha256(self, split: str, view: str) -> dict[Unit, list[str]]:
        """Per finished unit the digests of the image files it was made of, in hex; empty for a file that could not be read."""
        with locked(self.path / METADATA):  # or it might be sealed, and its markers go, in between
            if self.is_sealed(split, view):
                stored = PriorStore(self._container).sealed(split, view).image_sha256
                return {unit: hex_digests(stored[unit.rows]) for unit in self.units(split)}
            markers = {unit: self.marker(unit, view) for unit in self.units(split)}
            return {unit: marker.record.image_sha256 for unit, marker in markers.items() if marker is not None}

    def marker(self, unit: Unit, view: str) -> Marker | None:
        """A committed unit's marker; None where the unit is not committed, or its marker or one of its shards is not as committed."""
        try:
            marker = Marker.decode(read_whole(self._marker_path(unit, view)))
            if marker.shards.keys() == self._fields.keys() and all(
                self._shard_path(unit, view, name).stat().st_size == shard["bytes"]
                for name, shard in marker.shards.items()
            ):
                return marker
        except DAMAGE:
            pass
        return None

    def is_sealed(self, split: str, view: str) -> bool:
        try:
            return "seal" in self._container.attributes(f"{split}/{view}")
        except FileNotFoundError:
            return False
        except DAMAGE as error:
            raise OrsanetError(
                f"{self.path}: {split}/{view} is damaged ({error}); "
                f"delete {self.path / split / view} and run the same command again, which computes only that"
            ) from error

    def commit(self, unit: Unit, view: str, arrays: Mapping[str, NDArray[Any]], record: UnitRecord) -> None:
        """Write a unit's shards, then its marker. Where another process has committed it meanwhile, that stays."""
        shards: dict[str, dict[str, Any]] = {}
        written: dict[Path, Path] = {}
        for name, field in self._fields.items():
            content = self._files.shard_content(field, arrays[name])
            temporary = self._temporary / f"{name}.shard"
            written[temporary] = self._shard_path(unit, view, name)
            write_temporary(temporary, content)
            shards[name] = {
                "bytes": sum(map(len, content)),
                "sha256": hashlib.sha256(np.ascontiguousarray(arrays[name]).data).hexdigest(),
                "crc32c": row_checksums(arrays[name]).tolist(),
            }
        marker = self._marker_path(unit, view)
        make_folder(marker.parent)
        with locked(self.path / METADATA):
            if self.is_sealed(unit.split, view) or self.marker(unit, view) is not None:
                return
            self._discard(marker)
            for temporary, path in written.items():
                os.replace(temporary, path)
                sync_folder(path.parent)
            if not publish_new(marker, [Marker(record, shards).encode()], self._temporary / "marker"):
                raise OrsanetError(f"{marker} is in the way; remove it and run the same command again")

    def uncommit(self, units: Sequence[Unit], view: str) -> None:
        """Take these units' markers away, so that they are computed again; a sealed view is opened for it."""
        with locked(self.path / METADATA):
            split = units[0].split
            if self.is_sealed(split, view):
                self._unseal(split, view, {unit.index for unit in units})
            for unit in units:
                self._discard(self._marker_path(unit, view))

    def missing(self, split: str, view: str) -> list[Unit]:
        """The units of a view that are not committed."""
        if self.is_sealed(split, view):
            return []
        lacking = [unit for unit in self.units(split) if self.marker(unit, view) is None]
        return [] if lacking and self.is_sealed(split, view) else lacking  # sealed meanwhile, and so without markers

    def seal(self, split: str, view: str, provenance: Mapping[str, Any]) -> list[Unit]:
        """Read a complete view back and seal it; where units do not read back as they were committed, return those instead.

        `provenance` is recorded with the seal and not covered by it.
        """
        with locked(self._lock_file("seal")):
            if self.is_sealed(split, view):
                with locked(self.path / METADATA):
                    self._discard_markers(split, view)
                return []
            found = {unit: self.marker(unit, view) for unit in self.units(split)}
            markers = {unit: marker for unit, marker in found.items() if marker is not None}
            if len(markers) < len(found):
                return []
            damaged = damaged_units(self._container, view, markers)
            if damaged:
                return sorted(damaged)
            with locked(self.path / METADATA):
                # Where another process took units back meanwhile, it is for that one to seal.
                if all(self.marker(unit, view) == marker for unit, marker in markers.items()):
                    sealed = fold(self._container, split, view, list(markers.values()), provenance)
                    write_records(self._files, split, view, sealed)
                    attributes = {"provenance": sealed.provenance, "seal": sealed.seal, "rejected": sealed.rejected}
                    self._files.group(f"{split}/{view}", attributes)
                    self._discard_markers(split, view)
            return []

    def _take_part(self) -> None:
        """Lock the part, and sweep away the temporary files of processes that no longer live."""
        make_folder(self._parts)
        for lock in self._other_locks(free=True):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        try:
            self._held.enter_context(locked(self._lock_file(self._temporary.name), wait=False))
        except BlockingIOError:
            raise OrsanetError(
                f"another process is building part {self.part} of {self.path}; let it finish, or give each process a --part of its own"
            ) from None
        shutil.rmtree(self._temporary, ignore_errors=True)
        make_folder(self._temporary)

    def _lock_file(self, name: str) -> Path:
        path = self._parts / f"{name}.lock"
        path.touch()
        return path

    def _other_locks(self, free: bool) -> Iterator[Path]:
        """Lock files of other parts and of sealing that nobody holds, or that somebody does."""
        for path in sorted(self._parts.glob("*.lock")):
            if path.stem == self._temporary.name:
                continue
            try:
                with locked(path, wait=False):
                    is_free = True
            except BlockingIOError:
                is_free = False
            if is_free == free:
                yield path

    def _is_finished(self) -> bool:
        """Is every view sealed, as far as can be told?"""
        try:
            splits = self._container.groups("")
            return all(self.is_sealed(split, view) for split in splits for view in self._container.groups(split))
        except (OrsanetError, *DAMAGE):
            return False

    def _unseal(self, split: str, view: str, but: set[int]) -> None:
        """Turn a seal back into markers, of all units but these; without records that can be trusted, of none."""
        with suppress(OrsanetError):
            sealed = PriorStore(self._container).sealed(split, view)
            for unit in self.units(split):
                if unit.index in but:
                    continue
                shards = {field: self._shard_path(unit, view, field) for field in sealed.fields}
                file_bytes = {field: path.stat().st_size for field, path in shards.items() if path.exists()}
                marker = unfold(sealed, unit, self._ids[split][unit.rows], file_bytes)
                self._files.publish(self._marker_path(unit, view), [marker.encode()])
        self._files.group(f"{split}/{view}", {})

    def _shard_path(self, unit: Unit, view: str, field: str) -> Path:
        return self._files.shard_path(f"{unit.split}/{view}", self._fields[field], unit.index)

    def _marker_path(self, unit: Unit, view: str) -> Path:
        return marker_path(self.path, unit, view)

    def _discard(self, marker: Path) -> None:
        with suppress(FileNotFoundError):
            marker.unlink()
            sync_folder(marker.parent)

    def _discard_markers(self, split: str, view: str) -> None:
        shutil.rmtree(self._commits / split / view, ignore_errors=True)


def _is_new(path: Path) -> bool:
    """Is there nothing yet, or only what a start leaves that was killed before the root had its mark?"""
    if not path.exists():
        return True
    begun = path / COMMITS
    return all(entry == begun for entry in path.iterdir()) and (
        not begun.exists() or all(entry.name.startswith("begun-") for entry in begun.iterdir())
    )


def _refuse_links(path: Path) -> None:
    """What is deleted and written in a store must be there, and not somewhere else."""
    for level in (COMMITS, f"{COMMITS}/*", f"{COMMITS}/*/*", "*", "*/*", "*/*/*", "*/*/*/*.json", f"*/*/{CHECKSUMS}/*"):
        for entry in path.glob(level):
            if entry.is_symlink():
                raise OrsanetError(f"{entry} is a link, which no build makes; remove it and run the same command again")
