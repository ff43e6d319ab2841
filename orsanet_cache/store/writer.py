"""Writing a store, by one process or by many that do not communicate, into a folder or an object store.

A unit is one shard's rows of one (split, view).

    its shards, whole → its marker, created exclusively

    STORE/.commits/<split>/<view>/<unit>.json    marker: checksums of the unit's shards, image digests and rejected images

A unit without a marker is computed again, so a kill costs at most two units of a view: the one
being written and the one being computed. When every unit of a view has a marker and its shards are
as committed, the markers are folded (seal.py) into the view's records and its seal. These do
not depend on which processes built the view. When all views are sealed, `.commits` is deleted and
only plain Zarr is left.

The place (places/destination.py) is a folder or an object store.

- In a folder the store's lock is held while files get their names or are deleted, never while
  anything is computed. Every shard is read back before it is sealed.
- An object store has no lock. Files of which two processes could write different versions are
  created on the condition that there is none, so one process wins and the others find out. After a
  view is sealed, and after a unit is committed or taken back, the writer looks whether another process
  has done the opposite meanwhile; of two at least one notices, and opens the view again. The listing
  has an e_tag of every object: shards with the e_tag in their marker are not read back.

Here a split is a segment: rows that are sealed together. A store grows by further segments, and by
a state of a split (states.py), which names rows of any of them. No file of a sealed segment changes.
Fields that are added to a view have a group of their own beside it, `<view>.<addition>`, which is
written, marked and sealed as a view is.
"""

import hashlib
import json
import secrets
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.errors import OrsanetError, UnreachableError, listed, refuse_shortage
from orsanet_cache.paths import StrPlace, as_place
from orsanet_cache.places.destination import Destination, open_destination
from orsanet_cache.store.container import DAMAGE, open_container, root_mark
from orsanet_cache.store.marked import TAKEN_BACK, MarkedUnits
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.recipe import recipe_differences
from orsanet_cache.store.rows import MAX_METADATA_BYTES, row_checksums
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
    SealedView,
    byte_digests,
    fold,
    hex_digests,
    sealed_attributes,
    unfold,
    write_records,
)
from orsanet_cache.store.states import FIRST, SPLITS, State, States, write_state
from orsanet_cache.store.units import (
    COMMITS,
    WHOLE,
    Marker,
    Share,
    Unit,
    UnitRecord,
    marker_folder,
    marker_name,
    units_of,
)
from orsanet_cache.store.zarr_folder import METADATA, ZarrFolder
from orsanet_cache.store.zarr_writer import (
    ZarrWriter,
    check_sizes,
    group_document,
    shard_sizes,
    small_content,
    small_file,
)


