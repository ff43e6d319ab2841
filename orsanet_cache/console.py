"""What both command lines share: mistakes become one message and exit code 1, Ctrl-C 130, SIGTERM 143; bugs keep their traceback."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click

from orsanet_cache.errors import OrsanetError

FILE = click.Path(path_type=Path)  # of an argument or option that names a file or folder, there or not
REPEAT_SECONDS = 5.0  # longer than ending an interrupted command takes
_first: int = signal.SIGINT  # what the alarm repeats


class Terminated(KeyboardInterrupt):
    """SIGTERM: to be treated as Ctrl-C is, by whatever cleans up on the way out."""


class CommandGroup(click.Group):
    """A click group whose commands may raise OrsanetError; `interrupted` says what to do after Ctrl-C."""

    def __init__(self, *args: Any, interrupted: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.interrupted = interrupted

    def invoke(self, ctx: click.Context) -> Any:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, _interrupt)
        try:
            return super().invoke(ctx)
        except OrsanetError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:  # a full disk, a folder that cannot be written, a name too long: the user's to mend
            raise click.ClickException(f"{error.filename or 'writing'}: {error.strerror or error}") from error
        except KeyboardInterrupt as interrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            click.echo(f"\nInterrupted. {self.interrupted}", err=True)
            sys.exit(143 if isinstance(interrupt, Terminated) else 130)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Ctrl-C or SIGTERM, and again after a while: an interrupt that lands in a destructor is printed by Python and otherwise lost."""
    global _first
    _first = number if number != signal.SIGALRM else _first
    signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
    raise Terminated if _first == signal.SIGTERM else KeyboardInterrupt


def parse_part(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """I/N as two numbers, both counted from 1."""
    if value is None:
        return None
    index, slash, count = value.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal() or not 1 <= int(index) <= int(count):
        raise click.BadParameter(f"{value} is not I/N with I from 1 to N, as in 2/4")
    return int(index), int(count)


def _names(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [name.strip() for name in value.split(",")]


# For a manifest that is a CSV alone.
classes_option = click.option(
    "--classes", callback=_names, help="Class names in label order, for a .csv manifest: a,b,c"
)
