"""Arguments that are a path, several paths or several names.

Text is accepted as a path. An argument of a wrong type raises a TypeError that names the argument.
"""

import os
from collections.abc import Iterable
from pathlib import Path

StrPath = str | os.PathLike[str]


def as_path(given: object, what: str) -> Path:
    """A path given as text or as a path.

    Raises TypeError, which names the argument `what`, for any other type.
    """
    if isinstance(given, str | os.PathLike) and isinstance(os.fspath(given), str):
        return Path(given)
    raise TypeError(f"{what}: expected a path (str or os.PathLike), not {_called(given)}")


def as_paths(given: object, what: str) -> list[Path]:
    """Several paths. Raises TypeError for any other type, including a single path."""
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        raise TypeError(f"{what}: expected a list of paths, not {_called(given)}")
    return [as_path(path, what) for path in given]


def as_names(given: object, what: str) -> list[str]:
    """Several names. Raises TypeError for any other type, including a single string."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"{what}: expected a list of names, not {_called(given)}")
    names = list(given)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"{what}: expected a list of names (str), but it contains {_called(wrong[0])}")
    return names


def _called(given: object) -> str:
    """The type of an unexpected value, with the value if its text is short."""
    text = repr(given)
    return f"{type(given).__name__} {text}" if len(text) <= 60 else type(given).__name__
