"""Writes the files of a Zarr store that zarr_folder.py reads.

A build and a conversion write the same bytes.

Array metadata comes from zarr-python; tests compare all other files with zarr-python's. Every file
is written completely and fsynced before it gets its name (durable.py). Callers decide when a file
may be written, and hold the locks.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from orsanet_cache.durable import Content, make_folder, publish
from orsanet_cache.store.container import DAMAGE
from orsanet_cache.store.rows import CHECKSUM_BYTES, ZSTD_LEVEL, encode_shard, shard_name
from orsanet_cache.store.schema import Field
from orsanet_cache.store.zarr_folder import METADATA, read_whole


class ZarrWriter:
    """A ContainerWriter for a store's folder.

    Metadata files that are already correct are not written again.
    """

    def __init__(self, path: Path, rows_per_unit: int, temporary: Path) -> None:
        """`temporary` is the name for a file while it is written.

        It must be on the same file system, and unique.
        """
        self.path = path
        self.rows_per_unit = rows_per_unit
        self.temporary = temporary

    def group(self, group: str, attributes: Mapping[str, Any]) -> None:
        """Write a group's zarr.json."""
        path, document = self.path / group / METADATA, group_document(attributes)
        with suppress(*DAMAGE):
            if read_whole(path) == document:
                return
        self.publish(path, [document])

    def small(self, array: str, values: NDArray[Any], axes: Sequence[str]) -> None:
        """Write a small array, and then its zarr.json."""
        self.publish(self._small_file(array, values), small_content(values))
        self._document(array, values.shape, str(values.dtype), tuple(axes))

    def repair_small(self, array: str, values: NDArray[Any], axes: Sequence[str]) -> None:
        """If the array on the disk has these values, write its zarr.json unless that is correct."""
        with suppress(*DAMAGE):
            if read_whole(self._small_file(array, values)) == b"".join(small_content(values)):
                self._document(array, values.shape, str(values.dtype), tuple(axes))

    def field(self, group: str, field: Field, count: int) -> None:
        """Write the zarr.json of a field of `count` rows."""
        shape, axes = (count, *field.shape), ("sample", *field.axes)
        self._document(f"{group}/{field.name}", shape, field.dtype, axes, self.rows_per_unit, field.compressed)

    def rows(self, group: str, field: Field, count: int, units: Iterable[NDArray[Any]]) -> None:
        """Write a field of `count` rows, unit by unit, and then its zarr.json."""
        for index, values in enumerate(units):
            self.publish(self.shard_path(group, field, index), self.shard_content(field, values))
        self.field(group, field, count)

    def shard_path(self, group: str, field: Field, unit: int) -> Path:
        """The path of a unit's shard of a field."""
        return self.path / group / field.name / shard_name(unit, 1 + len(field.shape))

    def shard_content(self, field: Field, values: NDArray[Any]) -> Content:
        """The content of a unit's shard, for values [n, *field.shape]."""
        return encode_shard(values, self.rows_per_unit, field.compressed)

    def publish(self, path: Path, content: Content) -> None:
        """Write a complete file. Its folder is created if necessary."""
        make_folder(path.parent)
        publish(path, content, self.temporary)

    def _small_file(self, array: str, values: NDArray[Any]) -> Path:
        return self.path / array / shard_name(0, values.ndim)

    def _document(self, array: str, *layout: Any) -> None:
        path, document = self.path / array / METADATA, array_document(*layout)
        with suppress(*DAMAGE):
            if json.loads(read_whole(path)) == json.loads(document):
                return
        self.publish(path, [document])


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """The zarr.json of a group."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode()


@lru_cache(maxsize=256)  # the fields of all views of a split are laid out alike
def array_document(
    shape: tuple[int, ...],
    dtype: str,
    dimensions: tuple[str, ...],
    rows_per_shard: int | None = None,
    compressed: bool = False,
) -> bytes:
    """The zarr.json of an array.

    Args:
        shape: the array's shape.
        dtype: the values' type.
        dimensions: names of the dimensions.
        rows_per_shard: rows of a shard, with one row per chunk; None for a small array in a single
            file.
        compressed: whether rows are compressed with zstd.
    """
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    memory: dict[str, Any] = {}
    row = shape[1:]
    zarr.create_array(
        MemoryStore(memory),
        shape=shape,
        dtype=dtype,
        chunks=shape if rows_per_shard is None else (1, *row),
        shards=None if rows_per_shard is None else (rows_per_shard, *row),
        compressors=[*([ZstdCodec(level=ZSTD_LEVEL)] if compressed else []), Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=dimensions,
    )
    return bytes(memory[METADATA].to_bytes())


def small_content(values: NDArray[Any]) -> list[bytes]:
    """The content of a small array's single file."""
    content = np.ascontiguousarray(values).tobytes()
    return [content, google_crc32c.value(content).to_bytes(CHECKSUM_BYTES, "little")]
