"""Persons, if the table has them: a person known from training is easier to classify in a test."""

import csv
import io
import tomllib
from pathlib import Path

from orsanet_cache.data.cells import unmarked
from orsanet_cache.data.manifest import read_text, table_of
from orsanet_cache.doctor.finding import Finding, Place
from orsanet_cache.doctor.look import DataSet

COLUMNS = ("identity", "person", "subject")


def read_persons(manifest: Path) -> dict[str, str]:
    """Return image -> person, from the first column of COLUMNS that the manifest's table has.

    The result is empty if the table has no such column. The table must be well formed:
    `load_manifest` has read it before.
    """
    table = manifest
    if manifest.suffix.lower() == ".toml":
        table = table_of(manifest, tomllib.loads(read_text(manifest))["samples"])
    rows = csv.reader(io.StringIO(read_text(table), newline=""))
    header = [name.strip() for name in next(rows)]
    column = next((header.index(name) for name in COLUMNS if name in header), None)
    if column is None:
        return {}
    image = header.index("image")
    return {unmarked(cells[image]): unmarked(cells[column]).strip() for cells in rows if cells}


def judge_persons(data: DataSet) -> list[Finding]:
    """Find persons who are in several splits."""
    named = data.pictures[data.pictures.person != ""]
    splits = named.groupby("person").split.nunique()
    shared = named[named.person.isin(splits.index[splits > 1])]
    if shared.empty:
        return []
    groups = [(str(person), rows) for person, rows in shared.groupby("person")]
    return [
        Finding(
            "warning",
            "person-in-several-splits",
            f"{len(groups):,} of {len(splits):,} persons are in several splits, with {len(shared):,} pictures: a test then also measures recognition of persons from training",
            "keep each person in one split.",
            tuple(Place(tuple(rows.image), f"{person}; {' and '.join(dict.fromkeys(rows.split))}") for person, rows in groups),
        )
    ]  # fmt: skip
