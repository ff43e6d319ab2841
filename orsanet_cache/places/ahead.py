"""Files fetched in the order of their first use, several at a time, ahead of a reader.

    files in order ─ THREADS threads ─▶ copies (copies.py)        at most `most_bytes` ahead of the reader
    reader ─ reached(position) ─▶ …

A file that fails is left to the reader, who asks for it too and gets the reason.
"""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from orsanet_cache.errors import OrsanetError

THREADS = 8


class Wanted(NamedTuple):
    """A file that a reader will need."""

    position: int  # of the reader at its first use
    size: int  # bytes
    fetch: Callable[[], object]


class Ahead:
    """A context manager; its threads end with it. The files that are under way are waited for."""

    def __init__(self, wanted: Sequence[Wanted], most_bytes: float) -> None:
        self._wanted = sorted(wanted, key=lambda file: file.position)
        self._positions = np.array([file.position for file in self._wanted], np.int64)
        self._end = np.cumsum([file.size for file in self._wanted], dtype=np.int64)
        self._most = most_bytes
        self._next = 0
        self._used = 0  # bytes up to the reader
        self._stopped = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._run, name="ahead", daemon=True) for _ in range(THREADS)]

    def __enter__(self) -> Self:
        if self._wanted:
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def reached(self, position: int) -> None:
        """The reader has used all files whose position is below this one."""
        passed = int(np.searchsorted(self._positions, position))
        with self._changed:
            self._used = int(self._end[passed - 1]) if passed else 0
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_go_on)
                if self._stopped or self._next == len(self._wanted):
                    return
                file = self._wanted[self._next]
                self._next += 1
            try:
                file.fetch()
            except (OrsanetError, OSError, ValueError):
                continue

    def _may_go_on(self) -> bool:
        if self._stopped or self._next == len(self._wanted):
            return True
        return (
            int(self._end[self._next]) - self._used <= self._most
            or self._used >= int(self._end[self._next]) - self._wanted[self._next].size
        )
