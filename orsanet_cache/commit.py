"""Writing a store: units of work, each written whole and then marked done.

A unit is one shard's rows of one (split, view). All its arrays are written, one whole shard each, before its marker file
`STORE/.commits/<split>/<view>/<unit>.json` appears; a build that is interrupted therefore loses at most the unit in hand, and the
next one continues after the markers. When every unit of a view is marked, the markers are folded into the view's arrays and
attributes, the view is sealed, and only plain Zarr is left.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.store import (
    MARK,
    ROWS_PER_SHARD,
    SCHEMA_VERSION,
    Field,
    decode_ids,
    encode_ids,
    mark,
    open_group,
    recipe_differences,
)


@dataclass(frozen=True)
class Unit:
    """Rows start … stop of a split, one shard of each array."""

    split: str
    index: int
    start: int
    stop: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class UnitRecord:
    """What a marker says about a unit's rows in one view."""

    image_sha256: list[str]  # per row; of the image file; empty where the image was rejected
    rejected: dict[str, str]  # sample id -> reason


class StoreWriter:
    """The only code that changes a store."""

    def __init__(self, path: Path, group: zarr.Group, fields: Sequence[Field]) -> None:
        self.path = path
        self._group = group
        self._fields = fields
        self._ids: dict[str, tuple[str, ...]] = {}

    @classmethod
    def open(
        cls, path: Path, recipe: Mapping[str, Any], provenance: Mapping[str, Any], fields: Sequence[Field]
    ) -> Self:
        """Create the store, or continue one with the same recipe. Raises OrsanetError where the recipes differ."""
        if path.exists() and not path.is_dir():
            raise OrsanetError(f"{path}: a file is in the way of the store; choose another --out")
        if not path.exists() or all(entry.suffix == ".partial" for entry in path.iterdir()):  # of a killed start
            root = {"schema": SCHEMA_VERSION, "recipe": dict(recipe), "provenance": dict(provenance)}
            group = zarr.create_group(path, zarr_format=3, attributes={MARK: root}, overwrite=False)
        else:
            group = open_group(path, "r+")
            differences = list(recipe_differences(mark(group)["recipe"], dict(recipe)))
            if differences:
                raise OrsanetError(
                    f"{path} was built by another recipe; pass its options again, or build into another folder:\n"
                    f"{listed(differences)}"
                )
        return cls(path, group, fields)

    def add_split(self, split: str, ids: Sequence[str]) -> None:
        """Fix the split's samples and their order. Raises OrsanetError if the store has others."""
        if Path(split).name != split:
            raise ValueError(f"{split!r} is not a folder name")
        self._ids[split] = tuple(ids)
        group = self._group.require_group(split)
        if not list(group.group_keys()):  # no view yet: whatever is there may be half written
            encoded = encode_ids(ids)
            _create(group, "sample_id", encoded.shape, "uint8", shards=False)[:] = encoded
            return
        stored = decode_ids(np.asarray(group["sample_id"][:]))  # type: ignore[index]
        if stored != tuple(ids):
            gone, new = sorted(set(stored) - set(ids)), sorted(set(ids) - set(stored))
            detail = [f"only in the store: {name}" for name in gone] + [f"only in the manifest: {name}" for name in new]
            raise OrsanetError(
                f"{self.path}: split '{split}' was built from another list of images; build into another folder:\n"
                f"{listed(detail or ['the same images in another order'])}"
            )

    def pending(self, split: str, views: Sequence[str]) -> Iterator[tuple[Unit, list[str]]]:
        """The units still to compute, each with the views it lacks."""
        count = len(self._ids[split])
        for index, start in enumerate(range(0, count, ROWS_PER_SHARD)):
            unit = Unit(split, index, start, min(start + ROWS_PER_SHARD, count))
            missing = [
                view for view in views if not self.is_sealed(split, view) and not self._marker(unit, view).exists()
            ]
            if missing:
                yield unit, missing

    def is_sealed(self, split: str, view: str) -> bool:
        name = f"{split}/{view}"
        return name in self._group and bool(self._group[name].attrs.get("sealed", False))

    def commit(self, unit: Unit, view: str, arrays: Mapping[str, NDArray[Any]], record: UnitRecord) -> None:
        """Write a unit's shards, then its marker."""
        group = self._view_group(unit.split, view)
        # An all-zero chunk must be written too, or a lost file and a black image look the same; zarr forgets the choice
        # when an array is opened again.
        with zarr.config.set({"array.write_empty_chunks": True}):
            for field in self._fields:
                group[field.name][unit.rows] = arrays[field.name]  # type: ignore[index]
        marker = self._marker(unit, view)
        marker.parent.mkdir(parents=True, exist_ok=True)
        temporary = marker.with_suffix(".tmp")
        temporary.write_text(json.dumps({"image_sha256": record.image_sha256, "rejected": record.rejected}))
        os.replace(temporary, marker)

    def seal(self, split: str, view: str) -> dict[str, str]:
        """Fold the markers into the view, mark it readable, and return its rejected images (id -> reason)."""
        group = self._view_group(split, view)
        if not self.is_sealed(split, view):
            ids = self._ids[split]
            digests: list[str] = []
            rejected: dict[str, str] = {}
            for index in range(-(-len(ids) // ROWS_PER_SHARD)):
                record = json.loads(self._marker(Unit(split, index, 0, 0), view).read_text())
                digests += record["image_sha256"]
                rejected |= record["rejected"]
            sha256 = np.array([list(bytes.fromhex(digest or "00" * 32)) for digest in digests], dtype=np.uint8)
            _create(group, "image_sha256", sha256.shape, "uint8", shards=False)[:] = sha256
            group.attrs.update({"rejected": rejected, "sealed": True})
        shutil.rmtree(self._commits / split / view, ignore_errors=True)
        for folder in (self._commits / split, self._commits):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        return dict(group.attrs["rejected"])  # type: ignore[arg-type]

    @property
    def _commits(self) -> Path:
        return self.path / ".commits"  # no split can have this name

    def _marker(self, unit: Unit, view: str) -> Path:
        return self._commits / unit.split / view / f"{unit.index:06d}.json"

    def _view_group(self, split: str, view: str) -> zarr.Group:
        group = self._group.require_group(f"{split}/{view}")
        for field in self._fields:
            if field.name not in group:
                _create(group, field.name, (len(self._ids[split]), *field.shape), field.dtype, field.compressed)
        return group


def _create(
    group: zarr.Group, name: str, shape: Sequence[int], dtype: str, compressed: bool = False, shards: bool = True
) -> "zarr.Array[Any]":
    """An array whose chunk is one row with a CRC-32C, and whose shard is one unit; or, small, one chunk in all."""
    row = tuple(shape[1:])
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=(1, *row) if shards else tuple(shape),
        shards=(ROWS_PER_SHARD, *row) if shards else None,
        compressors=[ZstdCodec(level=3), Crc32cCodec()] if compressed else [Crc32cCodec()],
        overwrite=True,
    )
