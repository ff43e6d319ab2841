"""PriorStore reads a store from a Zarr folder or an HDF5 file.

    STORE/                          attributes: orsanet_store = {schema, recipe, rows_per_unit, sha256 of these}
      <split>/
        sample_id   uint8 [N, L]    image paths of the manifest, UTF-8, zero-padded
        <view>/                     attributes, once finished: seal, place = split/view, rejected = {sample id: reason}, provenance
          image_sha256 uint8 [N, 32]       of the image files
          unit_sha256  uint8 [U, F, 32]    of every unit of work in every field, fields by name
          crc32c/<field> uint32 [N]        of every row's bytes
          image, segmentation_map, segmentation_entropy, segmentation_features, landmark_features, landmarks   [N, …]

Row n of every array belongs to sample n. A rejected sample's rows have no meaning. A store has no
labels: they are joined from the manifest when the store is read. A view is readable once it has its
seal (seal.py). If a store has grown, its splits are indices over such rows (states.py), and `open`
returns a store that reads them so (grown.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.views import KINDS
from orsanet_cache.errors import OrsanetError, did_you_mean, listed, refuse_shortage
from orsanet_cache.paths import StrPath, as_path
from orsanet_cache.store.container import DAMAGE, Container, open_container
from orsanet_cache.store.rows import Records, Rows
from orsanet_cache.store.schema import GROWN_SCHEMA, MARK, decode_ids
from orsanet_cache.store.seal import MisplacedViewError, SealedView, read_sealed
from orsanet_cache.store.zarr_folder import Layout


class WrongStateError(OrsanetError):
    """A store has no state in which some views had the seals that are asked for."""

    def __init__(self, path: Path, places: Sequence[str]) -> None:
        super().__init__(
            f"{path}: has no state with the seals that {', '.join(places)} had before: other pictures or values were built there "
            f"since, or this is another store; name the store that was used, or start anew with this one"
        )


class PriorStore:
    """Read-only access to the sealed views of a store.

    A store can be pickled, forked, and read from several threads. Rows are addressed by position;
    `sample_ids(split)[n]` is the sample of row n.
    """

    def __init__(self, container: Container) -> None:
        self.path = container.path
        self._container = container
        self._root: dict[str, Any] = container.attributes("")[MARK]
        self._sealed: dict[tuple[str, str], SealedView] = {}
        self._rows: dict[tuple[str, str, str], Rows] = {}

    @staticmethod
    def open(path: StrPath) -> "PriorStore":
        """Open a store. Its splits are those of the manifest that was built last.

        Raises OrsanetError if `path` is not a store, or has another schema version.
        """
        container = open_container(as_path(path, "store"))
        if container.attributes("")[MARK]["schema"] != GROWN_SCHEMA:
            return PriorStore(container)
        from orsanet_cache.store.grown import GrownStore  # which is a PriorStore

        return GrownStore(container)

    @staticmethod
    def open_segments(path: StrPath) -> "PriorStore":
        """Open a store as the segments of rows that were sealed together, each as a split of its own.

        Only in a store that has grown they differ from the splits.
        """
        return PriorStore(open_container(as_path(path, "store")))

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

    def accepted(self, split: str, view: str) -> NDArray[np.bool_]:
        """Rows whose image is usable, bool [N]."""
        rejected = self.rejected(split, view)
        return np.array([image not in rejected for image in self.sample_ids(split)])

    def rejected(self, split: str, view: str) -> dict[str, str]:
        """Sample id -> the reason why its image cannot be used."""
        return dict(self.sealed(split, view).rejected)

    def fields(self, split: str, view: str) -> dict[str, Layout]:
        """Field name -> shape (sample axis first) and dtype."""
        return dict(self.sealed(split, view).fields)

    def provenance(self, split: str, view: str) -> dict[str, Any]:
        """Versions and device of the build. They are recorded, never compared."""
        return dict(self.sealed(split, view).provenance)

    def sealed(self, split: str, view: str) -> SealedView:
        """A finished view's records.

        Raises OrsanetError if the view does not exist, is not finished, is damaged, is another one
        by its seal, or was computed from other image files than a view that was read before.
        """
        if (split, view) not in self._sealed:
            self._check_view(split, view)
            name = f"{split}/{view}"
            try:
                sealed = read_sealed(self._container, self._root, split, view)
            except MisplacedViewError as error:
                raise OrsanetError(f"{self.path}: {name}: {error}") from error
            except DAMAGE as error:
                raise self._damaged(name, error) from error
            self._check_same_files(split, view, sealed)
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
        layout = self._layout(split, view, field)
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
        self._read_rows(split, view, field, rows, out, positions)
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

    def nbytes(self) -> int:
        """Bytes on disk."""
        if self.path.is_file():
            return self.path.stat().st_size
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

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
            if (split, view, field) not in self._rows:
                self._rows[split, view, field] = self._container.rows(
                    f"{split}/{view}/{field}", self.sealed(split, view).crc32c[field]
                )
            self._rows[split, view, field].read(rows, out, positions)
        except DAMAGE as error:
            raise self._damaged(f"{split}/{view}/{field}", error) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(open_container(state["path"]))  # type: ignore[misc]

    def _layout(self, split: str, view: str, field: str) -> Layout:
        fields = self.sealed(split, view).fields
        if field not in fields:
            raise OrsanetError(
                f"{self.path}: no field '{field}'; it has {', '.join(fields)}{did_you_mean(field, fields)}"
            )
        return fields[field]

    def _check_split(self, split: str) -> None:
        if split not in self.splits:
            raise OrsanetError(
                f"{self.path} has no split '{split}'; it has {', '.join(self.splits) or 'none'}{did_you_mean(split, self.splits)}"
            )

    def _check_view(self, split: str, view: str) -> None:
        known = self.all_views(split)
        if view not in known:
            near = did_you_mean(view, [*known, *KINDS])
            raise OrsanetError(
                f"{self.path}: split '{split}' has no view '{view}'; it has {', '.join(known) or 'none'}"
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

    def _damaged(self, what: str, error: Exception) -> OrsanetError:
        """What to say of damage. Raises ShortageError if a shortage caused the exception."""
        refuse_shortage(error, self.path)
        return OrsanetError(
            f"{self.path}: {what} is damaged ({error}); `orsanet-cache verify {self.path} --deep` prints all damage, "
            f"and with --repair repairs it"
        )


def as_store(given: PriorStore | StrPath) -> PriorStore:
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
