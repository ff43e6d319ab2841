"""Rows of a sharded Zarr array, written to and read from its files directly.

Training reads every row hundreds of times. Where reads have to wait, as on a network's disk, the
kernel is told of all rows of a block before the first is read, so that one thread suffices.

    shard file:  record · record · … · index            record:  the row's bytes, perhaps zstd-compressed · CRC-32C
    index:       per row offset and length, uint64 · CRC-32C

A shard file is written in one piece. A reader parses the index once per shard and reads a row with
one `preadv` into the caller's array. At a process's first read of a row, its bytes are compared
with the CRC-32C that the view's seal covers, which also detects exchanged rows (`Records`, shared
with HDF5 files). `check_unchanged` notices files that have changed since. `ShardedRows.of` returns None for arrays with any other layout; zarr-python reads
those.
"""

import json
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import google_crc32c
import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray

from orsanet_cache.errors import refuse_shortage
from orsanet_cache.reading import open_regular, read_limited

CHECKSUM_BYTES = 4
ZSTD_LEVEL = 3
MAX_ROWS_PER_SHARD = 65536
TYPES = {name: name for name in ("uint8", "int8", "uint32", "float16", "float32", "int64")}
MAX_METADATA_BYTES = 256 * 1024**2  # a view's metadata may list hundreds of thousands of rejected images
NEVER_WRITTEN = 2**64 - 1  # a row's offset and length in the index
BLOCK = 256  # rows read at a time, from as many files at most
CAN_ADVISE = hasattr(os, "posix_fadvise")  # not on macOS
LATE = 0.0005  # seconds a row: longer than a local disk and a processor take
MAX_OPEN_FILES = 64  # between two reads, per array; a process may usually have 1024 files open

_BYTES = ({"name": "bytes"}, {"name": "bytes", "configuration": {"endian": "little"}})
_CHECKSUM = {"name": "crc32c"}


def encode_shard(rows: NDArray[Any], rows_per_shard: int, compressed: bool) -> list[bytes | memoryview]:
    """The file of one shard, in pieces: rows [n, …] with n <= rows_per_shard.

    Unused index entries are empty.
    """
    content: list[bytes | memoryview] = []
    index = np.full((rows_per_shard, 2), NEVER_WRITTEN, "<u8")
    offset = 0
    for position, row in enumerate(np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)):
        record = np.frombuffer(zstd.compress(row, ZSTD_LEVEL), np.uint8) if compressed else row
        content += [record.data, _crc32c(record)]
        index[position] = offset, len(record) + CHECKSUM_BYTES
        offset += len(record) + CHECKSUM_BYTES
    encoded = index.tobytes()
    return [*content, encoded, _crc32c(encoded)]


def shard_name(shard: int, dimensions: int) -> str:
    """The name of a shard's file.

    All shards are in one folder, so one fsync of the folder secures their names.
    """
    return ".".join(["c", str(shard), *["0"] * (dimensions - 1)])


class _Identity(NamedTuple):
    """What is compared to notice that a file has changed."""

    device: int
    inode: int
    size: int
    modified: int  # ns; a program can set it
    status_changed: int  # ns, last; no program can set it, but links, names and owners change it too


def file_identity(status: os.stat_result) -> _Identity:
    """A file's identity, of its status."""
    return _Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class DamagedRecordError(ValueError):
    """A record or an index has a wrong checksum, or does not fit its file."""


Checksums = NDArray[np.uint32]


class Rows(Protocol):
    """A reader of one array's rows."""

    def read(self, rows: NDArray[np.integer], out: NDArray[Any], positions: NDArray[np.integer]) -> None:
        """Read row rows[i] into out[positions[i]], for every i.

        Raises ValueError or OSError for damage.
        """


