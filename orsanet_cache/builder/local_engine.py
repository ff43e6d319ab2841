"""The computation of units in this process: decode, run the networks, copy known rows and write, all concurrently."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property

import torch

from orsanet_cache.builder.additions import AddedUnit, AddedWork, Adding, Additions
from orsanet_cache.builder.disk import what_is_safe
from orsanet_cache.builder.engine import Engine, Machines, Pictures, Setup
from orsanet_cache.builder.pipeline import ComputedUnit, Decoding, Inference, Pipeline, ahead
from orsanet_cache.builder.placing import is_placed, placement
from orsanet_cache.builder.plan import Work
from orsanet_cache.builder.precision import chosen_precision
from orsanet_cache.builder.reuse import Reuse
from orsanet_cache.data.images import ImageReading
from orsanet_cache.data.manifest import Manifest
from orsanet_cache.device import as_device
from orsanet_cache.frozen.priors import FrozenPriors, Precision, in_half_precision
from orsanet_cache.progress import Progress
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import added_group
from orsanet_cache.store.units import Unit, UnitRecord
from orsanet_cache.writing.writer import StoreWriter


class LocalEngine(Engine):
    """As Engine.

    Args:
        writer: the store's writer.
        pipeline: the threads that decode and that run the networks.
        source: the stores whose rows are copied, if any.
        additions: what the build adds to views.
        lock: held while the store, or `source`, is read or written, where several threads use this engine.
    """

    def __init__(
        self,
        writer: StoreWriter,
        pipeline: Pipeline,
        source: Reuse | None,
        additions: Additions,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self.writer = writer
        self.pipeline = pipeline
        self.source = source
        self.additions = additions
        self._lock = nullcontext() if lock is None else lock

    def compute(self, work: Sequence[Work], pictures: Pictures) -> int:
        self.look_again()
        total = sum(lacking.rows for lacking in work)
        name = "build" if self.writer.part.count == 1 else f"part {self.writer.part}"
        safe = copied = 0
        with Progress(total, name, "view") as progress:
            for unit, view, computed in self.computed(work, pictures, progress.update):
                copied += computed.copied
                with what_is_safe(self.writer.path, safe, total, self.pipeline.fields):
                    self.commit(unit, view, computed)
                safe += unit.stop - unit.start
        return copied

    def add(self, work: Sequence[AddedWork], pictures: Pictures) -> int:
        self.look_again()
        work = self._adding.there(work)
        total = sum(lacking.rows for lacking in work)
        fields = self.additions.fields_of(work)
        safe = 0
        with Progress(total, "add fields", "view") as progress:
            for added in self.added(work, pictures):
                with what_is_safe(self.writer.path, safe, total, fields):
                    self.commit_added(added)
                safe += added.work.rows
                progress.update(added.work.rows)
        return safe

    def networks_seconds(self) -> float:
        return self.pipeline.networks_seconds()

    def device_name(self) -> str:
        return name_of(self.pipeline.device)

    def look_again(self) -> None:
        """Read from the store again which of its views are sealed."""
        for name in ("_segments", "_adding"):
            self.__dict__.pop(name, None)

    def computed(
        self, work: Sequence[Work], pictures: Pictures, progress: Callable[[int], object] = lambda _: None
    ) -> Iterator[tuple[Unit, str, ComputedUnit]]:
        """Every unit in every view that it lacks. `progress` is called with numbers of finished rows.

        One unit ahead: the networks compute it while the caller writes. With more units ahead, a kill would lose more.
        """

        def decoding() -> Iterator[tuple[Work, Decoding]]:
            for lacking in work:
                unit = lacking.unit
                with self._lock:
                    placed = any(map(is_placed, lacking.views))
                    where = placement(self._segments, unit) if placed else None
                    of_unit, files = pictures.samples(unit), pictures.files(unit)
                    known = {} if self.source is None else self.source.known(unit, of_unit, lacking.views, where)
                    gone = self.writer.digests(unit) if None in files else None
                yield lacking, self.pipeline.start_decoding(of_unit, lacking.views, where, known, files, gone)

        def inference() -> Iterator[tuple[Unit, str, Inference]]:
            for lacking, images in ahead(decoding()):
                decoded = images.result()
                for view in lacking.views:
                    yield lacking.unit, view, self.pipeline.start_networks(decoded, view)

        for unit, view, priors in ahead(inference()):
            yield unit, view, priors.result(progress)

    def commit(self, unit: Unit, view: str, computed: ComputedUnit) -> None:
        """Write a unit to the store."""
        with self._lock:
            if self.source is not None and computed.copied:
                self.source.note(self.writer, unit, view)
            self.writer.commit(unit, view, computed.arrays, UnitRecord(computed.sha256, computed.rejected))

    def added(self, work: Sequence[AddedWork], pictures: Pictures) -> Iterator[AddedUnit]:
        """Every unit with the added fields that it lacks."""
        return self._adding.computed(work, pictures, self.pipeline, self._lock)

    def commit_added(self, added: AddedUnit) -> None:
        """Write a unit's added fields to the store."""
        for name, (arrays, record) in added.fields.items():
            with self._lock:
                self.writer.commit(added.work.unit, added_group(added.work.view, name), arrays, record)

    @cached_property
    def _segments(self) -> PriorStore:
        return PriorStore.open_segments(self.writer.path)

    @cached_property
    def _adding(self) -> Adding:
        return Adding(self.writer, self.additions)


class ThisMachine(Machines):
    """As Machines."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = self.own_device = as_device(device)

    def __str__(self) -> str:
        return str(self.device)

    def __enter__(self) -> "ThisMachine":
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    def chosen_precision(
        self, priors: FrozenPriors, manifest: Manifest, split: str, reading: ImageReading
    ) -> Precision:
        return chosen_precision(priors, manifest, split, self.device, reading)

    @contextmanager
    def engine(
        self, writer: StoreWriter, setup: Setup, source: Reuse | None, additions: Additions, grows: bool, idle: bool
    ) -> Iterator[Engine]:
        with open_pipeline(setup, additions, self.device, writer.rows_per_unit, idle=idle) as pipeline:
            yield LocalEngine(writer, pipeline, source, additions)


def open_pipeline(
    setup: Setup,
    additions: Additions,
    device: torch.device,
    rows_per_unit: int,
    decoders: int | None = None,
    idle: bool = False,
) -> Pipeline:
    """The pipeline of a build. Unless it is `idle`, the networks are moved to the device."""
    priors = setup.priors
    if not idle:
        priors = (in_half_precision(priors) if setup.precision == "fp16" else priors).to(device)
        additions.use(priors)
    return Pipeline(setup.root, priors, setup.fields, device, setup.batch_size, rows_per_unit, setup.reading, decoders)


def name_of(device: torch.device) -> str:
    """The name of a device, as stores record it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
