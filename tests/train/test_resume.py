"""A run that is killed, at any moment and as often as it likes, and resumed ends like the one that was not, to the last bit.

Weights, batch statistics, spectral vectors, Adam's moments and steps, losses and both weights files. run_child.py says what a point is.
ORSANET_SEED repeats the random choices, though not their timing.
"""

import os
import random
import re
import shutil
import signal
import socket
import time
from itertools import count
from pathlib import Path

import pytest
from object_server import BUCKET, Objects, Proxy

EVERY_STEP = ("--save-minutes", 0)
SEED = int(os.environ.get("ORSANET_SEED", random.SystemRandom().randrange(10**6)))
STEPS = 3  # of an epoch
PASSES = ["pass one", "pass two"]
# What a kill is to come before, and the how manieth of its kind: two epochs of three steps, a state after every step and every epoch.
POINTS = [
    ("pass one", 5), ("pass two", 2), ("between steps", 5),
    ("write checkpoints/.STATE.tmp/tensors.safetensors", 300), ("rename checkpoints/STATE", 5),
    ("evaluated", 1), ("rename best.safetensors", 1), ("rename last.safetensors", 2), ("mkdir checkpoints/.STATE.tmp", STEPS + 1),
]  # fmt: skip
HOST = [("pass two", 5), ("rename checkpoints/STATE", 2)]


def as_told(out: Path) -> list[str]:
    """The option that a user needs to go on, whenever the run was killed."""
    return ["--resume"] if (out / "run.json").exists() else []


def passes(points: list[str]) -> int:
    return sum(point in PASSES for point in points)


@pytest.mark.parametrize(("at", "number"), POINTS)
def test_killed_at_a_point_and_resumed_it_ends_the_same(runner, whole, tmp_path: Path, at: str, number: int) -> None:
    out = tmp_path / "run"
    runner.kill(out, *EVERY_STEP, at=at, number=number)
    runner.finish(out, *EVERY_STEP, "--resume")
    assert runner.differences(out, whole.out) == []


@pytest.mark.parametrize(("at", "number"), HOST)
def test_with_resident_data_it_ends_the_same_too(runner, whole, tmp_path: Path, at: str, number: int) -> None:
    out = tmp_path / "run"
    runner.kill(out, *EVERY_STEP, "--resident", "host", at=at, number=number)
    runner.finish(out, *EVERY_STEP, "--resident", "host", "--resume")
    assert runner.differences(out, whole.out) == []


def test_killed_before_every_kind_of_step_one_after_the_other_it_ends_the_same(runner, whole, tmp_path: Path) -> None:
    """Every process goes on from what the killed one left, and reaches the point at which it is killed."""
    out = tmp_path / "run"
    # Those of a state last: each takes the run one step further, and the end of an epoch would be over.
    kinds = sorted(dict.fromkeys(whole.ended.points), key=lambda kind: " checkpoints/" in kind)
    for kind in kinds:
        runner.kill(out, *EVERY_STEP, *as_told(out), at=kind)
    runner.finish(out, *EVERY_STEP, "--resume")
    assert runner.differences(out, whole.out) == []


def test_killed_at_random_moments_until_it_is_done_it_ends_the_same(runner, whole, tmp_path: Path) -> None:
    out, chance, kills, patience = tmp_path / "run", random.Random(SEED), 0, 0.2
    while True:
        pid = runner.start(out, *EVERY_STEP, *as_told(out))
        time.sleep(chance.uniform(0, patience))
        os.kill(pid, signal.SIGKILL)
        code = runner.wait(pid).code
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        patience *= 1.2  # on a busy machine too, a process gets beyond its start before long
    assert kills > 0
    assert runner.differences(out, whole.out) == [], f"ORSANET_SEED={SEED}, {kills} kills"


def test_killed_at_random_requests_and_resumed_in_another_folder_it_ends_the_same(
    runner, whole, bucket: Proxy, url: str, tmp_path: Path
) -> None:
    """Each process begins in an empty folder, as on another machine, and is killed before one of its next PUTs."""
    chance, kills, folders = random.Random(SEED), 0, count()
    running, left = 0, 0

    def kill(line: str) -> None:
        nonlocal left
        left -= line.startswith("PUT")
        if left == 0:
            os.kill(running, signal.SIGKILL)

    bucket.before = kill
    at_url = ("--out", url, *EVERY_STEP)
    code = -signal.SIGKILL
    while code:
        out = tmp_path / f"run-{next(folders)}"
        left = chance.randint(2, 25) if kills < 3 else 10**6
        running = runner.start(
            out,
            "--work",
            out,
            *at_url,
            *(["--resume"] if kills else []),
            environment={**bucket.environment, "ORSANET_PATIENCE": "6"},
        )
        ended = runner.wait(running)
        code = ended.code
        assert code in (0, -signal.SIGKILL), ended.err
        kills += code != 0
    assert kills > 0
    assert runner.differences(out, whole.out) == [], f"ORSANET_SEED={SEED}, {kills} kills"


