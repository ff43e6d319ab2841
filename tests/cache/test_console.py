"""Ctrl-C ends a command, wherever it lands, and so does a terminal that is closed; a command leaves the processor to others while it waits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orsanet_cache.console import SPINS, bound_spinning

SWALLOWING = """
import os, signal, time
import click
from orsanet_cache.console import CommandGroup

@click.group(cls=CommandGroup, interrupted="Finished work is kept.")
def main(): ...

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

@main.command()
def work():
    Swallows()
    for _ in range(600):
        time.sleep(0.1)

main()
"""


def test_an_interrupt_that_a_destructor_swallows_still_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(SWALLOWING)
    arguments = [sys.executable, tmp_path / "command.py", "work"]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 130
    assert result.stderr.splitlines()[-1] == "Interrupted. Finished work is kept."


SAVING = """
import fcntl, signal, sys, termios, time
from pathlib import Path
import click
from orsanet_cache.console import CommandGroup

if sys.argv[3] == "terminal":
    fcntl.ioctl(1, termios.TIOCSCTTY, 0)  # this process gets the signal when it is closed
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[3] == "nohup" else signal.SIG_DFL)

@click.group(cls=CommandGroup)
def main(): ...

@main.command()
@click.argument("saved")
@click.argument("how")
def work(saved, how):
    try:
        print("working", flush=True)
        time.sleep(2 if how == "nohup" else 60)
    finally:
        print("saving", file=sys.stderr, flush=True)
        Path(saved).write_text("saved")

main()
"""


def saving(tmp_path: Path, how: str, output: int) -> "subprocess.Popen[bytes]":
    (tmp_path / "command.py").write_text(SAVING)
    arguments = [sys.executable, tmp_path / "command.py", "work", tmp_path / "saved", how]
    return subprocess.Popen(arguments, stdout=output, stderr=output, start_new_session=True)


def test_a_command_whose_terminal_is_closed_saves_and_ends_with_129(tmp_path: Path) -> None:
    """Every write to such a terminal fails."""
    controller, terminal = os.openpty()
    process = saving(tmp_path, "terminal", terminal)
    os.close(terminal)
    assert os.read(controller, 100).startswith(b"working")
    os.close(controller)
    assert process.wait(60) == 129
    assert (tmp_path / "saved").read_text() == "saved"


def test_under_nohup_a_command_goes_on(tmp_path: Path) -> None:
    read, write = os.pipe()
    process = saving(tmp_path, "nohup", write)
    assert os.read(read, 100).startswith(b"working")
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert (tmp_path / "saved").read_text() == "saved"
    os.close(read)
    os.close(write)


CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.mark.parametrize("chosen", [None, *CHOICES])
def test_openmp_waits_as_the_user_says_and_shortly_where_he_says_nothing(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    if chosen is not None:
        monkeypatch.setenv(chosen, "7")
    bound_spinning()
    assert {name: os.environ[name] for name in CHOICES if name in os.environ} == (
        {"GOMP_SPINCOUNT": SPINS} if chosen is None else {chosen: "7"}
    )


@pytest.mark.parametrize("package", ["orsanet_cache", "orsanet_train"])
def test_the_command_lines_choose_before_torch_is_loaded(package: str) -> None:
    child = (
        f"import os, sys; from {package}.cli import main; sys.argv = ['x', 'bench', 'step' if '{package}' == 'orsanet_train' else 'read', '--help']\n"
        "try: main()\nexcept SystemExit: print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    result = subprocess.run(
        [sys.executable, "-c", child], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert result.stdout.splitlines()[-1] == f"{SPINS} False"
