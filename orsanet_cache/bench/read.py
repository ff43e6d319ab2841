"""`orsanet-cache bench read`: speed of reading training rows from a store, and the machine's limit.

All contenders read the same rows, in shuffled batches, from copies of the same data in their
format. They take turns in one run, because only ratios within a run are meaningful. The limit is
np.take from a memmap into a reused array: a single copy from the page cache.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from orsanet_cache.bench.random_store import Arrays, RandomSplit, write_random_store
from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import temporary_folder
from orsanet_cache.progress import Progress, tracked
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import schema
from orsanet_cache.store.units import Unit
from orsanet_cache.writing.convert import convert

SPLIT, VIEW = "train", CLEAN
TRAINING_FIELDS = ("image", "segmentation_features", "landmark_features")  # the published model's inputs
BATCH = 256
ROUND_SECONDS = 1.0

ReadBatch = Callable[[NDArray[np.int64]], object]


@dataclass(frozen=True)
class ReadSpeed:
    """One contender's median over the rounds."""

    name: str
    rows_per_second: float
    ratio: float  # to the memmap limit's


def bench_read(
    store: Path | None, gigabytes: float, rounds: int, folder: Path | None, batch_size: int = BATCH
) -> tuple[int, int, list[ReadSpeed]]:
    """Measure on copies in a temporary folder below `folder` -> rows, bytes per row, speeds.

    The data are the first rows of `store`'s largest split in its first view, or random values in
    the published sizes. Raises OrsanetError for a store without a sealed view, or with fewer images
    than a batch.
    """
    with temporary_folder("orsanet-bench-", folder) as out:
        rows, row_bytes = _write_store(out / "store.zarr", store, int(gigabytes * 1e9), batch_size)
        convert(out / "store.zarr", out / "store.h5")
        contenders = _contenders(out, rows, batch_size)
        os.sync()  # otherwise the copies would still be written while they are read
        order = np.random.default_rng(0)
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        with Progress(rounds * len(contenders), "bench read", "measurement") as progress:
            for _ in range(rounds):
                for name, prepare in contenders.items():
                    rates[name].append(_rows_per_second(prepare(), rows, batch_size, order))
                    progress.update()
    limit = statistics.median(next(iter(rates.values())))
    return (
        rows,
        row_bytes,
        [ReadSpeed(name, statistics.median(own), statistics.median(own) / limit) for name, own in rates.items()],
    )


