"""Commands in this process: another one would load torch first, for seconds of its processor's time.

What only a process has keeps one in its tests: signals, progress bars, how long it takes to start.
"""

import signal
from typing import NamedTuple

import click
from click.testing import CliRunner


class Ended(NamedTuple):
    """As subprocess.CompletedProcess has it."""

    returncode: int
    stdout: str
    stderr: str


def in_process(main: click.Command, *arguments: object) -> Ended:
    """How a process of the command line would have ended; a bug is raised. The signals' handlers are as before."""
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    }
    try:
        result = CliRunner().invoke(main, [*map(str, arguments)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)
