"""Rows of a sharded Zarr array, read straight from its files: what training does hundreds of times with every row.

    shard file:  record · record · … · index            record:  the row's bytes, perhaps zstd-compressed · CRC-32C
    index:       per row offset and length, uint64 · CRC-32C

The index is parsed once per shard, a row is one `preadv` into the caller's array, and a record's checksum is verified when a process
first reads it. Arrays that are laid out in any other way are left to zarr-python: `ShardedRows.of` returns None for them.
"""

import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import google_crc32c
import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray

CHECKSUM_BYTES = 4
NEVER_WRITTEN = 2**64 - 1  # a row's offset and length in the index
MAX_OPEN_SHARDS = 64  # per array; a process may usually have 1024 files open

_BYTES = ({"name": "bytes"}, {"name": "bytes", "configuration": {"endian": "little"}})
_CHECKSUM = {"name": "crc32c"}


class DamagedRecordError(ValueError):
    """A record or an index does not have its checksum, or does not fit its file."""


class ShardedRows:
    """Read-only. One thread reads at a time; a pickled or forked copy opens its own files."""

    def __init__(
        self, folder: Path, shape: Sequence[int], dtype: np.dtype[Any], rows_per_shard: int, compressed: bool
    ) -> None:
        self.folder = folder
        self.shape = tuple(shape)
        self.dtype = dtype
        self.rows_per_shard = rows_per_shard
        self.compressed = compressed
        self.row_bytes = math.prod(self.shape[1:]) * dtype.itemsize
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._files: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor, the least used first
        self._index: dict[int, NDArray[np.uint64]] = {}  # shard -> [rows, 2] offset and length
        self._verified = np.zeros(self.shape[0], np.bool_)

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """The array in `folder`, or None where it is not laid out as above."""
        try:
            array = json.loads((folder / "zarr.json").read_bytes())
            (sharding,) = array["codecs"]
            inner = sharding["configuration"]
            shape, row = array["shape"], inner["chunk_shape"]
            shard = array["chunk_grid"]["configuration"]["chunk_shape"]
            serializer, *compression, checksum = inner["codecs"]
            understood = (
                array["chunk_grid"]["name"] == "regular"
                and array["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
                and array["storage_transformers"] == []
                and sharding["name"] == "sharding_indexed"
                and inner["index_location"] == "end"
                and inner["index_codecs"] == [_BYTES[1], _CHECKSUM]
                and row == [1, *shape[1:]]
                and shard[1:] == shape[1:]
                and serializer in _BYTES
                and [codec["name"] for codec in compression] in ([], ["zstd"])
                and checksum == _CHECKSUM
            )
            dtype = np.dtype(array["data_type"]).newbyteorder("<")
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(folder, shape, dtype, shard[0], bool(compression)) if understood else None

    def read(self, rows: NDArray[np.integer], out: NDArray[Any]) -> None:
        """Fill out [len(rows), *row shape], C-contiguous, with the rows in the order asked for.

        Raises DamagedRecordError for a record that is damaged, OSError for a shard that is not there, IndexError for a row that is not.
        """
        if out.shape != (len(rows), *self.shape[1:]) or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous {self.dtype} {(len(rows), *self.shape[1:])}")
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.shape[0]:
            raise IndexError(f"row {rows.min()} or {rows.max()} of {self.shape[0]}")
        target = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        if self._owner != os.getpid():  # forked, perhaps while another thread held the lock
            self._close()
            self._start()
        with self._lock:
            for position, row in enumerate(rows.tolist()):
                self._read_row(row, target[position * self.row_bytes : (position + 1) * self.row_bytes])

    def _read_row(self, row: int, target: memoryview) -> None:
        shard, place = divmod(row, self.rows_per_shard)
        file = self._file(shard)
        offset, length = self._index[shard][place].tolist()
        stored = np.empty(CHECKSUM_BYTES, np.uint8)
        if self.compressed:
            if not CHECKSUM_BYTES < length < 2 * self.row_bytes + 1024:  # also what marks a row that was never written
                raise self._damaged(row, "impossible length")
            record = memoryview(os.pread(file, length, offset))
            content, stored = record[:-CHECKSUM_BYTES], np.frombuffer(record[-CHECKSUM_BYTES:], np.uint8)
            if len(record) != length:
                raise self._damaged(row, "cut off")
            self._verify(row, content, stored)
            decoded = zstd.decompress(content)
            if len(decoded) != self.row_bytes:
                raise self._damaged(row, "of another size")
            target[:] = decoded
            return
        if length != self.row_bytes + CHECKSUM_BYTES or os.preadv(file, [target, stored.data], offset) != length:
            raise self._damaged(row, "cut off")
        self._verify(row, target, stored)

    def _verify(self, row: int, content: memoryview, stored: NDArray[np.uint8]) -> None:
        if self._verified[row]:
            return
        if google_crc32c.value(bytes(content)) != int.from_bytes(stored.tobytes(), "little"):
            raise self._damaged(row, "wrong checksum")
        self._verified[row] = True

    def _file(self, shard: int) -> int:
        """Descriptor of an open shard whose index is known."""
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        path = self.folder.joinpath("c", str(shard), *["0"] * (len(self.shape) - 1))
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if shard not in self._index:
                self._index[shard] = self._parse_index(file, path)
        except BaseException:
            os.close(file)
            raise
        self._files[shard] = file
        if len(self._files) > MAX_OPEN_SHARDS:
            os.close(self._files.popitem(last=False)[1])
        return file

    def _parse_index(self, file: int, path: Path) -> NDArray[np.uint64]:
        length = self.rows_per_shard * 16
        start = os.fstat(file).st_size - length - CHECKSUM_BYTES
        content = os.pread(file, length + CHECKSUM_BYTES, start) if start >= 0 else b""
        if (
            google_crc32c.value(content[:-CHECKSUM_BYTES]) != int.from_bytes(content[-CHECKSUM_BYTES:], "little")
            or not content
        ):
            raise DamagedRecordError(f"{path}: its index is damaged")
        index = np.frombuffer(content[:-CHECKSUM_BYTES], "<u8").reshape(-1, 2)
        written = index[index[:, 0] != NEVER_WRITTEN]
        if (written > start).any():
            raise DamagedRecordError(f"{path}: its index points outside the file")
        return index

    def _damaged(self, row: int, how: str) -> DamagedRecordError:
        return DamagedRecordError(f"{self.folder}: row {row} is damaged ({how})")

    def __getstate__(self) -> dict[str, Any]:
        names = ("folder", "shape", "dtype", "rows_per_shard", "compressed")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _close(self) -> None:
        for file in self._files.values():
            os.close(file)

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self._close()
