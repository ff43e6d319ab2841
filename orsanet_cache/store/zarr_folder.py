"""A Zarr v3 folder as a store's container, on this machine or in an object store.

Groups and arrays are folders with a `zarr.json`, which is read as plain JSON. A small array is one
file, `c.0.0`: its bytes and a CRC-32C. Rows of large arrays are read directly from the shards;
zarr-python reads arrays with another layout. zarr_writer.py writes the files that are read here.

Of an object store whole shards are fetched, and rows are read from their copies (FetchedRows).
"""

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple, Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from orsanet_cache.errors import refuse_shortage
from orsanet_cache.paths import Url
from orsanet_cache.places.copies import Copies
from orsanet_cache.places.files import Files, FolderFiles
from orsanet_cache.reading import open_regular
from orsanet_cache.store.rows import (
    CHECKSUM_BYTES,
    MAX_METADATA_BYTES,
    TYPES,
    Checksums,
    DamagedRecordError,
    Rows,
    ShardedLayout,
    ShardedRows,
    file_identity,
    row_checksums,
    shard_name,
)
from orsanet_cache.store.schema import MAX_ROW_BYTES

METADATA = "zarr.json"
MAX_SIZE = 2**40  # of an axis
MAX_FILES = 10**7  # of an array
PIECE = 2**30  # bytes; a system call reads at most twice as many


class Layout(NamedTuple):
    """Shape and type of an array; the first axis counts samples."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class ZarrFolder:
    """Read access.

    Every method raises ValueError, KeyError or OSError for anything damaged or missing.
    """

    def __init__(self, path: Path | Files, copies: Copies | None = None) -> None:
        """`copies` are those of the shards, for files of an object store."""
        self.files = FolderFiles(path) if isinstance(path, Path) else path
        self.path = self.files.place
        self.copies = copies

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
        content = self.files.read(f"{array}/{shard_name(0, len(layout.shape))}", size + CHECKSUM_BYTES)
        values, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
        if len(values) != size:
            raise ValueError(f"{array} has a size that does not fit its shape")
        if google_crc32c.value(values) != int.from_bytes(checksum, "little"):
            raise ValueError(f"{array} has a wrong checksum")
        return np.frombuffer(values, layout.dtype).reshape(layout.shape)

    def rows(self, array: str, checksums: Checksums | None) -> Rows:
        """A reader of a large array's rows. It verifies the checksum of a row at the first read."""
        if isinstance(self.path, Url):
            return FetchedRows.of_array(self.files, self.copies, array, checksums)
        return ShardedRows.of(self.path / array, checksums) or LibraryRows(self.path / array, checksums)

    def _members(self, group: str, kind: str) -> tuple[str, ...]:
        found = self.files.subfolders(group, METADATA)
        self.files.expect(metadata_name(f"{group}/{name}") for name in found)
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
        document = json.loads(self.files.read(metadata_name(node), MAX_METADATA_BYTES))
        if not isinstance(document, dict):
            raise ValueError(f"{node}/{METADATA} is not a JSON object")
        return document


def metadata_name(node: str) -> str:
    """The name of a group's or array's zarr.json; "" is the root."""
    return f"{node}/{METADATA}".lstrip("/")


class FetchedRows(ShardedRows):
    """Rows of an array in an object store, read from copies of whole shards.

    The check of a new copy compares every row with the checksum under the view's seal. A copy that
    fails a row's check later, because something has changed it, is fetched again.
    """

    def __init__(
        self, copies: Copies, array: str, layout: ShardedLayout, checksums: Checksums | None, first_shard: int = 0
    ) -> None:
        super().__init__(Path(array), *layout, checksums, first_shard)
        self.copies = copies
        self.array = array

    @classmethod
    def of_array(cls, files: Files, copies: Copies | None, array: str, checksums: Checksums | None) -> Self:
        """Raises ValueError for an array with another layout."""
        layout = ShardedLayout.of(files.read(metadata_name(array), MAX_METADATA_BYTES))
        if layout is None or copies is None:
            raise ValueError(
                f"{array} does not have the layout of a store's arrays; only in a folder another one is read"
            )
        return cls(copies, array, layout, checksums)

    def file_path(self, file: int) -> str:
        return str(self.copies.files.place / self.file_name(file))

    def file_name(self, file: int) -> str:
        """The shard's name in the store."""
        return f"{self.array}/{shard_name(self.first_shard + file, len(self.shape))}"

    def file_bytes(self, file: int) -> int:
        """The shard's size. Raises FileNotFoundError if the object store has none."""
        return self.copies.files.entry(self.file_name(file)).size

    def fetch(self, file: int) -> None:
        """Let there be a copy of the shard."""
        if not self.copies.has(self.file_name(file)):
            os.close(self.open_file(file))

    def content(self, file: int) -> bytes:
        """The whole shard."""
        descriptor = self.open_file(file)
        try:
            size = os.fstat(descriptor).st_size  # not a file object: descriptors of one copy share its position
            return b"".join(os.pread(descriptor, PIECE, start) for start in range(0, size, PIECE))
        finally:
            os.close(descriptor)

    def open_file(self, file: int) -> int:
        return self.copies.open(self.file_name(file), lambda descriptor: self._check(file, descriptor))

    def check_unchanged(self) -> None:
        """Check that the copies that are open have not changed since they were verified.

        A copy that is closed was checked then. One that was removed is no damage.
        """
        if self._owner == os.getpid():
            with self._lock:
                for file in self._files:
                    self._check_open(file)

    def _part_of(self, layout: ShardedLayout, checksums: Checksums | None, first_shard: int) -> Self:
        return type(self)(self.copies, self.array, layout, checksums, first_shard)

    def _read_block(self, rows: NDArray[np.integer], target: NDArray[np.uint8], positions: list[int]) -> None:
        try:
            super()._read_block(rows, target, positions)
        except DamagedRecordError:
            for file in set((rows // self.rows_per_file).tolist()):
                if file in self._files:
                    os.close(self._files.pop(file))
                self._known.pop(file, None)
                self.copies.drop(self.file_name(file))
            super()._read_block(rows, target, positions)

    def _close_file(self, file: int) -> None:
        self._check_open(file)
        super()._close_file(file)

    def _check_open(self, file: int) -> None:
        now, known = file_identity(os.fstat(self._files[file])), self._known[file]
        if now[:-1] != known[:-1]:  # its last part changes when the copy is removed
            raise DamagedRecordError(
                f"the copy of {self.file_path(file)} on this machine was changed while it was in use"
            )

    def _check(self, file: int, descriptor: int) -> None:
        """Raises ValueError unless every row of a new copy is the committed one."""
        index, first = self.file_index(file, descriptor).tolist(), file * self.rows_per_file
        raw = np.empty(self.row_bytes, np.uint8)
        for row in range(first, min(first + self.rows_per_file, self.shape[0])):
            self._read_record(row, descriptor, index[row - first], raw)
            self._verify(row, raw)


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
