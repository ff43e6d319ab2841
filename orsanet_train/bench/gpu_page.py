"""The outcome of `gpu_check` as one table, one JSON file and one Markdown page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orsanet_cache.durable import write_all
from orsanet_cache.outputs import check_file

JSON_NAME, PAGE_NAME = "gpu-check.json", "gpu-check.md"
_JSON_BEGINS, _PAGE_BEGINS = '{\n  "gpu_check": 1,', "# GPU check"


@dataclass(frozen=True)
class Fact:
    """A property of the machine or of the software."""

    name: str
    text: str


@dataclass(frozen=True)
class Figure:
    """A measurement."""

    name: str
    value: float
    unit: str = ""
    aim: float | None = None  # with the published sizes on an H100 or H200

    @property
    def text(self) -> str:
        digits = 0 if abs(self.value) >= 1000 or self.value == int(self.value) else 2
        return f"{self.value:,.{digits}f}"


@dataclass(frozen=True)
class Failure:
    """A part that failed; the rest went on."""

    name: str
    text: str  # with its traceback


@dataclass
class Outcome:
    """An entry of the check, with everything that it has sent so far."""

    name: str
    status: str = "not run"  # or "done", "failed"
    seconds: float = 0.0
    reason: str = ""  # why it was not run
    figures: list[Figure] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@dataclass
class Findings:
    """Everything that is known so far."""

    facts: list[Fact]
    outcomes: list[Outcome]

    @property
    def failed(self) -> list[str]:
        """The names of what failed, `entry: part`."""
        return [f"{one.name}: {failure.name}" for one in self.outcomes for failure in one.failures]


def check_out(out: Path) -> None:
    """Raises OrsanetError if `out` has other files under the names of ours."""
    check_file(out / JSON_NAME, _JSON_BEGINS.encode(), "a result of gpu_check")
    check_file(out / PAGE_NAME, _PAGE_BEGINS.encode(), "a page of gpu_check")


def write_findings(out: Path, findings: Findings) -> None:
    """Write both files, each whole."""
    content: Mapping[str, Any] = {
        "gpu_check": 1,
        "facts": {fact.name: fact.text for fact in findings.facts},
        "entries": [asdict(outcome) for outcome in findings.outcomes],
    }
    text = json.dumps(content, indent=2)
    write_all({
        out / JSON_NAME: lambda path: path.write_text(text, encoding="utf-8"),
        out / PAGE_NAME: lambda path: path.write_text(page(findings), encoding="utf-8"),
    })  # fmt: skip


def table(outcomes: Sequence[Outcome]) -> str:
    """Every figure and how every entry ended, as text for a terminal."""
    lines = [f"{'':<58} {'':>12} {'':<10} {'aim':>8}"]
    for outcome in outcomes:
        lines.append(f"{outcome.name:<58} {_ended(outcome)}")
        for figure in outcome.figures:
            aim = "" if figure.aim is None else f"{figure.aim:,g}"
            lines.append(f"  {figure.name:<56} {figure.text:>12} {figure.unit:<10} {aim:>8}".rstrip())
        lines += [f"  FAILED: {failure.name}" for failure in outcome.failures]
    return "\n".join(lines)


def page(findings: Findings) -> str:
    """The Markdown page."""
    lines = [_PAGE_BEGINS, "", "| | |", "|---|---|"]
    lines += [f"| {_cell(fact.name)} | {_cell(fact.text)} |" for fact in findings.facts]
    lines += ["", "## Figures", "", "| | | | aim |", "|---|---:|---|---:|"]
    for outcome in findings.outcomes:
        lines.append(f"| **{_cell(outcome.name)}** | | {_cell(_ended(outcome))} | |")
        for figure in outcome.figures:
            aim = "" if figure.aim is None else f"{figure.aim:,g}"
            lines.append(f"| {_cell(figure.name)} | {figure.text} | {_cell(figure.unit)} | {aim} |")
    lines += ["", "## Failures", ""]
    for outcome in findings.outcomes:
        for failure in outcome.failures:
            fence = "```" if "```" not in failure.text else "~~~~"
            lines += [f"### {outcome.name}: {failure.name}", "", fence, failure.text.rstrip(), fence, ""]
    if not findings.failed:
        lines += ["None.", ""]
    return "\n".join(lines)


def _ended(outcome: Outcome) -> str:
    if outcome.status == "not run":
        return f"not run{f': {outcome.reason}' if outcome.reason else ''}"
    return f"{outcome.status}, {outcome.seconds:.1f} s"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
