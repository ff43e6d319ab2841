"""A Zarr v3 folder as a store's container.

Groups and arrays are folders with a `zarr.json`, which is read as the JSON it is. Small arrays are one file, `c.0.0`: their bytes and a
CRC-32C. Rows of large arrays come straight from the shards, or from zarr-python where an array is laid out in another way. What this
module writes is written by zarr-python (array metadata) or checked against it in the tests (everything else).
"""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from orsanet_cache.rows import CHECKSUM_BYTES, DamagedRecordError, Rows, ShardedRows, shard_name

METADATA = "zarr.json"


class Layout(NamedTuple):
    """Shape and type of an array; the first axis counts samples."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class ZarrFolder:
    """Read access. Every method raises ValueError, KeyError or OSError for what is damaged or not there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def attributes(self, group: str) -> dict[str, Any]:
        """Attributes of a group; "" is the root."""
        document = self._metadata(group)
        if document["node_type"] != "group" or document["zarr_format"] != 3:
            raise ValueError(f"{group or self.path} is no Zarr v3 group")
        return dict(document.get("attributes", {}))

    def groups(self, group: str) -> tuple[str, ...]:
        """Names of the groups in a group, sorted."""
        return self._members(group, "group")

    def arrays(self, group: str) -> dict[str, Layout]:
        """Names of the arrays in a group, sorted -> their layouts."""
        return {name: self._layout(f"{group}/{name}") for name in self._members(group, "array")}

    def small(self, array: str) -> NDArray[Any]:
        """A small array, whole."""
        layout = self._layout(array)
        content = (self.path / array / shard_name(0, len(layout.shape))).read_bytes()
        values, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
        if len(values) != math.prod(layout.shape) * layout.dtype.itemsize:
            raise ValueError(f"{array} has another size than its shape")
        if google_crc32c.value(values) != int.from_bytes(checksum, "little"):
            raise ValueError(f"{array} does not have its checksum")
        return np.frombuffer(values, layout.dtype).reshape(layout.shape)

    def rows(self, array: str) -> Rows:
        """The way to the rows of a large array."""
        return ShardedRows.of(self.path / array) or LibraryRows(self.path / array)

    def _members(self, group: str, kind: str) -> tuple[str, ...]:
        found = sorted(entry.parent.name for entry in (self.path / group).glob(f"*/{METADATA}"))
        return tuple(name for name in found if self._metadata(f"{group}/{name}")["node_type"] == kind)

    def _layout(self, array: str) -> Layout:
        document = self._metadata(array)
        shape = tuple(int(size) for size in document["shape"])
        if not shape or min(shape) < 0:
            raise ValueError(f"{array} has the shape {shape}")
        return Layout(shape, np.dtype(document["data_type"]))

    def _metadata(self, node: str) -> dict[str, Any]:
        document = json.loads((self.path / node.lstrip("/") / METADATA).read_bytes())
        if not isinstance(document, dict):
            raise ValueError(f"{node}/{METADATA} is no JSON object")
        return document


class LibraryRows:
    """Rows through zarr-python: slower, and for every layout that it reads."""

    def __init__(self, folder: Path) -> None:
        import zarr

        array = zarr.open_array(folder, mode="r")
        files = array.shards or array.chunks
        grid = itertools.product(*(range(-(-size // step)) for size, step in zip(array.shape, files, strict=True)))
        for place in grid:  # zarr reads a missing file as zeros
            name = array.metadata.encode_chunk_key(place)
            if not (folder / name).is_file():
                raise DamagedRecordError(f"{folder / name} is missing")
        self.array = array

    def read(self, rows: NDArray[np.integer], out: NDArray[Any]) -> None:
        """As Rows."""
        for position, row in enumerate(rows.tolist()):
            out[position] = self.array[row]


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

    from orsanet_cache.rows import ZSTD_LEVEL

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
