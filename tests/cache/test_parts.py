"""Real commands that build one store together: any number, in any order, stopped or in each other's way, to the same bytes."""

import fcntl
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from forks import Fork, ForkServer

from orsanet_cache.cli import main

SPLITS = ("train", "valid", "test")  # one unit each
IMAGES = 4  # of a split
VIEWS = ("clean", "hflip", "erase-20")
ALL = IMAGES * len(SPLITS) * len(VIEWS)
PATIENCE = 120.0  # seconds that no command needs; one that hangs fails the test

Tree = dict[str, bytes | None]

# What a build imports, before the forks do.
LOADED = "import orsanet_cache.cli, orsanet_cache.builder.build, orsanet_cache.weights.networks, zarr.storage"


class Commands:
    """`orsanet-cache build` with this module's manifest and networks."""

    def __init__(self, folder: Path, world: Any) -> None:
        rows = [f"images/{split}_{number}.png,anger,{split}" for split in SPLITS for number in range(IMAGES)]
        (folder / "few.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
        self.manifest = folder / "few.toml"
        self.manifest.write_text(
            f'name = "few"\nclasses = ["anger", "neutral"]\nsamples = "few.csv"\nroot = "{world.folder}"\n'
        )
        self.networks = ["--segmenter", str(world.segmenter), "--landmarks", str(world.landmarks)]
        self.forks = ForkServer(LOADED)

    def arguments(self, out: Path, options: tuple[str, ...]) -> list[str]:
        return ["build", str(self.manifest), "--out", str(out), *self.networks, "--views", ",".join(VIEWS), *options]

    def start(self, out: Path, *options: str) -> Fork:
        """In a process of its own."""
        return self.forks.start("orsanet-cache", *self.arguments(out, options))

    def start_with_torchrun(self, out: Path, processes: int) -> Fork:
        """In processes that start as a user's do."""
        command = ["-m", "orsanet_cache", *self.arguments(out, ())]
        return self.forks.start("torchrun", "--nproc-per-node", processes, *command)

    def run(self, out: Path, *options: str) -> tuple[int, str]:
        """Here, which saves the time to load torch. Exit code and all it said."""
        result = CliRunner().invoke(main, self.arguments(out, options))
        return result.exit_code, result.output


def ended(process: Fork) -> tuple[int, str]:
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def tree(folder: Path) -> Tree:
    """Every name below the folder -> its bytes; None for a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_same(out: Path, whole: Tree) -> None:
    """Equal byte for byte, and nothing else is left of building."""
    found = tree(out)
    assert not sorted(name for name in {*found, *whole} if found.get(name, "") != whole.get(name, ""))


def markers(out: Path) -> int:
    return len(list((out / ".commits").glob("*/*/*.json")))


def wait_for(what: str, condition: Callable[[], object], process: Fork) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"ended before {what}: {process.communicate(PATIENCE)[0]}"
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.002)


def stop_between_locks(process: Fork, out: Path) -> None:
    """Stop it in the midst of its work; not where it holds the store's lock, for which everybody waits."""
    while True:
        process.send_signal(signal.SIGSTOP)
        process.wait_until_stopped(PATIENCE)
        with (out / "zarr.json").open("rb") as root, suppress(BlockingIOError):
            fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)