class StoreWriter:
    """The only code that changes an existing store.

    A context manager that holds its part.
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
        self._to = to
        self._fields = {field.name: field for field in fields}
        self._additions = {addition.name: addition for addition in additions}
        self._container = ZarrFolder(to.files)
        self._files = ZarrWriter(to, rows_per_unit)
        self._marked = MarkedUnits(to, self._fields_of)
        self._ids: dict[str, tuple[str, ...]] = {}
        self._of_seal: dict[tuple[str, str], SealedView] = {}  # by (split, view)
        self._of_marker: dict[tuple[Unit, str], tuple[Hashable, NDArray[np.uint8]]] = {}  # of one unit -> image digests

    @classmethod
    def open(
        cls,
        path: StrPlace,
        recipe: Mapping[str, Any],
        fields: Sequence[Field],
        part: Share = WHOLE,
        rows_per_unit: int | None = None,
        additions: Sequence[Addition] = (),
    ) -> Self:
        """Create the store, or continue one with the same recipe, and begin the part.

        Raises OrsanetError if the recipes differ; in a folder if another process builds this part, and
        where locks exclude nobody; at a URL where the object store has no conditional requests, and for
        shards that are too large for one.

        Args:
            path: the store's folder or URL.
            recipe: the settings that determine the values.
            fields: the fields of every view.
            part: this process's share of the units.
            rows_per_unit: rows of a unit in a new store; an existing store keeps its own.
            additions: fields that are added to views, among them all that the store has.
        """
        place = as_place(path, "store")
        to = open_destination(place, METADATA, COMMITS)
        every = [*fields, *(field for addition in additions for field in addition.fields)]
        if to.stamp(METADATA) is None:
            check_sizes(place, shard_sizes(every, rows_per_unit or ROWS_PER_UNIT), to.most_bytes)
        to.begin(group_document({MARK: root_mark(dict(recipe), rows_per_unit or ROWS_PER_UNIT)}))
        written = open_container(place).attributes("")[MARK]
        differences = list(recipe_differences(written["recipe"], dict(recipe)))
        if differences:
            raise OrsanetError(
                f"{path} was built with another recipe; pass its options again, or build into another folder:\n"
                f"{listed(differences)}"
            )
        check_sizes(place, shard_sizes(every, int(written["rows_per_unit"])), to.most_bytes)
        writer = cls(to, fields, part, int(written["rows_per_unit"]), additions)
        to.enter(str(part))
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Release the part.

        If every view is sealed and no other process is building, delete `.commits`.
        """
        self._to.leave(self._is_finished)

    def add_split(self, split: str, ids: Sequence[str]) -> None:
        """Record the segment's samples and their order.

        Raises OrsanetError if the segment has other samples.
        """
        if Path(split).name != split:
            raise ValueError(f"{split!r} is not a folder name")
        self._ids[split] = tuple(ids)
        array, values = f"{split}/sample_id", encode_ids(ids)
        with self._to.locked():
            # The group of a split that is an index alone has neither samples of its own nor views.
            is_new = not self._to.has(f"{split}/{METADATA}") or not (self._to.has(array) or self.views(split))
            if is_new:
                if not self._to.claim(small_file(array, values), small_content(values)):
                    raise self._other_list(split)
                self._files.describe(array, values, SAMPLE_ID_AXES)
            elif not any(self.is_sealed(split, view) for view in self.views(split)):
                self._files.repair_small(array, values, SAMPLE_ID_AXES)
            self._files.group(split, {})  # the same bytes by whatever process
            if is_new:
                return
        try:
            stored = decode_ids(self._container.small(array))
        except DAMAGE as error:
            refuse_shortage(error, self.path)
            raise OrsanetError(
                f"{self.path}: {array} is damaged ({error}); delete {self.path / split} and run the same command again"
            ) from error
        if stored != tuple(ids):  # the plan has just read the list
            raise self._other_list(split)

    def add_view(self, split: str, view: str) -> None:
        """Create the arrays of a view that is not sealed, unless they exist.

        Damaged array metadata is written again.
        """
        count = len(self._ids[split])
        with self._to.locked():
            if self.is_sealed(split, view):  # checked under the lock: another process may just have sealed it
                return
            for field in self._fields_of(view).values():
                self._files.field(f"{split}/{view}", field, count)
            self._files.new_group(f"{split}/{view}", self._unsealed(view))

    def segments(self) -> PriorStore:
        """What is in the store now, with each segment as a split; its rows cannot be read from an object store."""
        return PriorStore(self._container)

    def folders(self) -> list[str]:
        """Names of the folders that are or may be splits, damaged ones included."""
        return self._to.folders()

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
                with self._to.locked():
                    if self.is_sealed(split, view):  # still
                        stored = self.segments().sealed(split, view).image_sha256
                        return {unit: hex_digests(stored[unit.rows]) for unit in self.units(split)}
            found = {
                unit: marker.record.image_sha256 for unit, marker in self.markers(split, view) if marker is not None
            }
            if not self.is_sealed(split, view):  # sealing deletes the markers, which may have happened meanwhile
                return found

    def marker(self, unit: Unit, view: str) -> Marker | None:
        """A committed unit's marker.

        None if the unit is not committed, or its marker or one of its shards is damaged.
        """
        return self._marked.marker(self._to.files, unit, view)

    def markers(self, split: str, view: str) -> Iterator[tuple[Unit, Marker | None]]:
        """Every unit of a view with its marker, as `marker`."""
        return self._marked.markers(self._marked.look(split, view), self.units(split), view)

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
        with self._to.locked():
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
        with self._to.locked():
            while True:
                document = self._to.files.read(METADATA, MAX_METADATA_BYTES)
                root = json.loads(document)["attributes"]
                known = before = States(dict(root.get(SPLITS, {})))
                changed = []
                for split, state in states.items():
                    number = self._number(before, split, state)
                    if number == before.current(split) and self._is_whole(before, split, number):
                        continue
                    if number != FIRST:
                        self._files.group(split, {})
                        number = number if number in before.numbers(split) else self._free(split, number, state)
                        write_state(self._files, split, number, state)
                    known = known.with_state(split, number, None if number == FIRST else state)
                    changed.append(split)
                if not changed:
                    return ()
                mark = root_mark(root[MARK]["recipe"], root[MARK]["rows_per_unit"], GROWN_SCHEMA)
                grown = group_document({**root, MARK: mark, SPLITS: known.by_split})
                if self._to.exchange(METADATA, document, [grown]):
                    return tuple(changed)

    def _free(self, split: str, number: int, state: State) -> int:
        """A number for a new state, which no other process has taken for another one."""
        ids = encode_ids(state.ids)
        while not all(
            self._to.claim(small_file(array, values), small_content(values))
            for array, values in ((f"{split}/sample_id.{number}", ids), (f"{split}/row.{number}", state.places))
        ):
            number += 1
        return number

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
        image files. Nothing is committed then. At a URL it is also raised, naming the unit, if another
        process committed other values.
        """
        shards: dict[str, dict[str, Any]] = {}
        with self._to.staging() as staging:
            for name, field in self._fields_of(view).items():
                content = self._files.shard_content(field, arrays[name])
                staging.add(self._marked.shard(unit, view, name), content)
                shards[name] = {
                    "bytes": sum(map(len, content)),
                    "sha256": hashlib.sha256(np.ascontiguousarray(arrays[name]).data).hexdigest(),
                    "crc32c": row_checksums(arrays[name]).tolist(),
                }
            if self._to.excludes:
                with suppress(OrsanetError):  # reads the other views' markers before others wait; is repeated below
                    self._check_same_files(unit, view, record)
            with self._to.locked():
                if self._is_committed(unit, view, shards):
                    return
                self._check_same_files(unit, view, record)
                if self._to.stamp(marker_name(unit, view)) is not None:  # a damaged one
                    self._to.delete([marker_name(unit, view)])
                entries = staging.publish(lambda: self._is_committed(unit, view, shards))
                if entries is None:
                    return
                for name, shard in shards.items():
                    if (e_tag := entries[self._marked.shard(unit, view, name)].e_tag) is not None:
                        shard["e_tag"] = e_tag
                self._mark(unit, view, Marker(record, shards))

    def uncommit(self, units: Sequence[Unit], view: str) -> None:
        """Delete these units' markers, so that the units are computed again.

        A sealed view is opened again first.
        """
        split = units[0].split
        with self._to.locked():
            while True:
                if self.is_sealed(split, view):
                    self._unseal(split, view, {unit.index for unit in units})
                if not self._to.excludes:  # tells a process that is sealing
                    attempt = secrets.token_hex(8).encode()
                    self._to.publish(f"{marker_folder(split, view)}/{TAKEN_BACK}", [attempt])
                self._to.delete(marker_name(unit, view) for unit in units)
                if self._to.excludes or not self.is_sealed(split, view):
                    return

    def missing(self, split: str, view: str) -> list[Unit]:
        """The units of a view that are not committed."""
        if self.is_sealed(split, view):
            return []
        lacking = [unit for unit, marker in self.markers(split, view) if marker is None]
        return [] if lacking and self.is_sealed(split, view) else lacking  # sealed meanwhile: its markers are deleted

    def seal(self, split: str, view: str, provenance: Mapping[str, Any]) -> list[Unit]:
        """Seal a complete view unless units are damaged -> the damaged units.

        Shards are read back, except objects that have the e_tag with which they were committed.
        `provenance` is recorded with the seal and not covered by it.
        """
        folder = marker_folder(split, view)
        with self._to.sealing():
            if self.is_sealed(split, view):
                return self._end_sealing(split, view)
            stamps = self._to.stamps(folder)
            files = self._marked.look(split, view)
            markers: dict[Unit, Marker] = {}
            for unit, found in self._marked.markers(files, self.units(split), view):
                # An object that is not listed yet has a name all the same.
                marker = self.marker(unit, view) if found is None and not self._to.excludes else found
                if marker is None:
                    return []
                markers[unit] = marker
            damaged = self._marked.differing(files, view, markers)
            if damaged:
                return sorted(damaged)
            with self._to.locked():
                # If another process uncommitted units meanwhile, that process seals the view. To read all
                # markers again would keep the others waiting: a marker's file is never changed, only replaced.
                if self._to.stamps(folder) != stamps:
                    return []
                sealed = fold(self._container, split, view, list(markers.values()), provenance)
                write_records(self._files, split, view, sealed)
                self._files.group(f"{split}/{view}", sealed_attributes(split, view, sealed))
                if (
                    not self._to.excludes
                    and (changed := self._marked.changed(files, stamps, view, markers)) is not None
                ):
                    self._files.group(f"{split}/{view}", self._unsealed(view))
                    return changed
                self._to.delete_folder(folder)
            return []

    def note(self, split: str, view: str, name: str, content: bytes) -> bytes:
        """Leave a note with a view's markers, unless there is one of this name -> the note that is there."""
        return self._marked.note(split, view, name, content)

    def notes(self, split: str, view: str, begin: str) -> list[bytes]:
        """The notes of a view whose names begin with `begin`, sorted by name."""
        return self._marked.notes(split, view, begin)

    def _is_committed(self, unit: Unit, view: str, shards: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether another process has committed a unit.

        Raises OrsanetError at a URL, where no lock keeps the same part from being built twice, if the
        values differ from those of `shards`.
        """
        there = self._committed_values(unit, view)
        if there is None:
            return False
        own = {name: shard["sha256"] for name, shard in shards.items()}
        if not self._to.excludes and there != own:
            raise OrsanetError(
                f"{self.path}: another process has committed {unit.split}/{view}, rows {unit.start} to {unit.stop - 1}, with other values, "
                f"which are kept ({', '.join(sorted(name for name in own if there.get(name) != own[name]))} differ); "
                f"give each process its own --part, and run the same command again"
            )
        return True

    def _committed_values(self, unit: Unit, view: str) -> dict[str, str] | None:
        """The digests of a committed unit's values by field; None if it is not committed."""
        if self.is_sealed(unit.split, view):
            if self._to.excludes:
                return {}
            sealed = self._sealed(unit.split, view)
            digests = zip(sorted(sealed.fields), sealed.unit_sha256[unit.index], strict=True)
            return {name: digest.tobytes().hex() for name, digest in digests}
        marker = self.marker(unit, view)
        return None if marker is None else {name: shard["sha256"] for name, shard in marker.shards.items()}

    def _mark(self, unit: Unit, view: str, marker: Marker) -> None:
        """Create a unit's marker, after its shards are written."""
        name = marker_name(unit, view)
        if not self._to.excludes:
            marker = replace(marker, attempt=secrets.token_hex(16))
        entry = self._to.create(name, [marker.encode(unit, view)])
        if entry is None:
            if not self._to.excludes and self._is_committed(unit, view, marker.shards):
                return
            raise OrsanetError(f"{self.path / name} is in the way; remove it and run the same command again")
        if self._to.excludes:
            return
        self._remember(unit, view, entry, marker)
        if not self.is_sealed(unit.split, view):
            return
        # Sealed while the shards were written, by a process that had found the unit's earlier marker.
        values = {field: shard["sha256"] for field, shard in marker.shards.items()}
        if self._committed_values(unit, view) == values:
            self._to.delete([name])
        else:
            self._unseal(unit.split, view, {unit.index})

    def _end_sealing(self, split: str, view: str) -> list[Unit]:
        """Delete what is left of a sealed view's markers, unless units are damaged -> the damaged units."""
        if not self._to.excludes:
            files = self._marked.look(split, view)
            # Those without an e_tag are of an interrupted `_unseal`.
            found = {
                unit: marker
                for unit, marker in self._marked.markers(files, self.units(split), view)
                if marker is not None and all("e_tag" in shard for shard in marker.shards.values())
            }
            if damaged := self._marked.differing(files, view, found):
                return sorted(damaged)
        with self._to.locked():
            self._to.delete_folder(marker_folder(split, view))
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
            stamp = self._to.stamp(marker_name(unit, view))
            if stamp is None:
                return None
            if self._of_marker.get((unit, view), (None,))[0] != stamp:
                marker = self.marker(unit, view)
                if marker is None:
                    return None
                self._remember(unit, view, stamp, marker)
            return self._of_marker[unit, view][1]
        return self._sealed(unit.split, view).image_sha256[unit.rows]

    def _sealed(self, split: str, view: str) -> SealedView:
        """The records of a sealed view, which are read again only if it was sealed again."""
        seal = self._container.attributes(f"{split}/{view}")["seal"]
        if (split, view) not in self._of_seal or self._of_seal[split, view].seal != seal:
            self._of_seal[split, view] = self.segments().sealed(split, view)
        return self._of_seal[split, view]

    def _remember(self, unit: Unit, view: str, stamp: Hashable, marker: Marker) -> None:
        """Keep the image digests of a unit's views, until those of another unit are needed."""
        others = {of: known for of, known in self._of_marker.items() if of[0] == unit}
        self._of_marker = {**others, (unit, view): (stamp, byte_digests(marker.record.image_sha256))}

    def _is_finished(self) -> bool:
        """Whether every view is sealed; false if damage prevents the check."""
        try:
            splits = self._container.groups("")
            return all(self.is_sealed(split, view) for split in splits for view in self._container.groups(split))
        except (OrsanetError, *DAMAGE):
            return False

    def _unseal(self, split: str, view: str, but: set[int]) -> None:
        """Turn a seal back into markers of all units except `but`, or of none if it is damaged.

        The markers have no e_tags, so the shards are read back before they are sealed again.
        """
        try:
            sealed = self.segments().sealed(split, view)
        except UnreachableError:
            raise
        except OrsanetError:
            sealed = None
        if sealed is not None:
            sizes = self._marked.sizes(split, view, sealed.fields)
            self._to.publish_all(
                (
                    marker_name(unit, view),
                    [unfold(sealed, unit, self._ids[split][unit.rows], sizes(unit)).encode(unit, view)],
                )
                for unit in self.units(split)
                if unit.index not in but
            )
        self._files.group(f"{split}/{view}", self._unsealed(view))

    def _fields_of(self, view: str) -> Mapping[str, Field]:
        """The fields of a view, or of a group of added ones."""
        _, name = view_and_addition(view)
        return {field.name: field for field in self._additions[name].fields} if name else self._fields

    def _unsealed(self, view: str) -> dict[str, Any]:
        """The attributes of a view without a seal."""
        _, name = view_and_addition(view)
        return {NETWORK: self._additions[name].described()} if name else {}

    def _other_list(self, split: str) -> OrsanetError:
        return OrsanetError(
            f"{self.path}: another process builds '{split}' from another list of images; let it finish, and run the same command again"
        )
