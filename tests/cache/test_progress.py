"""Progress is a bar where it can be drawn again, whole lines elsewhere, and nothing with --quiet or in another process of torchrun."""

import contextlib
import io
import logging
import logging.handlers
import os
import pty
import re
import subprocess
import sys
import termios
import time
from pathlib import Path

import click
import pytest
from command_lines import in_process

from orsanet_cache import progress
from orsanet_cache.cli import main as cache_main
from orsanet_cache.progress import Progress, hidden, say, tracked, warn
from orsanet_train.cli import main as train_main

PACKAGES = Path(progress.__file__).parents[1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Notebook(io.StringIO):
    """The error stream of a cell, which is no terminal."""


Notebook.__module__ = "ipykernel.iostream"


def printed(work, stream: io.StringIO | None = None) -> str:
    with contextlib.redirect_stderr(stream or io.StringIO()) as err:
        work()
    return err.getvalue()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenths of a second for seconds and minutes."""
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.2)
    monkeypatch.setattr(progress, "_last_line", 0.0)


def count(total: int | None, seconds: float = 0.0, **options) -> None:
    with Progress(total, "work", "img", **options) as bar:
        for _ in range(total or 8):
            time.sleep(seconds)
            bar.update()


def test_in_a_log_there_is_a_line_early_then_now_and_then_and_at_the_end(often) -> None:
    lines = printed(lambda: count(50, 0.01)).split("\n")
    first, *between, last, rest = lines
    assert rest == ""  # the last one is whole too
    assert re.fullmatch(r"work: [5-9]/50 \(\d+%\), \d+\.\d img/s, 00:00 left", first)
    assert re.fullmatch(r"work: 50/50 in 00:00, \d+\.\d img/s", last)
    assert 1 <= len(between) <= 2  # half a second has two intervals


def test_a_last_part_that_takes_longer_than_a_line_needs_is_printed_once(often) -> None:
    assert printed(lambda: count(1, 0.1)).count("work: 1/1 in ") == 1


def test_of_two_works_at_once_each_takes_the_others_lines_into_account(often) -> None:
    lines = printed(lambda: [say("an epoch"), count(10, 0.01, leave=False)]).splitlines()
    assert lines == ["an epoch"]


def test_a_short_work_has_one_line_and_one_that_leaves_nothing_none() -> None:
    assert re.fullmatch(r"work: 3/3 in 00:00, [\d,.]+ img/s\n", printed(lambda: count(3)))
    assert printed(lambda: count(3, leave=False)) == ""
    assert printed(lambda: count(0)) == ""


def test_numbers_are_written_as_their_kind_needs() -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        unknown, slow, copied, begun = (
            Progress(None, "predict", "img"),
            Progress(1500, "build", "view"),
            Progress(2 * 10**9, "copy", "B", unit_scale=True),
            Progress(14, "epoch 1/1", "img", initial=12),
        )
        unknown.update(1200)
        unknown.set_postfix(faces=7)
        slow.update(2)
        copied.update(5 * 10**8)
        begun.update(1)
    assert unknown.line(10) == "predict: 1,200, 120.0 img/s, faces 7"
    assert slow.line(60) == "build: 2/1,500 (0%), 30.0 s/view, 12:29:00 left"
    assert copied.line(5) == "copy: 500MB/2.00GB (25%), 100MB/s, 00:15 left"
    assert (
        begun.line(2) == "epoch 1/1: 13/14 (93%), 2.0 s/img, 00:02 left"
    )  # what was done before has no part in the rate


@pytest.mark.parametrize("stream", [Terminal, Notebook])
def test_in_a_terminal_and_in_a_notebook_there_is_a_bar(stream: type[io.StringIO]) -> None:
    said = printed(lambda: [say("first"), count(3)], stream())
    assert said.startswith("first\n")
    assert "\rwork: 100%" in said
    assert "3/3 [" in said


def test_items_are_counted_when_they_were_used() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert list(tracked("abc", 3, "read", "file")) == ["a", "b", "c"]
    assert err.getvalue().startswith("read: 3/3 in ")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_hidden_progress_prints_nothing_and_warnings_stay(stream: type[io.StringIO]) -> None:
    with hidden():
        assert printed(lambda: [say("epoch 1"), count(3), warn("a warning")], stream()) == "a warning\n"
    assert "work" in printed(lambda: count(3), stream())


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_of_torchruns_processes_the_first_shows_its_progress(
    monkeypatch: pytest.MonkeyPatch, rank: str, shown: bool
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", rank)
    assert bool(printed(lambda: [say("epoch 1"), count(3)])) is shown


def test_what_tqdm_is_told_by_the_environment_holds_for_lines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert printed(lambda: count(3)) == ""


def test_a_command_has_a_bar_in_a_terminal_lines_in_a_log_and_nothing_when_quiet(world) -> None:
    logged = in_process(cache_main, "verify", world.store)
    assert re.search(r"^verify: (\d+)/\1 in 00:0\d, [\d,.]+ unit/s$", logged.stderr, re.MULTILINE)
    assert "\r" not in logged.stderr
    quiet = in_process(cache_main, "verify", world.store, "--quiet")
    assert quiet.stderr == ""
    assert quiet.stdout == logged.stdout
    assert "no damage found" in quiet.stdout
    terminal, ours = pty.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    arguments = [sys.executable, "-m", "orsanet_cache", "verify", str(world.store)]
    ended = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=ours, timeout=60, check=True)
    os.close(ours)
    said = b""
    with contextlib.suppress(OSError):  # the other end of a terminal that was closed
        while part := os.read(terminal, 65536):
            said += part
    os.close(terminal)
    assert b"\rverify: 100%" in said
    assert ended.stdout.decode() == logged.stdout


def test_a_terminal_without_a_size_gets_lines() -> None:
    """As programs open it that run others; a bar would be empty there."""
    terminal, ours = pty.openpty()
    with open(ours, "w") as stream, contextlib.redirect_stderr(stream):
        count(3)
        said = os.read(terminal, 65536)
    os.close(terminal)
    assert re.fullmatch(rb"work: 3/3 in 00:00, [\d,.]+ img/s\r\n", said)


def test_quiet_is_an_option_of_every_long_command() -> None:
    having = {
        (group.name, name)
        for main in (cache_main, train_main)
        for group in (main, *(each for each in main.commands.values() if isinstance(each, click.Group)))
        for name, command in group.commands.items()
        if any("--quiet" in parameter.opts for parameter in command.params)
    }
    long = {
        *(
            ("main", name)
            for name in [
                "build",
                "verify",
                "convert",
                "doctor",
                "demo-faces",
                "demo-people",
                "demo-train",
                "demo-quality",
            ]
        ),
        *(("main", name) for name in ["pretrain", "run", "evaluate", "ablate", "predict", "report"]),
        *(("bench", name) for name in ("read", "build", "step", "evaluate", "dare")),
        ("weights", "fetch"),
        ("manifest", "affectnet"),
    }
    assert having >= long


def test_every_bar_is_one_of_this_module() -> None:
    """tqdm elsewhere would draw bars in log files."""
    drawing = re.compile(r"\btqdm(\.write)?\(")
    users = {
        str(path.relative_to(PACKAGES))
        for package in ("orsanet_cache", "orsanet_train")
        for path in (PACKAGES / package).glob("**/*.py")
        if drawing.search(path.read_text(encoding="utf-8"))
    }
    assert users == {"orsanet_cache/progress.py"}


def test_sentences_are_records_that_a_program_may_send_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a change they are printed; the bars are no records."""
    assert printed(lambda: (say("as planned"), warn("look here"))) == "as planned\nlook here\n"
    logger = logging.getLogger("orsanet")
    mine = logging.handlers.BufferingHandler(100)
    monkeypatch.setattr(logger, "handlers", [mine])
    assert printed(lambda: (say("50 % of it"), warn("look here"))) == ""
    assert [(each.levelname, each.getMessage()) for each in mine.buffer] == [
        ("INFO", "50 % of it"),
        ("WARNING", "look here"),
    ]
    with hidden():
        say("nothing")
        warn("still this")
    assert [each.getMessage() for each in mine.buffer[2:]] == ["still this"]


def test_library_code_prints_nothing_but_through_the_logger_and_the_bars() -> None:
    """Commands print what they are asked for, wherever they are; so does the module that ends a process."""
    printing = re.compile(r"(?<![\w.])print\(|click\.echo\(|sys\.std(out|err)\.write|warnings\.warn\(")
    users = {
        path.relative_to(PACKAGES).as_posix()
        for package in ("orsanet_cache", "orsanet_train")
        for path in (PACKAGES / package).glob("**/*.py")
        if path.parent.name != "commands" and any(printing.search(line) for line in code_lines(path))
    }
    assert users == {"orsanet_cache/console.py", "orsanet_train/bench/gpu_check.py"}


def code_lines(path: Path) -> list[str]:
    """Without docstrings and strings over several lines, in which examples print."""
    return re.sub(r'"""(?:.|\n)*?"""', "", path.read_text(encoding="utf-8")).splitlines()
