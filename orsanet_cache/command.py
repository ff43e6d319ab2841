"""What both command lines share: mistakes become one message and exit code 1, Ctrl-C becomes 130; bugs keep their traceback."""

import signal
import sys
from types import FrameType
from typing import Any

import click

from orsanet_cache.errors import OrsanetError

REPEAT_SECONDS = 5.0  # longer than ending an interrupted command takes


class CommandGroup(click.Group):
    """A click group whose commands may raise OrsanetError; `interrupted` says what to do after Ctrl-C."""

    def __init__(self, *args: Any, interrupted: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.interrupted = interrupted

    def invoke(self, ctx: click.Context) -> Any:
        for number in (signal.SIGINT, signal.SIGALRM):
            signal.signal(number, _interrupt)
        try:
            return super().invoke(ctx)
        except OrsanetError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:  # a full disk, a folder that cannot be written, a name too long: the user's to mend
            raise click.ClickException(f"{error.filename or 'writing'}: {error.strerror or error}") from error
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            click.echo(f"\nInterrupted. {self.interrupted}", err=True)
            sys.exit(130)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Ctrl-C, and again after a while: an interrupt that lands in a destructor is printed by Python and otherwise lost."""
    signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
    raise KeyboardInterrupt


def _names(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [name.strip() for name in value.split(",")]


# For a manifest that is a CSV alone.
classes_option = click.option(
    "--classes", callback=_names, help="Class names in label order, for a .csv manifest: a,b,c"
)
