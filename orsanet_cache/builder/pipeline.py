"""From images to priors: decode → networks.

Each stage starts ahead, so that the networks do not wait.

    unit's images ─ threads ─▶ every view's pixels ─ batches, threads ─▶ every field's array

Rows that another store has are copied into the arrays by a thread of their own, and neither decoded
nor computed (reuse.py).

A batch contains rows of one (unit, view) only. On a CPU one thread computes one batch while other
threads compute the next ones. So the values depend neither on the number of threads nor on the
number of processes, and the activations of small batches stay in the caches. Every batch has the
same size, because libraries choose other kernels for other sizes: a batch with fewer rows repeats
them. So the values of a picture do not depend on how many others are computed with it.
"""

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from orsanet_cache.builder.layout import GONE
from orsanet_cache.builder.occluders import occluded
from orsanet_cache.builder.placing import Placement
from orsanet_cache.builder.reuse import UNKNOWN, KnownRows
from orsanet_cache.data.augmentation import stored_rectangles
from orsanet_cache.data.files import on_disk
from orsanet_cache.data.images import (
    IMAGE_SIZE,
    ImageReading,
    Pixels,
    RejectedImage,
    decode,
    every_second_pixel,
    read_file,
    view_pixels,
)
from orsanet_cache.data.manifest import Sample
from orsanet_cache.data.views import CLEAN, View
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.features import stored_values
from orsanet_cache.frozen.pixels import imagenet_normalised
from orsanet_cache.frozen.priors import CPU_BATCH, GPU_BATCH, NO_CLASS, FrozenPriors
from orsanet_cache.store.schema import ROWS_PER_UNIT, SCALE, Field
from orsanet_cache.store.seal import byte_digests

T = TypeVar("T")

Arrays = dict[str, NDArray[Any]]
Compute = Callable[[Pixels, NDArray[np.int64] | None], Arrays]  # of a batch of pictures, and their rectangles
GPU_THREADS = 2  # one batch computes while the other's results are copied


@dataclass(frozen=True)
class DecodedUnit:
    """A unit's images, read once.

    Rows that could not be read, that the clean view rejected, or that are known are black.
    """

    samples: Sequence[Sample]
    pixels: dict[str, Pixels]  # view -> [N, 224, 224, 3]
    sha256: list[str]  # per row; empty if the file could not be read
    rejected: dict[str, str]  # sample id -> reason
    placement: Placement | None = None  # the unit's landmarks, for views with occluders
    known: Mapping[str, KnownRows] = field(default_factory=dict)  # view -> rows to copy
    files: Sequence[str | None] | None = None  # per row, its picture's name now; None: as in `samples`


@dataclass(frozen=True)
class ComputedUnit:
    """A unit's arrays in one view, field by field, first axis N."""

    arrays: dict[str, NDArray[Any]]
    sha256: list[str]
    rejected: dict[str, str]  # sample id -> reason
    copied: int  # rows that were not computed


