"""Calls of the operating system that change a disk, of which some fail."""

import builtins
import errno
import io
import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Faults:
    """Counts the calls of a kind that change a disk, and makes some of them fail."""

    def __init__(self, at: int, number: int, lasting: bool) -> None:
        self.at, self.number, self.lasting = at, number, lasting
        self.calls = 0
        self._lock = threading.Lock()

    def due(self) -> bool:
        with self._lock:
            self.calls += 1
            return bool(self.at) and (self.calls >= self.at if self.lasting else self.calls == self.at)

    def raise_if_due(self) -> None:
        if self.due():
            raise self.error()

    def error(self) -> OSError:
        return OSError(self.number, os.strerror(self.number))


@contextmanager
def faults(call: str, at: int = 0, number: int = errno.EIO, lasting: bool = False) -> Iterator[Faults]:
    """The at-th call of this kind fails, counted from 1, and all after it where the fault is lasting; none where `at` is 0."""
    found = Faults(at, number, lasting)
    real_open = builtins.open

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            if call == "write" and found.due():
                super().write(memoryview(data)[: len(data) // 2])  # as a disk does that fills up
                raise found.error()
            return super().write(data)

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode != "wb":
            return real_open(file, mode, *arguments, **options)
        if call == "create":
            found.raise_if_due()
        return File(file, "w")

    with pytest.MonkeyPatch.context() as patch:
        if call in ("write", "create"):
            patch.setattr(builtins, "open", opened)
        else:
            real = getattr(os, call)

            def wrapped(*arguments: Any, **options: Any) -> Any:
                found.raise_if_due()
                return real(*arguments, **options)

            patch.setattr(os, call, wrapped)
        yield found


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Writes beyond `limit` bytes of a file fail with an OSError, as on a full disk (Python ignores the signal).

    Python itself would leave bytecode that is cut off (cpython#126606), so it writes none meanwhile.
    """
    (soft, hard), bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = bytecode


FAULTS = {  # kind of call -> what goes wrong, does it last, how many calls a build has at least
    "write": (errno.ENOSPC, True, 25),
    "create": (errno.ENOSPC, True, 25),
    "mkdir": (errno.ENOSPC, True, 12),
    "link": (errno.EIO, False, 3),
    "fsync": (errno.EIO, False, 60),
    "replace": (errno.EIO, False, 20),
    "unlink": (errno.EIO, False, 5),
    "rmdir": (errno.EIO, False, 3),
}
