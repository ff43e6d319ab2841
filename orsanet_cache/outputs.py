"""Folders that commands write: one holder at a time, replaced only if they are ours, and whole.

    held(folder)             a folder that fills in the course of a command: a run, predictions, drawn faces
                             FOLDER/.orsanet-in-use is locked until the command ends
    output_folder(out, …)    a folder that a command writes whole: an evaluation, a report, an export
                             .NAME.orsanet-lock is locked; the files are written into .NAME.orsanet-new and fsynced;
                             then the two folders exchange their names
    temporary_folder(…)      a folder that is removed at the end, or by a later command if its process was killed

The system releases a lock when its process ends, however it ends. A lock file exists only while it
is held; one that a killed process left is used and removed by the next command. A file system whose
locks exclude nobody is refused before anything is written. Single files are in durable.py.
"""

import ctypes
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orsanet_cache.durable import check_excludes, prepare_folder, sync_folder, take_lock
from orsanet_cache.errors import OrsanetError

IN_USE = ".orsanet-in-use"
FIRST_BYTES = 1 << 16  # of a file, in which its mark is looked for
SHARING_SECONDS = 1.0  # a lock that may be shared is free again after that, if no one has it alone
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RENAME_EXCHANGE = 2  # of Linux's renameat2
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # from file systems that cannot, such as NFS

Read = TypeVar("Read")


@dataclass(frozen=True)
class Kind:
    """A kind of folder that a command writes whole.

    Args:
        what: its name in messages, "an evaluation".
        files: the names of its files, each with a regular expression of its first bytes.
        marks: those of the files whose first bytes no other program writes. A folder of this kind
            has one of them at least.
    """

    what: str
    files: Mapping[str, bytes]
    marks: tuple[str, ...]

    def check(self, folder: Path, shown: Path) -> None:
        """Raises OrsanetError if the folder exists and has anything but files of this kind.

        The message names the first file that is not one, and the folder as `shown`.
        """
        if not folder.exists():
            return
        if not folder.is_dir():
            raise OrsanetError(f"{shown}: cannot be created (a file has this name); choose another folder with --out")
        names = sorted(os.listdir(folder))
        foreign = [name for name in names if name not in self.files or not begins(folder / name, self.files[name])]
        if not foreign and not set(names) & set(self.marks):
            foreign = names
        if foreign:
            raise OrsanetError(
                f"{shown / foreign[0]}: is not a file of {self.what}, so nothing in {shown} was replaced; "
                f"choose another folder with --out, or move this one away"
            )
        if not os.access(folder, os.W_OK):
            raise OrsanetError(f"{shown}: is not writable; choose another folder with --out")


def begins(path: Path, pattern: bytes) -> bool:
    """Whether the path is a file, not a link, whose first bytes match a regular expression."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return re.match(pattern, file.read(FIRST_BYTES), re.DOTALL) is not None


def check_file(path: Path, pattern: bytes, what: str) -> None:
    """Raises OrsanetError if the path exists and is not a file that matches (see `begins`).

    `what` is the file's name in the message, "a contact sheet of `orsanet-cache show`". A link to
    such a file is accepted.
    """
    if os.path.lexists(path) and not begins(Path(os.path.realpath(path)), pattern):
        raise OrsanetError(
            f"{path}: is not {what}, so it was not replaced; choose another file with --out, or move this one away"
        )


@contextmanager
def lock_file(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock by its file, which is created if absent, and removed by its last holder.

    Args:
        path: the lock file.
        shared: whether others may hold it at the same time, if they share it too.
        wait: whether to wait for a holder to end.

    Raises BlockingIOError if another process holds the lock and `wait` is false, and OrsanetError
    where the file system has no locks.
    """
    descriptor = _locked_descriptor(path, shared, wait)
    try:
        yield
    finally:
        with suppress(OSError):  # another process shares it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _locked_descriptor(path: Path, shared: bool, wait: bool) -> int:
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    until = time.monotonic() + SHARING_SECONDS * shared
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            take_lock(descriptor, mode, path)
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError:  # a sharer that ends has the lock alone for a moment
            if time.monotonic() >= until:
                os.close(descriptor)
                raise
            time.sleep(0.01)
        except BaseException as error:
            if isinstance(error, OrsanetError):  # there are no locks, so no one holds it
                path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder has removed it meanwhile


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the path is still that of the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


