"""Ctrl-C ends a command, wherever it lands."""

import subprocess
import sys
from pathlib import Path

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
