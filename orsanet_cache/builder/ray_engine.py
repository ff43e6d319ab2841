"""The computation of units on a Ray cluster, whose machines may come and go.

    this process: plan ─ a Task for each unit ─▶ Ray's actors (ray_worker.py) ─ shards, markers ─▶ store ─▶ this process: seals, states

Ray places the workers, one on each GPU or, without GPUs, on each core. It starts a lost worker
again, on any machine, and gives it its tasks again. A task whose unit is committed does nothing. So a
lost process or machine costs the units that its workers had in hand.

In a cluster that was joined more workers are asked for than there is room for, as long as there is
work for them: Ray's autoscaler adds machines for what waits.
"""

import math
import os
import queue
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal, NoReturn

import torch

from orsanet_cache.builder.additions import AddedWork, Adding, Additions
from orsanet_cache.builder.disk import what_is_safe
from orsanet_cache.builder.engine import Engine, Machines, Pictures, Setup
from orsanet_cache.builder.plan import Work
from orsanet_cache.builder.precision import chosen_precision
from orsanet_cache.builder.ray_worker import IN_HAND, SAME_VERSIONS, Done, Job, Task, Worker
from orsanet_cache.builder.reuse import Reuse
from orsanet_cache.data.files import on_disk
from orsanet_cache.data.images import ImageReading
from orsanet_cache.data.manifest import Manifest
from orsanet_cache.device import choose_device
from orsanet_cache.errors import OrsanetError, shortage
from orsanet_cache.frozen.priors import FrozenPriors, Precision
from orsanet_cache.paths import Place
from orsanet_cache.progress import Progress, say
from orsanet_cache.store.schema import Field
from orsanet_cache.writing.writer import StoreWriter

ADDRESS = "RAY_ADDRESS"  # Ray's own variable; `ray job submit` sets it
ANSWER_SECONDS = 10.0  # Ray itself waits for minutes where nobody answers
RETRIES = 10  # of a task whose worker was lost; a picture that kills its worker ends the build
LOOK_SECONDS = 1.0
ROOM_SECONDS = 5.0  # between two questions for the size of the cluster
# Without a result for so long, workers without a task make room for those that wait for a place with theirs.
STUCK_SECONDS = 30.0
WAITING_SECONDS = 60.0  # between two lines that no worker has begun
END_SECONDS = 10.0  # that a worker has to leave a finished build
_ADDRESS = re.compile(r"(?:ray://)?(\[[0-9A-Fa-f:.]+\]|[^:/\s]+):(\d{1,5})")
# Variables that Ray reads when it is imported, and those of a cluster that a build starts.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # its lines about lost workers, in the midst of the progress
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a line about another version
    "RAY_worker_niceness": "0",  # as a build without Ray; by default workers get the cores that nobody else wants
}


