"""Errors, signals, streams and options that both command lines share.

A user's mistake ends with one message and exit code 1, Ctrl-C with 130, SIGTERM with 143, SIGHUP (a
closed terminal) with 129. A bug keeps its traceback.
"""

import math
import os
import re
import shlex
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from orsanet_cache.errors import OrsanetError, shortage
from orsanet_cache.paths import Kind, Url, as_place, path_problem, place_problem
from orsanet_cache.streams import prepare_streams, printable

Command = TypeVar("Command", bound=Callable[..., Any])

SENTENCE = 500  # characters; a longer one would be cut off
REPEAT_SECONDS = 5.0  # longer than an interrupted command takes to end
# Turns that a waiting thread spins; GNU's OpenMP takes 300,000. On two cores a small training step is a tenth slower
# alone, and three times as fast beside two busy loops (docs/benchmarks.md).
SPINS = "10000"
_first: int = signal.SIGINT  # the signal that the alarm repeats


# Above every sensible value, so that a typing error is refused before it costs memory or days.
MOST_IMAGES, MOST_SEED, MOST_ROUNDS, MOST_BATCH = 10**8, 2**63 - 1, 10**6, 2**16
PART_DIGITS = 6  # of I and N in --part I/N


class _FileType(click.Path):
    """A path of this machine. A URL is refused: it would become a folder with the name of its scheme."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and (problem := path_problem(value)) is not None:
            self.fail(problem, param, ctx)
        return super().convert(value, param, ctx)


class _PlaceType(_FileType):
    """The place of a store or a run: a path of this machine, or the URL of an object store."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(path_type=Path)
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if (problem := place_problem(value, self.kind)) is not None:
            self.fail(problem, param, ctx)
        place = as_place(value, self.kind, self.kind)
        return place if isinstance(place, Url) else super().convert(value, param, ctx)


FILE = _FileType(path_type=Path)  # type of an argument or option that names a file or folder, existing or not
FOLDER = _FileType(path_type=Path, exists=True, file_okay=False)
STORE, RUN = _PlaceType("store"), _PlaceType("run")


class Number(click.FloatRange):
    """A finite number in the range. Python reads "nan" and "inf" as numbers too; they are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP was received. Code that cleans up after Ctrl-C handles it in the same way."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.number = number


class Commands(click.Group):
    """A group whose help lists the commands in the order of adding, each with its whole first sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(SENTENCE)) for name, each in self.commands.items()])


class GuardedCommand(click.Command):
    """A command that may raise OrsanetError; `interrupted` is the advice printed after Ctrl-C."""

    def __init__(self, *args: Any, interrupted: str = "", **kwargs: Any) -> None:
        # The streams make escape codes visible; click would leave them out, and names would change.
        super().__init__(*args, **{**kwargs, "context_settings": {"color": True}})
        self.interrupted = interrupted

    def main(self, *args: Any, **kwargs: Any) -> Any:
        prepare_streams()
        bound_spinning()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        for number in (*stop_signals(), signal.SIGALRM):
            signal.signal(number, _interrupt)
        try:
            return super().invoke(ctx)
        except OrsanetError as error:
            # The advice for a failed write does not help against a shortage.
            short = shortage(error.__cause__) if isinstance(error.__cause__, OSError) else None
            raise click.ClickException(printable(str(short or error))) from error
        except OSError as error:  # a full disk, a read-only folder, a name that is too long: the user can fix these
            short = shortage(error, error.filename)
            message = str(short or f"{error.filename or 'writing'}: {error.strerror or error}")
            raise click.ClickException(printable(message)) from error
        except Exception as error:  # a lack of memory has many types
            if (short := shortage(error)) is None:
                raise
            raise click.ClickException(str(short)) from error
        except KeyboardInterrupt as interrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            click.echo(f"\nInterrupted. {self.interrupted}", err=True)
            sys.exit(128 + (interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT))


class CommandGroup(GuardedCommand, Commands):
    """The commands of a command line, which may raise OrsanetError.

    `interrupted` is the advice printed after Ctrl-C.
    """


def stop_signals() -> tuple[int, ...]:
    """The signals that end a command in order: of Ctrl-C, `kill`, and a terminal that is closed.

    SIGHUP is left out where it is ignored, as by nohup.
    """
    hangup = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hangup)


def interruption(number: int) -> KeyboardInterrupt:
    """The exception for a signal that ends a command."""
    if number == signal.SIGHUP:
        leave_terminal()
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def leave_terminal() -> None:
    """Send output to /dev/null instead of a terminal.

    Every write to a terminal that was closed fails, and would end the command before it has saved
    its results.
    """
    for descriptor in (1, 2):
        try:
            is_terminal = stat.S_ISCHR(os.fstat(descriptor).st_mode)
        except OSError:  # closed
            continue
        if is_terminal:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Raise for Ctrl-C, SIGTERM or SIGHUP, and again after REPEAT_SECONDS.

    Python prints an exception that is raised in a destructor and then ignores it.
    """
    global _first
    _first = number if number != signal.SIGALRM else _first
    signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
    raise interruption(_first)


def bound_spinning() -> None:
    """Let OpenMP threads that wait for each other sleep soon, unless the user has chosen otherwise.

    On a machine with other work, a thread that spins takes the core of the one it waits for. The
    setting is read when torch is loaded, so this comes first.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def next_command(*words: object) -> str:
    """The line with the command that comes next in the order of work, as a shell reads it."""
    return f"next: {shlex.join(map(str, words))}"


def parse_part(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """I/N -> two numbers, both counted from 1."""
    if value is None:
        return None
    index, slash, count = value.partition("/")
    numbers = all(text.isdecimal() and len(text) <= PART_DIGITS for text in (index, count))
    if not slash or not numbers or not 1 <= int(index) <= int(count):
        raise click.BadParameter(f"{value} is not I/N with I from 1 to N, as in 2/4")
    return int(index), int(count)


def _parse_size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """200GB, 500 MB, 1.5TB or a plain number -> bytes."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)B?", value, re.IGNORECASE | re.ASCII)
    size = 0 if match is None else int(float(match[1]) * 1000 ** ("kmgt".find(match[2].lower() or "-") + 1))
    if not 0 < size < 10**18:
        raise click.BadParameter(f"{value!r} is not a size such as 200GB")
    return size


def _names(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [name.strip() for name in value.split(",")]


def _be_quiet(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    from orsanet_cache.progress import hidden  # tqdm takes a while to load

    if value:
        context.with_resource(hidden())


quiet_option = click.option(
    "--quiet", is_flag=True, expose_value=False, callback=_be_quiet, help="Print results and warnings, no progress."
)
# For a manifest that is a CSV without a descriptor.
classes_option = click.option(
    "--classes", callback=_names, help="Class names in label order, for a .csv manifest: a,b,c"
)

_CACHE_OPTIONS = (
    click.option(
        "--cache", type=FILE,
        help="For the URL of a store: the folder of this machine that keeps its shards, for all processes and for "
        "later commands.  [default: the last few, until the command ends]",
    ),
    click.option(
        "--cache-size", callback=_parse_size, metavar="SIZE",
        help="The most that the cache may have, such as 200GB.  [default: most of what is free there]",
    ),
)  # fmt: skip


def cache_options(command: Command) -> Command:
    """The options of the cache of a store at a URL."""
    for option in reversed(_CACHE_OPTIONS):
        command = option(command)
    return command
