"""How far a long command is, and what it notices, on the error stream.

- In a terminal and in a notebook: tqdm's bars.
- Elsewhere, as in a log file: whole lines, the first after FIRST_SECONDS, then one in LINE_SECONDS,
  and one at the end.
- With --quiet, in all processes of torchrun but the first, and for bars with TQDM_DISABLE: nothing.

Sentences (`say`, `warn`) are records of the logger "orsanet", of the levels INFO and WARNING. Its one
handler prints them above the bars and they go no further; a program that has logging of its own
takes the handler away and lets them propagate (docs/python.md).
"""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from tqdm.auto import tqdm

FIRST_SECONDS = 2.0
LINE_SECONDS = 60.0  # since the last line of any work: an epoch's line counts too

Item = TypeVar("Item")
_logger = logging.getLogger("orsanet")
_quiet = False
_last_line = -LINE_SECONDS  # when this process printed it


@contextmanager
def hidden() -> Iterator[None]:
    """Show no progress meanwhile, in any thread."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


def say(text: str) -> None:
    """Log a line of progress; by default it is printed above the bars."""
    if _is_shown():
        _logger.info("%s", text)


def warn(text: str) -> None:
    """Log a line to be noticed, with --quiet too."""
    _logger.warning("%s", text)


class AboveBars(logging.Handler):
    """Prints records above the bars. A closed terminal raises, as printing does."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None:
            _print(self.format(record))


class Progress:
    """The progress of one piece of work; a context manager.

    Args:
        total: how much there is to do; None: unknown.
        desc: the name of the work.
        unit: what is counted, in the singular; "B" with `unit_scale`.
        initial: how much was done before.
        unit_scale: whether to print numbers as 1.5k or 2.3G.
        leave: whether something remains when the work is done: the bar, or a last line.
        delay: seconds without a bar.
    """

    def __init__(
        self,
        total: int | None,
        desc: str,
        unit: str,
        *,
        initial: int = 0,
        unit_scale: bool = False,
        leave: bool = True,
        delay: float = 0.0,
    ) -> None:
        self.total, self.desc, self.unit, self.initial, self.done = total, desc, unit, initial, initial
        self.unit_scale, self.leave, self.postfix = unit_scale, leave, ""
        shown = _is_shown() and not os.environ.get("TQDM_DISABLE") and total != 0
        self.in_lines = shown and not _is_redrawn()
        self.began = time.monotonic()
        self.bar = tqdm(
            total=total, desc=desc, unit=unit, initial=initial, unit_scale=unit_scale, leave=leave, delay=delay,
            disable=not shown or self.in_lines, dynamic_ncols=True, smoothing=0.05,
        )  # fmt: skip

    def update(self, count: int = 1) -> None:
        """`count` more are done."""
        self.done += count
        self.bar.update(count)
        now = time.monotonic()
        ended = self.leave and self.total is not None and self.done >= self.total  # close prints this line
        if self.in_lines and not ended and now - self.began >= FIRST_SECONDS and now - _last_line >= LINE_SECONDS:
            _print(self.line(now - self.began))

    def set_postfix(self, **values: object) -> None:
        """Show values behind the numbers, from the next update on."""
        self.postfix = "".join(f", {name} {value}" for name, value in values.items())
        if not self.bar.disable:
            self.bar.set_postfix(values, refresh=False)

    def set_description(self, desc: str) -> None:
        """Rename the work."""
        self.desc = desc
        if not self.bar.disable:
            self.bar.set_description(desc)

    def reset(self) -> None:
        """Begin anew."""
        self.initial = self.done = 0
        self.began = time.monotonic()
        if not self.bar.disable:
            self.bar.reset()

    def refresh(self) -> None:
        """Draw a bar with the newest values."""
        self.bar.refresh()

    def line(self, seconds: float) -> str:
        """Name, done/total, rate, and the time left or, at the end, spent; after `seconds` of work."""
        rate = (self.done - self.initial) / max(seconds, 1e-9)
        if self.unit_scale:
            speed = f"{self._number(rate)}/s"
        else:
            speed = f"{rate:,.1f} {self.unit}/s" if rate >= 1 or not rate else f"{1 / rate:,.1f} s/{self.unit}"
        if self.total is None:
            return f"{self.desc}: {self._number(self.done)}, {speed}{self.postfix}"
        of = f"{self.desc}: {self._number(self.done)}/{self._number(self.total)}"
        if self.done >= self.total:
            return f"{of} in {tqdm.format_interval(seconds)}, {speed}{self.postfix}"
        left = f", {tqdm.format_interval((self.total - self.done) / rate)} left" if rate else ""
        return f"{of} ({self.done / self.total:.0%}), {speed}{left}{self.postfix}"

    def close(self) -> None:
        self.bar.close()
        if self.in_lines and self.leave and self.done > self.initial:
            _print(self.line(time.monotonic() - self.began))

    def _number(self, number: float) -> str:
        return tqdm.format_sizeof(number, self.unit) if self.unit_scale else f"{number:,}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_bytes(number: float) -> str:
    """A number of bytes, as in 1.50GB."""
    return tqdm.format_sizeof(number, "B")


def tracked(items: Iterable[Item], total: int, desc: str, unit: str, **options: Any) -> Iterator[Item]:
    """The items, counted while they are used. `options` as for Progress."""
    with Progress(total, desc, unit, **options) as progress:
        for item in items:
            yield item
            progress.update()


def _is_shown() -> bool:
    other_rank = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"
    return not (_quiet or other_rank or sys.stderr is None)


def _is_redrawn() -> bool:
    """Whether a bar can be drawn again in its place: in a terminal, and in the output of a notebook's cell."""
    if not sys.stderr.isatty():
        return type(sys.stderr).__module__.startswith("ipykernel")
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0  # 0 where a program's terminal has no size
    except (OSError, ValueError):  # the console of an editor, which has no descriptor
        return True


def _print(text: str) -> None:
    global _last_line
    _last_line = time.monotonic()
    tqdm.write(text, file=sys.stderr)


if not _logger.handlers:  # a program may have set it up before
    _logger.addHandler(AboveBars())
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
