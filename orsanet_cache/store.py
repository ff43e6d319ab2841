"""The store: its schema, and PriorStore, which reads it.

    STORE/                          Zarr v3 group; attributes: schema, recipe, provenance
      <split>/                      attributes: nothing that changes
        sample_id   uint8 [N, L]    image paths of the manifest, UTF-8, zero-padded
        <view>/                     attributes: sealed; rejected {sample id: reason}, whose rows mean nothing
          image_sha256 uint8 [N, 32]
              image, segmentation_map, segmentation_features, landmark_features, landmarks   [N, …]

Row n of every array belongs to sample n. Labels are not here: they are joined from the manifest when read. A view is readable
once it is sealed; adding one touches no other. One chunk is one row with its checksum; one shard is one unit of work.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray

from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.rows import ShardedRows

SCHEMA_VERSION = 1
MARK = "orsanet_store"  # the root attribute that makes a folder ours
ROWS_PER_SHARD = 256

IMAGE_SHAPE = (112, 112, 3)
MAP_SHAPE = (224, 224)
GRID = (7, 7)


@dataclass(frozen=True)
class Field:
    """One array of a view. `shape` is a row's, without the sample axis."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    compressed: bool = False

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def schema(segmentation_channels: int, landmark_channels: int, feature_dtype: str) -> tuple[Field, ...]:
    """The fields of every view, in the order they are written."""
    return (
        Field("image", IMAGE_SHAPE, "uint8"),
        Field("segmentation_map", MAP_SHAPE, "uint8", compressed=True),  # piecewise constant: zstd gains 40x
        Field("segmentation_features", (segmentation_channels, *GRID), feature_dtype),
        Field("landmark_features", (landmark_channels, *GRID), feature_dtype),
        Field("landmarks", (68, 2), "float32"),
    )


def encode_ids(ids: Sequence[str]) -> NDArray[np.uint8]:
    """Sample ids -> uint8 [N, L], UTF-8, zero-padded."""
    encoded = [name.encode() for name in ids]
    return np.array(encoded, dtype=f"S{max(map(len, encoded))}").view(np.uint8).reshape(len(ids), -1)


def decode_ids(array: NDArray[np.uint8]) -> tuple[str, ...]:
    """The inverse of encode_ids."""
    return tuple(row.tobytes().rstrip(b"\0").decode() for row in array)


