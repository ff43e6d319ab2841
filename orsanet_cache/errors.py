"""The one exception for mistakes a user can mend. Anything else that escapes is a bug and keeps its traceback."""


class OrsanetError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to do."""


def listed(findings: list[str], limit: int = 20) -> str:
    """Findings as indented lines, the tail beyond `limit` counted instead of shown."""
    shown = [f"  {finding}" for finding in findings[:limit]]
    if len(findings) > limit:
        shown.append(f"  … and {len(findings) - limit} more")
    return "\n".join(shown)
