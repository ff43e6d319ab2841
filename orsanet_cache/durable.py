"""Files that are either there, whole and on the disk, or not there at all.

    content → temporary file → fsync → rename or link → fsync of the folder

A process killed at any point leaves temporaries behind, and nothing else that is not whole.

`prepare_folder`, `write_whole` and `read_json` are for results in folders that users name: they raise OrsanetError.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orsanet_cache.errors import OrsanetError

Content = Sequence[bytes | bytearray | memoryview]


def write_temporary(path: Path, content: Content) -> None:
    """Write a file whole and have it on the disk, under a name that means nothing yet."""
    with open(path, "wb", buffering=0) as file:
        # In one piece: the page cache then keeps it in large folios. Rows of a 385 MB store were read from them, measured once, at 0.77
        # of the memory's limit instead of 0.44.
        rest = memoryview(b"".join(content))
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def leave_to_disk(descriptor: int) -> None:
    """Have a file that was written in small pieces on the disk, and from now on read from there.

    Read back in order, it then lies in large folios too.
    """
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_folder(folder: Path) -> None:
    """Names given in the folder survive a power cut from here on."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create the folder and those above it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def publish(path: Path, content: Content, temporary: Path) -> None:
    """Put a whole file in the place of whatever has that name. `temporary` must be on the same file system."""
    write_temporary(temporary, content)
    os.replace(temporary, path)
    sync_folder(path.parent)


def publish_new(path: Path, content: Content, temporary: Path) -> bool:
    """As `publish`, but only where nothing has that name; says whether it did."""
    try:
        write_temporary(temporary, content)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary name beside `path`, have it on the disk, then rename: readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OrsanetError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Raises OrsanetError for a damaged file."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise OrsanetError(f"{path}: damaged ({error}); start a new run") from error


def prepare_folder(path: Path) -> None:
    """Make a folder for results, before they are computed. Raises OrsanetError where nothing could be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OrsanetError(f"{path}: cannot be made ({error.strerror}); choose another folder with --out") from error
    if not os.access(path, os.W_OK):
        raise OrsanetError(f"{path}: cannot be written into; choose another folder with --out")


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of an existing file; it ends with the process, however that ends.

    Raises BlockingIOError where `wait` is false and another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
