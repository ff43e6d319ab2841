"""A command does its work whoever listens, and what it prints cannot control the terminal.

The commands are small ones of the same group as ours, in real processes with real pipes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orsanet_cache.streams import printable

COMMAND = r"""
import os, sys, time
import click
from tqdm.auto import tqdm
from orsanet_cache.console import CommandGroup
from orsanet_cache.errors import OrsanetError

EVIL = "a\x1b[31mred\x1b]0;title\x07\r\x9b2J\u202e\udce9z"

@click.group(cls=CommandGroup)
def main(): ...

@main.command()
@click.argument("out")
def work(out):
    "Print a lot to both streams, and write a file at the end."
    with open(out + ".first", "w") as first:
        first.write(str(first.fileno()))
        for number in tqdm(range(20), desc="work"):
            click.echo("line " * 5000)
            click.echo("said " * 5000, err=True)
            print("printed", flush=True)
            os.write(2, b"by a library\n")
    with open(out, "w") as file:
        file.write("done")

@main.command()
def names():
    click.echo(EVIL)
    click.echo(f"name\twith tab: {EVIL}", err=True)
    for _ in tqdm(range(2), desc="bar"):
        tqdm.write(EVIL, file=sys.stderr)
    raise OrsanetError(f"{EVIL}: is not a file")

main()
"""
SHOWN = r"a\x1b[31mred\x1b]0;title\x07\r\x9b2J\u202e\udce9z"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("command") / "command.py"
    path.write_text(COMMAND)
    return path


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_without_a_stream_the_work_is_done(script: Path, tmp_path: Path, closed: str) -> None:
    line = f"exec {sys.executable} {script} work {tmp_path / 'out'} {closed}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
    assert (tmp_path / "out").read_text() == "done"
    # No file of the command's has the number of a closed stream: what a library writes there would go into it.
    assert int((tmp_path / "out.first").read_text()) > 2


@pytest.mark.parametrize("gone", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_a_reader_that_goes_away_ends_nothing_and_no_word_is_said(
    script: Path, tmp_path: Path, gone: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    arguments = [sys.executable, script, "work", tmp_path / "out"]
    result = subprocess.run(arguments, **{**kept, **dict.fromkeys(gone, writing)}, timeout=60, check=False)  # type: ignore[call-overload]
    os.close(writing)
    assert result.returncode == 0
    assert (tmp_path / "out").read_text() == "done"
    for said in (result.stdout, result.stderr):
        assert b"Broken" not in (said or b"")
    if gone == ("stdout",):
        assert result.stderr.count(b"said ") == 20 * 5000


def test_control_characters_are_printed_visibly_and_bars_still_move(script: Path) -> None:
    result = subprocess.run([sys.executable, script, "names"], capture_output=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stdout.decode() == f"{SHOWN}\n"
    said = result.stderr.decode()
    assert said.startswith(f"name\twith tab: {SHOWN}\n")
    assert said.endswith(f"Error: {SHOWN}: is not a file\n")
    assert said.count(SHOWN) == 4
    assert "\rbar: 100%" in said
    assert not set(said) & {"\x1b", "\x07", "\x9b", "\u202e"}


def test_a_full_disk_is_still_an_error(script: Path, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        arguments = [sys.executable, script, "work", tmp_path / "out"]
        result = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "No space left on device" in result.stderr
    assert not (tmp_path / "out").exists()


def test_ordinary_text_is_printed_as_it_is() -> None:
    text = "Zoé 中文 — 95 % … ‘x’ 😀\n\ttwo\n"
    assert printable(text) == text
    assert printable("a\nb\tc", one_line=True) == r"a\nb\tc"


def test_a_store_is_verified_without_an_error_stream(world) -> None:
    line = f"exec {sys.executable} -m orsanet_cache verify {world.store} 2>&-"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0
    assert "no damage found" in result.stdout