@pytest.fixture(scope="module")
def commands(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    commands = Commands(tmp_path_factory.mktemp("parts"), world)
    yield commands
    commands.forks.close()


@pytest.fixture(scope="module")
def whole(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    out = tmp_path_factory.mktemp("whole") / "store.zarr"
    code, said = commands.run(out)
    assert code == 0, said
    assert f"computed {ALL} views" in said
    return tree(out)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Where to build; beside it nothing may appear or change."""
    (tmp_path / "kept").mkdir()
    for name in ("kept/.commits", "store.zarr.lock", ".commits"):
        (tmp_path / name).write_text("somebody's")
    (tmp_path / "here").mkdir()
    yield tmp_path / "here" / "store.zarr"
    assert {name: content for name, content in tree(tmp_path).items() if not name.startswith("here/store.zarr")} == {
        "here": None, "kept": None, "kept/.commits": b"somebody's", "store.zarr.lock": b"somebody's",
        ".commits": b"somebody's",
    }  # fmt: skip


def test_two_parts_at_once_make_the_store_of_a_single_process(commands: Commands, whole: Tree, out: Path) -> None:
    both = [commands.start(out, "--part", f"{part}/2") for part in (1, 2)]
    for code, said in map(ended, both):
        assert code == 0, said
    assert_same(out, whole)


def test_torchrun_makes_the_store_of_a_single_process(commands: Commands, whole: Tree, out: Path) -> None:
    code, said = ended(commands.start_with_torchrun(out, 2))
    assert code == 0, said
    computed = [int(count) for count in re.findall(r"computed (\d+) views", said)]
    assert sorted(computed) == [ALL // 3, ALL - ALL // 3]  # one unit of three, and two
    assert_same(out, whole)


def test_parts_in_turn_say_what_is_still_to_do_and_the_last_one_seals(
    commands: Commands, whole: Tree, out: Path
) -> None:
    for part, waiting in (("1/3", 2), ("3/3", 1)):
        code, said = commands.run(out, "--part", part)
        assert code == 0, said
        assert f"{waiting} unit(s) of other parts are not computed yet" in said
        assert "usable" not in said
    code, said = commands.run(out, "--part", "2/3")
    assert code == 0, said
    assert f"{out}: 12 of 12 images usable" in said
    assert_same(out, whole)


def test_more_parts_than_units_and_parts_that_overlap_are_harmless(commands: Commands, whole: Tree, out: Path) -> None:
    for part in ("9/9", "1/3", "1/2", "2/2"):  # of three units: none, the first, the first and third, the second
        code, said = commands.run(out, "--part", part)
        assert code == 0, said
    assert_same(out, whole)


def test_the_second_process_on_a_part_says_so_and_leaves_the_first_unharmed(
    commands: Commands, whole: Tree, out: Path
) -> None:
    first = commands.start(out, "--part", "1/2")
    wait_for("a marker", lambda: markers(out), first)
    stop_between_locks(first, out)
    code, said = commands.run(out, "--part", "1/2")
    assert code == 1
    assert said.splitlines()[-1] == (
        f"Error: another process is building part 1/2 of {out}; let it finish, or give each process its own --part"
    )
    assert "Traceback" not in said
    first.send_signal(signal.SIGCONT)
    code, said = ended(first)
    assert code == 0, said
    code, said = commands.run(out, "--part", "2/2")
    assert code == 0, said
    assert_same(out, whole)


@pytest.mark.parametrize(("sent", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_build_between_units_and_the_next_build_goes_on(
    commands: Commands, whole: Tree, out: Path, sent: signal.Signals, expected: int
) -> None:
    process = commands.start(out)
    wait_for("a marker", lambda: markers(out), process)
    process.send_signal(sent)
    code, said = ended(process)
    assert code == expected, said
    assert said.splitlines()[-1] == (
        "Interrupted. Run the same command again: build, weights fetch and demo-train continue, the others start over."
    )
    assert "Traceback" not in said
    safe = markers(out)
    assert 0 < safe < len(SPLITS) * len(VIEWS)
    assert [path.name for path in (out / ".commits" / "parts").iterdir()] == ["1of1.lock"]  # no temporary files
    code, said = commands.run(out)
    assert code == 0, said
    assert f"computed {ALL - IMAGES * safe} views" in said
    assert_same(out, whole)


def test_what_a_killed_command_left_is_swept_away_by_the_next_one_even_of_another_part(
    commands: Commands, whole: Tree, out: Path
) -> None:
    process = commands.start(out, "--part", "1/2")
    shards = out / ".commits" / "parts" / "1of2"
    wait_for("a temporary shard", lambda: list(shards.glob("*.shard")), process)
    process.kill()
    ended(process)
    code, said = commands.run(out, "--part", "2/2")
    assert code == 0, said
    assert not shards.exists()
    code, said = commands.run(out)
    assert code == 0, said
    assert_same(out, whole)


@pytest.mark.parametrize("part", ["0/2", "3/2", "x", "1", "-1/2", "1/0", "1/2/3"])
def test_a_part_that_is_none_is_refused_before_anything_is_written(commands: Commands, out: Path, part: str) -> None:
    code, said = commands.run(out, f"--part={part}")
    assert code == 2
    assert f"{part} is not I/N with I from 1 to N, as in 2/4" in said
    assert not out.exists()
