"""Files that either exist, complete and on the disk, or do not exist at all.

    content → temporary file → fsync → rename or link → fsync of the folder

A process that is killed at any point leaves no incomplete file except temporary ones.

`prepare_folder`, `write_whole` and `read_json` are for results in folders that users name. They
raise OrsanetError.

`own_temporary` gives a process a temporary file that no other process uses, and removes those of
processes that have ended.

Of the file system this needs locks (flock) that exclude, renames that replace, and hard links that
refuse an existing name. `check_excludes` proves the first before anything depends on it; where one
of them is missing, an OrsanetError names the folder.
"""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from orsanet_cache.errors import OrsanetError
from orsanet_cache.reading import MAX_JSON_BYTES, json_of, read_limited

Content = Sequence[bytes | bytearray | memoryview]
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # Lustre without -o flock, NFS without a lock service
_NO_LINKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)  # exFAT and some mounted object stores
_TEMPORARY = re.compile(r"\..+\.orsanet-[0-9a-f]{8}", re.DOTALL)


def write_temporary(path: Path, content: Content) -> None:
    """Write a complete file under a temporary name and fsync it."""
    with open(path, "wb", buffering=0) as file:
        # In one piece, so that the page cache keeps it in large folios. In one measurement, rows of
        # a 385 MB store were then read at 0.77 of the memory's limit instead of 0.44.
        rest = memoryview(b"".join(content))
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def leave_to_disk(descriptor: int) -> None:
    """Fsync a file that was written in small pieces, and drop it from the page cache.

    When the file is then read in order, the page cache keeps it in large folios.
    """
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_folder(folder: Path) -> None:
    """Fsync the folder, so that its entries survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create the folder and its missing parents, and fsync the folder above each new one."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def publish(path: Path, content: Content, temporary: Path) -> None:
    """Write a complete file to `path` and replace a file of that name.

    `temporary` must be on the same file system.
    """
    write_temporary(temporary, content)
    os.replace(temporary, path)
    sync_folder(path.parent)


def publish_new(path: Path, content: Content, temporary: Path) -> bool:
    """As `publish`, but only if `path` does not exist. Returns whether the file was created.

    Raises OrsanetError where the file system has no hard links.
    """
    try:
        write_temporary(temporary, content)
        _link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `own_temporary` gives."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def own_temporary(path: Path) -> Iterator[Path]:
    """A new empty file beside `path` for this process alone, removed at the end if it is still there.

    It is locked meanwhile. Such files that are not locked are of processes that have ended; all of
    them in the folder are removed first.
    """
    _sweep(path.parent)
    while True:
        temporary = path.with_name(f".{path.name}.orsanet-{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            take_lock(descriptor, fcntl.LOCK_EX, temporary)
            if not temporary.exists():  # swept before it was locked
                continue
            yield temporary
            return
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove temporary files whose processes have ended."""
    with os.scandir(folder) as found:
        names = [entry.path for entry in found if is_temporary(entry.name)]
    for name in names:
        with suppress(OSError), locked(Path(name), wait=False):  # in use, of another user, or gone meanwhile
            os.unlink(name)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary file beside `path`, fsync it, then rename it.

    A reader gets the old file or the new one, never a part. Raises OrsanetError if the file cannot
    be written.
    """
    write_all({path: write})


def write_all(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write several files as `write_whole` does. None is replaced before all of them are written.

    Only a kill between their renames leaves some old and some new.
    """
    path = next(iter(files))
    try:
        with ExitStack() as stack:
            written = {}
            for path, write in files.items():
                written[path] = stack.enter_context(own_temporary(path))
                write(written[path])
                with open(written[path], "rb") as content:
                    os.fsync(content.fileno())
            for path, temporary in written.items():
                os.replace(temporary, path)
                sync_folder(path.parent)
    except OSError as error:
        raise OrsanetError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_new(path: Path, content: Content) -> bool:
    """Write a complete file, only if `path` does not exist. Returns whether it was created."""
    with own_temporary(path) as temporary:
        return publish_new(path, content, temporary)


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file whose outermost value is a `kind`, dict or list.

    Raises OrsanetError for a file that is missing, damaged, or not a regular file.
    """
    try:
        content = json_of(read_limited(path, MAX_JSON_BYTES))
        if not isinstance(content, kind):
            raise ValueError(f"a {type(content).__name__}, not a {kind.__name__}")
    except OSError as error:
        raise OrsanetError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise OrsanetError(f"{path}: damaged ({error}); restore it from a copy, or start a new run") from error
    return content


def prepare_folder(path: Path) -> None:
    """Create a folder for results before they are computed.

    Raises OrsanetError if the folder cannot be created or is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OrsanetError(f"{path}: cannot be created ({error.strerror}); choose another folder with --out") from error
    if not os.access(path, os.W_OK):
        raise OrsanetError(f"{path}: is not writable; choose another folder with --out")


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of an existing file. The system releases the lock when the process ends.

    Raises BlockingIOError if `wait` is false and another process holds the lock.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        take_lock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        yield
    finally:
        os.close(descriptor)


def take_lock(descriptor: int, mode: int, path: Path) -> None:
    """`fcntl.flock` on the open file of `path`.

    Raises OrsanetError where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, mode)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise OrsanetError(
            f"{path.parent}: the file system there has no locks (flock: {error.strerror}); choose a folder on another "
            f"one, or have it mounted with locks"
        ) from error


@cache  # once for a file in each process; an exception is not remembered
def check_excludes(path: Path) -> None:
    """Check that the lock of a file, which this process holds, keeps others out.

    A second open file of the same path asks for the lock and must be refused. The check costs two
    system calls. It cannot tell whether the lock is known to other machines: docs/clusters.md.

    Raises OrsanetError if the lock is given twice.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)
    raise OrsanetError(
        f"{path.parent}: the locks (flock) of the file system there exclude nobody, so that two commands could write the "
        f"same files; choose a folder on another one, or have it mounted with locks"
    )


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise OrsanetError(
            f"{path.parent}: the file system there has no hard links ({error.strerror}); choose a folder on another one"
        ) from error
