"""From a store and a manifest to batches on the device.

    epoch order ─▶ store ─ one thread ─▶ ring of host buffers ─▶ batch          stream
                   host memory ─ one thread ─▶ ring of host buffers ─▶ batch    host: loaded once
                   device memory ─▶ batch                                       device: loaded once

Labels are joined to store rows by image path. Where the data is kept changes no bit of a batch.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from orsanet_cache import Manifest, OrsanetError, PriorStore, Sample, imagenet_normalised, listed, unit_range
from orsanet_train.config import ModelConfig, RunConfig
from orsanet_train.epoch import epoch_plan, erase
from orsanet_train.residence import Resident, choose_residence
from orsanet_train.ring import RING, Slot, ahead_in_ring

LOAD_ROWS = 256  # read at a time where everything is loaded


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


class Draws(NamedTuple):
    """What comes into batches, position by position."""

    sample: NDArray[np.int64]  # [N] into the split
    view: NDArray[np.int64]  # [N] into the split's views
    erased: NDArray[np.int64]  # [N, 4] as in EpochPlan

    def part(self, start: int, stop: int) -> "Draws":
        return Draws(*(values[start:stop] for values in self))


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
        for number in np.unique(draws.view).tolist():
            view, positions = self.split.views[number], np.flatnonzero(draws.view == number)
            for name in self._fields:
                self.store.read(self.split.name, view, name, rows[positions], buffers[name], positions)

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