@contextmanager
def held(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a folder, which is created if absent, and removed again if it is still empty at the end.

    `shared`: other processes may hold it at the same time, if they share it too. Raises
    OrsanetError if another process holds it, or if it cannot be created or written.
    """
    with ExitStack() as stack:
        stack.callback(_remove_empty, _missing(folder))
        _hold(stack, folder, folder / IN_USE, lambda: prepare_folder(folder), shared)
        yield


def check_not_held(folder: Path) -> None:
    """Raises OrsanetError if another process holds the folder (`held`)."""
    if (folder / IN_USE).exists():
        with held(folder):
            pass


def entries(folder: Path) -> list[str]:
    """The names in a folder, sorted, without the lock file that `held` makes there."""
    return sorted(name for name in os.listdir(folder) if name != IN_USE)


@contextmanager
def output_folder(out: Path, kind: Kind | None) -> Iterator[Path]:
    """Hold `out`, and yield a new empty folder that takes its place if the context ends well.

    The earlier folder stays whole until then, and for good if the context ends with an exception.
    Where the file system can exchange two names, a kill leaves the earlier folder or the new one.
    Otherwise a kill between two renames may leave neither name; the next command restores it.

    Args:
        out: the folder to write.
        kind: what may be replaced. None: `out` must not exist.

    Raises OrsanetError if `out` may not be replaced, if another process writes it, and if the disk
    is full.
    """
    folder = Path(os.path.realpath(out))
    staged, aside = (folder.with_name(f".{folder.name}.orsanet-{name}") for name in ("new", "old"))
    with ExitStack() as stack:
        stack.callback(_remove_empty, _missing(folder.parent))
        if os.path.ismount(folder):
            raise OrsanetError(f"{out}: is a mount point, which cannot be replaced; name a folder in it with --out")
        lock = folder.with_name(f".{folder.name}.orsanet-lock")
        _hold(stack, out, lock, lambda: prepare_folder(folder.parent), shared=False)
        _restore(folder, aside)
        _remove(staged)
        _check(folder, kind, out)
        with _disk_errors(out, staged):
            staged.mkdir()
            stack.callback(shutil.rmtree, staged, ignore_errors=True)
            yield staged
            _check(folder, kind, out)
            _sync(staged)
            _put(staged, folder, aside)
            sync_folder(folder.parent)


def read_steadily(folder: Path, read: Callable[[Path], Read]) -> Read:
    """`read(folder)`; once more if it failed because a command replaced the folder meanwhile."""
    while True:
        before = folder.stat() if folder.exists() else None
        try:
            return read(folder)
        except OrsanetError:
            now = folder.stat() if folder.exists() else None
            if now is None or (before is not None and os.path.samestat(before, now)):
                raise


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder that is removed at the end. Those that killed processes left are removed first.

    Args:
        prefix: the beginning of its name, of this package alone.
        parent: the folder to make it in. None: the system's folder for temporary files.
    """
    where = Path(tempfile.gettempdir()) if parent is None else parent
    _sweep(where, prefix)
    with ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with suppress(FileNotFoundError):  # swept by another process before it was locked
                stack.enter_context(lock_file(folder / IN_USE, wait=True))
                break
        yield folder


def _sweep(where: Path, prefix: str) -> None:
    """Remove this user's temporary folders whose processes have ended."""
    for folder in where.glob(f"{prefix}*"):
        with suppress(OSError):  # of another user, or gone meanwhile
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            if not any(folder.iterdir()):
                folder.rmdir()  # killed before it was locked
            elif (folder / IN_USE).exists():
                with lock_file(folder / IN_USE):
                    shutil.rmtree(folder)


def _hold(stack: ExitStack, folder: Path, lock: Path, prepare: Callable[[], None], shared: bool) -> None:
    """Hold a lock file for as long as the stack.

    Raises OrsanetError if another process holds it, and where locks exclude nobody.
    """
    while True:
        prepare()
        try:
            stack.enter_context(lock_file(lock, shared=shared))
            check_excludes(lock)
            return
        except FileNotFoundError:  # a command that was refused has removed its empty folder
            continue
        except BlockingIOError:
            raise OrsanetError(
                f"{folder}: another command is writing this folder; let it finish, or choose another folder with --out"
            ) from None
        except OSError as error:
            raise OrsanetError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _missing(folder: Path) -> list[Path]:
    """The folder and those above it that do not exist, from the innermost on."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            if not any(folder.iterdir()):
                folder.rmdir()


def _check(folder: Path, kind: Kind | None, out: Path) -> None:
    if kind is not None:
        kind.check(folder, out)
    elif os.path.lexists(folder):
        raise OrsanetError(f"{out}: already exists; remove it, or choose another --out")


def _restore(folder: Path, aside: Path) -> None:
    """Undo or complete an exchange by two renames that a kill has interrupted."""
    if aside.exists() and not folder.exists():
        aside.rename(folder)
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _put(staged: Path, folder: Path, aside: Path) -> None:
    """Give the staged folder its name. Afterwards `staged` has the earlier folder, or is absent."""
    if not folder.exists() or not any(folder.iterdir()):
        staged.rename(folder)
        return
    shutil.copymode(folder, staged)
    if exchange_names(staged, folder):
        return
    folder.rename(aside)
    staged.rename(folder)
    shutil.rmtree(aside)


def exchange_names(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step. Returns False if the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    here = -100  # AT_FDCWD
    if rename(here, os.fsencode(one), here, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sync(folder: Path) -> None:
    """Fsync everything in a folder, and the folder."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            with open(Path(root) / name, "rb") as written:
                os.fsync(written.fileno())
        sync_folder(Path(root))


@contextmanager
def _disk_errors(out: Path, staged: Path) -> Iterator[None]:
    """Name `out` in an error of writing, instead of the folder beside it."""
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else ""
        if error.errno in _FULL or named.startswith(str(staged)) or named == str(out):
            raise OrsanetError(
                f"{out}: cannot be written ({error.strerror or error}); what was there before is unchanged"
            ) from error
        raise
    except OrsanetError as error:
        if str(staged) not in str(error):
            raise
        raise OrsanetError(str(error).replace(str(staged), str(out))) from error
