"""A process that may open few more files, as under a low `ulimit -n`."""

import itertools
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
    # The limit is on the number of a file, and free numbers lie between those that earlier tests left open.
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    used = {number for number in numbers if os.path.lexists(f"/proc/self/fd/{number}")}  # not that of the listing
    free = (number for number in itertools.count() if number not in used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, more, None)), limits[1]))
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
