"""Builds stores in processes that die or stop at a point of the test's choosing.

A point is any step that changes the store's folder: making, opening for writing, renaming, linking or removing a name, a write to a file and
an fsync; and where asked for, taking a lock and opening a file to read it. A builder numbers the points it comes to from 0. Being killed
after one is being killed before the next, so only "before" exists; a write is cut in half.

Started as a program with a manifest and two weights files. One request per line on stdin, one answer per line on stdout, as JSON. Every
builder is a fork of this process, which loads torch and the networks once and never computes: no thread exists to be lost by the fork.
No builder waits for the disk, as nothing cuts the power: what was written before a kill is there after it. test_durable.py has the order.
"""

import builtins
import fcntl
import gc
import hashlib
import io
import json
import multiprocessing.synchronize  # noqa: F401  (here, not in every fork; so with the modules below that nothing names)
import os
import re
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.utils.serialization.config
import zarr.storage  # noqa: F401
from PIL import Image
from tqdm.auto import tqdm

from orsanet_cache import FrozenPriors, Manifest, OrsanetError, load_manifest
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.priors import Priors
from orsanet_cache.store.units import Share

CHANGES = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.truncate", "os.symlink"}
LOOKS = {"open", "fcntl.flock"}


class Counted(FrozenPriors):
    """The same networks; a byte for every image they finish goes where a kill cannot take it back, one for an image that fills a batch.

    With a `memory`, a folder, they say what they have said of the same batch before: hundreds of builds, and time for their crashes only.
    """

    tally: int
    memory: Path | None

    def __init__(self, loaded: FrozenPriors) -> None:
        super().__init__(loaded.segmenter, loaded.landmark_network, loaded.landmark_input)
        self._recipe = loaded.recipe()

    def recipe(self) -> dict[str, object]:
        return self._recipe

    def forward(self, images: torch.Tensor) -> Priors:
        count = len({image.numpy().tobytes() for image in images})
        known = self.memory and self.memory / hashlib.sha256(images.numpy().data).hexdigest()
        if known and known.exists():
            said = Priors(*torch.load(known))
            os.write(self.tally, bytes(count))
            return said
        said = super().forward(images)
        if known:
            temporary = known.with_name(f"{os.getpid()}")
            torch.save(tuple(said), temporary)
            temporary.rename(known)
        os.write(self.tally, bytes(count))
        return said


