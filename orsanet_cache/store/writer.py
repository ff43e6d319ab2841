"""Writing a store, by one process or by many that do not communicate.

A unit is one shard's rows of one (split, view).

    its shards, written and fsynced under temporary names → renamed, folders fsynced → its marker, created exclusively

    STORE/.commits/
      parts/2of4.lock                    held by the process that builds part 2 of 4 until it ends
      parts/2of4/                        its temporary files
      <split>/<view>/<unit>.json         marker: checksums of the unit's shards, image digests and rejected images

A unit without a marker is computed again, so a kill costs at most two units of a view: the one
being written and the one being computed. When every unit of a view has a marker and its shards read
back as committed, the markers are folded (seal.py) into the view's records and its seal. These do
not depend on which processes built the view. When all views are sealed, `.commits` is deleted and
only plain Zarr is left.

The store's lock, which is the lock of its root `zarr.json`, is held only while files get their
names or are deleted, never while anything is computed.

Here a split is a segment: rows that are sealed together. A store grows by further segments, and by
a state of a split (states.py), which names rows of any of them. No file of a sealed segment changes.
Fields that are added to a view have a group of their own beside it, `<view>.<addition>`, which is
written, marked and sealed as a view is.
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

from orsanet_cache.durable import check_excludes, locked, make_folder, publish_new, sync_folder, write_temporary
from orsanet_cache.errors import OrsanetError, listed, refuse_shortage
from orsanet_cache.reading import matching
from orsanet_cache.store.container import DAMAGE, open_container, root_mark
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.recipe import recipe_differences
from orsanet_cache.store.rows import row_checksums
from orsanet_cache.store.schema import (
    GROWN_SCHEMA,
    MARK,
    NETWORK,
    ROWS_PER_UNIT,
    SAMPLE_ID_AXES,
    Addition,
    Field,
    decode_ids,
    encode_ids,
    view_and_addition,
)
from orsanet_cache.store.seal import (
    CHECKSUMS,
    byte_digests,
    damaged_units,
    fold,
    hex_digests,
    sealed_attributes,
    unfold,
    write_records,
)
from orsanet_cache.store.states import FIRST, SPLITS, State, States, write_state
from orsanet_cache.store.units import COMMITS, WHOLE, Marker, Share, Unit, UnitRecord, marker_path, units_of
from orsanet_cache.store.zarr_folder import METADATA, ZarrFolder, read_whole
from orsanet_cache.store.zarr_writer import ZarrWriter, group_document

_Stamp = tuple[int, int, int]


def _stamp(status: os.stat_result) -> _Stamp:
    """Tells a marker's file from any other that was or will be at its place."""
    return status.st_ino, status.st_size, status.st_mtime_ns


