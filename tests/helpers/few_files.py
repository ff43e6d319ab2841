"""A process that may open few more files, as under a low `ulimit -n`."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from orsanet_cache.errors import ShortageError

MOST = 64  # files that nothing here needs at the same time


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """This process may open at most so many files more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def answers(ask: Callable[[], Any]) -> list[str]:
    """What is said with no file more, with one, with two …, until there is an answer. Any other error is raised."""
    ask()  # imports what it needs
    said: list[str] = []
    for more in range(MOST):
        try:
            with at_most(more):
                ask()
        except ShortageError as error:
            said.append(str(error))
        else:
            return said
    raise AssertionError(f"still no answer with {MOST} files more: {said[-1]}")
