"""Real builders of a store in an object store, killed at random: whoever completes it, it is the store of a folder.

ORSANET_KILLS and ORSANET_SEED as in test_crash.py.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crew import ROWS_PER_UNIT, VIEWS, Crew, Tree, tree
from object_server import BUCKET, Objects, Proxy, proxy_to

FEW_KILLS = 6
KILLS = int(os.environ.get("ORSANET_KILLS", FEW_KILLS))
SEED = int(os.environ.get("ORSANET_SEED", random.SystemRandom().randrange(10**6)))
IMAGES = {"train": 3, "test": 1}
TOTAL = sum(IMAGES.values()) * len(VIEWS)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with proxy_to(Objects()) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def crew(world: Any, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    folder = tmp_path_factory.mktemp("crash-url")
    rows = [f"images/{split}_{n}.png,anger,{split}" for split, count in IMAGES.items() for n in range(count)]
    (folder / "few.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
    (folder / "few.toml").write_text(
        f'name = "few"\nclasses = ["anger", "neutral"]\nsamples = "few.csv"\nroot = "{world.folder}"\n'
    )
    crew = Crew(folder, folder / "few.toml", world.segmenter, world.landmarks)
    crew.environment = {**proxy.environment, "ORSANET_PATIENCE": "60"}
    yield crew
    crew.close()


@pytest.fixture(scope="module")
def whole(crew: Crew) -> Tree:
    """The files of the store that one builder writes into a folder."""
    crew.build(crew.folder / "whole", [(1, 1)], at_once=False)
    crew.computed()
    return {name: content for name, content in tree(crew.folder / "whole").items() if content is not None}


def place(name: str) -> str:
    return f"s3://{BUCKET}/{name}/store.zarr"


def stored(proxy: Proxy, name: str) -> Tree:
    begin = f"{name}/store.zarr/"
    assert isinstance(proxy.server, Objects)
    with proxy.server.lock:
        return {key[len(begin) :]: found[0] for key, found in proxy.server.found.items() if key.startswith(begin)}


def committed(files: Tree) -> int:
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


def assert_same(found: Tree, whole: Tree, story: str) -> None:
    assert not sorted(name for name in {*found, *whole} if found.get(name) != whole.get(name)), story


def test_builders_killed_at_random_are_replaced_by_any_number(crew: Crew, proxy: Proxy, whole: Tree) -> None:
    print(f"ORSANET_SEED={SEED}")  # shown if this fails
    chance = random.Random(SEED)
    kills, turn = 0, 0
    began = time.monotonic()
    crew.build(place("timed"), [(1, 1)], at_once=False)
    longest = time.monotonic() - began
    while kills < KILLS:
        turn += 1
        name, size = f"turn-{turn}", (1, 3, 2)[turn % 3]
        builders = [crew.start(place(name), (part, size)) for part in range(1, size + 1)]
        delays = [chance.uniform(0, longest) for _ in builders]
        began = time.monotonic()
        for delay, pid in sorted(zip(delays, builders, strict=True)):
            time.sleep(max(0.0, began + delay - time.monotonic()))
            os.kill(pid, signal.SIGKILL)  # not waited for yet, so the id is still its own
        ends = [crew.end(pid) for pid in builders]
        story = f"seed {SEED}, store {turn}, {size} processes, {[end.state for end in ends]}"
        assert {end.state for end in ends} <= {"killed", "exited 0"}, story + "".join(end.log for end in ends)
        kills += sum(end.state == "killed" for end in ends)
        missing = TOTAL - committed(stored(proxy, name))
        crew.computed()
        last = (3, 2, 1)[turn % 3]
        ends = crew.build(place(name), [(part, last) for part in range(1, last + 1)], at_once=turn % 2 == 0)
        assert sum(end.answer["computed"] for end in ends) == missing == crew.computed(), story
        assert_same(stored(proxy, name), whole, f"{story}, at last {last}")


def test_two_processes_of_the_same_part_make_one_store(crew: Crew, proxy: Proxy, whole: Tree) -> None:
    crew.build(place("twice"), [(1, 1), (1, 1)], at_once=True)
    assert_same(stored(proxy, "twice"), whole, "the same part twice")
