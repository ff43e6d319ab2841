"""Who a picture shows, from its name or from a table, so that whole persons stay in one split."""

import re
from dataclasses import replace
from pathlib import Path

from orsanet_cache.data.files import composed
from orsanet_cache.data.manifest import PERSON_COLUMNS, table_rows
from orsanet_cache.errors import OrsanetError, few, listed
from orsanet_cache.layouts.found import DataSet


def with_persons_by_name(data: DataSet, pattern: re.Pattern[str]) -> DataSet:
    """Return the same samples with the person that `pattern` finds in each path below ROOT.

    The person is what the pattern's group matches, or without a group the whole match. Raises
    OrsanetError if the pattern does not match every picture.
    """
    persons = {}
    for sample in data.samples:
        match = pattern.search(composed(sample.image))
        if match and (person := match.group(pattern.groups)):
            persons[sample.image] = person
    return _with_persons(data, persons, f"--person {pattern.pattern!r} matches")


def with_persons_of_table(data: DataSet, table: Path) -> DataSet:
    """Return the same samples with the persons of a CSV `image,person`; the second column may also have
    another name of PERSON_COLUMNS.

    `image` is the path below ROOT. Raises OrsanetError for another table, and if it does not have
    every picture.
    """
    findings: list[str] = []
    rows = [row for _, row in table_rows(table, findings, ("image",))]
    if findings:
        raise OrsanetError(f"{table}: {len(findings)} problem(s), nothing was done:\n{listed(findings)}")
    column = next((name for name in PERSON_COLUMNS if rows and name in rows[0]), None)
    if column is None:
        raise OrsanetError(f"{table}: no column {' or '.join(PERSON_COLUMNS)}; add one that tells who a picture shows")
    person_of = {composed(row["image"]): row[column].strip() for row in rows}
    persons = {sample.image: person for sample in data.samples if (person := person_of.get(composed(sample.image), ""))}
    return _with_persons(data, persons, f"{table} has a person for")


def _with_persons(data: DataSet, persons: dict[str, str], found: str) -> DataSet:
    if unknown := [sample.image for sample in data.samples if sample.image not in persons]:
        raise OrsanetError(
            f"{found} {len(persons):,} of {len(data.samples):,} pictures, but not {few(unknown)}; "
            f"a picture without a person could be of anybody in another split"
        )
    return replace(data, persons=persons)