class Records(ABC):
    """Rows stored as records in one or more files.

    Read-only; a pickled or forked copy opens its own files.

    One thread reads at a time. The system calls release the interpreter lock.

    Args:
        name: the array's name in error messages.
        shape: [N, *row shape].
        dtype: the values' type.
        rows_per_file: rows in each file except the last.
        decompress: fills a row's bytes from a record; None for uncompressed records.
        checksums: CRC-32C of every row, uint32 [N]. None verifies nothing, for callers that compute
            a digest of the rows themselves.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        rows_per_file: int,
        decompress: Callable[[NDArray[np.uint8], NDArray[np.uint8]], object] | None,
        checksums: Checksums | None,
    ) -> None:
        self.name = name
        self.shape = tuple(shape)
        self.dtype = dtype
        self.rows_per_file = rows_per_file
        self.decompress = decompress
        self.checksums = checksums
        self.row_bytes = math.prod(self.shape[1:]) * dtype.itemsize
        self._most_bytes = 2 * self.row_bytes + 1024  # of a record; the mark of a row never written is above it
        self._start()

    @abstractmethod
    def file_path(self, file: int) -> Path | str:
        """Path of the file whose first row is file * rows_per_file."""

    def open_file(self, file: int) -> int:
        """A descriptor of that file."""
        return open_regular(self.file_path(file))

    @abstractmethod
    def file_index(self, file: int, descriptor: int) -> NDArray[np.uint64]:
        """Offset and length of the file's records, [rows, 2].

        The last CHECKSUM_BYTES of a record are the format's own checksum.
        """

    def read(self, rows: NDArray[np.integer], out: NDArray[Any], positions: NDArray[np.integer]) -> None:
        """Read row rows[i] into out[positions[i]], for every i.

        `out` is C-contiguous, [any number, *row shape].

        Raises DamagedRecordError for a damaged record, OSError for a missing file, and IndexError
        for a row or position out of range.
        """
        if out.shape[1:] != self.shape[1:] or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous {self.dtype} [any number, {self.shape[1:]}]")
        if not len(rows):
            return
        for what, places, count in (("row", rows, self.shape[0]), ("position", positions, len(out))):
            if not 0 <= places.min() <= places.max() < count:
                raise IndexError(f"{what} {places.min()} or {places.max()} of {count}")
        if self._owner != os.getpid():  # a forked process; another thread may have held the lock
            self._close()
            self._start()
        target = out.reshape(len(out), -1).view(np.uint8)
        with self._lock:
            for start in range(0, len(rows), BLOCK):
                block = slice(start, start + BLOCK)
                began = time.perf_counter()
                self._read_block(rows[block], target, positions[block].tolist())
                self._answers_late |= time.perf_counter() - began > LATE * len(rows[block])
            while len(self._files) > MAX_OPEN_FILES:
                self._close_file(next(iter(self._files)))

    def close_files(self) -> None:
        """Close the files that are open between two reads. The next read opens those that it needs."""
        with self._lock:
            while self._files:
                self._close_file(next(iter(self._files)))

    def check_unchanged(self) -> None:
        """Check that the files that rows were read from are still as they were when first read.

        Each file costs one `stat`. If its inode has another time of change only, for instance
        because of another owner or name, the rows that were read are verified again.

        Raises DamagedRecordError for a file of another size, time or inode, and for a row that does
        not match its checksum any more; OSError for a file that is gone.
        """
        if self._owner != os.getpid():  # a forked process that has read nothing yet
            return
        with self._lock:
            for file, known in list(self._known.items()):
                now = file_identity(os.stat(self.file_path(file)))
                if now[:-1] != known[:-1]:
                    first, end = file * self.rows_per_file, min((file + 1) * self.rows_per_file, self.shape[0])
                    raise DamagedRecordError(
                        f"rows {first} to {end - 1}: {self.file_path(file)} has changed since it was first read"
                    )
                if now != known:
                    self._verify_again(file)

    def _read_block(self, rows: NDArray[np.integer], target: NDArray[np.uint8], positions: list[int]) -> None:
        files = (rows // self.rows_per_file).tolist()
        for file in set(files) - self._files.keys():
            self._open(file)
        places = self._index[rows].tolist()
        if self._answers_late and CAN_ADVISE:
            for file, (offset, length) in zip(files, places, strict=True):
                if length < self._most_bytes:
                    os.posix_fadvise(self._files[file], offset, length, os.POSIX_FADV_WILLNEED)
        if self.decompress is not None or not self._verified[rows].all():
            for row, file, place, position in zip(rows.tolist(), files, places, positions, strict=True):
                self._read_carefully(row, self._files[file], place, target[position])
            return
        memory, size = target.reshape(-1).data, self.row_bytes
        for file, (offset, _), position in zip(files, places, positions, strict=True):
            start = position * size
            if os.preadv(self._files[file], [memory[start : start + size]], offset) != size:
                raise DamagedRecordError(f"{self.file_path(file)}: cut off at {offset:,}")

    def _read_carefully(self, row: int, descriptor: int, place: list[int], raw: NDArray[np.uint8]) -> None:
        self._read_record(row, descriptor, place, raw)
        if not self._verified[row]:
            self._verify(row, raw)
            self._verified[row] = True

    def _read_record(self, row: int, descriptor: int, place: list[int], raw: NDArray[np.uint8]) -> None:
        offset, length = place
        if self.decompress is None:
            if length != self.row_bytes + CHECKSUM_BYTES or os.preadv(descriptor, [raw.data], offset) != self.row_bytes:
                raise self._damaged(row, "cut off")
        else:
            if not CHECKSUM_BYTES < length < self._most_bytes:
                raise self._damaged(row, "impossible length")
            record = np.empty(length - CHECKSUM_BYTES, np.uint8)
            if os.preadv(descriptor, [record.data], offset) != len(record):
                raise self._damaged(row, "cut off")
            try:
                self.decompress(record, raw)
            except Exception as error:  # zlib.error, zstd's RuntimeError, an unexpected size
                refuse_shortage(error, self.name)
                raise self._damaged(row, f"does not decompress: {error}") from error

    def _verify(self, row: int, raw: NDArray[np.uint8]) -> None:
        if self.checksums is not None and google_crc32c.value(raw) != self.checksums[row]:
            raise self._damaged(row, "wrong checksum")

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._files: OrderedDict[int, int] = OrderedDict()  # file -> descriptor, the longest open first
        files = -(-self.shape[0] // self.rows_per_file)
        self._known: dict[int, _Identity] = {}  # file whose part of the index is filled -> identity of that file
        self._index = np.zeros((files * self.rows_per_file, 2), np.uint64)  # row -> offset and length
        self._verified = np.zeros(self.shape[0], np.bool_)
        self._answers_late = False  # asking ahead slows reading from memory down by a seventh

    def _open(self, file: int) -> None:
        """Open a file, and read its index unless it is known."""
        descriptor = self.open_file(file)
        try:
            identity = file_identity(os.fstat(descriptor))
            if self._known.get(file) != identity:  # opened for the first time, or replaced since
                span = self._span(file)
                self._index[span] = self.file_index(file, descriptor)
                self._verified[span] = False
                self._known[file] = identity
        except BaseException:
            os.close(descriptor)
            raise
        self._files[file] = descriptor

    def _verify_again(self, file: int) -> None:
        """Open a file again and verify the rows that were read of it."""
        rows = np.flatnonzero(self._verified[self._span(file)]) + file * self.rows_per_file
        if file in self._files:
            self._close_file(file)
        self._open(file)
        raw = np.empty(self.row_bytes, np.uint8)
        for row in rows.tolist():
            self._read_carefully(row, self._files[file], self._index[row].tolist(), raw)

    def _close_file(self, file: int) -> None:
        os.close(self._files.pop(file))

    def _span(self, file: int) -> slice:
        return slice(file * self.rows_per_file, (file + 1) * self.rows_per_file)

    def _damaged(self, row: int, how: str) -> DamagedRecordError:
        return DamagedRecordError(f"{self.name}: row {row} is damaged ({how})")

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_owner", "_files", "_known", "_index", "_verified", "_answers_late")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def _close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self._close()


class ShardedLayout(NamedTuple):
    """What the metadata of an array with the layout above states."""

    shape: tuple[int, ...]  # [N, *row shape]
    dtype: np.dtype[Any]  # little-endian
    rows_per_shard: int
    compressed: bool

    @classmethod
    def of(cls, document: bytes) -> Self | None:
        """The layout that a zarr.json states, or None for any other."""
        try:
            array = json.loads(document)
            (sharding,) = array["codecs"]
            inner = sharding["configuration"]
            shape, row = array["shape"], inner["chunk_shape"]
            shard = array["chunk_grid"]["configuration"]["chunk_shape"]
            serializer, *compression, checksum = inner["codecs"]
            understood = (
                array["chunk_grid"]["name"] == "regular"
                and array["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "."}}
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
            understood = understood and type(shard[0]) is int and 1 <= shard[0] <= MAX_ROWS_PER_SHARD
            dtype = np.dtype(TYPES[array["data_type"]]).newbyteorder("<")
        except (ValueError, KeyError, TypeError):
            return None
        return cls(tuple(shape), dtype, shard[0], bool(compression)) if understood else None


class ShardedRows(Records):
    """The rows of a Zarr array with the layout above.

    Args:
        folder: the array's folder; its name alone where `open_file` and `file_path` are others.
        shape: [N, *row shape].
        dtype: the values' type, little-endian.
        rows_per_shard: rows in each shard except the last.
        compressed: whether records are compressed with zstd.
        checksums: CRC-32C of every row, uint32 [N]; None verifies nothing.
        first_shard: the shard that row 0 lies in.
    """

    def __init__(
        self,
        folder: Path,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        rows_per_shard: int,
        compressed: bool,
        checksums: Checksums | None,
        first_shard: int = 0,
    ) -> None:
        super().__init__(str(folder), shape, dtype, rows_per_shard, _decompress_zstd if compressed else None, checksums)
        self.folder = folder
        self.compressed = compressed
        self.first_shard = first_shard

    def part(self, start: int, stop: int) -> Self | None:
        """A reader of rows start to stop - 1 alone, numbered from 0; None if they are not the beginning of one shard.

        It takes memory for these rows only, and many threads may each have their own.
        """
        shard, within = divmod(start, self.rows_per_file)
        if within or not 0 < stop - start <= self.rows_per_file or stop > self.shape[0]:
            return None
        checksums = None if self.checksums is None else self.checksums[start:stop]
        layout = ShardedLayout((stop - start, *self.shape[1:]), self.dtype, self.rows_per_file, self.compressed)
        return self._part_of(layout, checksums, self.first_shard + shard)

    def _part_of(self, layout: ShardedLayout, checksums: Checksums | None, first_shard: int) -> Self:
        return type(self)(self.folder, *layout, checksums, first_shard)

    @classmethod
    def of(cls, folder: Path, checksums: Checksums | None = None) -> Self | None:
        """The array in `folder`, or None if it has another layout."""
        try:
            layout = ShardedLayout.of(read_limited(folder / "zarr.json", MAX_METADATA_BYTES))
        except (OSError, ValueError) as error:
            refuse_shortage(error, folder)
            return None
        return None if layout is None else cls(folder, *layout, checksums)

    def file_path(self, file: int) -> Path | str:
        return self.folder / shard_name(self.first_shard + file, len(self.shape))

    def file_index(self, file: int, descriptor: int) -> NDArray[np.uint64]:
        length = self.rows_per_file * 16
        start = os.fstat(descriptor).st_size - length - CHECKSUM_BYTES
        content = os.pread(descriptor, length + CHECKSUM_BYTES, start) if start >= 0 else b""
        if not content or _crc32c(content[:-CHECKSUM_BYTES]) != content[-CHECKSUM_BYTES:]:
            raise DamagedRecordError(f"{self.file_path(file)}: its index is damaged")
        index = np.frombuffer(content[:-CHECKSUM_BYTES], "<u8").reshape(-1, 2)
        written = index[index[:, 0] != NEVER_WRITTEN]
        if (written > start).any():
            raise DamagedRecordError(f"{self.file_path(file)}: its index points outside the file")
        return index


def part_of(rows: Rows, start: int, stop: int) -> tuple[Rows, int]:
    """A reader of rows start to stop - 1, and the number that it gives to row `start`.

    It is a part of its own where the format has one file for them; else `rows` itself.
    """
    part = rows.part(start, stop) if isinstance(rows, ShardedRows) else None
    return (rows, start) if part is None else (part, 0)


def row_checksums(rows: NDArray[Any]) -> Checksums:
    """CRC-32C of every row's bytes, uint32 [n]."""
    raw = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    return np.array([google_crc32c.value(row) for row in raw], np.uint32)


def _decompress_zstd(record: NDArray[np.uint8], raw: NDArray[np.uint8]) -> None:
    """Fill `raw`.

    Raises RuntimeError or ValueError for damage or another size; allocates no memory for it.
    """
    if len(zstd.decompress(record, raw)) != len(raw):
        raise ValueError("unexpected size")


def _crc32c(content: bytes | NDArray[np.uint8]) -> bytes:
    return google_crc32c.value(content).to_bytes(CHECKSUM_BYTES, "little")
