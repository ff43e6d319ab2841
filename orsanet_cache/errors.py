"""The exception for mistakes that a user can fix.

Any other exception that escapes is a bug and keeps its traceback.
"""

import reprlib
from collections.abc import Collection
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


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


def validation_findings(error: "ValidationError") -> list[str]:
    """pydantic's findings, one short sentence each: where, what, and the value found."""
    findings = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "top level"
        met = "" if item["type"] in ("missing", "extra_forbidden") else f" (got {reprlib.repr(item['input'])})"
        message = "unknown key" if item["type"] == "extra_forbidden" else item["msg"]
        findings.append(f"{where}: {message}{met}")
    return findings
