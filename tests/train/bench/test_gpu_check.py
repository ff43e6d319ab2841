"""One command tests and measures everything on a GPU. Here it runs on the CPU with tiny sizes, with parts that fail, die and hang."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_lines import in_process

from orsanet_cache import OrsanetError
from orsanet_train.bench import gpu_check
from orsanet_train.bench.gpu_entries import Entry, entries_of_tests, planned
from orsanet_train.bench.gpu_page import Fact, Failure, Figure, Findings, Outcome, page, table

CHILD = Path(__file__).with_name("gpu_check_child.py")
TESTS = Path(__file__).resolve().parents[2]
MADE_TO_FAIL = ("fails", "dies", "hangs")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    (folder / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    ended = subprocess.run(
        [sys.executable, CHILD, folder / "out"], capture_output=True, text=True, timeout=600, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    assert list((folder / "tmp").iterdir()) == []
    return folder / "out"


@pytest.fixture(scope="module")
def entries(out: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads((out / "gpu-check.json").read_text())["entries"]}


def test_every_entry_that_is_not_made_to_fail_is_done_and_has_figures(entries: dict[str, dict[str, Any]]) -> None:
    assert list(entries) == ["machine", *MADE_TO_FAIL, *(entry.name for entry in planned(tiny=True)[1:])]
    for name, entry in entries.items():
        if name not in MADE_TO_FAIL:
            assert (entry["status"], entry["failures"]) == ("done", []), entry
            assert all(figure["value"] >= 0 or "SAM" in figure["name"] for figure in entry["figures"])
            assert entry["figures"]


def test_a_failure_keeps_its_traceback_and_the_figures_before_it(entries: dict[str, dict[str, Any]]) -> None:
    fails, dies, hangs = (entries[name] for name in MADE_TO_FAIL)
    assert fails["figures"][0]["value"] == 1.5
    assert [failure["name"] for failure in fails["failures"]] == ["a contender", "the entry"]
    assert "ValueError: this contender is made to fail" in fails["failures"][1]["text"]
    assert "signal SIGSEGV" in dies["failures"][0]["text"]
    assert "its last words" in dies["failures"][0]["text"]
    assert "Segmentation fault" in dies["failures"][0]["text"]  # and the stack of every thread
    assert hangs["figures"][0]["value"] == 2
    assert "ended after its" in hangs["failures"][0]["text"]


def test_the_page_has_machine_versions_commit_figures_and_failures(
    out: Path, entries: dict[str, dict[str, Any]]
) -> None:
    written = (out / "gpu-check.md").read_text()
    facts = json.loads((out / "gpu-check.json").read_text())["facts"]
    assert {"commit", "python", "torch", "numpy", "processor", "device"} <= facts.keys()
    for name, text in facts.items():
        assert f"| {name} | {text} |" in written
    for entry in entries.values():
        assert f"| **{entry['name']}** |" in written
        assert all(f"| {figure['name']} |" in written for figure in entry["figures"])
    assert "### fails: the entry\n\n```\nTraceback" in written
    assert "aim" in written


def test_where_time_ends_the_rest_is_not_run_and_says_so(tmp_path: Path) -> None:
    """The first entries use up the time; nothing of it needs a process here."""
    entries = [Entry(name, 480, lambda setting, report: None) for name in "ab"]
    findings = gpu_check.check(entries, tmp_path / "out", device="cpu", tiny=True, minutes=1e-9)
    assert [outcome.status for outcome in findings.outcomes] == ["not run"] * 2
    assert findings.outcomes[0].reason == "0 s were left"
    assert "not run: 0 s were left" in (tmp_path / "out" / "gpu-check.md").read_text()


def test_other_peoples_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "gpu-check.md").write_text("# My notes")
    with pytest.raises(OrsanetError, match=r"gpu-check.md: is not a page of gpu_check, so it was not replaced"):
        gpu_check.check([], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["gpu-check.md"]


def test_every_file_with_a_test_for_a_gpu_is_run() -> None:
    """The mark is looked for in the files' text: importing them would take long."""
    named = {entry.name.removeprefix("tests: ") for entry in entries_of_tests(tiny=False)}
    files = {
        str(path.relative_to(TESTS)) for path in TESTS.rglob("test_*.py") if "pytest.mark.cuda" in path.read_text()
    } - {str(Path(__file__).relative_to(TESTS))}
    assert named == files
    assert len(named) > 5


def test_the_command_explains_itself() -> None:
    said = in_process(gpu_check.main, "--help")
    assert said.returncode == 0
    for option in ("--minutes", "--device", "--tiny", "--out"):
        assert option in said.stdout


def test_table_and_page_show_a_figure_with_its_aim() -> None:
    outcome = Outcome(
        "step", "failed", 3.21, "", [Figure("fast", 12345.6, "img/s", 12)], [Failure("exact", "a|b\n```")]
    )
    lines = table([outcome]).splitlines()
    assert lines[1].split() == ["step", "failed,", "3.2", "s"]
    assert lines[2].split() == ["fast", "12,346", "img/s", "12"]
    assert lines[3] == "  FAILED: exact"
    written = page(Findings([Fact("device", "A | B")], [outcome]))
    assert "| device | A \\| B |" in written
    assert "| fast | 12,346 | img/s | 12 |" in written
    assert "### step: exact\n\n~~~~\na|b\n```\n~~~~\n" in written
