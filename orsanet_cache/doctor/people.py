"""Persons, if the table has them: a person known from training is easier to classify in a test."""

import tomllib
from pathlib import Path

from orsanet_cache.data.manifest import PERSON_COLUMNS, read_text, table_of, table_rows
from orsanet_cache.doctor.finding import Finding, Place
from orsanet_cache.doctor.look import DataSet


def read_persons(manifest: Path) -> dict[str, str]:
    """Return image -> person, from the first column of PERSON_COLUMNS that the manifest's table has.

    The result is empty if the table has no such column. The table must be well formed:
    `load_manifest` has read it before.
    """
    table = manifest
    if manifest.suffix.lower() == ".toml":
        table = table_of(manifest, tomllib.loads(read_text(manifest))["samples"])
    rows = [row for _, row in table_rows(table, [], ("image",))]
    column = next((name for name in PERSON_COLUMNS if rows and name in rows[0]), None)
    return {} if column is None else {row["image"]: row[column].strip() for row in rows}


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
