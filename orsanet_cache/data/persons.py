"""Who a picture shows: from its name, or from a column of a table."""

import re
from collections.abc import Sequence
from pathlib import Path

from orsanet_cache.data.files import composed
from orsanet_cache.data.manifest import table_rows
from orsanet_cache.errors import OrsanetError, few, listed

COLUMNS = ("identity", "person", "subject")  # any of them tells who a picture shows


def persons_by_name(images: Sequence[str], pattern: re.Pattern[str]) -> dict[str, str]:
    """Image -> the person that `pattern` finds in its path.

    The person is what the pattern's group matches, or without a group the whole match. Raises
    OrsanetError if the pattern does not match every picture.
    """
    persons = {}
    for image in images:
        match = pattern.search(composed(image))
        if match and (person := match.group(pattern.groups)):
            persons[image] = person
    return _all(images, persons, f"--person {pattern.pattern!r} matches")


def persons_of_table(images: Sequence[str], table: Path) -> dict[str, str]:
    """Image -> person, from a CSV `image,person`; the second column may have any name of COLUMNS.

    Raises OrsanetError for another table, and if it does not have every picture.
    """
    findings: list[str] = []
    person_of = persons_in(table, findings)
    if findings:
        raise OrsanetError(f"{table}: {len(findings)} problem(s), nothing was done:\n{listed(findings)}")
    if not person_of:
        raise OrsanetError(f"{table}: no column {' or '.join(COLUMNS)}; add one that tells who a picture shows")
    of_form = {composed(image): person for image, person in person_of.items() if person}
    persons = {image: of_form[composed(image)] for image in images if composed(image) in of_form}
    return _all(images, persons, f"{table} has a person for")


def persons_in(table: Path, findings: list[str]) -> dict[str, str]:
    """Image -> person, from the first column of COLUMNS that the table has; empty if it has none."""
    rows = [row for _, row in table_rows(table, findings, ("image",))]
    column = next((name for name in COLUMNS if rows and name in rows[0]), None)
    return {} if column is None else {row["image"]: row[column].strip() for row in rows}


def _all(images: Sequence[str], persons: dict[str, str], found: str) -> dict[str, str]:
    if unknown := [image for image in images if image not in persons]:
        raise OrsanetError(
            f"{found} {len(persons):,} of {len(images):,} pictures, but not {few(unknown)}; "
            f"a picture without a person could be of anybody in another split"
        )
    return persons
