"""Work in a process of its own, which may fail, hang or be killed without harm to what comes after it.

    run_apart ─ fork ─▶ work(send): messages as they come ─▶ receive      its output: a log file
                 └─ after its time: SIGTERM, then SIGKILL

A fork has the modules that are loaded already, which saves seconds. The process that forks must not
have used a GPU or several threads of torch: neither survives a fork.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
LOG_LINES = 40  # of a process that died

Send = Callable[[Any], None]


class _Ended(NamedTuple):
    """The last message of a process."""

    failure: str  # its traceback; empty: it has done its work


def run_apart(work: Callable[[Send], object], seconds: float, receive: Send, log: Path) -> str:
    """Run `work` in a fork, and pass on what it sends.

    Returns why it failed, with a traceback where there is one; an empty string if it has done its
    work. KeyboardInterrupt and other exceptions here end the fork too.

    Args:
        work: Called with a function that sends any value that can be pickled.
        seconds: The longest time.
        receive: Called with every value that was sent.
        log: The file that its standard streams are written to.
    """
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_live, args=(work, theirs, log), daemon=False)
    with warnings.catch_warnings():
        # numpy's idle threads make Python warn of forks; OpenBLAS ends them before a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()  # else its end would not be seen here
    until = time.monotonic() + seconds
    try:
        while ours.poll(max(0.0, until - time.monotonic())):
            message = ours.recv()
            if isinstance(message, _Ended):
                process.join(GRACE)
                return message.failure
            receive(message)
        return f"ended after its {seconds:.0f} s; the figures so far are kept"
    except EOFError:
        process.join()
        number = -(process.exitcode or 0)
        how = f"signal {signal.Signals(number).name}" if number > 0 else f"exit code {process.exitcode}"
        return f"the process died ({how}); the end of its output:\n{_tail(log)}"
    finally:
        _end(process)
        ours.close()


def _end(process: Any) -> None:
    if process.is_alive():
        process.terminate()
        process.join(GRACE)
    if process.is_alive():
        process.kill()
        process.join()


def _live(work: Callable[[Send], object], connection: Connection, log: Path) -> None:
    """The fork's whole life."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    faulthandler.enable(sys.__stderr__ or output)
    failure = ""
    try:
        work(connection.send)
    except Exception:
        failure = traceback.format_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send(_Ended(failure))


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])
