"""Training commands in processes that die, stop or stand still at a point of the test's choosing.

A point is a moment of training (`pass one`, `pass two`, `between steps`, `evaluating`, `evaluated`) or any step that changes the run folder:
making, opening for writing, renaming or removing a name, a write to a file of a training state, and an fsync. Before one of them the process
sends itself a signal, or sleeps; a write is cut in half by SIGKILL.

Started as a program. One request per line on stdin, one answer per line on stdout, as JSON. Every command is a fork of this process, which
loads torch once and never computes: no thread exists to be lost by the fork.
"""

import builtins
import gc
import importlib
import io
import json
import os
import re
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agent_child
import PIL.Image
import torch
from tqdm.auto import tqdm

import orsanet_train.cli
import orsanet_train.drawing.plots
import orsanet_train.engine.step
import orsanet_train.run.loop
import orsanet_train.run.train
from orsanet_cache.outputs import IN_USE
from orsanet_train.run.stop import StopSignals

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
# What a command would import later; torch's optimisers take torch._dynamo, which is half a small run's time.
for module in (
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "orsanet_train.evaluation.statistics",
    "orsanet_train.reference.feed",
    "orsanet_train.reference.network",
    "orsanet_train.run.seeds",
    "zarr.storage",
    "orsanet_cache.store.reader",
):
    importlib.import_module(module)
PIL.Image.preinit()
orsanet_train.drawing.plots.DPI = (
    20  # curves are drawn after every epoch, which took half of a small run, and nobody looks at them
)


class Points:
    """Names the points of this process, and sends it a signal or lets it sleep before one of them."""

    def __init__(self, out: Path, at: str | None, number: int, sent: str | None, linger: float) -> None:
        self.names: list[str] = []
        self._out = out
        self._at = at
        self._left = number  # how often the point is still to come, counting the one that is meant
        self._sent = sent and getattr(signal, sent)
        self._linger = linger
        self._lock = threading.Lock()

    def pass_by(self, name: str) -> None:
        if self.is_next(name):
            self.end()

    def is_next(self, name: str) -> bool:
        """Count a point; is it the one?"""
        with self._lock:
            self.names.append(name)
            self._left -= name == self._at
            return name == self._at and self._left == 0

    def end(self) -> None:
        if self._linger:
            (self._out.parent / f"{self._out.name}.still").touch()
            time.sleep(self._linger)
        if self._sent:
            os.kill(os.getpid(), self._sent)

    def watch(self) -> None:
        """From now on, for as long as the process lives."""
        self._watch_training()
        points, fsync, ordinary = self, os.fsync, builtins.open

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                name = points.changed("write", os.fspath(self.name))
                if name and points.is_next(name):
                    if points._sent == signal.SIGKILL:
                        super().write(memoryview(data)[: len(data) // 2])
                    points.end()
                return super().write(data)

        def counted_fsync(descriptor: int) -> None:
            if name := self.changed("fsync", os.readlink(f"/proc/self/fd/{descriptor}")):
                self.pass_by(name)
            fsync(descriptor)

        def counted_open(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
            if mode == "wb" and buffering == 0:
                return File(file, "wb")
            return ordinary(file, mode, buffering, *rest, **named)

        os.fsync = counted_fsync  # type: ignore[assignment]
        builtins.open = counted_open
        sys.addaudithook(self._audit)

    def _watch_training(self) -> None:
        loss, model_outputs, asked = (
            orsanet_train.engine.step.training_loss,
            orsanet_train.run.loop.model_outputs,
            StopSignals.asked,
        )
        passes = 0

        def counted_loss(*arguments: Any) -> torch.Tensor:
            nonlocal passes
            passes += 1
            self.pass_by("pass one" if passes % 2 else "pass two")
            return loss(*arguments)

        def counted_model_outputs(*arguments: Any, after_batch: Callable[[int], object]) -> Any:
            def counted_after_batch(images: int) -> None:
                self.pass_by("evaluating")
                after_batch(images)

            outputs = model_outputs(*arguments, after_batch=counted_after_batch)
            self.pass_by("evaluated")
            return outputs

        def counted_asked(signals: StopSignals) -> bool:
            self.pass_by("between steps")
            return asked(signals)

        orsanet_train.engine.step.training_loss = counted_loss
        orsanet_train.run.loop.model_outputs = counted_model_outputs  # type: ignore[assignment]
        StopSignals.asked = counted_asked  # type: ignore[method-assign]

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or isinstance(arguments[0], int):
            return
        if event == "open" and not arguments[2] & (os.O_CREAT | os.O_TRUNC):
            return
        path, folder = arguments[0], -1
        if event == "os.rename":
            path, folder = arguments[1], arguments[3]
        elif event in ("os.remove", "os.rmdir"):
            folder = arguments[1]
        elif event == "os.mkdir":
            folder = arguments[2]
        path = os.fsdecode(path)
        if folder >= 0:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        if name := self.changed(event.removeprefix("os."), os.path.abspath(path)):
            self.pass_by(name)

    def changed(self, operation: str, path: str) -> str | None:
        """The name of the point: the same for what differs in a number only. None outside the run folder."""
        place = os.path.relpath(path, self._out)
        if place.startswith("..") or place.endswith(IN_USE):
            return None
        place = re.sub(r"orsanet-[0-9a-f]{8}$", "TEMPORARY", place)
        place = re.sub(r"\d{8}-\d{6}", "STATE", place)
        place = re.sub(r"events\.out.*", "EVENTS", place)
        return f"{operation} {re.sub(r'(?<=batch)[0-9]+', '0', place)}"


def run_and_leave(order: dict[str, Any]) -> None:
    """A command's whole life; its words and points go to files beside the run folder."""
    log = Path(order["log"])
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    temporary = log.with_suffix(".tmp")
    temporary.mkdir(exist_ok=True)
    tempfile.tempdir = str(temporary)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
    os.environ.update(order["environment"])
    points = Points(Path(order["out"]), order["at"], order["number"], order["sent"], order["linger"])
    points.watch()
    if order["memory"]:
        limit = (
            order["memory"] + int(re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
        )
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    code = 70
    try:
        if order["agent"]:
            agent_child.main(order["agent"], order["arguments"])
        else:
            orsanet_train.cli.main(args=order["arguments"], prog_name="orsanet-train")
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    log.with_suffix(".points").write_text(json.dumps(points.names))
    os._exit(code)


def serve() -> None:
    """Fork commands, and say how they ended, until stdin does."""
    torch.set_num_threads(1)
    # tqdm's lock is shared with forks: one killed with it would keep it from all others. A process that starts has its own.
    tqdm.set_lock(threading.RLock())
    gc.freeze()  # what is loaded by now is no garbage for any fork to look through
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, until = request["wait"], time.monotonic() + request["seconds"]
            found, status = os.waitpid(pid, os.WNOHANG)
            while not found and time.monotonic() < until:
                time.sleep(0.005)
                found, status = os.waitpid(pid, os.WNOHANG)
            running -= {found}
            print(json.dumps(os.waitstatus_to_exitcode(status) if found else None), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            run_and_leave(request)
        running.add(pid)
        print(json.dumps(pid), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
