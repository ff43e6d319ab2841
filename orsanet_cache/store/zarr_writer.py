"""Writes the files of a Zarr store that zarr_folder.py reads: the same bytes whoever asks, a build or a conversion.

Array metadata is zarr-python's; everything else is checked against it in the tests. Every file is written whole, is then on the disk, and
only then gets its name (durable.py). When a file may be written, and under which lock, is for the caller to know.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
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
    """Writes into a store's folder, a ContainerWriter. Metadata that is there already, as it should be, is left alone."""

    def __init__(self, path: Path, rows_per_unit: int, temporary: Path) -> None:
        """`temporary` is the name of a file that is being written; nobody else's, and on the same file system."""
        self.path = path
        self.rows_per_unit = rows_per_unit
        self.temporary = temporary

    def group(self, group: str, attributes: Mapping[str, Any]) -> None:
        """A group's zarr.json."""
        path, document = self.path / group / METADATA, group_document(attributes)
        with suppress(*DAMAGE):
            if read_whole(path) == document:
                return
        self.publish(path, [document])

    def small(self, array: str, values: NDArray[Any], axes: Sequence[str]) -> None:
        """A small array, and then its zarr.json."""
        self.publish(self._small_file(array, values), small_content(values))
        self._document(array, values.shape, str(values.dtype), tuple(axes))

    def mend_small(self, array: str, values: NDArray[Any], axes: Sequence[str]) -> None:
        """Where these are the values on the disk, see that their zarr.json says so."""
        with suppress(*DAMAGE):
            if read_whole(self._small_file(array, values)) == b"".join(small_content(values)):
                self._document(array, values.shape, str(values.dtype), tuple(axes))

    def field(self, group: str, field: Field, count: int) -> None:
        """The zarr.json of a field of `count` rows."""
        shape, axes = (count, *field.shape), ("sample", *field.axes)
        self._document(f"{group}/{field.name}", shape, field.dtype, axes, self.rows_per_unit, field.compressed)

    def rows(self, group: str, field: Field, count: int, units: Iterable[NDArray[Any]]) -> None:
        """A field of `count` rows, unit by unit, and then its zarr.json."""
        for index, values in enumerate(units):
            self.publish(self.shard_path(group, field, index), self.shard_content(field, values))
        self.field(group, field, count)

    def shard_path(self, group: str, field: Field, unit: int) -> Path:
        """Where a unit's values of a field are."""
        return self.path / group / field.name / shard_name(unit, 1 + len(field.shape))

    def shard_content(self, field: Field, values: NDArray[Any]) -> Content:
        """The file of a unit's values, [n, *field.shape]."""
        return encode_shard(values, self.rows_per_unit, field.compressed)

    def publish(self, path: Path, content: Content) -> None:
        """Put a whole file in its place, in a folder that need not be there yet."""
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


def array_document(
    shape: tuple[int, ...],
    dtype: str,
    dimensions: tuple[str, ...],
    rows_per_shard: int | None = None,
    compressed: bool = False,
) -> bytes:
    """The zarr.json of an array: sharded, one row a chunk; or, without `rows_per_shard`, a small one in a single file."""
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
    """The single file of a small array."""
    content = np.ascontiguousarray(values).tobytes()
    return [content, google_crc32c.value(content).to_bytes(CHECKSUM_BYTES, "little")]
