"""A worker of a Ray cluster: the networks, in a process that Ray starts, and starts again where it was lost.

    Task (a unit, its pictures' names) ─ what is committed is left out ─▶ LocalEngine ─ shards, marker ─▶ store ─▶ Done

A worker commits its units itself, so pictures and values never pass through the process that plans.
It computes one unit while it writes another (IN_HAND), each in a thread of Ray's. Nothing here
imports Ray but to ask it where the worker runs: ray_engine.py makes it an actor.
"""

import os
import secrets
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from orsanet_cache.builder.additions import AddedWork, find_additions
from orsanet_cache.builder.engine import Setup
from orsanet_cache.builder.local_engine import LocalEngine, name_of, open_pipeline
from orsanet_cache.builder.plan import Work
from orsanet_cache.builder.reuse import Reuse
from orsanet_cache.data.files import on_disk
from orsanet_cache.data.manifest import Sample
from orsanet_cache.device import choose_device
from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.store.schema import Addition, added_group
from orsanet_cache.store.units import Unit
from orsanet_cache.writing.writer import StoreWriter

IN_HAND = 2  # tasks of a worker at a time
# Whose versions decide the last bits of the values.
SAME_VERSIONS = ("orsanet", "torch")


@dataclass(frozen=True)
class Job:
    """What all workers of a build need. It is sent to each machine once."""

    setup: Setup
    known: tuple[Addition, ...]  # fields that are added to views, among them all that the store has
    grows: bool  # whether rows of the store itself are copied
    device: Literal["cpu", "cuda"]
    versions: Mapping[str, str]  # of SAME_VERSIONS


@dataclass(frozen=True)
class Task:
    """A unit to compute."""

    work: Work | AddedWork
    phase: int  # is higher where views were sealed since the tasks before
    of_unit: Sequence[Sample]
    of_files: Sequence[str | None]
    digests: NDArray[np.uint8] | None = None  # of the pictures, where rows may be copied
    unreadable: frozenset[str] = frozenset()  # pictures that the process that plans cannot read either

    def samples(self, _unit: Unit) -> Sequence[Sample]:
        return self.of_unit

    def files(self, _unit: Unit) -> Sequence[str | None]:
        return self.of_files


@dataclass(frozen=True)
class Done:
    """What became of a task."""

    copied: int  # rows
    damaged: Mapping[str, str]  # rows of other stores that could not be copied -> damage
    networks_seconds: float  # since the task before
    process: str  # tells a worker's processes apart
    node: str
    device: str
    unreadable: frozenset[str] = frozenset()  # pictures that this machine cannot read; nothing was computed


