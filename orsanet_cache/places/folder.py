"""A folder of this machine, or of a file system that machines share, as the place where a store is written.

    STORE/.commits/
      parts/2of4.lock     held by the process that builds part 2 of 4 until it ends
      parts/2of4/         its temporary files
      parts/seal.lock     held by the process that seals

The store's lock is that of its root file. Every file is written and fsynced under a temporary name
and then renamed (durable.py).
"""

import math
import os
import shutil
import socket
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from orsanet_cache.durable import (
    Content,
    check_excludes,
    locked,
    make_folder,
    publish,
    publish_new,
    sync_folder,
    write_temporary,
)
from orsanet_cache.errors import OrsanetError
from orsanet_cache.places.copies import Copies
from orsanet_cache.places.destination import Destination, Staging
from orsanet_cache.places.files import Entry, Files, FolderFiles
from orsanet_cache.reading import matching


class FolderOutput:
    """Files of a folder, each whole or not there."""

    def __init__(self, path: Path, temporary: Path) -> None:
        """`temporary` is the name for a file while it is written.

        It must be on the same file system, and unique.
        """
        self.path = path
        self.temporary = temporary
        self.files: Files = FolderFiles(path)

    def publish(self, name: str, content: Content) -> None:
        """Write a whole file, in place of an earlier one. Its folder is created if necessary."""
        path = self.path / name
        make_folder(path.parent)
        publish(path, content, self.temporary)

    def create(self, name: str, content: Content) -> Entry | None:
        """As `publish`, if there is no such file -> its entry; None if there is one."""
        path = self.path / name
        make_folder(path.parent)
        return Entry(sum(map(len, content))) if publish_new(path, content, self.temporary) else None