class RayCluster(Machines):
    """As Machines: a Ray cluster that is joined, or one of this machine that ends with the build.

    Raises OrsanetError if Ray is not installed, for a device with a number, and if nobody answers at
    the address.
    """

    def __init__(self, address: str | None, device: torch.device | str) -> None:
        if find_spec("ray") is None:
            raise OrsanetError("--engine ray needs Ray; install it with: pip install 'orsanet[ray]'")
        name = str(device)
        if name not in ("auto", "cpu", "cuda"):
            raise OrsanetError(
                f"--device {name}: with --engine ray Ray chooses each worker's GPU; pass cuda, cpu or auto"
            )
        self._asked = name
        given = None if address == "auto" else address
        self._address = given or os.environ.get(ADDRESS) or address
        self._is_connected = False
        self.own_device = torch.device("cpu")
        if self._address is not None:
            _check_answers(self._address)

    def __str__(self) -> str:
        device = "GPUs, or else cores" if self._asked == "auto" else {"cpu": "cores", "cuda": "GPUs"}[self._asked]
        return f"{device} of {'this machine' if self._address is None else f'the cluster {self._address}'}, by Ray"

    def __enter__(self) -> "RayCluster":
        ray = _ray()
        if ray.is_initialized():
            if self._address is not None:
                raise OrsanetError(f"--address {self._address}: this process is connected to a Ray cluster already")
        else:
            self._connect(ray)
        try:
            self.device = torch.device(self._device(ray))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._is_connected:
            self._is_connected = False
            _ray().shutdown()

    @property
    def may_grow(self) -> bool:
        return self._address is not None

    def chosen_precision(
        self, priors: FrozenPriors, manifest: Manifest, split: str, reading: ImageReading
    ) -> Precision:
        if self.device.type == "cpu":
            return chosen_precision(priors, manifest, split, self.device, reading)
        on_a_gpu = _ray().remote(_chosen_precision).options(num_cpus=1, num_gpus=1, max_retries=RETRIES)
        try:
            return on_a_gpu.remote(priors, manifest, split, reading).future().result()
        except Exception as error:
            _raise_cause(error)

    @contextmanager
    def engine(
        self, writer: StoreWriter, setup: Setup, source: Reuse | None, additions: Additions, grows: bool, idle: bool
    ) -> Iterator[Engine]:
        absolute = replace(
            setup, out=_absolute(setup.out), root=setup.root.absolute(),
            reuse=None if setup.reuse is None else _absolute(setup.reuse),
        )  # fmt: skip
        device: Literal["cpu", "cuda"] = "cpu" if self.device.type == "cpu" else "cuda"
        versions = {package: version(package) for package in SAME_VERSIONS}
        job = Job(absolute, tuple(additions.known.values()), grows, device, versions)
        engine = RayEngine(self, writer, job, source, additions)
        try:
            yield engine
            engine.end()
        finally:
            engine.kill()

    def room(self) -> int:
        """GPUs or cores of the cluster now, in use or not."""
        return int(_ray().cluster_resources().get("CPU" if self.device.type == "cpu" else "GPU", 0))

    def _connect(self, ray: Any) -> None:
        options: dict[str, Any] = {"include_dashboard": False} if self._address is None else {}
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(self._address or "local", log_to_driver=False, logging_level="ERROR", **options)
        except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as error:
            where, advice = "on this machine", ""
            if self._address is not None:
                where, advice = f"at {self._address}", "; if it asks for Ray's token, set RAY_AUTH_MODE=token"
            raise OrsanetError(f"--engine ray: no Ray cluster {where} ({_first_line(error)}){advice}") from error
        finally:
            if in_main_thread:
                signal.signal(signal.SIGTERM, before)  # Ray's own handler would end the command without its cleaning up
        self._is_connected = True

    def _device(self, ray: Any) -> str:
        has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
        if self._asked == "auto":
            return "cuda" if has_gpus else "cpu"
        if self._asked == "cuda" and not has_gpus and not self.may_grow:
            raise OrsanetError("--device cuda: Ray finds no GPU on this machine")
        return self._asked


@dataclass(eq=False)
class _Hired:
    """A worker that was asked for."""

    actor: Any
    begin: "Future[Done]"
    has_begun: bool = False
    in_hand: int = 0  # tasks
    process: str = ""


@dataclass(frozen=True)
class _Result:
    """What became of a call of a worker."""

    worker: _Hired
    task: Task | None  # None: it has begun
    future: "Future[Done]"


