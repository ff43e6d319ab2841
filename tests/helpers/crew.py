"""Builders of one small store: forks of crash_child.py's process, which may be killed at any time."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VIEWS = ("clean", "hflip")
ROWS_PER_UNIT = 2
PATIENCE = 120.0  # seconds that no builder needs; one that hangs fails the test

Part = tuple[int, int]
Tree = dict[str, bytes | None]


@dataclass(frozen=True)
class Ended:
    """A builder's end: 'exited 0', 'killed' or 'running', and what it said."""

    state: str
    answer: dict[str, Any]
    log: str


class Crew:
    """Starts builders: forks of crash_child.py's process."""

    def __init__(self, folder: Path, manifest: Path, segmenter: Path, landmarks: Path) -> None:
        self.folder = folder
        self._notes = folder / "notes"
        self._tally = self._notes / "tally"
        self._memory = self._notes / "memory"
        self._memory.mkdir(parents=True)
        self._answers: dict[int, Path] = {}
        self._started = 0
        self.environment: dict[str, str] = {}  # variables of builders besides this process's
        program = Path(__file__).parents[1] / "cache" / "crash_child.py"
        self._process = subprocess.Popen(
            [sys.executable, program, manifest, segmenter, landmarks],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(PATIENCE)

    def start(
        self,
        out: Path | str,
        part: Part = (1, 1),
        *,
        at: int | None = None,
        sent: str = "SIGKILL",
        linger: float = 0,
        looks: bool = False,
        real: bool = False,
    ) -> int:
        """Begin to build a part. Returns the builder's process id.

        At point number `at`, its other threads working on for `linger` seconds, the builder gets a signal. `looks`: crash_child.py counts
        locks and reads as points too. `real`: the networks compute, rather than say again what they said of the same images.
        """
        self._started += 1
        answer = self._notes / f"{self._started}.json"
        order = {
            "out": str(out), "part": part, "views": VIEWS, "rows_per_unit": ROWS_PER_UNIT,
            "at": at, "signal": sent, "linger": linger, "looks": looks,
            "memory": None if real else str(self._memory), "tally": str(self._tally), "answer": str(answer),
            "environment": self.environment,
        }  # fmt: skip
        pid = int(self._ask(order))
        self._answers[pid] = answer
        return pid

    def state(self, pid: int, seconds: float = PATIENCE) -> str:
        """What became of a builder within so many seconds: running, stopped, killed or 'exited CODE'."""
        return str(self._ask({"wait": pid, "seconds": seconds}))

    def end(self, pid: int) -> Ended:
        """Wait for a builder's end."""
        state = self.state(pid)
        answer = self._answers.pop(pid)
        log = answer.with_suffix(".log")
        return Ended(
            state,
            json.loads(answer.read_bytes()) if answer.exists() else {},
            log.read_text() if log.exists() else "",
        )

    def build(self, out: Path | str, parts: Sequence[Part], at_once: bool, real: bool = False) -> list[Ended]:
        """Build these parts, and expect every one to end well."""
        if at_once:
            ends = [self.end(pid) for pid in [self.start(out, part, real=real) for part in parts]]
        else:
            ends = [self.end(self.start(out, part, real=real)) for part in parts]
        for end in ends:
            assert end.state == "exited 0", end.log
            assert "error" not in end.answer, end.answer
        return ends

    def computed(self) -> int:
        """Images that the networks finished in all builders since the last call, killed ones included."""
        count = self._tally.stat().st_size if self._tally.exists() else 0
        self._tally.unlink(missing_ok=True)
        return count

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def tree(folder: Path) -> Tree:
    """Every name below the folder -> its bytes; None for a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
