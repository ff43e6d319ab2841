"""The one exception for mistakes a user can mend. Anything else that escapes is a bug and keeps its traceback."""

import reprlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class OrsanetError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to do."""


def listed(findings: list[str], limit: int = 20) -> str:
    """Findings as indented lines, the tail beyond `limit` counted instead of shown."""
    shown = [f"  {finding}" for finding in findings[:limit]]
    if len(findings) > limit:
        shown.append(f"  … and {len(findings) - limit} more")
    return "\n".join(shown)


def validation_findings(error: "ValidationError") -> list[str]:
    """pydantic's findings, one short sentence each: where, what, and the value met."""
    findings = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "the whole"
        met = "" if item["type"] in ("missing", "extra_forbidden") else f" (got {reprlib.repr(item['input'])})"
        message = "unknown key" if item["type"] == "extra_forbidden" else item["msg"]
        findings.append(f"{where}: {message}{met}")
    return findings
