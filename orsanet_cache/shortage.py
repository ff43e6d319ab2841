"""Errors that mean a lack of open files, memory or threads.

They say nothing about the files that were being read. Code that takes an exception for damage, or
goes on after it, calls `refuse_shortage` first.
"""

import errno
import re
from collections.abc import Iterator

_AGAIN = "and run the same command again"
_FILES = f"allow more with `ulimit -n 4096`, {_AGAIN}"
_MEMORY = f"end other programs, or allow this one more (`ulimit -v`, the job's limit), {_AGAIN}"
_NUMBERS = {
    errno.EMFILE: ("too many open files in this process", _FILES),
    errno.ENFILE: ("too many open files on this machine", f"end other programs, {_AGAIN}"),
    errno.ENOMEM: ("too little memory", _MEMORY),
}
# Of libraries that raise their own types only the text is left.
_TEXTS = (
    (re.compile("Too many open files"), _NUMBERS[errno.EMFILE]),
    (
        re.compile(
            "(can't|cannot|failed to) allocate|failed to map segment|out of memory|(not enough|insufficient) memory|bad_alloc",
            re.IGNORECASE,
        ),
        _NUMBERS[errno.ENOMEM],
    ),
    (re.compile("can't start new thread"), ("too many threads", f"allow more with `ulimit -u`, {_AGAIN}")),
)


class ShortageError(Exception):
    """The system refused open files, memory or threads. The message names which, and what to do.

    It is not an OrsanetError: code that goes on after a mistake of the user must not go on after
    this.
    """


def shortage(error: BaseException, where: object = None) -> ShortageError | None:
    """The shortage that caused an exception, itself or one in its chain of causes; None if there is none.

    `where` is the file or folder that was in use, for the message.
    """
    for cause in _chain(error):
        if isinstance(cause, ShortageError):
            return cause
        if (known := _known(cause)) is not None:
            what, advice = known
            place = "" if where is None else f"{where}: "
            return ShortageError(f"{place}{what} ({_first_line(cause)}); {advice}")
    return None


def refuse_shortage(error: BaseException, where: object = None) -> None:
    """Raise ShortageError if a shortage caused the exception. Arguments as for `shortage`."""
    if (short := shortage(error, where)) is not None:
        raise short from error


def _known(error: BaseException) -> tuple[str, str] | None:
    """What is short, and what to do about it."""
    if isinstance(error, MemoryError):
        return _NUMBERS[errno.ENOMEM]
    if isinstance(error, OSError):  # without a number it is a library's own: Pillow's, for a damaged picture
        return None if error.errno is None else _NUMBERS.get(error.errno)
    return next((known for pattern, known in _TEXTS if pattern.search(str(error))), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, its cause, the cause's cause and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__context__ if cause.__cause__ is None else cause.__cause__


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
