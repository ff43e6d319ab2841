"""The files of a store, by their names, whatever the place.

    Path  ─▶ FolderFiles      a folder of this machine
    Url   ─▶ BucketFiles      an object store as one listing found it (bucket_files.py)
          ─▶ CurrentFiles     the same as it is now

A name is relative, with slashes: "train/clean/zarr.json". Reading raises OSError or ValueError for
anything missing or damaged, as for files of a folder.
"""

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from orsanet_cache.paths import Place, Url
from orsanet_cache.reading import matching, read_limited


class Entry(NamedTuple):
    """A file in a listing."""

    size: int
    e_tag: str | None = None  # of an object store: changes with the content


class Files(ABC):
    """Read access to the files of one place."""

    place: Place

    @abstractmethod
    def read(self, name: str, limit: int) -> bytes:
        """A file's content.

        Raises OSError for a missing one, ValueError for more than `limit` bytes.
        """

    @abstractmethod
    def entries(self, below: str = "") -> dict[str, Entry]:
        """The files below a folder, at any depth, sorted by name."""

    @abstractmethod
    def entry(self, name: str) -> Entry:
        """The entry of one file in a listing. Raises FileNotFoundError if there is none."""

    @abstractmethod
    def subfolders(self, folder: str, having: str) -> list[str]:
        """Names of the folders in a folder that have a file named `having`, sorted.

        Raises OSError for a missing folder.
        """

    @abstractmethod
    def folders(self, having: str, depth: int = 3) -> set[str]:
        """The folders at most `depth` levels down, without the root, that have a file named `having`."""

    def expect(self, names: Iterable[str]) -> None:  # noqa: B027
        """Files that will be read soon. Where a request takes long, they are fetched at once."""

    def nbytes(self) -> int:
        return sum(entry.size for entry in self.entries().values())


class FolderFiles(Files):
    """The files of a folder of this machine. Nothing is remembered: another process may write there."""

    def __init__(self, path: Path) -> None:
        self.place: Place = path
        self.path = path

    def read(self, name: str, limit: int) -> bytes:
        try:
            return read_limited(self.path / name, limit)
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise ValueError(f"{self.path / name} has more than {limit:,} bytes") from error
            raise

    def entries(self, below: str = "") -> dict[str, Entry]:
        entries = {}
        for path in matching(self.path / below, "**/*"):
            with suppress(FileNotFoundError):  # deleted by another process meanwhile
                if path.is_file():
                    entries[path.relative_to(self.path).as_posix()] = Entry(path.stat().st_size)
        return entries

    def entry(self, name: str) -> Entry:
        return Entry((self.path / name).stat().st_size)

    def subfolders(self, folder: str, having: str) -> list[str]:
        with os.scandir(self.path / folder) as entries:  # not glob, which passes over folders that it cannot open
            return sorted(entry.name for entry in entries if os.path.exists(os.path.join(entry.path, having)))

    def folders(self, having: str, depth: int = 3) -> set[str]:
        found = (path for level in range(1, depth + 1) for path in matching(self.path, "*/" * level + having))
        return {path.parent.relative_to(self.path).as_posix() for path in found}


def has_file(place: Place, name: str) -> bool:
    """Whether there is a file of this name. Raises OrsanetError for an object store that cannot be asked."""
    if isinstance(place, Url):
        from orsanet_cache.places.bucket import Bucket

        return Bucket.open(place).entry(name) is not None
    return (place / name).is_file()


def open_files(place: Place) -> Files:
    """The files at a place. Raises OrsanetError for an object store that cannot be read."""
    if isinstance(place, Url):
        from orsanet_cache.places.bucket import Bucket
        from orsanet_cache.places.bucket_files import BucketFiles

        return BucketFiles(Bucket.open(place))
    return FolderFiles(place)