class Pipeline:
    """The stages' threads.

    A context manager: on exit, running jobs are finished and waiting jobs are cancelled.

    Args:
        root: the folder that image paths start from.
        priors: the frozen networks, on `device`.
        fields: the fields to compute.
        device: CPU or CUDA device.
        batch_size: images at a time, at least 1; None selects the device's default.
        rows_per_unit: rows of a unit; a batch has no more.
        reading: how image files are read.
        decoders: threads that read; None selects one a core.
    """

    def __init__(
        self,
        root: Path,
        priors: FrozenPriors,
        fields: Sequence[Field],
        device: torch.device,
        batch_size: int | None,
        rows_per_unit: int = ROWS_PER_UNIT,
        reading: ImageReading = "upright",
        decoders: int | None = None,
    ) -> None:
        self.root = root
        self.priors = priors
        self.fields = fields
        self.device = device
        self.reading = reading
        on_cpu = device.type == "cpu"
        self.batch_size = min(batch_size or (CPU_BATCH if on_cpu else GPU_BATCH), rows_per_unit)
        self._threads = torch.get_num_threads()
        self._decoders = ThreadPoolExecutor(decoders or os.cpu_count(), "decode")
        self._networks = (
            ThreadPoolExecutor(self._threads, "networks", initializer=lambda: torch.set_num_threads(1))
            if on_cpu
            else ThreadPoolExecutor(GPU_THREADS, "networks")
        )
        self._copier = ThreadPoolExecutor(1, "copy")  # one, so that the files of one view are open at a time
        self._local = threading.local()  # a stream per thread: one thread's copies do not wait for another's kernels
        if not on_cpu:
            imagenet_normalised(torch.zeros(1, 3, 1, 1, device=device))  # creates its constants
            torch.cuda.synchronize(device)  # other streams do not wait for the weights
        self._runs: list[tuple[float, float]] = []  # start and end time of each batch in the networks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for pool in (self._copier, self._decoders, self._networks):
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)  # the initialiser's call also changed the default of later threads

    def start_decoding(
        self,
        samples: Sequence[Sample],
        views: Sequence[str],
        placement: Placement | None = None,
        known: Mapping[str, KnownRows] | None = None,
        files: Sequence[str | None] | None = None,
        sha256: Sequence[str] | None = None,
    ) -> "Decoding":
        """Begin to read a unit's images and to compute its views, but not the `known` rows of a view.

        Views with occluders need `placement`. `files` are the pictures' names now, where they are
        not those of the samples. Rows without one are rejected; `sha256` has their pictures' digests.
        """
        return Decoding(self._decoders, self.root, samples, views, placement, known or {}, self.reading, files, sha256)

    def start_networks(self, unit: DecodedUnit, view: str) -> "Inference":
        """Begin to run the networks on one view of a decoded unit, and to copy its known rows."""
        return Inference(self, unit, view)

    def start_copying(self, known: KnownRows, arrays: dict[str, NDArray[Any]]) -> "Future[NDArray[np.int64]]":
        """Begin to fill the known rows of `arrays`. The result is the rows that could not be copied."""
        return self._copier.submit(known.copy, arrays)

    def submit(
        self,
        pixels: Pixels,
        rows: NDArray[np.int64],
        arrays: dict[str, NDArray[Any]],
        erased: NDArray[np.int64] | None = None,
        compute: Compute | None = None,
    ) -> "Future[None]":
        """Start the networks on at most a batch of rows of `pixels` [N, S, S, 3], and fill these rows of `arrays`.

        `erased` [len(rows), 4] are the rectangles of an augmented view. `compute` runs instead of the
        frozen networks; values without an array are left out.
        """
        return self._networks.submit(self._run, pixels, rows, arrays, erased, compute or self._frozen)

    def networks_seconds(self) -> float:
        """Seconds during which the networks ran in at least one thread."""
        seconds, until = 0.0, 0.0
        for begun, ended in sorted(self._runs):
            seconds += max(0.0, ended - max(begun, until))
            until = max(until, ended)
        return seconds

    def _run(
        self,
        pixels: Pixels,
        rows: NDArray[np.int64],
        arrays: dict[str, NDArray[Any]],
        erased: NDArray[np.int64] | None,
        compute: Compute,
    ) -> None:
        begun = time.monotonic()
        try:
            with self._stream():
                batch = np.resize(np.arange(len(rows)), self.batch_size)
                rectangles = None if erased is None else erased[batch]
                for name, values in compute(pixels[rows[batch]], rectangles).items():
                    if name in arrays:
                        arrays[name][rows] = values[: len(rows)]
        except torch.OutOfMemoryError as error:
            raise OrsanetError(
                f"--batch-size {self.batch_size} does not fit into the memory of {self.device}; lower it"
            ) from error
        self._runs.append((begun, time.monotonic()))

    def _frozen(self, pixels: Pixels, erased: NDArray[np.int64] | None) -> Arrays:
        return computed_values(self.priors, pixels, self.fields, self.device, erased)

    def _stream(self) -> AbstractContextManager[object]:
        if self.device.type == "cpu":
            return nullcontext()
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self.device)
        return torch.cuda.stream(self._local.stream)


