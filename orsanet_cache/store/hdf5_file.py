"""An HDF5 file as a store's container. Groups, attributes and arrays are named as in a Zarr folder.

    attribute          a scalar string of fixed length: the JSON text of the value
    small array        one chunk · Fletcher-32
    array of rows      one row a chunk, perhaps deflated · Fletcher-32; dimensions labelled

Fletcher-32 is HDF5's own checksum, written for other readers. This package verifies the CRC-32C,
which is nine times as fast. As in a Zarr store, rows are read directly from the file, at the
offsets that HDF5 returns; h5py reads arrays with another layout.

Nothing outside the file is read: links other than hard ones, external storage and virtual datasets
are refused before HDF5 follows them.
"""

import json
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z
from numpy.typing import NDArray

from orsanet_cache.store.rows import Checksums, DamagedRecordError, Records, Rows, row_checksums
from orsanet_cache.store.zarr_folder import Layout

# Limits on h5py's memory for one row of an array with another layout than this package writes.
MAX_CHUNK_BYTES = 256 * 1024**2
MAX_INFLATED_BYTES = 1024**3
MOST_INFLATED = 1032  # zlib's limit: inflated size divided by deflated size


class Hdf5File:
    """Read access.

    Every method raises ValueError, KeyError, OSError, RuntimeError or TypeError for anything that
    is damaged, missing, or stored outside the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def attributes(self, group: str) -> dict[str, Any]:
        """Attributes of a group; "" is the root."""
        with _opened(self.path) as file:
            node = _group(file, group)
            return {name: _attribute(file, node, name) for name in h5py.AttributeManager(h5py.Group(node))}

    def groups(self, group: str) -> tuple[str, ...]:
        """Names of the groups in a group, sorted."""
        with _opened(self.path) as file:
            return tuple(name for name, node in _members(file, group) if isinstance(node, h5g.GroupID))

    def arrays(self, group: str) -> dict[str, Layout]:
        """Names of the arrays in a group, sorted -> their layouts."""
        with _opened(self.path) as file:
            return {name: _layout(node) for name, node in _members(file, group) if isinstance(node, h5d.DatasetID)}

    def small(self, array: str) -> NDArray[Any]:
        """All values of a small array."""
        with _opened(self.path) as file:
            return _small(file, array)

    def rows(self, array: str, checksums: Checksums | None) -> Rows:
        """A reader of a large array's rows. It verifies the checksum of a row at the first read."""
        return ChunkedRows.of(self.path, array, checksums) or LibraryRows(self.path, array, checksums)


class ChunkedRows(Records):
    """The rows of an array with the layout above.

    A record ends with Fletcher-32. The CRC-32C, which is stored separately, is verified instead.

    Args:
        path: the HDF5 file.
        array: the array's path in the file.
        layout: the array's shape and type.
        compressed: whether the rows are deflated.
        checksums: CRC-32C of every row, uint32 [N]; None verifies nothing.
    """

    def __init__(self, path: Path, array: str, layout: Layout, compressed: bool, checksums: Checksums | None) -> None:
        decompress = _inflate if compressed else None
        super().__init__(f"{path}/{array}", layout.shape, layout.dtype, layout.shape[0], decompress, checksums)
        self.path = path
        self.array = array

    @classmethod
    def of(cls, path: Path, array: str, checksums: Checksums | None) -> Self | None:
        """The array, or None if it has another layout."""
        with _opened(path) as file:
            dataset = _dataset(file, array)
            layout = _layout(dataset)
            properties = dataset.get_create_plist()
            filters = _filters(dataset)
            understood = (
                file.userblock_size == 0  # not every HDF5 version includes it in offsets
                and min(layout.shape) > 0
                and properties.get_layout() == h5d.CHUNKED
                and properties.get_chunk() == (1, *layout.shape[1:])
                and filters in ([h5z.FILTER_FLETCHER32], [h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32])
                and dataset.get_type() == h5t.py_create(layout.dtype.newbyteorder("<"))
            )
        return cls(path, array, layout, h5z.FILTER_DEFLATE in filters, checksums) if understood else None

    def file_path(self, file: int) -> Path:
        return self.path

    def file_index(self, file: int, descriptor: int) -> NDArray[np.uint64]:
        size = os.fstat(descriptor).st_size
        index = np.zeros((self.shape[0], 2), np.uint64)  # zeros mark a row that was never written
        strange: list[int] = []

        def add(chunk: h5d.StoreInfo) -> None:
            row = chunk.chunk_offset[0]
            if row >= len(index) or chunk.filter_mask or chunk.byte_offset + chunk.size > size:
                strange.append(row)
            else:
                index[row] = chunk.byte_offset, chunk.size

        with _opened(self.path) as opened:
            _dataset(opened, self.array).chunk_iter(add)
        if strange:
            raise DamagedRecordError(
                f"{self.name}: row {strange[0]} lies outside the file, or not all filters were applied to it"
            )
        return index


