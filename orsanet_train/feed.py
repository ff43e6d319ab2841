"""From a store and a manifest to batches on the device.

    epoch order ─▶ store ─ one thread ─▶ ring of host buffers ─▶ batch          stream
                   host memory ─ one thread ─▶ ring of host buffers ─▶ batch    host: loaded once
                   device memory ─▶ batch                                       device: loaded once

Labels are joined to store rows by image path. An epoch's order, views and erased rectangles are pure functions of
(seed, epoch, position): any epoch can be drawn again, in any process, without having run the ones before. Where the data is kept
changes no bit of a batch.
"""

import hashlib
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from orsanet_cache import Manifest, OrsanetError, PriorStore, Sample, imagenet_normalised, listed, unit_range
from orsanet_train.config import AugmentationConfig, ModelConfig, RunConfig

INPUT_SIZE = 224  # RandomErasing acts on this grid in the published pipeline
ASPECT_RATIO = (0.3, 3.3)

Resident = Literal["auto", "device", "host", "stream"]
RING = 3  # buffers: one that the device copies from, one that is full, one that is being filled
LOAD_ROWS = 256  # read at a time where everything is loaded
AUTO_SHARE = 0.5  # of a GPU's free memory that the data may take unasked; the model has yet to come

Part = TypeVar("Part")
Space = TypeVar("Space")
Made = TypeVar("Made")


class PriorBatch(NamedTuple):
    """One batch on the model's device. Names are the store's; `segmentation` is the one of its two fields that the model takes."""

    image: Tensor  # float32 [B, 3, 112, 112], ImageNet-normalised, erased
    segmentation: Tensor  # float32 [B, C, 7, 7] features, or uint8 [B, 224, 224] map, as the model is configured
    landmark_features: Tensor  # float32 [B, 512, 7, 7]
    label: Tensor  # int64 [B]


@dataclass(frozen=True)
class LabelledSplit:
    """The usable samples of a split, each with its row in the store."""

    name: str
    views: tuple[str, ...]  # in which all of the samples can be used
    samples: tuple[Sample, ...]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    rejected: dict[str, str]  # image -> why the build could not use it

    def sha256(self) -> str:
        """Identifies the usable images, their labels and their order."""
        lines = (f"{sample.label} {sample.image}\0" for sample in self.samples)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def join(
    manifest: Manifest, store: PriorStore, split: str, views: Sequence[str], tag: str | None = None
) -> LabelledSplit:
    """Labels of the manifest to rows of the store, without the images that the build rejected in any of the views.

    With `tag`, only the samples that have it. Raises OrsanetError where the store lacks an image of the manifest, or a view.
    """
    samples = manifest.split(split)
    if tag is not None:
        tags = sorted(set().union(*(sample.tags for sample in samples)))
        if tag not in tags:
            raise OrsanetError(
                f"split '{split}' has no image with the tag '{tag}'; its tags: {', '.join(tags) or 'none'}"
            )
        samples = tuple(sample for sample in samples if tag in sample.tags)
    row_of = {image: row for row, image in enumerate(store.sample_ids(split))}
    missing = [sample.image for sample in samples if sample.image not in row_of]
    if missing:
        raise OrsanetError(
            f"{store.path} lacks {len(missing)} image(s) of split '{split}'; build a store of this manifest:\n{listed(missing)}"
        )
    accepted = np.all([store.accepted(split, view) for view in views], axis=0)
    usable = tuple(sample for sample in samples if accepted[row_of[sample.image]])
    reasons = {image: reason for view in views for image, reason in store.rejected(split, view).items()}
    return LabelledSplit(
        name=split,
        views=tuple(views),
        samples=usable,
        rows=np.array([row_of[sample.image] for sample in usable], dtype=np.int64),
        labels=np.array([sample.label for sample in usable], dtype=np.int64),
        rejected={sample.image: reasons[sample.image] for sample in samples if sample.image in reasons},
    )


class EpochPlan(NamedTuple):
    """One epoch, position by position."""

    order: NDArray[np.int64]  # [N] index into the split
    flipped: NDArray[np.bool_]  # [N] take the hflip view
    erased: NDArray[np.int64]  # [N, 4] top, left, height, width on the 224-pixel grid; height 0: nothing