class RayEngine(Engine):
    """As Engine."""

    def __init__(
        self, cluster: RayCluster, writer: StoreWriter, job: Job, source: Reuse | None, additions: Additions
    ) -> None:
        self._cluster = cluster
        self._writer = writer
        self._job = job
        self._source = source
        self._additions = additions
        self._box: list[Any] = []
        self._workers: list[_Hired] = []
        self._results: queue.SimpleQueue[_Result] = queue.SimpleQueue()
        self._phase = 0
        self._seconds = 0.0  # of the networks of all workers
        self._devices: set[str] = set()
        self._most = 1  # workers at a time
        self._room = (0, -math.inf)  # of the cluster, and when it was asked

    def compute(self, work: Sequence[Work], pictures: Pictures) -> int:
        return self._run(work, pictures, "build", self._job.setup.fields)

    def add(self, work: Sequence[AddedWork], pictures: Pictures) -> int:
        work = Adding(self._writer, self._additions).there(work)
        self._run(work, pictures, "add fields", self._additions.fields_of(work))
        return sum(lacking.rows for lacking in work)

    def networks_seconds(self) -> float:
        return self._seconds / self._most

    def device_name(self) -> str:
        return ", ".join(sorted(self._devices)) or self._cluster.device.type

    def end(self) -> None:
        """Let the workers leave the build, so that nothing of theirs is left in the store."""
        late = [worker for worker in self._workers if not worker.has_begun]
        for worker in late:
            self._release(worker)
        leaving = [worker.actor.end.remote().future() for worker in self._workers]
        leaving += [worker.begin for worker in late]
        until = time.monotonic() + END_SECONDS
        for future in leaving:
            with suppress(Exception):  # it was lost just now, and has left that way
                future.result(max(0.0, until - time.monotonic()))

    def kill(self) -> None:
        """End the workers' processes."""
        for worker in [*self._workers]:
            self._release(worker)

    def _run(self, work: Sequence[Work | AddedWork], pictures: Pictures, name: str, fields: Sequence[Field]) -> int:
        """Let the workers compute units -> the number of rows copied."""
        self._phase += 1
        waiting = deque(self._task(lacking, pictures) for lacking in work)
        total, safe, copied, left = sum(lacking.rows for lacking in work), 0, 0, len(work)
        last = told = time.monotonic()
        with Progress(total, name, "view") as progress:
            while left:
                if waiting:
                    self._hire(left)
                    self._hand_out(waiting)
                else:
                    for worker in [worker for worker in self._workers if not worker.has_begun]:
                        self._release(worker)  # else a cluster would grow for it
                try:
                    result = self._results.get(timeout=LOOK_SECONDS)
                except queue.Empty:
                    now = time.monotonic()
                    if now - last > STUCK_SECONDS and not waiting:
                        self._make_room()
                    if not any(worker.has_begun for worker in self._workers) and now - told > WAITING_SECONDS:
                        told = now
                        say(
                            f"waits for a worker: the Ray cluster has {self._cluster.room()} {self._slots()} and none is free"
                        )
                    continue
                if result.worker not in self._workers:  # released
                    continue
                last = time.monotonic()
                with what_is_safe(self._writer.path, safe, total, fields):
                    done = self._done(result, safe, total)
                worker, task = result.worker, result.task
                if task is None:
                    worker.has_begun = True
                    continue
                worker.in_hand -= 1
                if done.unreadable:
                    waiting.appendleft(self._readable_nowhere(task, done))
                    continue
                copied += done.copied
                safe += task.work.rows
                left -= 1
                progress.update(task.work.rows)
        return copied

    def _task(self, work: Work | AddedWork, pictures: Pictures) -> Task:
        unit = work.unit
        digests = self._source.digests(unit) if self._source is not None and isinstance(work, Work) else None
        return Task(work, self._phase, tuple(pictures.samples(unit)), tuple(pictures.files(unit)), digests)

    def _hire(self, left: int) -> None:
        """Ask Ray for more workers, where there is work and, in a cluster that cannot grow, room for them."""
        now = time.monotonic()
        if now - self._room[1] > ROOM_SECONDS:
            self._room = self._cluster.room(), now
        most = max(1, self._room[0])
        if self._cluster.may_grow:
            most *= 2  # as many again may wait for new machines
        while len(self._workers) < min(left, most):
            ray = _ray()
            if not self._box:
                self._box.append(ray.put(self._job))
            actor = (
                ray.remote(Worker)
                .options(
                    num_cpus=1,
                    num_gpus=0 if self._job.device == "cpu" else 1,
                    max_concurrency=IN_HAND,
                    max_restarts=-1,
                    max_task_retries=RETRIES,
                )
                .remote()
            )
            worker = _Hired(actor, actor.begin.remote(self._box).future())
            self._workers.append(worker)
            self._expect(worker, None, worker.begin)

    def _hand_out(self, waiting: "deque[Task]") -> None:
        """Give every worker that has begun as many tasks as it may have in hand, evenly."""
        for count in range(IN_HAND):
            for worker in self._workers:
                if waiting and worker.has_begun and worker.in_hand == count:
                    task = waiting.popleft()
                    worker.in_hand += 1
                    self._expect(worker, task, worker.actor.compute.remote(self._box, task).future())

    def _expect(self, worker: _Hired, task: Task | None, future: "Future[Done]") -> None:
        # Waiting in Python, not in Ray, lets a signal's exception through as it is.
        future.add_done_callback(lambda done: self._results.put(_Result(worker, task, done)))

    def _make_room(self) -> None:
        """Release the workers that have nothing in hand."""
        idle = [worker for worker in self._workers if not worker.in_hand]
        for worker in idle if len(idle) < len(self._workers) else ():
            if worker.has_begun:
                with suppress(Exception):
                    worker.actor.end.remote().future().result(END_SECONDS)
            self._release(worker)

    def _release(self, worker: _Hired) -> None:
        """End a worker's process."""
        self._workers.remove(worker)
        with suppress(Exception):  # Ray itself may have ended
            _ray().kill(worker.actor)

    def _done(self, result: _Result, safe: int, total: int) -> Done:
        """A worker's answer. Raises what ended it."""
        out = self._writer.path
        error = result.future.exception()
        if error is not None:
            if _cause(error) is None and _is_of_ray(error):
                what = (
                    "begin"
                    if result.task is None
                    else f"compute {result.task.work.unit.split}, rows {result.task.work.unit.start} to {result.task.work.unit.stop - 1}"
                )
                raise OrsanetError(
                    f"{out}: Ray's workers cannot {what} ({_first_line(error)}); {safe:,} of {total:,} views are safe: "
                    f"run the same command again"
                ) from error
            _raise_cause(error)
        done = result.future.result()
        worker = result.worker
        if worker.process not in ("", done.process):
            say(f"a worker was lost; Ray has started it again on {done.node}, and its units are computed there")
        worker.process = done.process
        self._seconds += done.networks_seconds
        self._devices.add(done.device)
        self._most = max(self._most, sum(worker.has_begun for worker in self._workers))
        if self._source is not None:
            self._source.damaged |= done.damaged
        return done

    def _readable_nowhere(self, task: Task, done: Done) -> Task:
        """The task with the pictures that no machine can read. Raises OrsanetError for those that this one can."""
        root = self._job.setup.root
        for file in sorted(done.unreadable):
            if os.access(on_disk(root, file), os.R_OK):
                raise OrsanetError(
                    f"{done.node}: cannot read {root / file}, which this machine can; the manifest's pictures must lie under the same path "
                    f"on every machine of the cluster"
                )
        return replace(task, unreadable=task.unreadable | done.unreadable)

    def _slots(self) -> str:
        return "core(s)" if self._job.device == "cpu" else "GPU(s)"


