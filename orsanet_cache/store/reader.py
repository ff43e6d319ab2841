"""PriorStore reads a store from a Zarr folder, on this machine or at a URL, or from an HDF5 file.

    STORE/                          attributes: orsanet_store = {schema, recipe, rows_per_unit, sha256 of these}
      <split>/
        sample_id   uint8 [N, L]    image paths of the manifest, UTF-8, zero-padded
        <view>/                     attributes, once finished: seal, place = split/view, rejected = {sample id: reason}, provenance
          image_sha256 uint8 [N, 32]       of the image files
          unit_sha256  uint8 [U, F, 32]    of every unit of work in every field, fields by name
          crc32c/<field> uint32 [N]        of every row's bytes
          image, segmentation_map, segmentation_entropy, segmentation_features, landmark_features, landmarks   [N, …]
        <view>.<addition>/          fields that were added to the view: the same attributes and records, and network = {name, recipe, fields}

Row n of every array belongs to sample n. A rejected sample's rows have no meaning. A store has no
labels: they are joined from the manifest when the store is read. A view is readable once it has its
seal (seal.py), an added field once its group has one. If a store has grown, its splits are indices over such rows (states.py), and `open`
returns a store that reads them so (grown.py).
"""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.views import KINDS
from orsanet_cache.errors import OrsanetError, did_you_mean, listed, refuse_shortage
from orsanet_cache.paths import Place, StrPath, StrPlace, Url, as_path, as_place
from orsanet_cache.places.ahead import Ahead, Wanted
from orsanet_cache.places.copies import CacheSettings
from orsanet_cache.store.container import DAMAGE, Container, open_container
from orsanet_cache.store.rows import Records, Rows, shard_name
from orsanet_cache.store.schema import (
    ADDED_TO,
    GROWN_SCHEMA,
    MARK,
    OPTIONAL,
    added_group,
    decode_ids,
    view_and_addition,
)
from orsanet_cache.store.seal import CHECKSUMS, RECORDS, MisplacedViewError, SealedView, read_sealed
from orsanet_cache.store.zarr_folder import FetchedRows, Layout, ZarrFolder


class WrongStateError(OrsanetError):
    """A store has no state in which some views had the seals that are asked for."""

    def __init__(self, path: Place, places: Sequence[str]) -> None:
        super().__init__(
            f"{path}: has no state with the seals that {', '.join(places)} had before: other pictures or values were built there "
            f"since, or this is another store; name the store that was used, or start anew with this one"
        )