class StoreWriter:
    """The only code that changes an existing store.

    A context manager that holds its part's lock.
    """

    def __init__(
        self, path: Path, fields: Sequence[Field], part: Share, rows_per_unit: int, additions: Sequence[Addition] = ()
    ) -> None:
        self.path = path
        self.part = part
        self.rows_per_unit = rows_per_unit
        self._fields = {field.name: field for field in fields}
        self._additions = {addition.name: addition for addition in additions}
        self._container = ZarrFolder(path)
        self._ids: dict[str, tuple[str, ...]] = {}
        self._of_seal: dict[tuple[str, str], tuple[str, NDArray[np.uint8]]] = {}  # (split, view) -> seal, image digests
        self._of_marker: dict[tuple[Unit, str], tuple[_Stamp, NDArray[np.uint8]]] = {}  # of one unit -> image digests
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
        additions: Sequence[Addition] = (),
    ) -> Self:
        """Create the store, or continue one with the same recipe, and lock the part.

        Raises OrsanetError if the recipes differ, if another process builds this part, and where
        locks exclude nobody.

        Args:
            path: the store's folder.
            recipe: the settings that determine the values.
            fields: the fields of every view.
            part: this process's share of the units.
            rows_per_unit: rows of a unit in a new store; an existing store keeps its own.
            additions: fields that are added to views, among them all that the store has.
        """
        if path.exists() and not path.is_dir():
            raise OrsanetError(
                f"{path}: is a file. A build writes a Zarr folder, because an interruption does not damage it; "
                f"choose another --out, then convert the folder to an HDF5 file with `orsanet-cache convert`"
            )
        _refuse_links(path)
        if _is_new(path):
            make_folder(path / COMMITS)
            root = root_mark(dict(recipe), rows_per_unit or ROWS_PER_UNIT)
            temporary = path / COMMITS / f"begun-{socket.gethostname()}-{os.getpid()}"
            # Not found: another process was faster, finished the whole store, and deleted .commits.
            with suppress(FileNotFoundError):
                publish_new(path / METADATA, [group_document({MARK: root})], temporary)
        written = open_container(path).attributes("")[MARK]
        differences = list(recipe_differences(written["recipe"], dict(recipe)))
        if differences:
            raise OrsanetError(
                f"{path} was built with another recipe; pass its options again, or build into another folder:\n"
                f"{listed(differences)}"
            )
        writer = cls(path, fields, part, int(written["rows_per_unit"]), additions)
        with locked(path / METADATA):
            check_excludes(path / METADATA)
            writer._take_part()
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Release the part.

        If every view is sealed and no other process is building, delete `.commits`.
        """
        try:
            with locked(self.path / METADATA):
                shutil.rmtree(self._temporary)
                self._held.close()  # before the store's lock, so that the last of two processes finds this lock free
                if self._is_finished() and not any(self._other_locks(free=False)):
                    shutil.rmtree(self._commits)
        finally:
            self._held.close()

    def add_split(self, split: str, ids: Sequence[str]) -> None:
        """Record the segment's samples and their order.

        Raises OrsanetError if the segment has other samples.
        """
        if Path(split).name != split:
            raise ValueError(f"{split!r} is not a folder name")
        self._ids[split] = tuple(ids)
        with locked(self.path / METADATA):
            # The group of a split that is an index alone has neither samples of its own nor views.
            is_new = not (self.path / split / METADATA).exists() or not (
                (self.path / split / "sample_id").exists() or self.views(split)
            )
            if is_new:
                self._files.small(f"{split}/sample_id", encode_ids(ids), SAMPLE_ID_AXES)
            elif not any(self.is_sealed(split, view) for view in self.views(split)):
                self._files.repair_small(f"{split}/sample_id", encode_ids(ids), SAMPLE_ID_AXES)
            self._files.group(split, {})
            if is_new:
                return
        try:
            stored = decode_ids(self._container.small(f"{split}/sample_id"))
        except DAMAGE as error:
            refuse_shortage(error, self.path)
            raise OrsanetError(
                f"{self.path}: {split}/sample_id is damaged ({error}); delete {self.path / split} and run the same command again"
            ) from error
        if stored != tuple(ids):  # the plan has just read the list
            raise OrsanetError(
                f"{self.path}: another process builds '{split}' from another list of images; let it finish, and run the same command again"
            )

    def add_view(self, split: str, view: str) -> None:
        """Create the arrays of a view that is not sealed, unless they exist.

        Damaged array metadata is written again.
        """
        count = len(self._ids[split])
        with locked(self.path / METADATA):
            if self.is_sealed(split, view):  # checked under the lock: another process may just have sealed it
                return
            for field in self._fields_of(view).values():
                self._files.field(f"{split}/{view}", field, count)
            self._files.group(f"{split}/{view}", self._unsealed(view))

    def units(self, split: str) -> list[Unit]:
        """All units of a split."""
        count = len(self._ids[split])
        return units_of(split, count, self.rows_per_unit)

    def views(self, split: str) -> tuple[str, ...]:
        """The views of a split and its groups of added fields (VIEW.NAME), finished or not.

        Raises OrsanetError if a view's metadata is damaged.
        """
        try:
            return self._container.groups(split)
        except DAMAGE as error:
            refuse_shortage(error, self.path)
            raise OrsanetError(
                f"{self.path}: a zarr.json in {split} is damaged ({error}); delete the folder that contains it and run the same command again"
            ) from error

    def image_sha256(self, split: str, view: str) -> dict[Unit, list[str]]:
        """The image digests of each committed unit, in hex; empty for an unreadable file."""
        while True:
            if self.is_sealed(split, view):
                with locked(self.path / METADATA):
                    if self.is_sealed(split, view):  # still
                        stored = PriorStore(self._container).sealed(split, view).image_sha256
                        return {unit: hex_digests(stored[unit.rows]) for unit in self.units(split)}
            markers = {unit: self.marker(unit, view) for unit in self.units(split)}
            if not self.is_sealed(split, view):  # sealing deletes the markers, which may have happened meanwhile
                return {unit: marker.record.image_sha256 for unit, marker in markers.items() if marker is not None}

    def marker(self, unit: Unit, view: str) -> Marker | None:
        """A committed unit's marker.

        None if the unit is not committed, or its marker or one of its shards is damaged.
        """
        try:
            marker = Marker.decode(read_whole(self._marker_path(unit, view)), unit, view)
            if marker.shards.keys() == self._fields_of(view).keys() and all(
                self._shard_path(unit, view, name).stat().st_size == shard["bytes"]
                for name, shard in marker.shards.items()
            ):
                return marker
        except DAMAGE as error:
            refuse_shortage(error, self.path)
        return None

    def is_sealed(self, split: str, view: str) -> bool:
        try:
            return "seal" in self._container.attributes(f"{split}/{view}")
        except FileNotFoundError:
            return False
        except DAMAGE as error:
            refuse_shortage(error, self.path)
            raise OrsanetError(
                f"{self.path}: {split}/{view} is damaged ({error}); "
                f"delete {self.path / split / view} and run the same command again, which computes only that view"
            ) from error

    def digests(self, unit: Unit) -> list[str]:
        """The image digests of a unit in hex, from any view that has it committed; empty ones if none has."""
        with locked(self.path / METADATA):
            for view in self.views(unit.split):
                known = self._committed_digests(unit, view)
                if known is not None:
                    return hex_digests(known)
        return [""] * (unit.stop - unit.start)

    def write_states(self, states: Mapping[str, State]) -> tuple[str, ...]:
        """Make `states` those that count for their splits -> the splits that had others.

        All their segments are sealed. Their arrays are written first, and then the root's attributes,
        in one file. So a kill leaves the states before, of all splits.
        """
        with locked(self.path / METADATA):
            root = self._container.attributes("")
            known = before = States.of(self._container)
            changed = []
            for split, state in states.items():
                number = self._number(before, split, state)
                if number == before.current(split) and self._is_whole(before, split, number):
                    continue
                if number != FIRST:
                    self._files.group(split, {})
                    write_state(self._files, split, number, state)
                known = known.with_state(split, number, None if number == FIRST else state)
                changed.append(split)
            if changed:
                mark = root_mark(root[MARK]["recipe"], root[MARK]["rows_per_unit"], GROWN_SCHEMA)
                self._files.group("", {**root, MARK: mark, SPLITS: known.by_split})
            return tuple(changed)

    def _number(self, known: States, split: str, state: State) -> int:
        """The number that a state of a split has, or gets."""
        if state.segments == (split,):
            ids = decode_ids(self._container.small(f"{split}/sample_id"))
            if state.ids == ids and np.array_equal(state.places[:, 1], np.arange(len(ids))):
                return FIRST
        numbers = known.numbers(split)
        same = [number for number in numbers if known.by_split[split]["states"][str(number)]["sha256"] == state.sha256]
        return same[0] if same else max(numbers, default=FIRST) + 1

    def _is_whole(self, known: States, split: str, number: int) -> bool:
        """Whether a state can be read."""
        try:
            return number == FIRST or bool(known.read(self._container, split, number).ids)
        except DAMAGE as error:
            refuse_shortage(error, self.path)
            return False

    def commit(self, unit: Unit, view: str, arrays: Mapping[str, NDArray[Any]], record: UnitRecord) -> None:
        """Write a unit's shards, then its marker.

        If another process has committed the unit meanwhile, its data is kept.

        Raises OrsanetError, naming the images, if another view of the unit was computed from other
        image files. Nothing is committed then.
        """
        shards: dict[str, dict[str, Any]] = {}
        written: dict[Path, Path] = {}
        for name, field in self._fields_of(view).items():
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
        with suppress(OrsanetError):  # reads the other views' markers before it keeps others waiting; is repeated below
            self._check_same_files(unit, view, record)
        with locked(self.path / METADATA):
            if self.is_sealed(unit.split, view) or self.marker(unit, view) is not None:
                return
            self._check_same_files(unit, view, record)
            self._discard(marker)
            for temporary, path in written.items():
                os.replace(temporary, path)
                sync_folder(path.parent)
            if not publish_new(marker, [Marker(record, shards).encode(unit, view)], self._temporary / "marker"):
                raise OrsanetError(f"{marker} is in the way; remove it and run the same command again")

    def uncommit(self, units: Sequence[Unit], view: str) -> None:
        """Delete these units' markers, so that the units are computed again.

        A sealed view is opened again first.
        """
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
        return [] if lacking and self.is_sealed(split, view) else lacking  # sealed meanwhile: its markers are deleted

    def seal(self, split: str, view: str, provenance: Mapping[str, Any]) -> list[Unit]:
        """Read a complete view back, and seal it unless units are damaged -> the damaged units.

        `provenance` is recorded with the seal and not covered by it.
        """
        with locked(self._lock_file("seal")):
            if self.is_sealed(split, view):
                with locked(self.path / METADATA):
                    self._discard_markers(split, view)
                return []
            stamps = self._marker_stamps(split, view)
            found = {unit: self.marker(unit, view) for unit in self.units(split)}
            markers = {unit: marker for unit, marker in found.items() if marker is not None}
            if len(markers) < len(found):
                return []
            damaged = damaged_units(self._container, view, markers)
            if damaged:
                return sorted(damaged)
            with locked(self.path / METADATA):
                # If another process uncommitted units meanwhile, that process seals the view. To read all
                # markers again would keep the others waiting: a marker's file is never changed, only replaced.
                if self._marker_stamps(split, view) == stamps:
                    sealed = fold(self._container, split, view, list(markers.values()), provenance)
                    write_records(self._files, split, view, sealed)
                    self._files.group(f"{split}/{view}", sealed_attributes(split, view, sealed))
                    self._discard_markers(split, view)
            return []

    def _check_same_files(self, unit: Unit, view: str, record: UnitRecord) -> None:
        """Raises OrsanetError if another view of the unit was computed from other image files."""
        digests = byte_digests(record.image_sha256)
        for other in self.views(unit.split):
            known = None if other == view else self._committed_digests(unit, other)
            if known is None or np.array_equal(known, digests):
                continue
            ids = self._ids[unit.split][unit.rows]
            changed = [f"{unit.split}: {ids[row]!r}" for row in np.flatnonzero((known != digests).any(axis=1)).tolist()]
            raise OrsanetError(
                f"{self.path}: {len(changed)} image(s) changed while the store was built: {view} would be of other files than {other}. "
                f"Finished units are kept. Restore the images and run the same command again, or run `orsanet-cache build … --accept-changed`, "
                f"which computes their units again in every view:\n{listed(changed)}"
            )

    def _committed_digests(self, unit: Unit, view: str) -> NDArray[np.uint8] | None:
        """The image digests [rows, 32] of a unit in a view, zeros for an unreadable file; None if not committed."""
        if not self.is_sealed(unit.split, view):
            try:
                stamp = _stamp(os.stat(self._marker_path(unit, view)))
            except FileNotFoundError:
                return None
            if self._of_marker.get((unit, view), (None,))[0] != stamp:
                marker = self.marker(unit, view)
                if marker is None:
                    return None
                others = {of: known for of, known in self._of_marker.items() if of[0] == unit}
                self._of_marker = {**others, (unit, view): (stamp, byte_digests(marker.record.image_sha256))}
            return self._of_marker[unit, view][1]
        seal = self._container.attributes(f"{unit.split}/{view}")["seal"]
        if self._of_seal.get((unit.split, view), ("",))[0] != seal:
            sealed = PriorStore(self._container).sealed(unit.split, view)
            self._of_seal[unit.split, view] = sealed.seal, sealed.image_sha256
        return self._of_seal[unit.split, view][1][unit.rows]

    def _take_part(self) -> None:
        """Lock the part, and delete the temporary files of processes that have ended."""
        make_folder(self._parts)
        for lock in self._other_locks(free=True):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        try:
            self._held.enter_context(locked(self._lock_file(self._temporary.name), wait=False))
        except BlockingIOError:
            raise OrsanetError(
                f"another process is building part {self.part} of {self.path}; let it finish, or give each process its own --part"
            ) from None
        try:
            shutil.rmtree(self._temporary, ignore_errors=True)
            make_folder(self._temporary)
        except BaseException:
            self._held.close()  # no `with` block does it yet
            raise

    def _lock_file(self, name: str) -> Path:
        path = self._parts / f"{name}.lock"
        path.touch()
        return path

    def _other_locks(self, free: bool) -> Iterator[Path]:
        """Lock files of other parts and of sealing that are free, or that a process holds."""
        for path in sorted(self._parts.iterdir()):  # not glob, which passes over folders that it cannot open
            if path.suffix != ".lock" or path.stem == self._temporary.name:
                continue
            try:
                with locked(path, wait=False):
                    is_free = True
            except BlockingIOError:
                is_free = False
            if is_free == free:
                yield path

    def _is_finished(self) -> bool:
        """Whether every view is sealed; false if damage prevents the check."""
        try:
            splits = self._container.groups("")
            return all(self.is_sealed(split, view) for split in splits for view in self._container.groups(split))
        except (OrsanetError, *DAMAGE):
            return False

    def _unseal(self, split: str, view: str, but: set[int]) -> None:
        """Turn a seal back into markers of all units except `but`, or of none if it is damaged."""
        with suppress(OrsanetError):
            sealed = PriorStore(self._container).sealed(split, view)
            for unit in self.units(split):
                if unit.index in but:
                    continue
                shards = {field: self._shard_path(unit, view, field) for field in sealed.fields}
                file_bytes = {field: path.stat().st_size for field, path in shards.items() if path.exists()}
                marker = unfold(sealed, unit, self._ids[split][unit.rows], file_bytes)
                self._files.publish(self._marker_path(unit, view), [marker.encode(unit, view)])
        self._files.group(f"{split}/{view}", self._unsealed(view))

    def _shard_path(self, unit: Unit, view: str, field: str) -> Path:
        return self._files.shard_path(f"{unit.split}/{view}", self._fields_of(view)[field], unit.index)

    def _fields_of(self, view: str) -> Mapping[str, Field]:
        """The fields of a view, or of a group of added ones."""
        _, name = view_and_addition(view)
        return {field.name: field for field in self._additions[name].fields} if name else self._fields

    def _unsealed(self, view: str) -> dict[str, Any]:
        """The attributes of a view without a seal."""
        _, name = view_and_addition(view)
        return {NETWORK: self._additions[name].described()} if name else {}

    def _marker_path(self, unit: Unit, view: str) -> Path:
        return marker_path(self.path, unit, view)

    def _marker_stamps(self, split: str, view: str) -> dict[str, _Stamp]:
        """The markers of a view by name, each with its stamp; empty if there are none."""
        try:
            with os.scandir(self._commits / split / view) as entries:
                found = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".json")]
        except FileNotFoundError:
            return {}
        return {name: _stamp(status) for name, status in found}

    def _discard(self, marker: Path) -> None:
        with suppress(FileNotFoundError):
            marker.unlink()
            sync_folder(marker.parent)

    def _discard_markers(self, split: str, view: str) -> None:
        shutil.rmtree(self._commits / split / view, ignore_errors=True)


def _is_new(path: Path) -> bool:
    """Whether the folder has no store yet.

    It may contain the remains of a start that was killed before the root was marked.
    """
    if not path.exists():
        return True
    begun = path / COMMITS
    return all(entry == begun for entry in path.iterdir()) and (
        not begun.exists() or all(entry.name.startswith("begun-") for entry in begun.iterdir())
    )


def _refuse_links(path: Path) -> None:
    """Raises OrsanetError for a link in the store, so that only the store is deleted or written."""
    for level in (COMMITS, f"{COMMITS}/*", f"{COMMITS}/*/*", "*", "*/*", "*/*/*", "*/*/*/*.json", f"*/*/{CHECKSUMS}/*"):
        for entry in matching(path, level):
            if entry.is_symlink():
                raise OrsanetError(
                    f"{entry} is a link, and a build creates none; remove it and run the same command again"
                )
