"""`orsanet-cache bench read --url`: reading a store from an object store, whole shards against other ways.

    whole shards    one GET a shard, several at a time, each row against its checksum: as training reads it the first time
    zarr-python     its own ObjectStore: at least two requests a row and field (the shard's index, the row)

All read the same shards' rows of the training fields, each way in its own order of access: whole
shards one after the other, rows in shuffled batches within them. They take turns, because only ratios
within a run are meaningful.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import zarr
from zarr.storage import ObjectStore

from orsanet_cache.bench.read import TRAINING_FIELDS as TRAINING_FIELDS
from orsanet_cache.errors import OrsanetError
from orsanet_cache.paths import Url
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.progress import Progress
from orsanet_cache.store.reader import PriorStore

ZARR_SECONDS = 5.0  # of a round: it would take hours for all rows
ZARR_ROWS = 8  # at a time


@dataclass(frozen=True)
class UrlSpeed:
    """One way's median over the rounds."""

    name: str
    rows_per_second: float
    ratio: float  # of the first way to this one


def bench_read_url(url: Url, shards: int, rounds: int) -> tuple[int, int, list[UrlSpeed]]:
    """Measure on the first `shards` shards of the store's largest split -> rows, bytes per row, speeds.

    Raises OrsanetError for a store without a finished view, and for an object store that fails.
    """
    store = PriorStore.open(url)
    found = [(len(store.sample_ids(split)), split, views[0]) for split in store.splits if (views := store.views(split))]
    if not found:
        raise OrsanetError(f"{url}: no view is finished; finish the build first")
    count, split, view = max(found)
    rows = min(count, shards * store.rows_per_unit)
    fields = store.fields(split, view)
    row_bytes = sum(int(np.prod(fields[name].shape[1:])) * fields[name].dtype.itemsize for name in TRAINING_FIELDS)

    def whole_shards() -> float:
        opened, order = PriorStore.open(url), np.arange(rows)
        opened.sealed(split, view)  # as a run does before its first step
        begun = time.perf_counter()
        with opened.ahead(split, [view], TRAINING_FIELDS, np.zeros(rows, np.int64), order) as ahead:
            for start in range(0, rows, store.rows_per_unit):
                ahead.reached(start)
                for name in TRAINING_FIELDS:
                    opened.read(split, view, name, order[start : start + store.rows_per_unit])
        return rows / (time.perf_counter() - begun)

    def with_zarr(batch: int) -> float:
        place = ObjectStore(Bucket.open(url).handle, read_only=True)
        arrays = [zarr.open_array(place, path=f"{split}/{view}/{name}", mode="r") for name in TRAINING_FIELDS]
        order = np.random.default_rng(0).permutation(rows)
        read, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < ZARR_SECONDS and read < rows:
            chosen = np.sort(order[read : read + batch])
            for array in arrays:
                array.oindex[chosen]
            read += len(chosen)
        return read / (time.perf_counter() - begun)

    ways: dict[str, Callable[[], float]] = {
        "whole shards": whole_shards,
        f"zarr-python, {ZARR_ROWS} rows at a time": partial(with_zarr, ZARR_ROWS),
        "zarr-python, row by row": partial(with_zarr, 1),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with Progress(rounds * len(ways), "bench read", "measurement") as progress:
        for _ in range(rounds):
            for name, measure in ways.items():
                rates[name].append(measure())
                progress.update()
    medians = {name: statistics.median(own) for name, own in rates.items()}
    first = medians["whole shards"]
    return rows, row_bytes, [UrlSpeed(name, rate, first / rate) for name, rate in medians.items()]
