"""Killed at any point, by any number of processes, a build that is run again ends in the very same store, also in an object store.

ORSANET_KILLS says how many random kills; more than the default also kills at every point there is, rather than at one of every kind.
ORSANET_SEED repeats a run's random choices, though not its timing.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crew import ROWS_PER_UNIT, VIEWS, Crew, Part, Tree, tree
from object_server import BUCKET, Objects, Proxy, proxy_to

from orsanet_cache import PriorStore

FEW_KILLS = 20
KILLS = int(os.environ.get("ORSANET_KILLS", FEW_KILLS))
SEED = int(os.environ.get("ORSANET_SEED", random.SystemRandom().randrange(10**6)))
IMAGES = {"train": 3, "test": 1}
TOTAL = sum(IMAGES.values()) * len(VIEWS)  # images times views
STILL = 0.5  # seconds in which other builders come and go; those that wait for the one that stands still do not
# Being written while the networks are at the next; with a slow disk both are computed and neither is safe.
IN_HAND = 2


@dataclass(frozen=True)
class Whole:
    """An uninterrupted build."""

    tree: Tree
    points: list[str]
    looks: list[str]  # the points, taking locks and opening files for reading among them
    seconds: float


@pytest.fixture(scope="module")
def crew(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    folder = tmp_path_factory.mktemp("crash")
    rows = [f"images/{split}_{n}.png,anger,{split}" for split, count in IMAGES.items() for n in range(count)]
    (folder / "few.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
    (folder / "few.toml").write_text(
        f'name = "few"\nclasses = ["anger", "neutral"]\nsamples = "few.csv"\nroot = "{world.folder}"\n'
    )
    crew = Crew(folder, folder / "few.toml", world.segmenter, world.landmarks)
    yield crew
    crew.close()


@pytest.fixture(scope="module")
def whole(crew: Crew) -> Whole:
    points, looks = (
        crew.end(crew.start(crew.folder / name, looks=name == "looks")).answer for name in ("whole", "looks")
    )
    began = time.monotonic()
    crew.build(crew.folder / "timed", [(1, 1)], at_once=False, real=True)
    seconds = time.monotonic() - began
    crew.computed()
    return Whole(tree(crew.folder / "whole"), points["points"], looks["points"], seconds)


def assert_same(out: Path, whole: Whole, story: str) -> None:
    """The stores are equal, byte for byte, and nothing else is left of building."""
    found = tree(out)
    differ = sorted(name for name in {*found, *whole.tree} if found.get(name, "") != whole.tree.get(name, ""))
    assert not differ, f"{story}: {differ}"


def committed(out: Path) -> int:
    """Images times views that are marked or sealed."""
    count = 0
    for split, images in IMAGES.items():
        for view in VIEWS:
            group = out / split / view / "zarr.json"
            if group.exists() and "seal" in json.loads(group.read_bytes())["attributes"]:
                count += images
                continue
            for marker in (out / ".commits" / split / view).glob("*.json"):
                count += min(ROWS_PER_UNIT, images - int(marker.stem) * ROWS_PER_UNIT)
    return count


def one_of_each(points: Sequence[str]) -> list[int]:
    """Of each kind of point one; more kills than usual ask for all."""
    if KILLS > FEW_KILLS:
        return list(range(len(points)))
    kinds: dict[str, list[int]] = {}
    for number, name in enumerate(points):
        kinds.setdefault(name, []).append(number)
    chance = random.Random(SEED)
    return sorted(chance.choice(numbers) for numbers in kinds.values())


def world_of(size: int) -> list[Part]:
    """All parts; the last before the second, for any order must do."""
    return [(1, size), *((part, size) for part in range(size, 1, -1))]


def test_the_uninterrupted_store_is_sealed_and_the_points_are_always_the_same(crew: Crew, whole: Whole) -> None:
    store = PriorStore.open(crew.folder / "whole")
    for split in IMAGES:
        assert store.views(split) == VIEWS
        for view in VIEWS:
            assert len(store.sealed(split, view).seal) == 64
    end = crew.end(crew.start(crew.folder / "again"))
    assert end.answer["points"] == whole.points
    assert_same(crew.folder / "again", whole, "built twice")
    for kind in ("link zarr.json", "write .commits/parts/0of0/FIELD.shard", "rename SPLIT/VIEW/FIELD/c.0.0.0",
                 "fsync SPLIT/VIEW/FIELD", "link .commits/SPLIT/VIEW/0.json", "rename SPLIT/VIEW/zarr.json",
                 "rmdir .commits"):  # fmt: skip
        assert kind in whole.points
    crew.computed()


def test_nothing_but_the_store_is_written(crew: Crew, whole: Whole) -> None:
    end = crew.end(crew.start(crew.folder / "alone"))
    folder = f"fsync {crew.folder}"  # which keeps the store's own name
    assert end.answer["outside"] == [folder]
    crew.computed()


def test_a_build_killed_at_any_point_is_completed_by_other_numbers_of_processes(
    crew: Crew, whole: Whole, tmp_path: Path
) -> None:
    for turn, at in enumerate(one_of_each(whole.points)):
        out, story = tmp_path / f"{at}", f"seed {SEED}, killed before point {at}, {whole.points[at]}"
        assert crew.end(crew.start(out, at=at)).state == "killed", story
        missing = TOTAL - committed(out)
        crew.computed()
        size, at_once = ((2, True), (3, False))[turn % 2]
        ends = crew.build(out, world_of(size), at_once)
        assert sum(end.answer["computed"] for end in ends) == missing == crew.computed(), story
        assert min(end.answer["waiting"] for end in ends) == 0, story
        assert_same(out, whole, story)
        shutil.rmtree(out)


def test_one_of_several_processes_killed_at_any_point_is_replaced_by_a_single_one(
    crew: Crew, whole: Whole, tmp_path: Path
) -> None:
    for at in one_of_each(whole.points)[::6]:
        out, story = tmp_path / f"{at}", f"seed {SEED}, one of two killed before its point {at}"
        killed, other = crew.start(out, (1, 2), at=at), crew.start(out, (2, 2))
        ends = [crew.end(killed), crew.end(other)]
        assert ends[0].state in ("killed", "exited 0"), f"{story}: {ends[0].log}"  # it may have fewer points alone
        assert ends[1].state == "exited 0", f"{story}: {ends[1].log}"
        missing = TOTAL - committed(out)
        crew.computed()
        (end,) = crew.build(out, [(1, 1)], at_once=False)
        assert end.answer["computed"] == missing == crew.computed(), story
        assert_same(out, whole, story)
        shutil.rmtree(out)


def test_a_build_killed_at_random_again_and_again_is_completed_by_any_number_of_processes(
    crew: Crew, whole: Whole, tmp_path: Path
) -> None:
    print(f"ORSANET_SEED={SEED}")  # shown if this fails
    chance = random.Random(SEED)
    kills, turn = 0, 0
    while kills < KILLS:
        turn += 1
        out, size, sizes = tmp_path / f"{turn}", 0, []
        for _ in range(chance.randint(1, 3)):  # times that everything is killed before it may end
            size = chance.choice([other for other in (1, 2, 3) if other != size])
            sizes.append(size)
            longest = whole.seconds * max(0.25, 1 - committed(out) / TOTAL)  # what is left to compute, or to seal
            builders = [crew.start(out, part, real=True) for part in world_of(size)]
            delays = [chance.uniform(0, longest) for _ in builders]
            began = time.monotonic()
            for delay, pid in sorted(zip(delays, builders, strict=True)):
                time.sleep(max(0.0, began + delay - time.monotonic()))
                os.kill(pid, signal.SIGKILL)  # not waited for yet, so the id is still its own
            ends = [crew.end(pid) for pid in builders]
            story = f"seed {SEED}, store {turn}, processes {sizes}, {[end.state for end in ends]}"
            assert {end.state for end in ends} <= {"killed", "exited 0"}, story + "".join(end.log for end in ends)
            kills += sum(end.state == "killed" for end in ends)
        missing = TOTAL - committed(out)
        crew.computed()
        size = chance.choice([other for other in (1, 2, 3) if other != size])
        ends = crew.build(out, world_of(size), at_once=chance.random() < 0.5, real=True)
        assert sum(end.answer["computed"] for end in ends) == missing == crew.computed(), story
        assert_same(out, whole, f"{story}, at last {size}")
        shutil.rmtree(out)


def test_a_kill_costs_a_process_the_units_in_hand_and_no_more(crew: Crew, whole: Whole, tmp_path: Path) -> None:
    for at in [number for number, name in enumerate(whole.points) if name == "link .commits/SPLIT/VIEW/0.json"]:
        out = tmp_path / f"{at}"
        end = crew.end(crew.start(out, at=at, linger=0.3))  # in which the networks go on as far as they may
        assert end.state == "killed", end.log
        assert crew.computed() - committed(out) <= IN_HAND * ROWS_PER_UNIT
        shutil.rmtree(out)


def test_builders_may_come_and_go_while_another_stands_still_at_any_point(
    crew: Crew, whole: Whole, tmp_path: Path
) -> None:
    # Before it takes a lock what it has seen may be over. What a file holds before it has its name is nothing to other processes.
    locks = {at for at, name in enumerate(whole.looks) if name.startswith("lock (wait)")}
    seen = [at for at in one_of_each(whole.looks) if not whole.looks[at].startswith(("write", "fsync"))]
    for turn, at in enumerate(sorted({*locks, *seen[::6]})):
        out, story = tmp_path / f"{at}", f"seed {SEED}, stopped before point {at}, {whole.looks[at]}"
        others = ([(2, 2)], [(1, 1)], [(2, 3), (3, 3)])[turn % 3]
        still = crew.start(out, (1, 2), at=at, sent="SIGSTOP", looks=True)
        stopped = crew.state(still) == "stopped"  # it may have fewer points than a build alone
        builders = [crew.start(out, part) for part in others]
        until = time.monotonic() + STILL
        for pid in builders:
            crew.state(pid, max(0.0, until - time.monotonic()))
        if stopped:
            os.kill(still, signal.SIGCONT)
        for end in [crew.end(pid) for pid in (still, *builders)]:
            assert end.state == "exited 0", f"{story}: {end.log}"
            assert "error" not in end.answer, f"{story}: {end.answer}"
        crew.computed()
        assert_same(out, whole, story)
        shutil.rmtree(out)


@pytest.fixture
def proxy(crew: Crew) -> Iterator[Proxy]:
    """An object store that builders reach."""
    with proxy_to(Objects()) as proxy:
        crew.environment = {**proxy.environment, "ORSANET_PATIENCE": "60"}
        yield proxy


def place(name: str) -> str:
    return f"s3://{BUCKET}/{name}/store.zarr"


def stored(proxy: Proxy, name: str) -> Tree:
    begin = f"{name}/store.zarr/"
    assert isinstance(proxy.server, Objects)
    with proxy.server.lock:
        return {key[len(begin) :]: found[0] for key, found in proxy.server.found.items() if key.startswith(begin)}


def committed_there(files: Tree) -> int:
    """Images times views that are safe: in a sealed view, or in a marked unit."""
    count = 0
    for split, images in IMAGES.items():
        for view in VIEWS:
            if b'"seal"' in (files.get(f"{split}/{view}/zarr.json") or b""):
                count += images
                continue
            markers = [
                name for name in files if name.startswith(f".commits/{split}/{view}/") and name.endswith(".json")
            ]
            count += sum(min(ROWS_PER_UNIT, images - int(Path(name).stem) * ROWS_PER_UNIT) for name in markers)
    return count


def assert_same_files(found: Tree, whole: Whole, story: str) -> None:
    """An object store has the files of the store in a folder, and no folders."""
    files = {name: content for name, content in whole.tree.items() if content is not None}
    assert not sorted(name for name in {*found, *files} if found.get(name) != files.get(name)), story


def test_builders_to_an_object_store_killed_at_random_are_replaced_by_any_number(
    crew: Crew, proxy: Proxy, whole: Whole
) -> None:
    print(f"ORSANET_SEED={SEED}")  # shown if this fails
    chance = random.Random(SEED)
    kills, turn = 0, 0
    while kills < KILLS / 5:
        turn += 1
        name, size = f"turn-{turn}", (1, 3, 2)[turn % 3]
        builders = [crew.start(place(name), (part, size)) for part in range(1, size + 1)]
        delays = [chance.uniform(0, 3 * whole.seconds) for _ in builders]
        began = time.monotonic()
        for delay, pid in sorted(zip(delays, builders, strict=True)):
            time.sleep(max(0.0, began + delay - time.monotonic()))
            os.kill(pid, signal.SIGKILL)  # not waited for yet, so the id is still its own
        ends = [crew.end(pid) for pid in builders]
        story = f"seed {SEED}, store {turn}, {size} processes, {[end.state for end in ends]}"
        assert {end.state for end in ends} <= {"killed", "exited 0"}, story + "".join(end.log for end in ends)
        kills += sum(end.state == "killed" for end in ends)
        missing = TOTAL - committed_there(stored(proxy, name))
        crew.computed()
        last = (3, 2, 1)[turn % 3]
        ends = crew.build(place(name), [(part, last) for part in range(1, last + 1)], at_once=turn % 2 == 0)
        assert sum(end.answer["computed"] for end in ends) == missing == crew.computed(), story
        assert_same_files(stored(proxy, name), whole, f"{story}, at last {last}")


def test_two_processes_of_the_same_part_make_one_store_in_an_object_store(
    crew: Crew, proxy: Proxy, whole: Whole
) -> None:
    crew.build(place("twice"), [(1, 1), (1, 1)], at_once=True)
    assert_same_files(stored(proxy, "twice"), whole, "the same part twice")
