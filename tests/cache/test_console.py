"""Ctrl-C ends a command, wherever it lands; a command leaves the processor to others while it waits."""

import os
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
