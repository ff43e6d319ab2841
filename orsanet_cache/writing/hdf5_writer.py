"""Writes the HDF5 files that hdf5_file.py reads.

A write error that reaches HDF5, or an interruption during a write, may crash the process. So HDF5
writes to a Python file object that records a failure, and the writer checks for one.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from orsanet_cache.durable import leave_to_disk
from orsanet_cache.store.schema import Field

DEFLATE_LEVEL = 4
VERSION = ("v110", "v110")  # the oldest with checksums on all metadata and with attributes above 64 KB


class Hdf5Writer:
    """A ContainerWriter for a new file. Every method raises OSError if a write failed."""

    def __init__(self, file: h5py.File, check: Callable[[], None]) -> None:
        self._file = file
        self._check = check

    def group(self, group: str, attributes: Mapping[str, Any]) -> None:
        """Write a group with its attributes; "" is the root."""
        attached = self._file.require_group(f"/{group}").attrs
        for name, value in attributes.items():
            text = json.dumps(value, ensure_ascii=False).encode()
            attached.create(name, np.bytes_(text), dtype=h5py.string_dtype("utf-8", len(text)))
        self._check()

    def small(self, array: str, values: NDArray[Any], axes: Sequence[str]) -> None:
        """Write a small array."""
        self._dataset(array, values.shape, str(values.dtype), values.shape, axes)[...] = values
        self._check()

    def rows(self, group: str, field: Field, count: int, units: Iterable[NDArray[Any]]) -> None:
        """Write a field of `count` rows, from the values [n, *field.shape] of consecutive units."""
        dataset = self._dataset(
            f"{group}/{field.name}",
            (count, *field.shape),
            field.dtype,
            (1, *field.shape),
            ("sample", *field.axes),
            field.compressed,
        )
        start = 0
        for values in units:
            dataset[start : start + len(values)] = values
            start += len(values)
            self._check()

    def _dataset(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        chunks: tuple[int, ...],
        axes: Sequence[str],
        compressed: bool = False,
    ) -> h5py.Dataset:
        deflate = {"compression": "gzip", "compression_opts": DEFLATE_LEVEL} if compressed else {}
        dataset = self._file.create_dataset(name, shape, dtype, chunks=chunks, fletcher32=True, **deflate)
        for dimension, label in zip(dataset.dims, axes, strict=True):
            dimension.label = label
        return dataset


@contextmanager
def new_hdf5_file(path: Path) -> Iterator[Hdf5Writer]:
    """Create a file, which is complete and fsynced on exit.

    Raises OSError if a write failed, FileExistsError if the file exists.
    """
    with _Output(path, "x+") as output:
        try:
            with h5py.File(output, "w", libver=VERSION) as file:
                yield Hdf5Writer(file, output.check)
        except Exception:  # h5py may raise any type when it reads data that could not be written
            output.check()
            raise
        output.check()
        leave_to_disk(output.fileno())


class _Output(io.FileIO):
    """The file that HDF5 writes to.

    A failed write is hidden from HDF5, because a full disk crashes it at exit.

    `check` raises the failure instead.
    """

    failure: OSError | None = None

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        try:
            while rest and self.failure is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failure = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self.failure is None else size or 0
        except OSError as error:
            self.failure = error
            return size or 0