class Points:
    """Names the points of this process, and ends or stops it before one of them."""

    def __init__(self, store: Path, notes: Path, at: int | None, sent: int, linger: float, looks: bool) -> None:
        self.names: list[str] = []
        self.outside: list[str] = []  # the same steps anywhere else, but for what the test itself notes
        self._store = store
        self._notes = notes
        self._at = at
        self._sent = sent
        self.kills = sent == signal.SIGKILL
        self._linger = linger
        self._looks = looks
        self._lock = threading.Lock()

    def watch(self) -> None:
        """From now on, for as long as the process lives."""
        points, ordinary = self, builtins.open

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                if points.is_next("write", os.fspath(self.name)):
                    if points.kills:
                        super().write(data[: len(data) // 2])
                    points.end()
                return super().write(data)

        def counted_fsync(descriptor: int) -> None:  # no wait for the disk: a kill cuts no power
            self.pass_by("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))

        def counted_open(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
            if mode == "wb" and buffering == 0:
                return File(file, "wb")
            return ordinary(file, mode, buffering, *rest, **named)

        os.fsync = counted_fsync  # type: ignore[assignment]
        builtins.open = counted_open
        sys.addaudithook(self._audit)

    def pass_by(self, operation: str, path: str) -> None:
        if self.is_next(operation, path):
            self.end()

    def is_next(self, operation: str, path: str) -> bool:
        """Count a point; is it the one?"""
        place = os.path.relpath(path, self._store)
        with self._lock:
            if place.startswith(".."):
                if not Path(path).is_relative_to(self._notes):
                    self.outside.append(f"{operation} {path}")
                return False
            self.names.append(f"{operation} {self._kind(place)}")
            return len(self.names) - 1 == self._at

    def end(self) -> None:
        time.sleep(self._linger)
        os.kill(os.getpid(), self._sent)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "fcntl.flock" and self._looks:
            descriptor, operation = arguments
            wait = "try" if operation & fcntl.LOCK_NB else "wait"
            self.pass_by(f"lock ({wait})", os.readlink(f"/proc/self/fd/{descriptor}"))
        elif event in CHANGES and not isinstance(arguments[0], int):
            name = event.removeprefix("os.")
            if event == "open" and not arguments[2] & (os.O_CREAT | os.O_TRUNC):
                within = not os.path.relpath(os.fsdecode(arguments[0]), self._store).startswith("..")
                if not self._looks or not within or arguments[2] & (os.O_DIRECTORY | os.O_RDWR):
                    return
                name = "look into"
            path, folder = arguments[0], -1
            if event in ("os.rename", "os.link"):
                path, folder = arguments[1], arguments[3]
            elif event in ("os.remove", "os.rmdir"):
                folder = arguments[1]
            elif event == "os.mkdir":
                folder = arguments[2]
            path = os.fsdecode(path)
            if folder >= 0:
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
            if path != os.devnull:
                self.pass_by(name, os.path.abspath(path))

    @staticmethod
    def _kind(place: str) -> str:
        """The same for what differs in a number, a split, a view or a field only."""
        place = re.sub(r"begun-.*", "begun", place)
        for pattern, name in ((r"train|test", "SPLIT"), (r"clean|hflip", "VIEW"), (r"\d+", "0")):
            place = re.sub(pattern, name, place)
        fields = "image|segmentation_map|segmentation_entropy|segmentation_features|landmark_features|landmarks"
        return re.sub(rf"(?<=/)({fields})(?=$|[/.])", "FIELD", place)


def build_and_leave(order: dict[str, Any], manifest: Manifest, networks: Counted) -> None:
    """A builder's whole life: what it has to say goes to a file."""
    answer_path = Path(order["answer"])
    log = os.open(answer_path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    networks.tally = os.open(order["tally"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    networks.memory = Path(order["memory"]) if order["memory"] else None
    os.environ.update(order["environment"])
    out = order["out"]
    points = Points(
        Path(out), answer_path.parent, order["at"], getattr(signal, order["signal"]), order["linger"], order["looks"]
    )
    if "://" not in out:
        points.watch()
    answer: dict[str, Any] = {}
    try:
        views, rows, part = order["views"], order["rows_per_unit"], Share(*order["part"])
        summary = build(manifest, out, networks, views, device=torch.device("cpu"), part=part, rows_per_unit=rows)
        answer = {"computed": summary.computed, "waiting": summary.waiting}
    except OrsanetError as error:
        answer = {"error": str(error)}
    answer |= {"points": points.names, "outside": list(points.outside)}
    answer_path.write_text(json.dumps(answer))


def look_after(pid: int, state: str) -> str:
    """A builder's state now, given the one before: running, stopped, killed or 'exited CODE'. A stop is seen once."""
    if state != "running":
        return state
    found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
    if not found:
        return "running"
    if os.WIFSTOPPED(status):
        return "stopped"
    return "killed" if os.WIFSIGNALED(status) else f"exited {os.waitstatus_to_exitcode(status)}"


def serve(manifest_path: str, segmenter: str, landmarks: str) -> None:
    """Fork builders, and say what became of them, until stdin ends."""
    torch.set_num_threads(1)
    # tqdm's lock is shared with forks: one killed with it would keep it from all others. A process that starts has its own.
    tqdm.set_lock(threading.RLock())
    manifest = load_manifest(Path(manifest_path))
    networks = Counted(FrozenPriors.load(Path(segmenter), Path(landmarks)))
    Image.preinit()
    gc.freeze()  # else a fork's collector copies every page
    states: dict[int, str] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, until = request["wait"], time.monotonic() + request["seconds"]
            states[pid] = look_after(pid, states[pid])
            while states[pid] == "running" and time.monotonic() < until:
                time.sleep(0.002)
                states[pid] = look_after(pid, states[pid])
            print(json.dumps(states[pid]), flush=True)
            if states[pid] == "stopped":
                states[pid] = "running"  # until it stops once more
            continue
        pid = os.fork()
        if pid:
            states[pid] = "running"
            print(json.dumps(pid), flush=True)
            continue
        code = 70
        try:
            build_and_leave(request, manifest, networks)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    for pid, state in states.items():
        if state == "running":
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve(*sys.argv[1:])
