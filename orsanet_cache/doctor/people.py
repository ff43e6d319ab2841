"""Persons, if the table has them: a person known from training is easier to classify in a test."""

import tomllib
from pathlib import Path

from orsanet_cache.data.manifest import read_text, table_of
from orsanet_cache.data.persons import persons_in
from orsanet_cache.doctor.finding import Finding, Place
from orsanet_cache.doctor.look import DataSet


def read_persons(manifest: Path) -> dict[str, str]:
    """Return image -> person, if the manifest's table has a column that tells it; else an empty dictionary.

    The table must be well formed: `load_manifest` has read it before.
    """
    table = manifest
    if manifest.suffix.lower() == ".toml":
        table = table_of(manifest, tomllib.loads(read_text(manifest))["samples"])
    return persons_in(table, [])


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
