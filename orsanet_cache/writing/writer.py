"""Writing a store, by one process or by many that do not communicate, into a folder or an object store.

A unit is one shard's rows of one (split, view).

    its shards, whole → its marker, created exclusively

    STORE/.commits/<split>/<view>/<unit>.json    marker: checksums of the unit's shards, image digests and rejected images

A unit without a marker is computed again, so a kill costs at most two units of a view: the one
being written and the one being computed. When every unit of a view has a marker and its shards are
as committed, the markers are folded (sealing.py) into the view's records and its seal. These do
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
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.errors import OrsanetError, listed, refuse_shortage
from orsanet_cache.paths import StrPlace, as_place
from orsanet_cache.places.destination import Destination, open_destination
from orsanet_cache.store.container import DAMAGE, open_container, root_mark
from orsanet_cache.store.recipe import recipe_differences
from orsanet_cache.store.rows import row_checksums
from orsanet_cache.store.schema import MARK, ROWS_PER_UNIT, SAMPLE_ID_AXES, Addition, Field, decode_ids, encode_ids
from orsanet_cache.store.seal import byte_digests
from orsanet_cache.store.states import State
from orsanet_cache.store.units import COMMITS, WHOLE, Marker, Share, Unit, UnitRecord, marker_folder, marker_name
from orsanet_cache.store.zarr_folder import METADATA
from orsanet_cache.writing.growing import write_states
from orsanet_cache.writing.marked import TAKEN_BACK
from orsanet_cache.writing.sealing import seal_view, unseal_view
from orsanet_cache.writing.written import WrittenStore
from orsanet_cache.writing.zarr_writer import check_sizes, group_document, shard_sizes, small_content, small_file


class StoreWriter(WrittenStore):
    """The only code that changes an existing store.

    A context manager that holds its part.
    """

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
        writer = cls._same(to, recipe, fields, part, additions)
        check_sizes(place, shard_sizes(every, writer.rows_per_unit), to.most_bytes)
        to.enter(str(part))
        return writer

    @classmethod
    def join(
        cls,
        path: StrPlace,
        recipe: Mapping[str, Any],
        fields: Sequence[Field],
        additions: Sequence[Addition],
        name: str,
    ) -> Self:
        """Commit units beside the process that builds the whole store, seals its views, and ends last.

        `name` is one that no other process has. Other arguments as for `open`.

        Raises OrsanetError if that process does not hold the store, as seen from here: it is another
        folder, or a lock does not exclude the processes of other machines.
        """
        to = open_destination(as_place(path, "store"), METADATA, COMMITS)
        to.join(name, str(WHOLE))
        return cls._same(to, recipe, fields, WHOLE, additions)

    @classmethod
    def _same(
        cls,
        to: Destination,
        recipe: Mapping[str, Any],
        fields: Sequence[Field],
        part: Share,
        additions: Sequence[Addition],
    ) -> Self:
        """The writer of a store that exists. Raises OrsanetError if it has another recipe."""
        path = to.place
        written = open_container(path).attributes("")[MARK]
        differences = list(recipe_differences(written["recipe"], dict(recipe)))
        if differences:
            raise OrsanetError(
                f"{path} was built with another recipe; pass its options again, or build into another folder:\n"
                f"{listed(differences)}"
            )
        return cls(to, fields, part, int(written["rows_per_unit"]), additions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Release the part.

        If every view is sealed and no other process is building, delete `.commits`.
        """
        self.to.leave(self._is_finished)

    def add_split(self, split: str, ids: Sequence[str]) -> None:
        """Record the segment's samples and their order.

        Raises OrsanetError if the segment has other samples.
        """
        if Path(split).name != split:
            raise ValueError(f"{split!r} is not a folder name")
        self.ids[split] = tuple(ids)
        array, values = f"{split}/sample_id", encode_ids(ids)
        with self.to.locked():
            # The group of a split that is an index alone has neither samples of its own nor views.
            is_new = not self.to.has(f"{split}/{METADATA}") or not (self.to.has(array) or self.views(split))
            if is_new:
                if not self.to.claim(small_file(array, values), small_content(values)):
                    raise self._other_list(split)
                self.files.describe(array, values, SAMPLE_ID_AXES)
            elif not any(self.is_sealed(split, view) for view in self.views(split)):
                self.files.repair_small(array, values, SAMPLE_ID_AXES)
            self.files.group(split, {})  # the same bytes by whatever process
            if is_new:
                return
        try:
            stored = self.container.small(array)
        except DAMAGE as error:
            refuse_shortage(error, self.path)
            raise OrsanetError(
                f"{self.path}: {array} is damaged ({error}); delete {self.path / split} and run the same command again"
            ) from error
        if not np.array_equal(stored, values):  # the plan has just read the list
            raise self._other_list(split)

    def read_split(self, split: str) -> None:
        """Read the samples of a segment that another process has recorded."""
        if split not in self.ids:
            self.ids[split] = decode_ids(self.container.small(f"{split}/sample_id"))

    def add_view(self, split: str, view: str) -> None:
        """Create the arrays of a view that is not sealed, unless they exist.

        Damaged array metadata is written again.
        """
        count = len(self.ids[split])
        with self.to.locked():
            if self.is_sealed(split, view):  # checked under the lock: another process may just have sealed it
                return
            for field in self.fields_of(view).values():
                self.files.field(f"{split}/{view}", field, count)
            self.files.new_group(f"{split}/{view}", self.unsealed(view))

    def commit(self, unit: Unit, view: str, arrays: Mapping[str, NDArray[Any]], record: UnitRecord) -> None:
        """Write a unit's shards, then its marker.

        If another process has committed the unit meanwhile, its data is kept.

        Raises OrsanetError, naming the images, if another view of the unit was computed from other
        image files. Nothing is committed then. At a URL it is also raised, naming the unit, if another
        process committed other values.
        """
        shards: dict[str, dict[str, Any]] = {}
        with self.to.staging() as staging:
            for name, field in self.fields_of(view).items():
                content = self.files.shard_content(field, arrays[name])
                staging.add(self.marked.shard(unit, view, name), content)
                shards[name] = {
                    "bytes": sum(map(len, content)),
                    "sha256": hashlib.sha256(np.ascontiguousarray(arrays[name]).data).hexdigest(),
                    "crc32c": row_checksums(arrays[name]).tolist(),
                }
            if self.to.excludes:
                with suppress(OrsanetError):  # reads the other views' markers before others wait; is repeated below
                    self._check_same_files(unit, view, record)
            with self.to.locked():
                if self._is_committed(unit, view, shards):
                    return
                self._check_same_files(unit, view, record)
                if self.to.stamp(marker_name(unit, view)) is not None:  # a damaged one
                    self.to.delete([marker_name(unit, view)])
                entries = staging.publish(lambda: self._is_committed(unit, view, shards))
                if entries is None:
                    return
                for name, shard in shards.items():
                    if (e_tag := entries[self.marked.shard(unit, view, name)].e_tag) is not None:
                        shard["e_tag"] = e_tag
                self._mark(unit, view, Marker(record, shards))

    def uncommit(self, units: Sequence[Unit], view: str) -> None:
        """Delete these units' markers, so that the units are computed again.

        A sealed view is opened again first.
        """
        split = units[0].split
        with self.to.locked():
            while True:
                if self.is_sealed(split, view):
                    unseal_view(self, split, view, {unit.index for unit in units})
                if not self.to.excludes:  # tells a process that is sealing
                    attempt = secrets.token_hex(8).encode()
                    self.to.publish(f"{marker_folder(split, view)}/{TAKEN_BACK}", [attempt])
                self.to.delete(marker_name(unit, view) for unit in units)
                if self.to.excludes or not self.is_sealed(split, view):
                    return

    def _is_committed(self, unit: Unit, view: str, shards: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether another process has committed a unit.

        Raises OrsanetError at a URL, where no lock keeps the same part from being built twice, if the
        values differ from those of `shards`.
        """
        there = self._committed_values(unit, view)
        if there is None:
            return False
        own = {name: shard["sha256"] for name, shard in shards.items()}
        if not self.to.excludes and there != own:
            raise OrsanetError(
                f"{self.path}: another process has committed {unit.split}/{view}, rows {unit.start} to {unit.stop - 1}, with other values, "
                f"which are kept ({', '.join(sorted(name for name in own if there.get(name) != own[name]))} differ); "
                f"give each process its own --part, and run the same command again"
            )
        return True

    def _committed_values(self, unit: Unit, view: str) -> dict[str, str] | None:
        """The digests of a committed unit's values by field; None if it is not committed."""
        if self.is_sealed(unit.split, view):
            if self.to.excludes:
                return {}
            sealed = self.sealed(unit.split, view)
            digests = zip(sorted(sealed.fields), sealed.unit_sha256[unit.index], strict=True)
            return {name: digest.tobytes().hex() for name, digest in digests}
        marker = self.marker(unit, view)
        return None if marker is None else {name: shard["sha256"] for name, shard in marker.shards.items()}

    def _mark(self, unit: Unit, view: str, marker: Marker) -> None:
        """Create a unit's marker, after its shards are written."""
        name = marker_name(unit, view)
        if not self.to.excludes:
            marker = replace(marker, attempt=secrets.token_hex(16))
        entry = self.to.create(name, [marker.encode(unit, view)])
        if entry is None:
            if not self.to.excludes and self._is_committed(unit, view, marker.shards):
                return
            raise OrsanetError(f"{self.path / name} is in the way; remove it and run the same command again")
        if self.to.excludes:
            return
        self.remember(unit, view, entry, marker)
        if not self.is_sealed(unit.split, view):
            return
        # Sealed while the shards were written, by a process that had found the unit's earlier marker.
        values = {field: shard["sha256"] for field, shard in marker.shards.items()}
        if self._committed_values(unit, view) == values:
            self.to.delete([name])
        else:
            unseal_view(self, unit.split, view, {unit.index})

    def _check_same_files(self, unit: Unit, view: str, record: UnitRecord) -> None:
        """Raises OrsanetError if another view of the unit was computed from other image files."""
        digests = byte_digests(record.image_sha256)
        for other in self.views(unit.split):
            known = None if other == view else self.committed_digests(unit, other)
            if known is None or np.array_equal(known, digests):
                continue
            ids = self.ids[unit.split][unit.rows]
            changed = [f"{unit.split}: {ids[row]!r}" for row in np.flatnonzero((known != digests).any(axis=1)).tolist()]
            raise OrsanetError(
                f"{self.path}: {len(changed)} image(s) changed while the store was built: {view} would be of other files than {other}. "
                f"Finished units are kept. Restore the images and run the same command again, or run `orsanet-cache build … --accept-changed`, "
                f"which computes their units again in every view:\n{listed(changed)}"
            )

    def _is_finished(self) -> bool:
        """Whether every view is sealed; false if damage prevents the check."""
        try:
            splits = self.container.groups("")
            return all(self.is_sealed(split, view) for split in splits for view in self.container.groups(split))
        except (OrsanetError, *DAMAGE):
            return False

    def _other_list(self, split: str) -> OrsanetError:
        return OrsanetError(
            f"{self.path}: another process builds '{split}' from another list of images; let it finish, and run the same command again"
        )

    def note(self, split: str, view: str, name: str, content: bytes) -> bytes:
        """Leave a note with a view's markers, unless there is one of this name -> the note that is there."""
        return self.marked.note(split, view, name, content)

    def seal(self, split: str, view: str, provenance: Mapping[str, Any]) -> list[Unit]:
        """Seal a complete view unless units are damaged -> the damaged units (sealing.py)."""
        return seal_view(self, split, view, provenance)

    def write_states(self, states: Mapping[str, State]) -> tuple[str, ...]:
        """Make `states` those that count for their splits -> the splits that had others (growing.py)."""
        return write_states(self, states)
