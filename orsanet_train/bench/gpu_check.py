"""Everything that can be found out about a GPU in a few minutes: `python -m orsanet_train.bench.gpu_check`.

entry by entry (gpu_entries.py) ─ a process each, within its own time (apart.py) ─▶ figures, failures ─▶ table, JSON, page (gpu_page.py)

Both files are written after every entry, so a check that is ended at any moment leaves what it has
found.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from orsanet_cache.console import FILE, GuardedCommand, Number
from orsanet_cache.durable import make_folder
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import held, temporary_folder
from orsanet_cache.progress import hidden
from orsanet_train.bench.apart import run_apart
from orsanet_train.bench.gpu_entries import Entry, Report, Setting, planned
from orsanet_train.bench.gpu_page import (
    JSON_NAME,
    PAGE_NAME,
    Fact,
    Failure,
    Figure,
    Findings,
    Outcome,
    check_out,
    table,
    write_findings,
)

MINUTES = 8.0  # of which the entries' own times are
LEAST_SHARE = 0.25  # of its time that an entry needs to begin


def check(
    entries: Sequence[Entry],
    out: Path,
    *,
    device: str = "cuda",
    tiny: bool = False,
    minutes: float = MINUTES,
    say: Callable[[str], object] = lambda _: None,
) -> Findings:
    """Run the entries one after the other, whatever becomes of those before.

    `out` gets gpu-check.json, gpu-check.md, and the output of every entry in logs/.

    Args:
        entries: What to run, in this order. The first must report the device as a fact.
        out: The folder to write.
        device: The name of the device.
        tiny: Sizes that a CPU does in seconds.
        minutes: The longest time of all together. An entry's own time is in proportion.
        say: Called with a line for every entry that ends.

    Raises OrsanetError if the device is not available, and if `out` has other files of these names.
    """
    check_out(out)
    until, scale = time.monotonic() + 60 * minutes, minutes / MINUTES
    findings = Findings([], [Outcome(entry.name) for entry in entries])
    with held(out), temporary_folder("orsanet-gpu-check-") as folder:
        make_folder(out / "logs")
        setting = Setting(device, tiny, folder)
        for number, (entry, outcome) in enumerate(zip(entries, findings.outcomes, strict=True)):
            left = until - time.monotonic()
            if left < LEAST_SHARE * scale * entry.seconds:
                outcome.reason = f"{max(0.0, left):.0f} s were left"
            else:
                log = out / "logs" / f"{number:02d}.txt"
                _run(entry, setting, min(scale * entry.seconds, left), log, outcome, findings.facts)
            write_findings(out, findings)
            if not number and outcome.failures and not any(fact.name == "device" for fact in findings.facts):
                raise OrsanetError(outcome.failures[0].text.strip().splitlines()[-1].rpartition("OrsanetError: ")[2])
            say(table([outcome]).partition("\n")[2])
    return findings


def _run(entry: Entry, setting: Setting, seconds: float, log: Path, outcome: Outcome, facts: list[Fact]) -> None:
    """Run one entry; everything that it sends goes into its outcome, and facts into `facts`."""

    def receive(message: object) -> None:
        if isinstance(message, Fact):
            facts.append(message)
        elif isinstance(message, Figure):
            outcome.figures.append(replace(message, aim=None) if setting.tiny else message)
        elif isinstance(message, Failure):
            outcome.failures.append(message)

    began = time.monotonic()
    if failure := run_apart(partial(_work, entry, setting), seconds, receive, log):
        outcome.failures.append(Failure("the entry", failure))
    outcome.seconds = time.monotonic() - began
    outcome.status = "failed" if outcome.failures else "done"


def _work(entry: Entry, setting: Setting, send: Callable[[object], None]) -> None:
    """In the entry's own process."""
    os.environ["TMPDIR"] = str(setting.folder)  # what a process that is killed leaves there goes with the folder
    tempfile.tempdir = None
    with hidden():
        entry.work(setting, Report(send))


@click.command(cls=GuardedCommand, interrupted="What was found so far is in --out.")
@click.option("--minutes", type=Number(min=0.1, max=1440), default=MINUTES, show_default=True, help="The longest time.")
@click.option("--device", default="cuda", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--tiny", is_flag=True, help="Sizes that a CPU does in seconds; the figures mean nothing.")
@click.option("--out", type=FILE, default=Path("gpu-check"), show_default=True, help="The folder to write.")
def main(minutes: float, device: str, tiny: bool, out: Path) -> None:
    """Test and measure everything on a GPU: the tests marked `cuda`, then the benchmarks by worth.

    Works in a checkout whose dependencies are installed, without network. A part that fails does
    not end the others. The exit code is 1 if a part failed.
    """
    findings = check(planned(tiny), out, device=device, tiny=tiny, minutes=minutes, say=partial(click.echo, err=True))
    click.echo(table(findings.outcomes))
    click.echo(f"{out / PAGE_NAME} and {out / JSON_NAME} have these figures, and the traceback of every failure")
    if findings.failed:
        click.echo(f"{len(findings.failed)} failed: {', '.join(findings.failed)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
