"""`orsanet-cache version`: what a report of an error needs, of this machine and of a folder's file system."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from answered_calls import needs_filter
from command_lines import in_process

from orsanet_cache.bench.machine import described, file_system, packages
from orsanet_cache.cli import main

HELPERS = Path(__file__).resolve().parents[2] / "helpers"
CHILD = f"""
import sys
sys.path.append({str(HELPERS)!r})
from answered_calls import answer
from pathlib import Path
from orsanet_cache.bench.machine import file_system
answer(sys.argv[1], int(sys.argv[2]))
print(*file_system(Path(sys.argv[3])), sep="\\n")
"""


def test_without_verbose_it_is_the_version() -> None:
    ended = in_process(main, "version")
    assert (ended.returncode, ended.stdout) == (0, f"orsanet {importlib.metadata.version('orsanet')}\n")


def test_verbose_names_versions_processor_device_and_file_system(tmp_path: Path) -> None:
    ended = in_process(main, "version", "--verbose", "--folder", tmp_path)
    assert ended.returncode == 0, ended.stderr
    for name in ("torch", "numpy", "zarr"):
        assert f"{name} {importlib.metadata.version(name)}" in ended.stdout
    assert re.search(r"^processor: .+; \d+ of \d+ cores usable; \d+ threads", ended.stdout, flags=re.MULTILINE)
    assert ("device: cuda" if torch.cuda.is_available() else "device: cpu (") in ended.stdout
    assert re.search(rf"^file system of {tmp_path.resolve()}: \S+; [\d,.]+ GB free$", ended.stdout, flags=re.MULTILINE)
    for line in ("  locks: yes, within this machine", "  hard links: yes", "  exchange of names: "):
        assert line in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_package_that_users_install_is_named_once() -> None:
    run_time, plots, export = packages()
    named = [text.split(" ") for text in run_time.split(", ")]
    assert {name for name, _ in named} >= {"click", "torch", "opencv-python", "huggingface-hub"}
    assert all(re.match(r"\d", version) for _, version in named)
    assert plots.startswith("for plots: matplotlib ")
    assert "onnxruntime " in export


@needs_filter()
@pytest.mark.parametrize(
    ("call", "number", "line"),
    [
        (
            "flock",
            0,
            "  locks: NO (the locks (flock) of the file system there exclude nobody, so that two commands could write the same files)",
        ),
        ("flock", 38, "  locks: NO (the file system there has no locks (flock: Function not implemented))"),
        ("link", 1, "  hard links: NO (Operation not permitted)"),
    ],
)
def test_what_a_file_system_lacks_is_named(tmp_path: Path, call: str, number: int, line: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, call, str(number), tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert line in ended.stdout.splitlines()


def test_a_folder_that_is_none_or_cannot_be_written_is_named(tmp_path: Path) -> None:
    ended = in_process(main, "version", "--verbose", "--folder", tmp_path / "none")
    assert ended.returncode == 1
    assert f"{tmp_path / 'none'}: is not a folder" in ended.stderr
    assert list(file_system(Path("/proc")))[1].startswith("  not tested: nothing can be written there (")
    assert described(tmp_path)[0].startswith("orsanet ")
