"""Shared fixtures of stage two's tests: training commands as processes of their own, which can be interrupted at a named point."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from orsanet_train.drawing import plots
from orsanet_train.run.state import load_state

PATIENCE = 120.0  # seconds that no command needs; one that hangs fails its test
TINY = (
    "epochs=2", "batch_size=6", "loss.warmup_epochs=1", "model.depth=1", "model.width=32", "model.multi_scale=false",
    "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]",
)  # fmt: skip
CLOCK = ["images_per_second", "waiting_share"]  # columns of metrics.csv that no two runs share


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (-9: killed), its words, what it left in its folder for temporary files, and the points that
    it came by, unless it was killed.
    """

    code: int
    out: str
    err: str
    left: list[str]
    points: list[str] = field(repr=False)


@dataclass
class Runner:
    """Starts `orsanet-train run` on the small world; run_child.py says what a point is."""

    store: Path
    manifest: Path
    process: "subprocess.Popen[str]"
    logs: Path
    numbers: Iterator[int] = field(default_factory=count)
    running: dict[int, Path] = field(default_factory=dict)  # processes that nobody has waited for, and their logs

    def arguments(self, out: Path, *options: object) -> list[str]:
        """Of the command."""
        settings = [part for key in TINY for part in ("--set", key)]
        data = ["--store", self.store, "--manifest", self.manifest, "--preset", "small"]
        return [*map(str, ["run", *data, *settings, "--device", "cpu", "--out", out, *options])]

    def start(
        self,
        out: Path,
        *options: object,
        at: str | None = None,
        number: int = 1,
        sent: str | None = "SIGKILL",
        linger: float = 0,
        memory: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> int:
        """Its process. Before the point `at` comes for the `number`-th time, it sleeps for `linger` seconds and sends itself `sent`.

        `memory`: how many bytes it may allocate beyond what it begins with. `environment`: variables besides those of this process.
        """
        log = self.logs / f"{next(self.numbers)}"
        for suffix in (".out", ".err"):  # a kill may come before the process opens them
            log.with_suffix(suffix).touch()
        log.with_suffix(".tmp").mkdir()
        pid = self._ask(
            log=str(log), out=str(out), at=at, number=number, sent=sent, linger=linger, memory=memory,
            environment=environment or {}, arguments=self.arguments(out, *options),
        )  # fmt: skip
        self.running[pid] = log
        return pid

    def wait(self, pid: int) -> Ended:
        code, log = self._ask(wait=pid, seconds=PATIENCE), self.running.pop(pid)
        assert code is not None, f"still running after {PATIENCE} s:\n{log.with_suffix('.err').read_text()}"
        points = log.with_suffix(".points")
        return Ended(
            code,
            log.with_suffix(".out").read_text(),
            log.with_suffix(".err").read_text(),
            [path.name for path in log.with_suffix(".tmp").iterdir()],
            json.loads(points.read_text()) if points.exists() else [],
        )

    def run(self, out: Path, *options: object, **interruption: Any) -> Ended:
        return self.wait(self.start(out, *options, **interruption))

    def finish(self, out: Path, *options: object, **interruption: Any) -> Ended:
        """A command that must end well."""
        ended = self.run(out, *options, **interruption)
        assert ended.code == 0, ended.err
        return ended

    def kill(self, out: Path, *options: object, at: str, number: int = 1) -> None:
        """A command that must die at a point."""
        ended = self.run(out, *options, at=at, number=number)
        assert ended.code == -signal.SIGKILL, f"not killed at {at}, {number}: {ended}"

    def wait_until_still(self, out: Path) -> None:
        """Until the one command, with `linger`, sleeps at its point."""
        still, until = out.parent / f"{out.name}.still", time.monotonic() + PATIENCE
        while not still.exists():
            assert time.monotonic() < until, [log.with_suffix(".err").read_text() for log in self.running.values()]
            time.sleep(0.01)

    def result(self, out: Path) -> dict[str, object]:
        """All of a finished run that must be the same to the last bit, however it was interrupted, by name."""
        state = load_state(out / "checkpoints")
        assert state is not None
        history = [{key: value for key, value in row.items() if key not in CLOCK} for row in state.history]
        found: dict[str, object] = {"position": (state.epoch, state.step, state.metrics), "history": history}
        for name, tensor in state.tensors.items():
            found[name] = tensor.dtype, tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        table = pd.read_csv(out / "metrics.csv", dtype=str).drop(columns=CLOCK)
        found["metrics.csv"] = table.to_csv(index=False)
        files = [path for path in out.iterdir() if path.is_file() and path.name not in ("metrics.csv", "curves.png")]
        found.update({path.name: path.read_bytes() for path in files})
        found["names"] = sorted(path.name for path in out.iterdir())
        return found

    def differences(self, out: Path, whole: Path) -> Sequence[str]:
        """Names of what is not the same, to the last bit, in two run folders."""
        a, b = self.result(out), self.result(whole)
        return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))

    def _ask(self, **request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="session")
def runner(world, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    program = Path(__file__).with_name("run_child.py")
    with subprocess.Popen(
        [sys.executable, program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        yield Runner(world.store, world.manifest, process, tmp_path_factory.mktemp("logs"))
        assert process.stdin is not None
        process.stdin.close()
        process.wait(PATIENCE)


@pytest.fixture(scope="module")
def without_matplotlib() -> Iterator[None]:
    """Runs as where the extra `plots` is not installed, for modules that train often and look at no curves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "matplotlib_installed", lambda: False)
        yield


@dataclass(frozen=True)
class Whole:
    """The run that nothing interrupted: treat its folder as read-only."""

    out: Path
    ended: Ended


@pytest.fixture(scope="session")
def whole(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Two epochs of three steps, the last of two images; its state is saved after every step."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return Whole(out, runner.finish(out, "--save-minutes", 0))
