"""A file system without what builds and runs need is refused by name at the start: its locks exclude nobody, or it has none, or no links.

The file systems are simulated at the kernel: a filter answers the system call and does not do it (helpers/answered_calls.py).
"""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from answered_calls import needs_filter

from orsanet_cache.durable import check_excludes, locked

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
CHILD = f"""
import fcntl, sys
from pathlib import Path
sys.path.append({str(HELPERS)!r})
from answered_calls import answer
from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import Kind, held, output_folder
from orsanet_cache.store.schema import schema
from orsanet_cache.writing.writer import StoreWriter

answer(sys.argv[1], int(sys.argv[2]))
folder = Path(sys.argv[3])
ways = dict(
    held=lambda: held(folder / "run"),
    output_folder=lambda: output_folder(folder / "report", Kind("a report", {{"a": b""}}, marks=("a",))),
    store=lambda: StoreWriter.open(folder / "store.zarr", {{}}, schema(8, 8, "float16")),
)
for name, way in ways.items():
    try:
        with way():
            print(name, "taken")
    except OrsanetError as error:
        print(name, error)
"""
COMMANDS = f"""
import sys
sys.path.append({str(HELPERS)!r})
from answered_calls import answer
import orsanet_cache.cli, orsanet_train.cli

mains = {{"orsanet-cache": orsanet_cache.cli.main, "orsanet-train": orsanet_train.cli.main}}
answer("flock")
for line in sys.argv[1:]:
    program, *arguments = line.split()
    try:
        mains[program](arguments, prog_name=program)
    except SystemExit as ended:
        print(arguments[0], ended.code, file=sys.stderr)
"""


def refusals(call: str, number: int, folder: Path) -> dict[str, str]:
    """What each way to write a folder ended with, where the kernel answers the call so."""
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, call, str(number), folder], capture_output=True, text=True, timeout=60, check=True
    )
    return {name: said for name, _, said in (line.partition(" ") for line in ended.stdout.splitlines())}


@needs_filter()
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (0, "the locks (flock) of the file system there exclude nobody"),
        (errno.ENOSYS, "the file system there has no locks (flock: Function not implemented)"),
        (errno.ENOLCK, "the file system there has no locks (flock: No locks available)"),
    ],
)
def test_a_file_system_whose_locks_are_not_real_is_refused_by_every_way_to_write_a_folder(
    tmp_path: Path, number: int, reason: str
) -> None:
    said = refusals("flock", number, tmp_path)
    assert said.keys() == {"held", "output_folder", "store"}
    for name, folder in (("held", tmp_path / "run"), ("output_folder", tmp_path), ("store", tmp_path / "store.zarr")):
        assert said[name].startswith(f"{folder}: {reason}")
        assert "choose a folder on another one" in said[name]
    assert [path.name for path in tmp_path.iterdir()] == ["store.zarr"]  # begun, with nothing in it


@needs_filter()
def test_a_store_on_a_file_system_without_hard_links_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    said = refusals("link", errno.EPERM, tmp_path)
    assert said["held"] == said["output_folder"] == "taken"
    assert said["store"].startswith(f"{tmp_path / 'store.zarr'}: the file system there has no hard links")


@needs_filter()
def test_builds_and_runs_end_with_that_sentence(world, tmp_path: Path) -> None:
    lines = [
        f"orsanet-cache build {world.manifest} --out {tmp_path}/store.zarr --segmenter {world.segmenter} --landmarks {world.landmarks}",
        f"orsanet-train run --store {world.store} --manifest {world.manifest} --preset small --out {tmp_path}/run",
        f"orsanet-cache demo-faces --out {tmp_path}/faces --images 20",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", COMMANDS, *lines], capture_output=True, text=True, timeout=120, check=True
    )
    for name, folder in (("build", "store.zarr"), ("run", "run"), ("demo-faces", "faces")):
        assert f"Error: {tmp_path / folder}: the locks (flock) of the file system there exclude nobody" in ended.stderr
        assert f"{name} 1\n" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["store.zarr"]


def test_a_lock_that_is_held_passes_and_one_that_is_free_does_not(tmp_path: Path) -> None:
    held, free = tmp_path / "held", tmp_path / "free"
    for path in (held, free):
        path.touch()
    with locked(held):
        check_excludes(held)
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        check_excludes.__wrapped__(held)  # a shared lock keeps others out, too
    with pytest.raises(Exception, match="exclude nobody"):
        check_excludes(free)
