"""Arguments that are a path, the URL of a store or of a run, several paths or several names.

Text is accepted as a path. An argument of a wrong type raises a TypeError that names the argument.

    s3://bucket/faces.zarr ─ as_place ─▶ Url        where a store or a run is meant
                           ─ as_path  ─▶ refused    everywhere else: no file is opened and no folder `s3:` is made
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orsanet_cache.errors import OrsanetError

SCHEMES = ("s3", "gs", "az", "memory")  # of object stores; memory: of this process, for tests
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/{1,2})(.*)", re.DOTALL)  # pathlib leaves one of two slashes


@dataclass(frozen=True)
class Url:
    """The place of a store or of a run in an object store. It never has credentials: those are in the environment."""

    text: str  # without a slash at the end

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.text}/{name}") if name else self

    def __str__(self) -> str:
        return self.text

    @property
    def scheme(self) -> str:
        return self.text.partition(":")[0]

    @property
    def name(self) -> str:
        """The last part, as a path's."""
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """The place above it."""
        return Url(self.text.rpartition("/")[0])


StrPath = str | os.PathLike[str]
Place = Path | Url  # of a store or a run
Kind = Literal["store", "run"]  # what may have a URL
StrPlace = StrPath | Url


def as_path(given: object, what: str) -> Path:
    """A path given as text or as a path.

    Raises TypeError, which names the argument `what`, for any other type, and OrsanetError for a
    URL.
    """
    if isinstance(given, str | os.PathLike) and isinstance(text := os.fspath(given), str):
        if (problem := path_problem(text)) is not None:
            raise OrsanetError(f"{what}: {problem}")
        return Path(given)
    if isinstance(given, Url):
        raise OrsanetError(f"{what}: {path_problem(given.text)}")
    raise TypeError(f"{what}: expected a path (str or os.PathLike), not {_called(given)}")


def as_place(given: object, what: str, kind: Kind = "store") -> Place:
    """The place of a store or a run: a path, or the URL of an object store as text.

    Raises TypeError, which names the argument `what`, for any other type, and OrsanetError for
    other URLs, and for URLs with credentials or parameters.
    """
    if isinstance(given, Url):
        return given
    if isinstance(given, str) and (match := _URL.fullmatch(given)) and match[2] == "//":
        if (problem := place_problem(given, kind)) is not None:
            raise OrsanetError(f"{what}: {problem}")
        return Url(given.rstrip("/"))
    return as_path(given, what)


def path_problem(text: str) -> str | None:
    """Why a text is no path: it is a URL. None for a path."""
    if (match := _URL.fullmatch(text)) is None:
        return None
    return f"{_shown(match)}: a URL is not supported here; give the path of a file or folder of this machine"


def place_problem(text: str, kind: Kind = "store") -> str | None:
    """Why a text is no place of a store or a run. None for a path, and for the URL of a place in an object store."""
    match = _URL.fullmatch(text)
    if match is None:
        return None
    scheme, slashes, rest = match.groups()
    name = "NAME.zarr" if kind == "store" else "NAME"
    if scheme not in SCHEMES or slashes != "//":
        return f"{_shown(match)}: not supported; a {kind} is a folder, or has a URL such as s3://BUCKET/{name} ({', '.join(SCHEMES[:-1])})"
    if re.search("[@?#]", rest):
        return (
            f"{_shown(match)}: give the URL without credentials and parameters; "
            f"they are taken from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL …)"
        )
    bucket, _, below = rest.rstrip("/").partition("/")
    if not bucket or not below or any(part in ("", ".", "..") for part in below.split("/")):
        return f"{_shown(match)}: not the place of a {kind}; write {scheme}://BUCKET/{name}"
    return None


def _shown(match: re.Match[str]) -> str:
    """A URL without what may be secret."""
    return f"{match[1]}://{re.split('[?#]', match[3])[0].rpartition('@')[2]}"


def as_paths(given: object, what: str) -> list[Path]:
    """Several paths. Raises TypeError for any other type, including a single path."""
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        raise TypeError(f"{what}: expected a list of paths, not {_called(given)}")
    return [as_path(path, what) for path in given]


def as_places(given: object, what: str, kind: Kind = "store") -> list[Place]:
    """Several places. Raises TypeError for any other type, including a single path."""
    if isinstance(given, str | bytes | os.PathLike | Url) or not isinstance(given, Iterable):
        raise TypeError(f"{what}: expected a list of paths, not {_called(given)}")
    return [as_place(path, what, kind) for path in given]


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
