"""A Zarr v3 folder as a store's container.

Groups and arrays are folders with a `zarr.json`, which is read as plain JSON. A small array is one
file, `c.0.0`: its bytes and a CRC-32C. Rows of large arrays are read directly from the shards;
zarr-python reads arrays with another layout. zarr_writer.py writes the files that are read here.
"""

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from orsanet_cache.errors import refuse_shortage
from orsanet_cache.reading import open_regular
from orsanet_cache.store.rows import (
    CHECKSUM_BYTES,
    MAX_METADATA_BYTES,
    TYPES,
    Checksums,
    DamagedRecordError,
    Rows,
    ShardedRows,
    row_checksums,
    shard_name,
)
from orsanet_cache.store.schema import MAX_ROW_BYTES

METADATA = "zarr.json"
MAX_SIZE = 2**40  # of an axis
MAX_FILES = 10**7  # of an array


class Layout(NamedTuple):
    """Shape and type of an array; the first axis counts samples."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class ZarrFolder:
    """Read access.

    Every method raises ValueError, KeyError or OSError for anything damaged or missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def attributes(self, group: str) -> dict[str, Any]:
        """Attributes of a group; "" is the root."""
        document = self._metadata(group)
        if document["node_type"] != "group" or document["zarr_format"] != 3:
            raise ValueError(f"{group or self.path} is not a Zarr v3 group")
        return dict(document.get("attributes", {}))

    def groups(self, group: str) -> tuple[str, ...]:
        """Names of the groups in a group, sorted."""
        return self._members(group, "group")

    def arrays(self, group: str) -> dict[str, Layout]:
        """Names of the arrays in a group, sorted -> their layouts."""
        return {name: self._layout(f"{group}/{name}") for name in self._members(group, "array")}

    def small(self, array: str) -> NDArray[Any]:
        """All values of a small array."""
        layout = self._layout(array)
        size = math.prod(layout.shape) * layout.dtype.itemsize
        content = read_whole(self.path / array / shard_name(0, len(layout.shape)), size + CHECKSUM_BYTES)
        values, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
        if len(values) != size:
            raise ValueError(f"{array} has a size that does not fit its shape")
        if google_crc32c.value(values) != int.from_bytes(checksum, "little"):
            raise ValueError(f"{array} has a wrong checksum")
        return np.frombuffer(values, layout.dtype).reshape(layout.shape)

    def rows(self, array: str, checksums: Checksums | None) -> Rows:
        """A reader of a large array's rows. It verifies the checksum of a row at the first read."""
        return ShardedRows.of(self.path / array, checksums) or LibraryRows(self.path / array, checksums)

    def _members(self, group: str, kind: str) -> tuple[str, ...]:
        with os.scandir(self.path / group) as entries:  # not glob, which passes over folders that it cannot open
            found = sorted(entry.name for entry in entries if os.path.exists(os.path.join(entry.path, METADATA)))
        return tuple(name for name in found if self._metadata(f"{group}/{name}")["node_type"] == kind)

    def _layout(self, array: str) -> Layout:
        document = self._metadata(array)
        shape, dtype = document["shape"], TYPES[document["data_type"]]
        if not shape or not all(type(size) is int and 1 <= size <= MAX_SIZE for size in shape):
            raise ValueError(f"{array} has the shape {shape}")
        if math.prod(shape[1:]) * np.dtype(dtype).itemsize > MAX_ROW_BYTES:
            raise ValueError(f"{array} has rows of the shape {shape[1:]}")
        return Layout(tuple(shape), np.dtype(dtype))

    def _metadata(self, node: str) -> dict[str, Any]:
        document = json.loads(read_whole(self.path / node.lstrip("/") / METADATA, MAX_METADATA_BYTES))
        if not isinstance(document, dict):
            raise ValueError(f"{node}/{METADATA} is not a JSON object")
        return document


class LibraryRows:
    """Rows read by zarr-python. It is slower, and reads every layout that zarr-python supports."""

    def __init__(self, folder: Path, checksums: Checksums | None) -> None:
        import zarr

        try:
            array = zarr.open_array(folder, mode="r")
            files = array.shards or array.chunks
            counts = [-(-size // step) for size, step in zip(array.shape, files, strict=True)]
            if math.prod(counts) > MAX_FILES:
                raise ValueError(f"{folder} would have {math.prod(counts):,} files")
            names = [array.metadata.encode_chunk_key(place) for place in itertools.product(*map(range, counts))]
        except Exception as error:  # zarr-python raises nearly every type for damaged or unknown metadata
            refuse_shortage(error, folder)
            raise ValueError(
                f"{folder} does not have the layout of a store's arrays, and zarr-python cannot read it: {error}"
            ) from error
        for name in names:  # zarr-python returns zeros for a missing file
            os.close(open_regular(folder / name))
        self.array = array
        self.checksums = checksums

    def read(self, rows: NDArray[np.integer], out: NDArray[Any], positions: NDArray[np.integer]) -> None:
        """As Rows."""
        for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
            try:
                out[position] = self.array[row]
            except Exception as error:  # as above, for damaged values
                refuse_shortage(error, self.array.path)
                raise DamagedRecordError(f"{self.array.path}: row {row} is damaged ({error})") from error
            if self.checksums is not None and row_checksums(out[position : position + 1])[0] != self.checksums[row]:
                raise DamagedRecordError(f"{self.array.path}: row {row} is damaged (wrong checksum)")


def read_whole(path: Path, limit: int = MAX_METADATA_BYTES) -> bytes:
    """A file's content.

    Raises OSError unless it is a regular file, ValueError if it exceeds `limit` bytes.
    """
    with open(open_regular(path), "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise ValueError(f"{path} has more than {limit:,} bytes")
        return file.readall()