def computed_values(
    priors: FrozenPriors,
    pixels: Pixels,
    fields: Sequence[Field],
    device: torch.device,
    erased: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    """The fields of a batch of views [B, 224, 224, 3], in the store's types.

    `erased` [B, 4] are the rectangles of an augmented view. One copy to the device, then one for each
    field back, after everything is computed.
    """
    inputs = [torch.from_numpy(given).to(device) for given in (pixels, erased) if given is not None]
    values = stored_values(priors(*inputs), fields)
    return {name: of_field.cpu().numpy() for name, of_field in values.items()}


class Decoding:
    """A unit whose images are being read.

    Args:
        pool: the threads that read.
        root: the folder that image paths start from.
        samples: the unit's samples.
        views: the views to compute.
        placement: the unit's landmarks, for views with occluders; None for other views.
        known: rows of views that are not needed.
        reading: how image files are read.
        files: per row its picture's name, None for a picture that is gone; None: as in `samples`.
        sha256: per row the digest of its picture, for those that are gone.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        root: Path,
        samples: Sequence[Sample],
        views: Sequence[str],
        placement: Placement | None,
        known: Mapping[str, KnownRows],
        reading: ImageReading,
        files: Sequence[str | None] | None = None,
        sha256: Sequence[str] | None = None,
    ) -> None:
        self._placement = placement
        self._reading = reading
        shape = (len(samples), IMAGE_SIZE, IMAGE_SIZE, 3)
        pixels = {view: np.zeros(shape, np.uint8) for view in views}
        self._unit = DecodedUnit(samples, pixels, [""] * len(samples), {}, placement, known, files)
        self._reasons: list[tuple[str, Future[str]]] = []
        for row, sample in enumerate(samples):
            file = sample.image if files is None else files[row]
            if file is None:
                self._unit.rejected[sample.image] = GONE
                self._unit.sha256[row] = "" if sha256 is None else sha256[row]
                continue
            needed = [view for view in views if view not in known or known[view].places[row] == UNKNOWN]
            if needed:
                self._reasons.append((sample.image, pool.submit(self._read, on_disk(root, file), row, needed)))

    def result(self) -> DecodedUnit:
        """Wait for all images."""
        for image, future in self._reasons:
            reason = future.result()
            if reason:
                self._unit.rejected[image] = reason
        return self._unit

    def _read(self, path: Path, row: int, views: Sequence[str]) -> str:
        """Fill a row of these views. Returns the reason if the image cannot be used, else an empty string."""
        try:
            data = read_file(path)
            self._unit.sha256[row] = hashlib.sha256(data).hexdigest()
            rgb = decode(data, self._reading)
        except RejectedImage as reason:
            return str(reason)
        if self._placement is None:
            for view in views:
                self._unit.pixels[view][row] = view_pixels(rgb, view, self._unit.sha256[row])
            return ""
        if reason_of_clean := self._placement.rejected.get(self._unit.samples[row].image):
            return reason_of_clean
        clean, landmarks = view_pixels(rgb, CLEAN), self._placement.landmarks[row]
        for view in views:
            self._unit.pixels[view][row] = occluded(clean, landmarks, View.parse(view))
        return ""


class Inference:
    """One view of a unit that the networks are computing, and whose known rows are being copied."""

    def __init__(self, pipeline: Pipeline, unit: DecodedUnit, view: str) -> None:
        self._pipeline = pipeline
        self._unit = unit
        self._view = view
        self._known = unit.known.get(view)
        count = len(unit.samples)
        self._arrays = {of.name: np.zeros((count, *of.shape), of.dtype) for of in pipeline.fields}
        is_known = np.zeros(count, np.bool_) if self._known is None else self._known.is_known
        self._sha256 = [""] * count if self._known is None else list(self._known.sha256)
        self._rejected: dict[str, str] = {}
        self._copied = None if self._known is None else pipeline.start_copying(self._known, self._arrays)
        self._batches = self._start(unit, np.flatnonzero(~is_known))

    def result(self, progress: Callable[[int], object] = lambda _: None) -> ComputedUnit:
        """Wait for all batches and copies.

        `progress` is called with the row count of each, and with that of rejected rows.
        """
        copied = 0
        if self._known is not None and self._copied is not None:
            damaged = self._copied.result()
            copied = int(self._known.is_known.sum()) - len(damaged)
            progress(copied)
            if len(damaged):
                known = {self._view: self._known.without(damaged)}
                decoding = self._pipeline.start_decoding(
                    self._unit.samples, [self._view], self._unit.placement, known, self._unit.files, self._sha256
                )
                self._batches += self._start(decoding.result(), damaged)
        for rows, batch in self._batches:
            batch.result()
            progress(rows)
        progress(len(self._rejected))
        rejected = self._rejected | not_finite(self._unit.samples, self._arrays)
        return ComputedUnit(self._arrays, self._sha256, rejected, copied)

    def _start(self, unit: DecodedUnit, rows: NDArray[np.int64]) -> list[tuple[int, "Future[None]"]]:
        """Start the networks on rows of a decoded unit -> the row count of each batch, and the batch."""
        pixels, samples = unit.pixels[self._view], unit.samples
        self._arrays["image"][rows] = every_second_pixel(pixels)[rows]
        for row in rows.tolist():
            self._sha256[row] = unit.sha256[row]
            if reason := unit.rejected.get(samples[row].image):
                self._rejected[samples[row].image] = reason
        rows = np.array([row for row in rows.tolist() if samples[row].image not in unit.rejected], np.int64)
        size = self._pipeline.batch_size
        erased = stored_rectangles(self._view, byte_digests([unit.sha256[row] for row in rows.tolist()]), IMAGE_SIZE)
        parts = [slice(start, start + size) for start in range(0, len(rows), size)]
        return [
            (
                len(rows[part]),
                self._pipeline.submit(pixels, rows[part], self._arrays, None if erased is None else erased[part]),
            )
            for part in parts
        ]


def ahead(begun: Iterable[T], count: int = 1) -> Iterator[T]:
    """Yield the same items, with `count` of them drawn in advance.

    Work that drawing an item starts then runs while earlier items are used.
    """
    waiting: deque[T] = deque()
    for item in begun:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def not_finite(samples: Sequence[Sample], arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Samples with a network output that is not finite -> reason.

    They are rejected, so training never uses them.
    """
    rejected: dict[str, str] = {}
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            bad = ~np.isfinite(array)
        elif name == "segmentation_map":
            bad = array == NO_CLASS
        else:
            continue
        advice = "; what overflows float16 may fit --features float32" if array.dtype == np.float16 else ""
        for row in np.flatnonzero(bad.reshape(len(array), -1).any(axis=1)).tolist():
            prior = name.removesuffix(SCALE)
            # The first field only: an entropy that is not finite follows from the map.
            rejected.setdefault(samples[row].image, f"the networks' {prior} is not finite as {array.dtype}{advice}")
    return rejected