class PriorStore:
    """Read-only access to the sealed views of a store.

    A store can be pickled, forked, and read from several threads. Rows are addressed by position;
    `sample_ids(split)[n]` is the sample of row n.
    """

    def __init__(self, container: Container, cache: CacheSettings | None = None) -> None:
        self.path = container.path
        self.cache = cache
        self._container = container
        self._root: dict[str, Any] = container.attributes("")[MARK]
        self._sealed: dict[tuple[str, str], SealedView] = {}
        self._rows: dict[tuple[str, str, str], Rows] = {}
        self._groups: dict[tuple[str, str], dict[str, str]] = {}  # (split, view) -> field -> the group that has it

    @staticmethod
    def open(path: StrPlace, cache: StrPath | None = None, cache_bytes: int | None = None) -> "PriorStore":
        """Open a store at a path, or at a URL (s3://…, gs://…, az://…).

        Its splits are those of the manifest that was built last.

        Credentials and endpoint of a URL are those of the environment.

        Raises OrsanetError if `path` is not a store, has another schema version, or cannot be
        reached; and for a cache beside a path.

        Args:
            path: the store's path, or its URL as text.
            cache: for a URL, the folder of this machine that keeps its shards, for all processes and
                for later ones. None keeps the last few until the process ends.
            cache_bytes: the most that the cache may have; None: most of what is free there.
        """
        place = as_place(path, "store")
        if cache is None:
            if cache_bytes is not None:
                raise OrsanetError("a cache's size was given without its folder: give both")
            return PriorStore.of(open_container(place))
        if not isinstance(place, Url):
            raise OrsanetError(f"{place}: a cache is for the URL of a store, and this is a path; leave the cache out")
        settings = CacheSettings(as_path(cache, "cache"), cache_bytes)
        return PriorStore.of(open_container(place, settings), settings)

    @staticmethod
    def of(container: Container, cache: CacheSettings | None = None) -> "PriorStore":
        """The store in a container, which was opened with this cache."""
        if container.attributes("")[MARK]["schema"] != GROWN_SCHEMA:
            return PriorStore(container, cache)
        from orsanet_cache.store.grown import GrownStore  # which is a PriorStore

        return GrownStore(container, cache)

    @staticmethod
    def open_segments(path: StrPlace) -> "PriorStore":
        """Open a store as the segments of rows that were sealed together, each as a split of its own.

        Only in a store that has grown they differ from the splits.
        """
        return PriorStore(open_container(as_place(path, "store")))

    def at(self, seals: Mapping[str, str]) -> "PriorStore":
        """The store in the state in which views had these seals, by "split/view".

        Raises WrongStateError if it has no such state.
        """
        differing = [
            place
            for place, seal in seals.items()
            for split, _, view in [place.partition("/")]
            if self.sealed(split, view).seal != seal
        ]
        if differing:
            raise WrongStateError(self.path, differing)
        return self

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that determine the priors' values. They are compared for compatibility."""
        return dict(self._root["recipe"])

    @property
    def rows_per_unit(self) -> int:
        """Number of rows that are computed, written and committed together."""
        return int(self._root["rows_per_unit"])

    @property
    def splits(self) -> tuple[str, ...]:
        try:
            return self._container.groups("")
        except DAMAGE as error:
            refuse_shortage(error, self.path)
            raise OrsanetError(
                f"{self.path}: a split's zarr.json is damaged ({error}); run the same `orsanet-cache build` again, or restore it from a copy"
            ) from error

    def segments(self, split: str) -> tuple[str, ...]:
        """The segments that a split's rows lie in: itself, unless it has grown."""
        self._check_split(split)
        return (split,)

    def views(self, split: str) -> tuple[str, ...]:
        """The sealed views of a split."""
        return tuple(view for view, sealed in self.all_views(split).items() if sealed)

    def all_views(self, split: str) -> dict[str, bool]:
        """Every view of a split, finished or not -> whether it is sealed."""
        return {group: sealed for group, sealed in self.all_groups(split).items() if not view_and_addition(group)[1]}

    def additions(self, split: str, view: str) -> tuple[str, ...]:
        """The names of the additions that a view has, finished."""
        named = ((*view_and_addition(group), sealed) for group, sealed in self.all_groups(split).items())
        return tuple(name for of, name, sealed in named if of == view and name and sealed)

    def groups(self, split: str) -> tuple[str, ...]:
        """The sealed views of a split, and the sealed groups of fields that were added to views: VIEW.ADDITION."""
        return tuple(group for group, sealed in self.all_groups(split).items() if sealed)

    def all_groups(self, split: str) -> dict[str, bool]:
        """Every view of a split and every group of added fields, finished or not -> whether it is sealed."""
        self._check_split(split)
        try:
            names = self._container.groups(split)
            return {view: "seal" in self._container.attributes(f"{split}/{view}") for view in names}
        except DAMAGE as error:
            raise self._damaged(split, error) from error

    def sample_ids(self, split: str) -> tuple[str, ...]:
        """Image paths as in the manifest, in row order."""
        self._check_split(split)
        try:
            return decode_ids(self._container.small(f"{split}/sample_id"))
        except DAMAGE as error:
            raise self._damaged(f"{split}/sample_id", error) from error

    def accepted(self, split: str, view: str, fields: Collection[str] = ()) -> NDArray[np.bool_]:
        """Rows whose image is usable, bool [N], to a reader of these fields. Without names: of the view's own."""
        rejected = self.rejected(split, view, fields)
        return np.array([image not in rejected for image in self.sample_ids(split)])

    def rejected(self, split: str, view: str, fields: Collection[str] = ()) -> dict[str, str]:
        """Sample id -> the reason why its image cannot be used, by a reader of these fields as in `accepted`."""
        rejected: dict[str, str] = {}
        for group in self.groups_of(split, view, fields):
            rejected |= self.sealed(split, group).rejected
        return rejected | self.sealed(split, view).rejected

    def fields(self, split: str, view: str) -> dict[str, Layout]:
        """Field name -> shape (sample axis first) and dtype; also of fields that were added."""
        return {field: self.sealed(split, group).fields[field] for field, group in self._group_of(split, view).items()}

    def groups_of(self, split: str, view: str, fields: Collection[str]) -> tuple[str, ...]:
        """The view, and the groups of added fields that have some of these fields. Others are left out."""
        group_of = self._group_of(split, view) if fields else {}
        return tuple(dict.fromkeys((view, *(group_of[field] for field in fields if field in group_of))))

    def provenance(self, split: str, view: str) -> dict[str, Any]:
        """Versions and device of the build. They are recorded, never compared."""
        return dict(self.sealed(split, view).provenance)

    def sealed(self, split: str, view: str) -> SealedView:
        """A finished view's records, or those of a group of added fields.

        Raises OrsanetError if the view does not exist, is not finished, is damaged, is another one
        by its seal, or was computed from other image files than a view that was read before.
        """
        if (split, view) not in self._sealed:
            self._check_view(split, view)
            name = f"{split}/{view}"
            self._expect_records(name)
            try:
                sealed = read_sealed(self._container, self._root, split, view)
            except MisplacedViewError as error:
                raise OrsanetError(f"{self.path}: {name}: {error}") from error
            except DAMAGE as error:
                raise self._damaged(name, error) from error
            self._check_same_files(split, view, sealed)
            self._check_added_to(split, view, sealed)
            self._sealed[split, view] = sealed
        return self._sealed[split, view]

    def read(
        self,
        split: str,
        view: str,
        field: str,
        rows: NDArray[np.integer] | Sequence[int] | slice,
        out: NDArray[Any] | None = None,
        positions: NDArray[np.integer] | None = None,
    ) -> NDArray[Any]:
        """Rows of one field in the given order, [len(rows), *field shape].

        Raises OrsanetError for a field that does not exist, and for damage: every row has a
        checksum.

        Args:
            split: name of the split.
            view: name of a sealed view.
            field: name of the field.
            rows: row numbers, each from 0 to N - 1, or a slice of them.
            out: C-contiguous array to read into, which is faster: [len(rows), *field shape], or any
                number of rows with `positions`.
            positions: row rows[i] is read into out[positions[i]]. So a batch of several views can
                be read view by view. It needs `out` and has as many items as `rows`.
        """
        group, layout = self._home(split, view, field)
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(layout.shape[0]))
        rows = as_rows(rows)
        if positions is None:
            positions = np.arange(len(rows))
            shape = (len(rows), *layout.shape[1:])
        elif out is None or len(positions) != len(rows):
            raise TypeError("positions: needs `out`, and one position per row")
        else:
            shape = (len(out), *layout.shape[1:])
        if out is None:
            out = np.empty(shape, layout.dtype)
        elif out.shape != shape or out.dtype != layout.dtype or not out.flags.c_contiguous:
            raise TypeError(
                f"out: expected C-contiguous {layout.dtype} {shape} for {field}, not {out.dtype} {out.shape}"
            )
        self._read_rows(split, group, field, rows, out, positions)
        return out

    def check_unchanged(self, split: str | None = None) -> None:
        """Check that the files that rows were read from have not changed since they were verified.

        A row is verified when a process first reads it. A program that reads rows again calls this
        after each pass over them: it costs one `stat` per file, which is one per unit and field in a
        Zarr folder. The file's size, time of change and inode are compared. Only rows of `split` are
        checked if it is given.

        Raises OrsanetError, with the file and its rows, if one has changed.
        """
        for (of_split, view, field), rows in list(self._rows.items()):
            if isinstance(rows, Records) and split in (None, of_split):  # others verify every read
                try:
                    rows.check_unchanged()
                except DAMAGE as error:
                    raise self._damaged(f"{of_split}/{view}/{field}", error) from error

    def ahead(
        self, split: str, views: Sequence[str], fields: Sequence[str], view: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> Ahead:
        """Fetch the shards of a store at a URL ahead of a reader, in the order of their first use.

        The reader tells with `reached(n)` that it has read the first n rows. Nothing is fetched for a
        store on this machine.

        Args:
            split: name of the split.
            views: names of views.
            fields: names of the fields that will be read.
            view: of each row that will be read, in order, its view's position in `views`, [n].
            rows: these rows, [n].
        """
        wanted: list[Wanted] = []
        if isinstance(self._container, ZarrFolder) and self._container.copies is not None:
            segments, number, shard = self._shards(split, rows)
            unit = _numbered(number, shard)
            _, firsts = np.unique(view * (unit.max(initial=0) + 1) + unit, return_index=True)
            for first in firsts.tolist():
                for field in fields:
                    group, _ = self._home(split, views[view[first]], field)
                    of_field = self._rows_of(segments[number[first]], group, field)
                    if isinstance(of_field, FetchedRows):
                        file = int(shard[first])
                        wanted.append(Wanted(first, of_field.file_bytes(file), partial(of_field.fetch, file)))
        return Ahead(wanted, self.cache_bytes / 3)

    @property
    def cache_bytes(self) -> float:
        """Bytes that copies of shards may take on this machine; infinite for a store that is on it."""
        copies = self._container.copies if isinstance(self._container, ZarrFolder) else None
        return math.inf if copies is None else copies.limit

    def shard_bytes(self, split: str, views: Sequence[str], fields: Sequence[str]) -> int:
        """Bytes of the shards of a store at a URL that these fields of these views have; 0 for a store on this machine."""
        if not isinstance(self.path, Url) or not isinstance(self._container, ZarrFolder):
            return 0
        entries, total = self._container.files.entries(), 0
        for view in views:
            homes = {field: self._home(split, view, field) for field in fields}
            segments, *places = self._shards(split, np.arange(len(self.sealed(split, view).image_sha256)))
            for number, shard in np.unique(np.stack(places), axis=1).T.tolist():
                for field, (group, layout) in homes.items():
                    name = f"{segments[number]}/{group}/{field}/{shard_name(shard, len(layout.shape))}"
                    total += entries[name].size if name in entries else 0
        return total

    def units(self, split: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The units that rows were committed in, as numbers, [n]: one file of each field has the rows of a unit."""
        _, number, shard = self._shards(split, rows)
        return _numbered(number, shard)

    def nbytes(self) -> int:
        """Bytes on disk, or in the object store."""
        if isinstance(self._container, ZarrFolder):
            return self._container.files.nbytes()
        return os.stat(str(self.path)).st_size

    def _read_rows(
        self,
        split: str,
        view: str,
        field: str,
        rows: NDArray[np.integer],
        out: NDArray[Any],
        positions: NDArray[np.integer],
    ) -> None:
        """As `read`, with arguments that are known to fit."""
        try:
            self._rows_of(split, view, field).read(rows, out, positions)
        except DAMAGE as error:
            raise self._damaged(f"{split}/{view}/{field}", error) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "cache": self.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(open_container(**state), state["cache"])  # type: ignore[misc]

    def _rows_of(self, split: str, view: str, field: str) -> Rows:
        if (split, view, field) not in self._rows:
            self._rows[split, view, field] = self._container.rows(
                f"{split}/{view}/{field}", self.sealed(split, view).crc32c[field]
            )
        return self._rows[split, view, field]

    def _shards(
        self, split: str, rows: NDArray[np.int64]
    ) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64]]:
        """Segments, and the shard that each row is in: its segment's position among them [n], its number there [n]."""
        return (split,), np.zeros(len(rows), np.int64), rows // self.rows_per_unit

    def _home(self, split: str, view: str, field: str) -> tuple[str, Layout]:
        """The group that has a field of a view, and the field's layout."""
        groups = self._group_of(split, view)
        if field not in groups:
            raise OrsanetError(
                f"{self.path}: no field '{field}'; it has {', '.join(groups)}{did_you_mean(field, groups)}"
            )
        return groups[field], self.sealed(split, groups[field]).fields[field]

    def _group_of(self, split: str, view: str) -> dict[str, str]:
        """Every field of a view, the view's own first -> the group that has it: the view, or VIEW.ADDITION."""
        if (split, view) not in self._groups:
            groups = dict.fromkeys(self.sealed(split, view).fields, view)
            for name in self.additions(split, view):
                group = added_group(view, name)
                groups |= {field: group for field in self.sealed(split, group).fields if field not in groups}
            self._groups[split, view] = groups
        return self._groups[split, view]

    def _expect_records(self, name: str) -> None:
        """Let the records of a view at a URL be fetched at once: each is a request of its own."""
        if isinstance(self.path, Url) and isinstance(self._container, ZarrFolder):
            files = self._container.files
            below = (f"{name}/{record}" for record in (*RECORDS, CHECKSUMS))
            files.expect(
                [
                    *files.entries(f"{name.partition('/')[0]}/sample_id"),
                    *(file for one in below for file in files.entries(one)),
                ]
            )

    def _check_split(self, split: str) -> None:
        if split not in self.splits:
            raise OrsanetError(
                f"{self.path} has no split '{split}'; it has {', '.join(self.splits) or 'none'}{did_you_mean(split, self.splits)}"
            )

    def _check_view(self, split: str, view: str) -> None:
        known = self.all_groups(split)
        of, name = view_and_addition(view)
        if view not in known and name and of in known:
            option = f"--fields {name}" if name in OPTIONAL else f"--networks {name}"
            raise OrsanetError(
                f"{self.path}: view '{of}' of split '{split}' does not have the fields of '{name}'; add them with "
                f"`orsanet-cache build … {option}`"
            )
        if view not in known:
            views = self.all_views(split)
            near = did_you_mean(view, [*views, *KINDS])
            raise OrsanetError(
                f"{self.path}: split '{split}' has no view '{view}'; it has {', '.join(views) or 'none'}"
                f"{f'{near} Otherwise add' if near else '. Add'} it with `orsanet-cache build … --views {view}`"
            )
        if not known[view]:
            raise OrsanetError(
                f"{self.path}: view '{view}' of split '{split}' is not finished; run the same `orsanet-cache build` again"
            )

    def _check_same_files(self, split: str, view: str, sealed: SealedView) -> None:
        for (of_split, other), known in list(self._sealed.items()):
            if of_split == split and not np.array_equal(known.image_sha256, sealed.image_sha256):
                rows = np.flatnonzero((known.image_sha256 != sealed.image_sha256).any(axis=1)).tolist()
                images = self.sample_ids(split)
                raise OrsanetError(
                    f"{self.path}: {split}/{view} and {split}/{other} were computed from different files of {len(rows)} image(s); "
                    f"run `orsanet-cache build … --accept-changed`, which computes their units again:\n{listed([images[row] for row in rows])}"
                )

    def _check_added_to(self, split: str, group: str, sealed: SealedView) -> None:
        view, name = view_and_addition(group)
        if name and sealed.provenance.get(ADDED_TO) != self.sealed(split, view).seal:
            raise OrsanetError(
                f"{self.path}: {split}/{group} was computed from another {view} view than the store has now; run the "
                f"`orsanet-cache build` that added it again, which computes it again"
            )

    def _damaged(self, what: str, error: Exception) -> OrsanetError:
        """What to say of damage. Raises ShortageError if a shortage caused the exception."""
        refuse_shortage(error, self.path)
        return OrsanetError(
            f"{self.path}: {what} is damaged ({error}); `orsanet-cache verify {self.path} --deep` prints all damage, "
            f"and with --repair repairs it"
        )


def as_store(given: PriorStore | StrPlace) -> PriorStore:
    """`given` as a store; a path is opened with `PriorStore.open`.

    Raises TypeError for any other type.
    """
    return given if isinstance(given, PriorStore) else PriorStore.open(given)


def as_rows(given: NDArray[np.integer] | Sequence[int]) -> NDArray[np.integer]:
    """Positions in a split as an integer array [n]. Raises TypeError for anything else."""
    rows = np.asarray(given)
    if rows.shape == (0,):
        rows = rows.astype(np.int64)  # NumPy converts an empty list to floats
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise TypeError(f"rows: expected a list of row numbers, not {rows.dtype} {list(rows.shape)}")
    return rows


def _numbered(number: NDArray[np.int64], shard: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number for every shard of every segment, [n]."""
    return number * (shard.max(initial=0) + 1) + shard