def test_two_agents_with_one_bucket_are_killed_and_go_on_in_other_folders(
    runner, bucket: Proxy, objects: Objects, url: str, tmp_path: Path
) -> None:
    """The agents of `torchrun --nnodes 2`, each with a folder of its own; both are killed at the run's second state."""

    def agents(folders: str, *options: object) -> list[int]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        work = "--work" if url in options else "--out"
        return [
            runner.start(
                tmp_path / name, "--set", "epochs=1", *EVERY_STEP, *options, work, tmp_path / name,
                environment={**bucket.environment, "ORSANET_PATIENCE": "6"}, agent=port,
            )
            for name in folders
        ]  # fmt: skip

    def ends(agents: list[int]) -> None:
        for ended in map(runner.wait, agents):
            assert ended.code == 0, ended.err

    states = 0

    def kill(line: str) -> None:
        nonlocal states
        states += "PUT" in line and "state.json" in line
        if states == 2:
            for agent in killed:
                os.killpg(agent, signal.SIGKILL)

    ends(agents("ab"))
    bucket.before = kill
    killed = agents("cd", "--out", url)
    assert [runner.wait(agent).code for agent in killed] == [-signal.SIGKILL] * 2
    bucket.before = lambda _: None
    ends(agents("ef", "--out", url, "--resume"))
    for pair in ("ab", "cd", "ef"):
        assert sum((tmp_path / folder).exists() for folder in pair) == 1
    (whole,) = tmp_path.glob("[ab]/last.safetensors")
    there, _, _ = objects.found[f"{url.removeprefix(f's3://{BUCKET}/')}/last.safetensors"]
    assert there == whole.read_bytes()


def test_only_the_step_under_way_is_trained_again(runner, whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    runner.kill(out, *EVERY_STEP, at="pass two", number=STEPS + 2)
    resumed = runner.finish(out, *EVERY_STEP, "--resume")
    assert passes(whole.ended.points) == 2 * 2 * STEPS
    assert passes(resumed.points) == 2 * (STEPS - 1)
    assert resumed.points.count("evaluated") == 1


def test_without_a_state_resuming_is_starting_anew(runner, whole, tmp_path: Path) -> None:
    """As in the first minutes of a run with the usual --save-minutes."""
    out = tmp_path / "run"
    runner.kill(out, at="pass one", number=STEPS + 2)
    assert not (out / "checkpoints").exists()
    assert passes(runner.finish(out, "--resume").points) == 2 * 2 * STEPS
    assert runner.differences(out, whole.out) == []


def test_how_often_the_state_is_saved_changes_nothing(runner, whole, tmp_path: Path) -> None:
    saved = runner.finish(tmp_path / "run").points.count("rename checkpoints/STATE")
    assert saved == 1
    assert whole.ended.points.count("rename checkpoints/STATE") == 2 * (STEPS + 1)
    assert runner.differences(tmp_path / "run", whole.out) == []


def test_a_damaged_newest_state_falls_back_to_the_one_before_and_says_so(runner, whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    runner.kill(out, *EVERY_STEP, at="between steps", number=STEPS + 3)
    before, newest = sorted(path.name for path in (out / "checkpoints").iterdir())
    tensors = out / "checkpoints" / newest / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[len(content) // 2] ^= 1
    tensors.write_bytes(content)
    resumed = runner.finish(out, *EVERY_STEP, "--resume")
    warning = rf"warning: \S+/{newest}: damaged \(tensors.safetensors .*; resuming from the state before, {before}"
    assert re.search(warning, resumed.err)
    assert runner.differences(out, whole.out) == []


def test_resuming_a_finished_run_trains_nothing_and_changes_nothing(runner, whole, tmp_path: Path) -> None:
    out = shutil.copytree(whole.out, tmp_path / "run")
    told = runner.finish(out, "--resume")
    assert passes(told.points) == 0
    assert re.search(
        r"2 epochs; accuracy on 'valid'.*; always 'anger', the commonest class of these images: \d+\.\d\d%", told.out
    )
    assert runner.differences(out, whole.out) == []


def test_drifting_frozen_networks_and_their_random_numbers_go_on_where_they_were(runner, world, tmp_path: Path) -> None:
    """priors = online, online = published: the landmark network's statistics move, Swin draws from torch's generator."""
    online = [
        "--set", "priors=online", "--set", "online=published", "--segmenter", world.segmenter, "--landmarks", world.landmarks,
        *EVERY_STEP,
    ]  # fmt: skip
    runner.finish(tmp_path / "whole", *online)
    out = tmp_path / "run"
    runner.kill(out, *online, at="pass two", number=2)
    runner.kill(out, *online, "--resume", at="rename last.safetensors")
    runner.finish(out, *online, "--resume")
    result = runner.result(out)
    drifting = [name for name in result if name.startswith("frozen/") and name.endswith("running_mean")]
    assert drifting
    assert runner.differences(out, tmp_path / "whole") == []