class FolderDestination(FolderOutput, Destination):
    """As Destination."""

    excludes = True
    most_bytes = math.inf

    def __init__(self, path: Path, root: str, commits: str) -> None:
        super().__init__(path, path)
        self.place = path
        self._root = path / root
        self._commits = path / commits
        self._parts = self._commits / "parts"
        self._own = self._parts / "none"  # this part's folder
        self._held = ExitStack()

    def begin(self, root: bytes) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise OrsanetError(
                f"{self.path}: is a file. A build writes a Zarr folder, because an interruption does not damage it; "
                f"choose another --out, then convert the folder to an HDF5 file with `orsanet-cache convert`"
            )
        self._refuse_links()
        if self._is_new():
            make_folder(self._commits)
            temporary = self._commits / f"begun-{socket.gethostname()}-{os.getpid()}"
            # Not found: another process was faster, finished the whole store, and deleted the folder.
            with suppress(FileNotFoundError):
                publish_new(self._root, [root], temporary)

    def enter(self, part: str) -> None:
        with self.locked():
            check_excludes(self._root)
            self._take(part)

    def join(self, name: str, holder: str) -> None:
        if not self._root.is_file() or not (self._parts / f"{holder.replace('/', 'of')}.lock").is_file():
            raise OrsanetError(
                f"{self.path}: is not the folder that is being built, as seen from this machine; build into a folder of a file system "
                f"that all machines share, under the same path, or to a URL"
            )
        with self.locked():
            self._own = self._parts / name
            if holder.replace("/", "of") not in {path.stem for path in self._other_locks(free=False)}:
                raise OrsanetError(
                    f"{self.path}: the lock of the process that builds it does not exclude this machine's processes; use a file system "
                    f"whose locks do (docs/clusters.md), or build to a URL"
                )
            self._take(name)

    def leave(self, is_finished: Callable[[], bool]) -> None:
        try:
            with self.locked():
                shutil.rmtree(self._own)
                self._held.close()  # before the store's lock, so that the last of two processes finds this lock free
                if is_finished() and not any(self._other_locks(free=False)):
                    shutil.rmtree(self._commits)
        finally:
            self._held.close()

    def locked(self) -> AbstractContextManager[object]:
        return locked(self._root)

    def sealing(self) -> AbstractContextManager[object]:
        return locked(self._lock_file("seal"))

    def claim(self, name: str, content: Content) -> bool:
        self.publish(name, content)
        return True

    def exchange(self, name: str, before: bytes, content: Content) -> bool:
        self.publish(name, content)
        return True

    def publish_all(self, files: Iterable[tuple[str, Content]]) -> None:
        for name, content in files:
            self.publish(name, content)

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        yield _Renames(self.path, self._own)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.path / name
            with suppress(FileNotFoundError):
                path.unlink()
                sync_folder(path.parent)

    def delete_folder(self, name: str) -> None:
        shutil.rmtree(self.path / name, ignore_errors=True)

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self.path / folder)
        except FileNotFoundError:
            return []

    def copies(self) -> Copies | None:
        return None

    def look(self, *folders: str) -> Files:
        return self.files

    def stamp(self, name: str) -> Hashable:
        try:
            return _stamp(os.stat(self.path / name))
        except FileNotFoundError:
            return None

    def stamps(self, folder: str) -> Mapping[str, Hashable]:
        try:
            with os.scandir(self.path / folder) as entries:
                found = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".json")]
        except FileNotFoundError:
            return {}
        return {name: _stamp(status) for name, status in found}

    def folders(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir() if entry.is_dir() and entry != self._commits)

    def _take(self, part: str) -> None:
        """Lock the part, and delete the temporary files of processes that have ended."""
        self._own = self._parts / part.replace("/", "of")
        self.temporary = self._own / "published"
        make_folder(self._parts)
        for lock in self._other_locks(free=True):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        try:
            self._held.enter_context(locked(self._lock_file(self._own.name), wait=False))
        except BlockingIOError:
            raise OrsanetError(
                f"another process is building part {part} of {self.path}; let it finish, or give each process its own --part"
            ) from None
        try:
            shutil.rmtree(self._own, ignore_errors=True)
            make_folder(self._own)
        except BaseException:
            self._held.close()  # no `with` block does it yet
            raise

    def _lock_file(self, name: str) -> Path:
        path = self._parts / f"{name}.lock"
        path.touch()
        return path

    def _other_locks(self, free: bool) -> Iterator[Path]:
        """Lock files of other parts and of sealing that are free, or that a process holds."""
        for path in sorted(self._parts.iterdir()):  # not glob, which passes over folders that it cannot open
            if path.suffix != ".lock" or path.stem == self._own.name:
                continue
            try:
                with locked(path, wait=False):
                    is_free = True
            except BlockingIOError:
                is_free = False
            if is_free == free:
                yield path

    def _is_new(self) -> bool:
        """Whether the folder has no store yet.

        It may contain the remains of a start that was killed before the root was there.
        """
        if not self.path.exists():
            return True
        return all(entry == self._commits for entry in self.path.iterdir()) and (
            not self._commits.exists() or all(entry.name.startswith("begun-") for entry in self._commits.iterdir())
        )

    def _refuse_links(self) -> None:
        """Raises OrsanetError for a link in the store, so that only the store is deleted or written."""
        commits = self._commits.name
        levels = (commits, f"{commits}/*", f"{commits}/*/*", "*", "*/*", "*/*/*", "*/*/*/*.json", "*/*/crc32c/*")
        for entry in (entry for level in levels for entry in matching(self.path, level)):
            if entry.is_symlink():
                raise OrsanetError(
                    f"{entry} is a link, and a build creates none; remove it and run the same command again"
                )


class _Renames(Staging):
    """Temporary files, named after the folders that they will be in, and their renames."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self._folder = folder
        self._written: dict[Path, tuple[str, int]] = {}

    def add(self, name: str, content: Content) -> None:
        temporary = self._folder / f"{Path(name).parent.name}.shard"
        write_temporary(temporary, content)
        self._written[temporary] = name, sum(map(len, content))

    def publish(self, is_taken: Callable[[], bool]) -> dict[str, Entry] | None:
        for temporary, (name, _) in self._written.items():
            path = self._path / name
            os.replace(temporary, path)
            sync_folder(path.parent)
        return {name: Entry(size) for name, size in self._written.values()}


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
