"""The files of a store in an object store: as one listing found them, or as they are now."""

import errno
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from orsanet_cache.errors import UnreachableError
from orsanet_cache.places.bucket import THREADS, Bucket
from orsanet_cache.places.files import Entry, Files

KEPT = "zarr.json"  # files of this name are read again and again, so they are kept


class BucketFiles(Files):
    """The files that one listing of a bucket found: a store as it was when it was opened.

    A file that was replaced since is refused, so that no reader mixes two states of a store.
    """

    def __init__(self, bucket: Bucket, below: Iterable[str] = ("",)) -> None:
        """`below` are the folders to list: all."""
        self.bucket = bucket
        self.place = bucket.url
        self._entries = {name: entry for folder in below for name, entry in bucket.entries(folder).items()}
        self._held: dict[str, bytes] = {}

    def read(self, name: str, limit: int) -> bytes:
        entry = self._entries.get(name)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.place / name))
        if entry.size > limit:
            raise ValueError(f"{self.place}/{name} has more than {limit:,} bytes")
        is_kept = name.rpartition("/")[2] == KEPT
        content = self._held.get(name) if is_kept else self._held.pop(name, None)
        if content is None:
            content = self.fetch(name)
            if is_kept:
                self._held[name] = content
        return content

    def fetch(self, name: str) -> bytes:
        """A file's content from the object store. Raises OSError if it was replaced since the listing."""
        content, entry = self.bucket.read(name)
        if entry != self._entries[name]:
            raise UnreachableError(
                errno.ESTALE,
                f"{self.bucket.url / name}: was replaced since the store was opened; run the same command again",
            )
        return content

    def entries(self, below: str = "") -> dict[str, Entry]:
        if not below:
            return dict(self._entries)
        return {name: entry for name, entry in self._entries.items() if name.startswith(f"{below}/")}

    def entry(self, name: str) -> Entry:
        """Raises FileNotFoundError for a file that the listing did not find."""
        if name not in self._entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.bucket.url / name))
        return self._entries[name]

    def subfolders(self, folder: str, having: str) -> list[str]:
        start = f"{folder}/" if folder else ""
        inner = (name[len(start) :].split("/") for name in self._entries if name.startswith(start))
        return sorted(parts[0] for parts in inner if parts[1:] == [having])

    def folders(self, having: str, depth: int = 3) -> set[str]:
        found = (name.rpartition("/") for name in self._entries)
        return {folder for folder, _, name in found if name == having and folder and folder.count("/") < depth}

    def expect(self, names: Iterable[str]) -> None:
        wanted = [name for name in names if name in self._entries and name not in self._held]
        if len(wanted) > 1:
            with ThreadPoolExecutor(THREADS, "fetch") as pool:
                found = zip(wanted, pool.map(self._fetched, wanted), strict=True)
                self._held.update((name, content) for name, content in found if content is not None)

    def _fetched(self, name: str) -> bytes | None:
        """As `fetch`; None for a file that is not there any more, of which its reader is told."""
        try:
            return self.fetch(name)
        except FileNotFoundError:
            return None
        except UnreachableError as error:
            if error.errno != errno.ESTALE:
                raise
            return None


class CurrentFiles(Files):
    """The files of a bucket as they are now: every question is a request."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.place = bucket.url
        self._found: dict[str, bytes] = {}  # by `subfolders`, to be read once

    def read(self, name: str, limit: int) -> bytes:
        content = self._found.pop(name, None)
        return self.bucket.read(name, limit)[0] if content is None else content

    def fetch(self, name: str) -> bytes:
        return self.bucket.read(name)[0]

    def entries(self, below: str = "") -> dict[str, Entry]:
        return self.bucket.entries(below)

    def entry(self, name: str) -> Entry:
        if (entry := self.bucket.entry(name)) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.place / name))
        return entry

    def subfolders(self, folder: str, having: str) -> list[str]:
        names = {name: f"{folder}/{name}/{having}".lstrip("/") for name in self.bucket.folders(folder)}

        def fetched(name: str) -> bytes | None:
            with suppress(FileNotFoundError):
                return self.bucket.read(name)[0]
            return None

        with ThreadPoolExecutor(THREADS, "look") as pool:
            found = zip(names.values(), pool.map(fetched, names.values()), strict=True)
            self._found = {name: content for name, content in found if content is not None}
        return [name for name, file in names.items() if file in self._found]

    def folders(self, having: str, depth: int = 3) -> set[str]:
        found = (name.rpartition("/") for name in self.entries())
        return {folder for folder, _, name in found if name == having and folder and folder.count("/") < depth}