class PriorStore:
    """Read-only access to the sealed views of a store.

    Rows are addressed by position; `sample_ids(split)[n]` names row n.
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path = path
        self._group = group
        self._arrays: dict[tuple[str, str, str], tuple[zarr.Array[Any], ShardedRows | None]] = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a store. Raises OrsanetError if the folder is none, or of another schema version."""
        return cls(path, open_group(path, "r"))

    @property
    def recipe(self) -> dict[str, Any]:
        """What decided the priors' values; compared whenever two things must fit."""
        return dict(mark(self._group)["recipe"])

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, device and time of the build; recorded, never compared."""
        return dict(mark(self._group)["provenance"])

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(entry.parent.name for entry in self.path.glob("*/zarr.json")))

    def views(self, split: str) -> tuple[str, ...]:
        """The sealed views of a split."""
        return tuple(view for view, sealed in self.all_views(split).items() if sealed)

    def all_views(self, split: str) -> dict[str, bool]:
        """Every view of a split begun so far -> is it sealed?"""
        folder = self.path / split
        try:
            groups = sorted(self._split(split).groups(), key=lambda item: item[0])
        except (ValueError, KeyError) as error:
            raise OrsanetError(f"{folder}: a zarr.json in it is damaged ({error}); {_mend(folder)}") from error
        return {view: bool(group.attrs.get("sealed", False)) for view, group in groups}

    def sample_ids(self, split: str) -> tuple[str, ...]:
        """Image paths as the manifest has them, in row order."""
        folder = self.path / split
        try:
            ids = decode_ids(np.asarray(self._split(split)["sample_id"][:]))  # type: ignore[index]
            if not all(ids):
                raise ValueError("a part of it is missing")
        except (ValueError, KeyError) as error:
            raise OrsanetError(f"{folder}: sample_id is damaged ({error}); {_mend(folder)}") from error
        return ids

    def accepted(self, split: str, view: str) -> NDArray[np.bool_]:
        """bool [N]: rows whose image could be read."""
        rejected = self.rejected(split, view)
        return np.array([image not in rejected for image in self.sample_ids(split)])

    def rejected(self, split: str, view: str) -> dict[str, str]:
        """Sample id -> why its image could not be used."""
        return dict(self._view(split, view).attrs["rejected"])  # type: ignore[arg-type]

    def fields(self, split: str, view: str) -> dict[str, zarr.Array[Any]]:
        """Field name -> its array, sample axis first."""
        view_group = self._view(split, view)
        return {name: array for name, array in view_group.arrays() if name != "image_sha256"}

    def read(self, split: str, view: str, field: str, rows: NDArray[np.integer] | slice) -> NDArray[Any]:
        """Rows of one field, in the order asked for: [len(rows), *field shape].

        Raises OrsanetError for a field that is not there, and for damage: every row carries a checksum.
        """
        array, direct = self._array(split, view, field)
        try:
            if isinstance(rows, slice):
                return np.asarray(array[rows])
            out = np.empty((len(rows), *array.shape[1:]), array.dtype)
            if direct is not None:
                direct.read(rows, out)
                return out
            for position, row in enumerate(rows):
                out[position] = array[int(row)]
            return out
        except (ValueError, RuntimeError, OSError) as error:  # what zarr's codecs raise on damaged bytes
            raise OrsanetError(
                f"{self.path}: {array.path} is damaged ({error}); {_mend(self.path / split / view)}"
            ) from error

    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def _split(self, split: str) -> zarr.Group:
        if split not in self.splits:
            raise OrsanetError(f"{self.path} has no split '{split}'; it has {', '.join(self.splits) or 'none'}")
        return self._group[split]  # type: ignore[return-value]

    def _view(self, split: str, view: str) -> zarr.Group:
        known = self.all_views(split)
        if view not in known:
            raise OrsanetError(
                f"{self.path}: split '{split}' has no view '{view}'; it has {', '.join(known) or 'none'}. "
                f"Add it with `orsanet-cache build … --views {view}`"
            )
        if not known[view]:
            raise OrsanetError(
                f"{self.path}: view '{view}' of split '{split}' is not finished; run the same `orsanet-cache build` again"
            )
        return self._split(split)[view]  # type: ignore[return-value]

    def _array(self, split: str, view: str, field: str) -> "tuple[zarr.Array[Any], ShardedRows | None]":
        """A field, and the direct way to its rows where its layout has one."""
        key = (split, view, field)
        if key not in self._arrays:
            fields = self.fields(split, view)
            if field not in fields:
                raise OrsanetError(f"{self.path}: no field '{field}'; it has {', '.join(fields)}")
            self._check_shards(split, view, fields[field])
            self._arrays[key] = fields[field], ShardedRows.of(self.path / fields[field].path)
        return self._arrays[key]

    def _check_shards(self, split: str, view: str, array: "zarr.Array[Any]") -> None:
        """Zarr reads a missing shard as zeros; here it is an error."""
        folder = self.path / array.path / "c"
        tail = ["0"] * (array.ndim - 1)
        missing = [
            str(shard.relative_to(self.path))
            for index in range(math.ceil(array.shape[0] / ROWS_PER_SHARD))
            if not (shard := folder.joinpath(str(index), *tail)).is_file()
        ]
        if missing:
            raise OrsanetError(
                f"{self.path}: {len(missing)} shard(s) are missing; {_mend(self.path / split / view)}:\n{listed(missing)}"
            )


def mark(group: zarr.Group) -> dict[str, Any]:
    """The root attribute that carries schema, recipe and provenance."""
    return cast(dict[str, Any], group.attrs[MARK])


def _mend(folder: Path) -> str:
    return f"delete {folder} and run the same `orsanet-cache build` again, which computes only that"


def open_group(path: Path, mode: str) -> zarr.Group:
    """The root group of a folder that carries our mark; raises OrsanetError for any other."""
    if not path.exists():
        raise OrsanetError(f"{path}: no such store; make one with `orsanet-cache build MANIFEST --out {path}`")
    try:
        group = zarr.open_group(path, mode=mode, zarr_format=3)  # type: ignore[arg-type]
    except (zarr.errors.GroupNotFoundError, ValueError, KeyError, OSError) as error:
        raise OrsanetError(f"{path}: not a store (no readable Zarr v3 group there)") from error
    if not isinstance(group.attrs.get(MARK), Mapping):
        raise OrsanetError(f"{path}: a Zarr group, but not one written by orsanet-cache")
    written = mark(group).get("schema")
    if written != SCHEMA_VERSION:
        raise OrsanetError(
            f"{path}: written with store schema {written}, this version reads {SCHEMA_VERSION}; "
            f"rebuild it with `orsanet-cache build`"
        )
    return group


def recipe_differences(stored: Any, wanted: Any, where: str = "") -> Iterator[str]:
    """Paths at which two recipes differ, with both values."""
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys([*stored, *wanted]):
            yield from recipe_differences(stored.get(key), wanted.get(key), f"{where}.{key}" if where else key)
    elif _as_json(stored) != _as_json(wanted):
        yield f"{where}: {_as_json(stored)} before, {_as_json(wanted)} now"


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