class LibraryRows:
    """Rows read by h5py.

    It is slower, reads every layout that plain h5py writes, and verifies every read.
    """

    def __init__(self, path: Path, array: str, checksums: Checksums | None) -> None:
        self.path = path
        self.array = array
        self.checksums = checksums
        with _opened(path) as file:
            dataset = _dataset(file, array)
            filters = _filters(dataset)
            if len(set(filters)) < len(filters) or not set(filters) <= {
                h5z.FILTER_SHUFFLE,
                h5z.FILTER_DEFLATE,
                h5z.FILTER_FLETCHER32,
            }:
                raise ValueError(f"{array} has filters that are not supported (HDF5's numbers {filters})")
            properties = dataset.get_create_plist()
            if properties.get_layout() == h5d.CHUNKED:
                size = math.prod(properties.get_chunk()) * dataset.get_type().get_size()
                if size > MAX_CHUNK_BYTES:
                    raise ValueError(f"{array} has chunks of {size:,} bytes")
            if h5z.FILTER_DEFLATE in filters:  # HDF5 inflates chunks without a limit
                sizes = [0]
                dataset.chunk_iter(lambda chunk: sizes.append(chunk.size))
                if max(sizes) * MOST_INFLATED > MAX_INFLATED_BYTES:
                    raise ValueError(f"{array} has deflated chunks of {max(sizes):,} bytes")

    def read(self, rows: NDArray[np.integer], out: NDArray[Any], positions: NDArray[np.integer]) -> None:
        """As Rows."""
        with _opened(self.path) as file:
            dataset = h5py.Dataset(_dataset(file, self.array))
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                out[position] = dataset[row]
                if self.checksums is not None and row_checksums(out[position : position + 1])[0] != self.checksums[row]:
                    raise DamagedRecordError(f"{self.path}/{self.array}: row {row} is damaged (wrong checksum)")


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    if not path.is_file():  # opening a pipe would wait for a writer
        raise ValueError(f"{path} is not a file")
    try:
        file = h5py.File(path, "r", locking=False)  # a store may be on a read-only disk
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        file = h5py.File(path, "r")  # this process has it open with locks, and HDF5 requires the same setting
    with file:
        yield file


def _node(file: h5py.File, name: str) -> Any:
    """The object of that name. Links out of the file are not followed."""
    node = h5o.open(file.id, b"/")
    for part in name.split("/"):
        if part:
            if not isinstance(node, h5g.GroupID):
                raise KeyError(f"no {name}")
            node = _member(node, part)
    return node


def _member(group: h5g.GroupID, name: str) -> Any:
    if group.links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise ValueError(f"{name} is a link")
    return h5o.open(group, name.encode())


def _group(file: h5py.File, name: str) -> h5g.GroupID:
    node = _node(file, name)
    if not isinstance(node, h5g.GroupID):
        raise ValueError(f"{name} is not a group")
    return node


def _members(file: h5py.File, group: str) -> Iterator[tuple[str, Any]]:
    node = _group(file, group)
    for name in sorted(h5py.Group(node)):
        yield name, _member(node, name)


def _dataset(file: h5py.File, name: str) -> h5d.DatasetID:
    node = _node(file, name)
    if not isinstance(node, h5d.DatasetID):
        raise ValueError(f"{name} is not an array")
    _check_is_inside(node)
    return node


def _check_is_inside(dataset: h5d.DatasetID) -> None:
    properties = dataset.get_create_plist()
    if properties.get_layout() == h5d.VIRTUAL or properties.get_external_count():
        raise ValueError("an array's values are stored in another file")


def _layout(dataset: h5d.DatasetID) -> Layout:
    _check_is_inside(dataset)  # first, because reading a virtual dataset's shape opens other files
    if not isinstance(dataset.get_type(), (h5t.TypeIntegerID, h5t.TypeFloatID)):
        raise ValueError("an array does not contain numbers")
    space = dataset.get_space()
    if space.get_simple_extent_type() != h5s.SIMPLE or not space.get_simple_extent_ndims():
        raise ValueError("an array has no dimensions")
    return Layout(space.get_simple_extent_dims(), dataset.dtype)


def _filters(dataset: h5d.DatasetID) -> list[int]:
    """HDF5's numbers of the filters, in the order in which they are applied when writing."""
    properties = dataset.get_create_plist()
    return [properties.get_filter(position)[0] for position in range(properties.get_nfilters())]


def _attribute(file: h5py.File, node: h5g.GroupID, name: str) -> Any:
    attribute = h5a.open(node, name.encode())
    kind = attribute.get_type()
    if (
        not isinstance(kind, h5t.TypeStringID)
        or kind.is_variable_str()
        or attribute.get_space().get_simple_extent_type() != h5s.SCALAR
        or kind.get_size() > os.stat(file.filename).st_size
    ):
        raise ValueError(f"the attribute {name} is not a string of fixed length")
    text = np.empty((), f"S{kind.get_size()}")
    attribute.read(text, mtype=kind)
    return json.loads(text.item())


def _small(file: h5py.File, name: str) -> NDArray[Any]:
    dataset = _dataset(file, name)
    shape, dtype = _layout(dataset)
    size = math.prod(shape) * dtype.itemsize
    properties = dataset.get_create_plist()
    if (
        size > min(dataset.get_storage_size(), os.stat(file.filename).st_size)
        or (properties.get_layout() == h5d.CHUNKED and properties.get_chunk() != shape)
        or _filters(dataset) not in ([], [h5z.FILTER_FLETCHER32])
    ):
        raise ValueError(f"{name} is not stored completely in one piece")
    values = np.empty(shape, dtype)
    dataset.read(h5s.ALL, h5s.ALL, values)
    return values


def _inflate(record: NDArray[np.uint8], raw: NDArray[np.uint8]) -> None:
    """Fill `raw`.

    Raises ValueError or zlib.error for damage or another size; never allocates more than `raw`'s
    size.
    """
    inflater = zlib.decompressobj()
    content = inflater.decompress(record.data, len(raw) + 1)
    if len(content) != len(raw) or not inflater.eof:
        raise ValueError("unexpected size")
    raw[:] = np.frombuffer(content, np.uint8)