def _chosen_precision(priors: FrozenPriors, manifest: Manifest, split: str, reading: ImageReading) -> Precision:
    return chosen_precision(priors, manifest, split, choose_device("cuda"), reading)


def _ray() -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    return ray


def _absolute(place: Place) -> Place:
    return place.absolute() if isinstance(place, Path) else place


def _check_answers(address: str) -> None:
    """Raises OrsanetError for an address where nobody answers within ANSWER_SECONDS, and for a text that is none."""
    where = address
    if address == "auto":
        try:  # the cluster that `ray start` has begun on this machine
            where = Path(os.environ.get("RAY_TMPDIR") or gettempdir(), "ray", "ray_current_cluster").read_text().strip()
        except OSError:
            return  # Ray looks for a cluster among the processes, and answers at once
    if (match := _ADDRESS.fullmatch(where)) is None:
        raise OrsanetError(
            f"--address {address}: is no address of a Ray cluster; write auto, HOST:PORT or ray://HOST:PORT"
        )
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OrsanetError(
            f"--address {address}: no Ray cluster answers at {where} ({what}); start one with `ray start --head`, or leave --address out"
        ) from error


def _cause(error: BaseException) -> BaseException | None:
    """What was raised in a worker; None for what Ray itself has found out."""
    import ray.exceptions

    return error.cause if isinstance(error, ray.exceptions.RayTaskError) else None


def _is_of_ray(error: BaseException) -> bool:
    import ray.exceptions

    return isinstance(error, ray.exceptions.RayError)


def _raise_cause(error: BaseException) -> NoReturn:
    """Raise what ended a worker: a mistake of the user as it is, a bug with the worker's traceback."""
    cause = _cause(error)
    if isinstance(cause, OrsanetError | OSError):
        raise cause
    if cause is not None and (short := shortage(cause)) is not None:
        raise short
    raise error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