def epoch_plan(labels: NDArray[np.int64], config: RunConfig, epoch: int) -> EpochPlan:
    """Draw an epoch (counted from 0). `labels` [N] are the split's; balanced sampling weighs each by 1 / its class's count."""
    count = len(labels)
    order_rng, flip_rng, erase_rng = (np.random.default_rng([config.seed, epoch, stream]) for stream in range(3))
    if config.sampling == "balanced":
        weight = 1 / np.bincount(labels)[labels]
        order = order_rng.choice(count, size=count, p=weight / weight.sum())
    else:
        order = order_rng.permutation(count)
    flipped = flip_rng.random(count) < config.augmentation.hflip
    return EpochPlan(order, flipped, erased_rectangles(erase_rng, count, config.augmentation))


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of torch's generator for an epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def erased_rectangles(rng: np.random.Generator, count: int, config: AugmentationConfig) -> NDArray[np.int64]:
    """Rectangles as torchvision's RandomErasing draws them: uniform area, log-uniform aspect ratio, uniform place."""
    area = rng.uniform(*config.erasing_scale, count) * INPUT_SIZE**2
    ratio = np.exp(rng.uniform(math.log(ASPECT_RATIO[0]), math.log(ASPECT_RATIO[1]), count))
    height = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    width = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    top = rng.integers(0, INPUT_SIZE - height + 1)
    left = rng.integers(0, INPUT_SIZE - width + 1)
    chosen = rng.random(count) < config.erasing
    return np.stack([top, left, height, width], axis=1) * chosen[:, None]


def erase(image: Tensor, erased: Tensor) -> Tensor:
    """Zero the rectangles [B, 4], given on the 224-pixel grid, in normalised images [B, 3, 112, 112].

    The 112-pixel image holds the even pixels of that grid, so this is exactly erasing before taking every second pixel.
    """
    position = 2 * torch.arange(image.shape[-1], device=image.device)
    top, left, height, width = erased[:, :, None].unbind(dim=1)
    inside_y = (position >= top) & (position < top + height)  # [B, 112]
    inside_x = (position >= left) & (position < left + width)
    return image.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.0)


class Draws(NamedTuple):
    """What comes into batches, position by position."""

    sample: NDArray[np.int64]  # [N] into the split
    view: NDArray[np.int64]  # [N] into the split's views
    erased: NDArray[np.int64]  # [N, 4] as in EpochPlan

    def part(self, start: int, stop: int) -> "Draws":
        return Draws(*(values[start:stop] for values in self))


class Residence(NamedTuple):
    """Where a feed's data is kept."""

    mode: Literal["device", "host", "stream"]
    reason: str