class Worker:
    """The networks on one device.

    Every call begins the work if this process has not: Ray repeats it in a new process if the one
    before was lost. So each has the `box` with the reference to the job, which Ray fetches once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: _Begun | None = None

    def begin(self, box: list[Any]) -> Done:
        """Load the networks and join the build.

        Raises OrsanetError, naming the machine, if it cannot: other versions, another folder.
        """
        return self._in_process(box).done(0)

    def compute(self, box: list[Any], task: Task) -> Done:
        """Compute a unit in the views that it lacks, and commit it."""
        return self._in_process(box).compute(task)

    def end(self) -> None:
        """Leave the build."""
        with self._lock:
            if self._begun is not None:
                self._begun.end()
                self._begun = None

    def _in_process(self, box: list[Any]) -> "_Begun":
        with self._lock:
            if self._begun is None:
                self._begun = _Begun(_received(box))
            return self._begun


def _received(box: list[Any]) -> Job:
    import ray

    try:
        job: Job = ray.get(box[0])
    except (ImportError, AttributeError) as error:  # of a network of one's own, or of another version of this package
        raise OrsanetError(
            f"{node_name()}: has other packages than the machine that builds ({error}); install the same there"
        ) from error
    return job


class _Begun:
    """The work of one process."""

    def __init__(self, job: Job) -> None:
        setup = job.setup
        self._node = node_name()
        for package, wanted in job.versions.items():
            if (here := version(package)) != wanted:
                raise OrsanetError(
                    f"{self._node}: has {package} {here}, the machine that builds has {wanted}, and the last bits of the values depend on it; "
                    f"install {package} {wanted} there"
                )
        device = choose_device(job.device)
        if device.type == "cpu":
            torch.set_num_threads(1)  # Ray has one worker a core
        self._setup, self._grows = setup, job.grows
        additions = find_additions(setup.out, setup.priors, setup.feature_dtype, setup.optional, setup.networks, device)
        name = f"ray-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            self._writer = StoreWriter.join(setup.out, setup.recipe, setup.fields, job.known, name)
        except OrsanetError as error:
            refuse_shortage(error)
            raise OrsanetError(f"{self._node}: {error}") from error
        self._lock = threading.RLock()
        self._pipeline = open_pipeline(setup, additions, device, self._writer.rows_per_unit, _decoders(device))
        self._engine = LocalEngine(self._writer, self._pipeline, None, additions, self._lock)
        self._phase = 0
        self._told = 0.0  # seconds of the networks
        self._name = name

    def compute(self, task: Task) -> Done:
        files = {file for file in task.of_files if file is not None} - task.unreadable
        root = self._setup.root
        if unreadable := {file for file in files if not os.access(on_disk(root, file), os.R_OK)}:
            return self.done(0, frozenset(unreadable))
        with self._lock:
            if task.phase > self._phase:
                self._engine.look_again()
                self._engine.source = None  # what it knows of the store that grows is of the phase before
                self._phase = task.phase
            self._writer.read_split(task.work.unit.split)
            if task.digests is not None:
                self._source().expect(task.work.unit, task.digests)
        copied = self._compute(task, task.work) if isinstance(task.work, Work) else self._add(task, task.work)
        return self.done(copied)

    def done(self, copied: int, unreadable: frozenset[str] = frozenset()) -> Done:
        with self._lock:
            seconds = self._pipeline.networks_seconds()
            since, self._told = seconds - self._told, seconds
            damaged = {} if self._engine.source is None else dict(self._engine.source.damaged)
        return Done(copied, damaged, since, self._name, self._node, name_of(self._pipeline.device), unreadable)

    def end(self) -> None:
        self._pipeline.__exit__()
        self._writer.__exit__()

    def _compute(self, task: Task, work: Work) -> int:
        """The number of rows copied."""
        with self._lock:
            views = tuple(view for view in work.views if not self._is_there(work.unit, view))
        copied = 0
        for unit, view, computed in self._engine.computed([work._replace(views=views)] if views else [], task):
            copied += computed.copied
            self._engine.commit(unit, view, computed)
        return copied

    def _add(self, task: Task, work: AddedWork) -> int:
        with self._lock:
            groups = {name: added_group(work.view, name) for name in work.names}
            names = tuple(name for name, group in groups.items() if not self._is_there(work.unit, group))
        for added in self._engine.added([replace(work, names=names)] if names else [], task):
            self._engine.commit_added(added)
        return 0

    def _is_there(self, unit: Unit, view: str) -> bool:
        """Whether a process that was lost, or is taken for lost, has committed the unit."""
        return self._writer.is_sealed(unit.split, view) or self._writer.marker(unit, view) is not None

    def _source(self) -> Reuse:
        """The stores whose rows are copied."""
        if self._engine.source is None:
            setup = self._setup
            source = (
                Reuse(setup.fields)
                if setup.reuse is None
                else Reuse.open(setup.reuse, setup.out, setup.recipe, setup.fields, setup.views)
            )
            if self._grows:
                source.add(setup.out)
            self._engine.source = source
        return self._engine.source


def node_name() -> str:
    """This machine, for a sentence."""
    import ray

    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"


def _decoders(device: torch.device) -> int:
    """Threads that decode: this worker's part of the machine's cores."""
    import ray

    if device.type == "cpu":
        return 1
    here = ray.get_runtime_context().get_node_id()
    gpus = next((node["Resources"].get("GPU", 1) for node in ray.nodes() if node["NodeID"] == here), 1)
    return max(1, (os.cpu_count() or 1) // max(1, int(gpus)))