def _write_store(path: Path, source: Path | None, size: int, batch_size: int) -> tuple[int, int]:
    """Write a store with about `size` bytes of training fields.

    Returns its number of rows, and the bytes of a row's training fields.
    """
    fields = schema(1024, 512, "float16")
    values: Callable[[Unit], Arrays] | None = None
    count = None
    if source is not None:
        opened = PriorStore.open(source)
        found = [(len(opened.sample_ids(s)), s, views[0]) for s in opened.splits if (views := opened.views(s))]
        if not found:
            raise OrsanetError(f"{source}: no view is finished; finish the build first")
        count, split, view = max(found)
        if count < batch_size:
            raise OrsanetError(f"{source}: its largest split has {count} images, fewer than one batch of {batch_size}")
        layouts = opened.fields(split, view)
        channels = (layouts["segmentation_features"].shape[1], layouts["landmark_features"].shape[1])
        fields = schema(*channels, str(layouts["landmark_features"].dtype))

        def values(unit: Unit) -> Arrays:
            return {field.name: opened.read(split, view, field.name, unit.rows) for field in fields}

    row_bytes = sum(field.row_bytes for field in fields if field.name in TRAINING_FIELDS)
    rows = max(batch_size, size // row_bytes)
    rows = rows if count is None else min(rows, count)
    write_random_store(path, fields, {SPLIT: RandomSplit([f"{row:08d}" for row in range(rows)], [VIEW])}, values)
    return rows, row_bytes


def _contenders(out: Path, rows: int, batch_size: int) -> dict[str, Callable[[], ReadBatch]]:
    """Name -> function that returns a reader of batches; the limit is first."""
    zarr_path, hdf5_path = out / "store.zarr", out / "store.h5"
    store = PriorStore.open(zarr_path)
    layouts = {name: store.fields(SPLIT, VIEW)[name] for name in TRAINING_FIELDS}
    buffers = {name: np.empty((batch_size, *layout.shape[1:]), layout.dtype) for name, layout in layouts.items()}
    memmaps: Arrays = {}
    for name, layout in layouts.items():
        memmaps[name] = np.lib.format.open_memmap(out / f"{name}.npy", "w+", layout.dtype, layout.shape)
        for start in range(0, rows, batch_size):
            part = slice(start, min(start + batch_size, rows))
            memmaps[name][part] = store.read(SPLIT, VIEW, name, part)
    samples = out / "samples"
    samples.mkdir()
    for row in tracked(range(rows), rows, "write .pt files", "file"):
        torch.save(
            {name: torch.from_numpy(np.array(values[row])) for name, values in memmaps.items()}, samples / f"{row}.pt"
        )
    zarr_arrays = {name: zarr.open_array(zarr_path / SPLIT / VIEW / name, mode="r") for name in TRAINING_FIELDS}
    hdf5_view = h5py.File(hdf5_path, "r", locking=False)[f"{SPLIT}/{VIEW}"]

    def from_memmap(batch: NDArray[np.int64]) -> None:
        for name, values in memmaps.items():
            np.take(values, batch, axis=0, out=buffers[name], mode="clip")

    def ours(opened: PriorStore) -> ReadBatch:
        def read(batch: NDArray[np.int64]) -> None:
            for name in TRAINING_FIELDS:
                opened.read(SPLIT, VIEW, name, batch, out=buffers[name])

        return read

    def warmed(path: Path) -> Callable[[], ReadBatch]:
        opened = PriorStore.open(path)
        for start in range(0, rows - batch_size + 1, batch_size):
            ours(opened)(np.arange(start, start + batch_size))
        ours(opened)(np.arange(rows - batch_size, rows))
        return lambda: ours(opened)

    def fresh(path: Path) -> PriorStore:
        opened = PriorStore.open(path)
        for name in TRAINING_FIELDS:  # the metadata, which every process reads once
            opened.read(SPLIT, VIEW, name, slice(0, 1))
        return opened

    def with_zarr(batch: NDArray[np.int64]) -> None:
        for name in TRAINING_FIELDS:
            buffers[name][:] = zarr_arrays[name].oindex[batch]

    def with_tensorstore() -> ReadBatch:
        import tensorstore

        arrays = {
            name: tensorstore.open(
                {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(zarr_path / SPLIT / VIEW / name)}},
                read=True,
            ).result()
            for name in TRAINING_FIELDS
        }

        def read(batch: NDArray[np.int64]) -> None:
            for name, array in arrays.items():
                buffers[name][:] = array[batch].read().result()

        return read

    def with_h5py(batch: NDArray[np.int64]) -> None:
        for name in TRAINING_FIELDS:
            for position, row in enumerate(batch.tolist()):
                buffers[name][position] = hdf5_view[name][row]

    def from_samples(batch: NDArray[np.int64]) -> None:
        for position, row in enumerate(batch.tolist()):
            for name, tensor in torch.load(samples / f"{row}.pt", weights_only=True).items():
                buffers[name][position] = tensor.numpy()

    return {
        "memmap (the limit)": lambda: from_memmap,
        "ours, Zarr": warmed(zarr_path),
        "ours, Zarr, first read (checksums)": lambda: ours(fresh(zarr_path)),
        "ours, HDF5": warmed(hdf5_path),
        "ours, HDF5, first read (checksums)": lambda: ours(fresh(hdf5_path)),
        "zarr-python": lambda: with_zarr,
        **({"TensorStore": with_tensorstore} if find_spec("tensorstore") else {}),
        "h5py": lambda: with_h5py,
        ".pt file per sample": lambda: from_samples,
    }


def _rows_per_second(read: ReadBatch, rows: int, batch_size: int, order: np.random.Generator) -> float:
    """Read shuffled batches, no row twice, until the time is over or all rows are read."""
    batches = np.split(order.permutation(rows)[: rows // batch_size * batch_size], rows // batch_size)
    read_rows, begun = 0, time.perf_counter()
    for batch in batches:
        read(batch)
        read_rows += batch_size
        if time.perf_counter() - begun > ROUND_SECONDS:
            break
    return read_rows / (time.perf_counter() - begun)