class Feed:
    """Batches of one split for one model configuration.

    `residence` says where the data is: as asked for, or as `auto` decides. Resident data is loaded here, with a progress bar, and
    every row's checksum is verified. Raises OrsanetError for a damaged store, or data that does not fit where it was asked to be.
    """

    def __init__(
        self,
        store: PriorStore,
        split: LabelledSplit,
        model: ModelConfig,
        device: torch.device,
        resident: Resident = "auto",
    ) -> None:
        self.store = store
        self.split = split
        self.device = device
        # Without a semantic prior the map stands in: the smallest field, and the model ignores it.
        self.segmentation = "segmentation_features" if model.segmentation_prior == "features" else "segmentation_map"
        stored = store.fields(split.name, split.views[0])
        names = ("image", self.segmentation, "landmark_features")
        self._fields = {
            name: (stored[name].shape[1:], stored[name].dtype)
            for name in (*names, *(f"{name}_scale" for name in names))
            if name in stored
        }
        row_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in self._fields.values())
        rows = len(split.views) * len(split.rows)
        self.residence = choose_residence(resident, rows * row_bytes, device)
        self._loaded: dict[str, Tensor] = {}  # [views * N, …] per field, view by view
        if self.residence.mode != "stream":
            self._load(device if self.residence.mode == "device" else torch.device("cpu"), rows * row_bytes)

    def epoch(self, config: RunConfig, epoch: int) -> Iterator[PriorBatch]:
        """The augmented training batches of an epoch, the last one possibly short.

        Leaving the iterator, however early, ends its thread.
        """
        plan = epoch_plan(self.split.labels, config, epoch)
        clean = self.split.views.index("clean")
        flipped = self.split.views.index("hflip") if plan.flipped.any() else clean
        return self._batches(Draws(plan.order, np.where(plan.flipped, flipped, clean), plan.erased), config.batch_size)

    def in_order(self, batch_size: int, view: str = "clean") -> Iterator[PriorBatch]:
        """Every sample once, in the manifest's order, unaugmented."""
        count = len(self.split.rows)
        view_index = np.full(count, self.split.views.index(view))
        return self._batches(Draws(np.arange(count), view_index, np.zeros((count, 4), np.int64)), batch_size)

    def _batches(self, draws: Draws, batch_size: int) -> Iterator[PriorBatch]:
        count = len(draws.sample)
        spans = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
        if self.residence.mode == "device":
            # The whole epoch's at once: a copy from ordinary memory makes the host wait for the device.
            places, labels, erased = (
                torch.from_numpy(values).to(self.device)
                for values in (self._places(draws), self.split.labels[draws.sample], draws.erased)
            )
            for start, stop in spans:
                chosen = places[start:stop]
                fields = {name: values.index_select(0, chosen) for name, values in self._loaded.items()}
                yield self._batch({**fields, "label": labels[start:stop], "erased": erased[start:stop]})
        else:
            layouts = {**self._fields, "label": ((), np.dtype(np.int64)), "erased": ((4,), np.dtype(np.int64))}
            slots = [Slot(layouts, min(batch_size, count), self.device) for _ in range(RING)]
            parts = (draws.part(start, stop) for start, stop in spans)
            yield from ahead_in_ring(parts, slots, self._fill, self._taken)

    def _fill(self, draws: Draws, slot: "Slot") -> None:
        """What the thread does."""
        buffers = slot.to_fill(len(draws.sample))
        buffers["label"][:] = self.split.labels[draws.sample]
        buffers["erased"][:] = draws.erased
        if self._loaded:
            places = self._places(draws)
            for name, values in self._loaded.items():
                np.take(values.numpy(), places, axis=0, out=buffers[name], mode="clip")  # "raise" takes a detour
            return
        rows = self.split.rows[draws.sample]
        changes = (np.flatnonzero(np.diff(draws.view)) + 1).tolist()
        for start, stop in pairwise([0, *changes, len(rows)]):  # runs of one view
            view = self.split.views[draws.view[start]]
            for name in self._fields:
                self.store.read(self.split.name, view, name, rows[start:stop], out=buffers[name][start:stop])

    def _taken(self, draws: Draws, slot: "Slot") -> PriorBatch:
        return self._batch(slot.on_device(len(draws.sample)))

    def _batch(self, stored: Mapping[str, Tensor]) -> PriorBatch:
        """A batch of what is stored, both on the device; they share no memory."""
        image = erase(imagenet_normalised(unit_range(stored["image"])), stored["erased"])
        segmentation, landmark_features = (_values(stored, name) for name in (self.segmentation, "landmark_features"))
        return PriorBatch(image, segmentation, landmark_features, stored["label"].clone())

    def _places(self, draws: Draws) -> NDArray[np.int64]:
        """Where the draws are in what is loaded."""
        return draws.view * len(self.split.rows) + draws.sample

    def _load(self, home: torch.device, total: int) -> None:
        rows = self.split.rows
        with tqdm(total=total, unit="B", unit_scale=True, desc=f"load {self.split.name}", leave=False) as progress:
            for name, (shape, dtype) in self._fields.items():
                buffer = np.empty((LOAD_ROWS, *shape), dtype)
                values = torch.empty(
                    (len(self.split.views) * len(rows), *shape), dtype=torch.from_numpy(buffer).dtype, device=home
                )
                for number, view in enumerate(self.split.views):
                    for start in range(0, len(rows), LOAD_ROWS):
                        part = rows[start : start + LOAD_ROWS]
                        read = self.store.read(self.split.name, view, name, part, out=buffer[: len(part)])
                        first = number * len(rows) + start
                        values[first : first + len(part)].copy_(torch.from_numpy(read))
                        progress.update(read.nbytes)
                self._loaded[name] = values


