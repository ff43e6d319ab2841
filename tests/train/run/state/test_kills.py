"""Killed at any moment, a run finds a whole state."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_states import PATIENCE, names

from orsanet_train.run.state import TrainingState, load_state, save_state

KILLS = 30


# Each line on stdin starts a fork that saves state after state, going on from what it finds. A state says in every value of 3 MB which
# fork made it. With a number, the fork kills itself before that call of the operating system that changes the disk; a write is cut in half.
SAVING = """
import builtins, io, json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from orsanet_train.run.state import TrainingState, load_state, save_state

def made(step, fork, size):
    return TrainingState(0, step, [{"epoch": 1, "loss": step / 7}], [step, fork], {"model/w": torch.full((size,), fork * 1000 + step)})

def kill_at(number):
    count = 0
    def due():
        nonlocal count
        count += 1
        return count == number
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    def wrapped(call):
        def calling(*arguments, **named):
            if due():
                die()
            return call(*arguments, **named)
        return calling
    class File(io.FileIO):
        def write(self, data):
            if due():
                super().write(data[: len(data) // 2])
                die()
            return super().write(data)
    opening = builtins.open
    def opened(file, mode="r", buffering=-1, *rest, **named):
        if mode == "wb" and buffering == 0:
            if due():
                die()
            return File(file, "wb")
        return opening(file, mode, buffering, *rest, **named)
    builtins.open = opened
    for name in ("fsync", "mkdir", "rename", "unlink", "rmdir"):
        setattr(os, name, wrapped(getattr(os, name)))

for line in sys.stdin:
    order = json.loads(line)
    folder, fork = Path(order["folder"]), order["fork"]
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    code = 70
    try:
        state = load_state(folder)
        note = os.open(order["notes"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        first = 1 if state is None else state.step  # the position that is there is saved again
        if order["at"]:
            kill_at(order["at"])
        for step in range(first, first + order["saves"]):
            os.write(note, f"began {step} {fork}\\n".encode())
            save_state(folder, made(step, fork, order["size"]))
            os.write(note, f"finished {step} {fork}\\n".encode())
        code = 0
    finally:
        os._exit(code)
"""


class Savers:
    """Starts forks of one process that has loaded torch."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self._process = subprocess.Popen(
            [sys.executable, "-c", SAVING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, folder: Path, fork: int, *, saves: int, size: int, at: int = 0) -> int:
        order = {"folder": str(folder), "fork": fork, "notes": str(self.notes), "saves": saves, "size": size, "at": at}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> int:
        """Wait for the fork's end: its exit status."""
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def finished(self) -> tuple[int, int]:
        """The last finished save of any fork: step and fork; zeros without."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        done = [line.split()[1:] for line in lines if line.startswith("finished")]
        return (int(done[-1][0]), int(done[-1][1])) if done else (0, 0)

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def savers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Savers]:
    made = Savers(tmp_path_factory.mktemp("savers"))
    yield made
    made.close()


def whole_or_nothing(folder: Path, savers: Savers, capsys: pytest.CaptureFixture[str]) -> bool:
    """Is there a state? If so it was saved whole, and is the last finished one or the one that was then under way."""
    capsys.readouterr()
    state, (step, fork) = load_state(folder), savers.finished()
    assert capsys.readouterr().err == ""  # a kill damages nothing that has a state's name
    if state is None:
        assert step == 0
        return False
    saved_step, saved_fork = state.metrics
    assert saved_step == state.step
    assert (state.step, saved_fork) >= (step, fork) or state.step > step
    assert f"began {state.step} {int(saved_fork)}\n" in savers.notes.read_text()
    assert state.history == [{"epoch": 1, "loss": state.step / 7}]
    assert torch.all(state.tensors["model/w"] == saved_fork * 1000 + state.step)
    return True


def test_killed_at_random_moments_a_run_always_finds_a_whole_state_and_no_old_one(
    tmp_path: Path, savers: Savers, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rng, left = tmp_path / "checkpoints", random.Random(0), 0
    savers.notes.unlink(missing_ok=True)
    for fork in range(1, KILLS + 1):
        before = savers.finished()
        pid = savers.start(folder, fork, saves=10_000, size=750_000)
        until = time.monotonic() + PATIENCE
        while savers.finished() == before:  # every fork gets somewhere
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.06))
        os.kill(pid, 9)
        assert savers.end() == -9
        left += any(name.endswith(".tmp") for name in names(folder))
        assert whole_or_nothing(folder, savers, capsys)
    assert left > 0  # some were hit while they were saving
    state = load_state(folder)
    assert state is not None
    save_state(folder, TrainingState(0, state.step + 1, [], [], {}))
    assert names(folder) == [f"00000000-{state.step:06d}", f"00000000-{state.step + 1:06d}"]


def test_killed_before_any_call_that_changes_the_disk_a_run_finds_a_whole_state_and_no_old_one(
    tmp_path: Path, savers: Savers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two saves, of which the first replaces the state that is there; and of a run's first two."""
    for begun in (True, False):
        start = tmp_path / f"begun-{begun}"
        start.mkdir()
        savers.notes.unlink(missing_ok=True)
        if begun:
            savers.start(start, 1, saves=3, size=1000)
            assert savers.end() == 0
        notes = savers.notes.read_text() if begun else ""
        at, status, found = 0, -9, 0
        while status == -9:
            at += 1
            folder = tmp_path / f"{begun}-{at}"
            shutil.copytree(start, folder)
            savers.notes.write_text(notes)
            savers.start(folder, 2, saves=2, size=1000, at=at)
            status = savers.end()
            found += whole_or_nothing(folder, savers, capsys)
            shutil.rmtree(folder)
        assert status == 0
        assert at > 20  # there are that many calls, or more where older ones go
        assert found == at if begun else 0 < found < at
