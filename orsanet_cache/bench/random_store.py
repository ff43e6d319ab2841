"""Stores of random values, for measurements to which the values do not matter.

Every unit has the same rows: numbers are drawn once, and gigabytes are written as fast as the disk
takes them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.paths import StrPlace
from orsanet_cache.progress import Progress
from orsanet_cache.store.schema import LAPA_CLASSES, Field
from orsanet_cache.store.units import Unit, UnitRecord
from orsanet_cache.writing.writer import StoreWriter

Arrays = dict[str, NDArray[Any]]


class RandomSplit(NamedTuple):
    """The sample ids of a split, and its views."""

    ids: Sequence[str]
    views: Sequence[str]


def write_random_store(
    path: StrPlace,
    fields: Sequence[Field],
    splits: Mapping[str, RandomSplit],
    values: Callable[[Unit], Arrays] | None = None,
    rows_per_unit: int | None = None,
) -> None:
    """Write a sealed store.

    Args:
        path: The store, a Zarr folder or a URL, that does not exist yet.
        fields: The fields of every view.
        splits: The splits by name.
        values: Returns the arrays of a unit. None means random values.
        rows_per_unit: Rows of a unit; None means the default.
    """
    with StoreWriter.open(path, {"benchmark": True}, fields, rows_per_unit=rows_per_unit) as writer:
        for name, split in splits.items():
            writer.add_split(name, split.ids)
        work = [(unit, view) for name, split in splits.items() for unit in writer.units(name) for view in split.views]
        if values is None:
            values = random_values(fields, max((unit.stop - unit.start for unit, _ in work), default=0))
        for name, split in splits.items():
            for view in split.views:
                writer.add_view(name, view)
        with Progress(len(work), "write store", "unit") as progress:
            for unit, view in work:
                digests = [hashlib.sha256(one.encode()).hexdigest() for one in splits[unit.split].ids[unit.rows]]
                writer.commit(unit, view, values(unit), UnitRecord(digests, {}))
                progress.update()
        for name, split in splits.items():
            for view in split.views:
                writer.seal(name, view, {})


def random_values(fields: Sequence[Field], rows: int) -> Callable[[Unit], Arrays]:
    """The first of `rows` random rows for every unit.

    Pictures are uniform, features normal. A compressed map has one class in each column, because
    noise would not compress.
    """
    drawn = random_arrays(np.random.default_rng(0), rows, fields)
    return lambda unit: {name: values[: unit.stop - unit.start] for name, values in drawn.items()}


def random_arrays(rng: np.random.Generator, rows: int, fields: Sequence[Field]) -> Arrays:
    """Random values of all fields, each [rows, …]."""
    return {field.name: _random(rng, rows, field) for field in fields}


def _random(rng: np.random.Generator, count: int, field: Field) -> NDArray[Any]:
    if field.compressed:  # a map: a few large parts
        columns = rng.integers(0, len(LAPA_CLASSES), (count, 1, *field.shape[1:]), np.uint8)
        return np.repeat(columns, field.shape[0], axis=1)
    if np.dtype(field.dtype).kind == "f":
        return rng.standard_normal((count, *field.shape), np.float32).astype(field.dtype)
    return rng.integers(0, 127, (count, *field.shape), np.dtype(field.dtype))