def _values(stored: Mapping[str, Tensor], name: str) -> Tensor:
    """Features as float32 whatever they are stored as; a map as it is."""
    values = stored[name]
    if f"{name}_scale" in stored:
        return values.float() * stored[f"{name}_scale"][..., None, None]
    return values.to(torch.float32 if values.is_floating_point() else values.dtype, copy=True)


class Slot:
    """Host memory for one batch, used again and again; pinned where a GPU copies from it."""

    def __init__(
        self, layouts: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], rows: int, device: torch.device
    ) -> None:
        on_gpu = device.type == "cuda"
        buffers = {name: torch.from_numpy(np.empty((rows, *shape), dtype)) for name, (shape, dtype) in layouts.items()}
        self.device = device
        self.buffers = {name: buffer.pin_memory() if on_gpu else buffer for name, buffer in buffers.items()}
        self.copied = torch.cuda.Event() if on_gpu else None

    def to_fill(self, rows: int) -> dict[str, NDArray[Any]]:
        """The first rows of every buffer, as soon as the GPU has copied what was in them."""
        if self.copied is not None:
            self.copied.synchronize()
        return {name: buffer[:rows].numpy() for name, buffer in self.buffers.items()}

    def on_device(self, rows: int) -> dict[str, Tensor]:
        """The same rows on the device: on a GPU copies, begun and not waited for; on a CPU the buffers themselves."""
        tensors = {name: buffer[:rows].to(self.device, non_blocking=True) for name, buffer in self.buffers.items()}
        if self.copied is not None:
            self.copied.record(torch.cuda.current_stream(self.device))
        return tensors


def ahead_in_ring(
    parts: Iterable[Part],
    slots: Iterable[Space],
    fill: Callable[[Part, Space], None],
    take: Callable[[Part, Space], Made],
) -> Iterator[Made]:
    """take(part, slot) of every part in order, after one background thread ran fill(part, slot): as far ahead as there are slots.

    A slot is filled again once `take` has returned. What `fill` raises is raised here. The thread has ended when the iterator has.
    """
    waiting = iter(parts)
    thread = ThreadPoolExecutor(1, "feed")
    try:
        under_way: deque[tuple[Future[None], Part, Space]] = deque(
            (thread.submit(fill, part, slot), part, slot) for slot, part in zip(slots, waiting, strict=False)
        )
        while under_way:
            filled, part, slot = under_way.popleft()
            filled.result()
            made = take(part, slot)
            for following in islice(waiting, 1):
                under_way.append((thread.submit(fill, following, slot), following, slot))
            yield made
    finally:
        thread.shutdown(cancel_futures=True)


def choose_residence(resident: Resident, needed: int, device: torch.device) -> Residence:
    """Where to keep `needed` bytes. Raises OrsanetError where they are asked to be in memory and are more than is free there."""
    size = tqdm.format_sizeof(needed, "B")
    if resident == "auto" and device.type != "cuda":
        return Residence("stream", f"{size} streamed from the store; on a CPU the page cache keeps what fits in memory")
    home = torch.device("cpu") if resident == "host" else device
    free = free_memory(home)
    found = f"{tqdm.format_sizeof(free, 'B')} free on {home}"
    if resident == "auto":
        if needed <= AUTO_SHARE * free:
            return Residence("device", f"{size} resident on {device}; at most half of the {found}")
        return Residence("stream", f"{size} streamed from the store; more than half of the {found}")
    if resident == "stream":
        return Residence("stream", f"{size} streamed from the store, as asked for")
    if needed > free:
        raise OrsanetError(
            f"--resident {resident}: the data takes {size}, of {found}; use --resident stream, which needs no more than a few batches"
        )
    return Residence(resident, f"{size} resident on {home}, as asked for")


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated there; on a CPU the page cache counts as free."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for what comes next
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    if found is None:  # not Linux: at least what cannot fit at all
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(found[1]) * 1024
