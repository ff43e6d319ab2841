"""The exception for mistakes that a user can fix.

Any other exception that escapes is a bug and keeps its traceback.
"""

import reprlib
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

MOST_NAMES, LONGEST_NAME = 1000, 100  # to look for a near name in: a table may have 20,000 classes
BEGINNING = 3  # characters that count as the beginning of a name


class OrsanetError(Exception):
    """A mistake that the user can fix. The message states what is wrong, where, and what to do."""


def listed(findings: list[str], limit: int = 20) -> str:
    """Findings as indented lines. Those beyond `limit` are counted instead of shown."""
    shown = [f"  {finding}" for finding in findings[:limit]]
    if len(findings) > limit:
        shown.append(f"  … and {len(findings) - limit} more")
    return "\n".join(shown)


def few(names: Collection[str], limit: int = 3) -> str:
    """The first `limit` names, and the number of further ones, as text.

    Takes the same time for a million names as for a few.
    """
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(islice(names, limit)) + more


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that `name` was probably meant to be; None if it is one of them, or resembles none.

    A name of which `name` is the beginning goes before others.
    """
    known = {each.lower(): each for each in islice(names, MOST_NAMES) if len(each) <= LONGEST_NAME}
    if name in known.values() or len(name) > LONGEST_NAME:
        return None
    begun = [each for each in known if len(name) >= BEGINNING and each.startswith(name.lower())]
    near = sorted(begun, key=len) or get_close_matches(name.lower(), known, n=1)
    return known[near[0]] if near else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: a question with the nearest of the known names, or nothing."""
    near = nearest(name, names)
    return "" if near is None else f"; did you mean '{near}'?"


def validation_findings(error: "ValidationError", model: "type[BaseModel] | None" = None) -> list[str]:
    """pydantic's findings, one short sentence each: where, what, and the value found.

    `model` is the class that was validated; an unknown key is answered with the nearest of its keys.
    """
    findings = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "top level"
        if item["type"] == "extra_forbidden":
            findings.append(f"{where}: unknown key{'' if model is None else _near_key(where, model)}")
            continue
        met = "" if item["type"] == "missing" else f" (got {reprlib.repr(item['input'])})"
        findings.append(f"{where}: {item['msg']}{met}")
    return findings


def _near_key(unknown: str, model: "type[BaseModel]") -> str:
    """As did_you_mean. The last part of the key is compared, and the key may belong into another table."""
    table, _, leaf = unknown.rpartition(".")
    keys = sorted(_keys(model), key=lambda key: key.rpartition(".")[0] == table)  # the own table's overwrite others
    whole = {key.rpartition(".")[2]: key for key in keys}
    near = leaf if leaf in whole else nearest(leaf, whole)
    return "" if near is None else f"; did you mean '{whole[near]}'?"


def _keys(model: "type[BaseModel]", table: str = "") -> Iterator[str]:
    """The keys of a configuration, those of its tables as table.key."""
    for name, field in model.model_fields.items():
        yield table + name
        if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
            yield from _keys(field.annotation, f"{table}{name}.")
