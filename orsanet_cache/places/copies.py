"""Copies of an object store's files on this machine: fetched whole, checked once, kept while they fit.

    name ─ is there a copy? ─▶ descriptor
           └ no ─ its lock ─▶ GET ─▶ temporary file ─ check ─▶ rename ─▶ descriptor

`Cache` is a folder that processes share and that outlives them. Its files are named by a digest of
URL, name, e_tag and size: a file that was replaced in the object store has another name, and so does
that of another store. A kill leaves at most a temporary file, which the next process removes. When a
file does not fit, the oldest ones are removed; who has them open reads on.

`Passing` is for commands that read a store once: anonymous temporary files, of which a few are kept.

The check of a new copy is the caller's (rows against the checksums under the view's seal), and so is
the check at a process's first read of a row. A copy that was changed later on this machine fails
that, is dropped and fetched again (`drop`).
"""

import errno
import hashlib
import os
import re
import shutil
import tempfile
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orsanet_cache.durable import make_folder, own_temporary
from orsanet_cache.errors import OrsanetError, UnreachableError
from orsanet_cache.outputs import lock_file
from orsanet_cache.places.bucket_files import BucketFiles, CurrentFiles
from orsanet_cache.reading import open_regular

SHARDS, INCOMING = "orsanet-shards", "incoming"  # folders in the cache's folder
PASSING_BYTES = 2 * 1024**3
FREE_SHARE = 0.9  # of the disk's free space, for a cache of no given size
SHARERS = 16  # processes that may fill the same cache between two looks at it
_COPY = re.compile("[0-9a-f]{40}")

Check = Callable[[int], object]  # of a descriptor; raises an exception for damage


class Copies(ABC):
    """Files of one object store, as descriptors of local files."""

    limit: int  # bytes

    def __init__(self, files: BucketFiles | CurrentFiles) -> None:
        self.files = files

    @abstractmethod
    def open(self, name: str, check: Check) -> int:
        """A descriptor of a file's copy; the caller closes it.

        A copy that is made now is checked before it gets its name. A damaged one is fetched once
        more; then the exception of `check` is raised.
        """

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is a copy."""

    @abstractmethod
    def drop(self, name: str) -> None:
        """Forget a damaged copy."""

    def _fetched(self, name: str, path: Path, check: Check) -> None:
        """Fetch a file to `path`, checked."""
        for attempt in (1, 2):
            content = self.files.fetch(name)
            try:
                path.write_bytes(content)
            except OSError as error:
                raise UnreachableError(
                    error.errno or errno.EIO,
                    f"{path.parent}: a file of {self.files.bucket.url} cannot be kept here ({error.strerror}); free some space, or "
                    f"choose another --cache or a smaller --cache-size",
                ) from error
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                check(descriptor)
                return
            except ValueError:
                if attempt == 2:
                    raise
            finally:
                os.close(descriptor)


@dataclass(frozen=True)
class CacheSettings:
    """A cache's folder, and the bytes that it may have; None: most of what is free on its disk."""

    folder: Path
    limit: int | None = None


class Cache(Copies):
    """Copies in a folder that processes share.

    Raises OrsanetError for a folder that cannot be written.
    """

    def __init__(self, files: BucketFiles, settings: CacheSettings) -> None:
        super().__init__(files)
        self.folder = settings.folder / SHARDS
        try:
            make_folder(self.folder / INCOMING)
        except OSError as error:
            raise OrsanetError(
                f"{settings.folder}: the cache cannot be written ({error.strerror}); choose another --cache"
            ) from error
        there = self._sizes()
        free = int(shutil.disk_usage(self.folder).free * FREE_SHARE)
        self.limit = free + sum(there.values()) if settings.limit is None else settings.limit
        self.fetched = 0  # files that this object fetched
        self._lock = threading.Lock()
        self._known, self._added = sum(there.values()), 0  # bytes at the last look, and bytes added since

    def open(self, name: str, check: Check) -> int:
        path = self.folder / self._file_name(name)
        with suppress(FileNotFoundError):
            return open_regular(path)
        with lock_file(self.folder / INCOMING / f"{path.name}.lock", wait=True):
            with suppress(FileNotFoundError):  # another process was faster
                return open_regular(path)
            self._make_room(self.files.entry(name).size)
            with own_temporary(self.folder / INCOMING / path.name) as temporary:
                self._fetched(name, temporary, check)
                descriptor = open_regular(temporary)
                os.replace(temporary, path)
        with self._lock:
            self.fetched += 1
        return descriptor

    def drop(self, name: str) -> None:
        (self.folder / self._file_name(name)).unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        return (self.folder / self._file_name(name)).exists()

    def _file_name(self, name: str) -> str:
        entry = self.files.entry(name)
        identity = "\0".join(map(str, (self.files.bucket.url, name, entry.size, entry.e_tag)))
        return hashlib.sha256(identity.encode()).hexdigest()[:40]

    def _make_room(self, size: int) -> None:
        """Remove the oldest copies until `size` more bytes fit. The folder is looked at only where others may have filled it."""
        if size > self.limit:
            raise OrsanetError(
                f"{self.folder}: a file of the store has {size / 1e9:.3f} GB, more than the cache may have; raise --cache-size"
            )
        with self._lock:
            self._added += size
            if self._known + SHARERS * self._added <= self.limit:
                return
            sizes = self._sizes()
            total = sum(sizes.values()) + size
            for path, of_file in sizes.items():
                if total <= self.limit:
                    break
                with suppress(FileNotFoundError):
                    path.unlink()
                    total -= of_file
            self._known, self._added = total, 0

    def _sizes(self) -> dict[Path, int]:
        """The copies, the oldest first, and their sizes."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed meanwhile
                    if _COPY.fullmatch(entry.name):
                        status = entry.stat()
                        found.append((status.st_mtime_ns, Path(entry.path), status.st_size))
        return {path: size for _, path, size in sorted(found)}


class Passing(Copies):
    """Copies without a name, the last ones of PASSING_BYTES; they end with the process, however it ends."""

    limit = PASSING_BYTES

    def __init__(self, files: BucketFiles | CurrentFiles) -> None:
        super().__init__(files)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, int] = OrderedDict()  # name -> descriptor

    def open(self, name: str, check: Check) -> int:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return os.dup(self._kept[name])
        with tempfile.NamedTemporaryFile(prefix="orsanet-shard-") as file:
            self._fetched(name, Path(file.name), check)
            descriptor = os.open(file.name, os.O_RDONLY | os.O_CLOEXEC)
        with self._lock:
            if name in self._kept:  # another thread was faster
                os.close(descriptor)
            else:
                self._kept[name] = descriptor
            while len(self._kept) > 1 and sum(self.files.entry(kept).size for kept in self._kept) > self.limit:
                os.close(self._kept.popitem(last=False)[1])
            self._kept.move_to_end(name)
            return os.dup(self._kept[name])

    def has(self, name: str) -> bool:
        with self._lock:
            return name in self._kept

    def drop(self, name: str) -> None:
        with self._lock:
            if name in self._kept:
                os.close(self._kept.pop(name))

    def __del__(self) -> None:
        for descriptor in getattr(self, "_kept", {}).values():
            os.close(descriptor)
