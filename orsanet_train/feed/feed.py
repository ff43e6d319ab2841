"""From a store and a manifest to batches on the device.

    epoch order ─▶ store ─ one thread ─▶ ring of host buffers ─▶ batch          stream
                   host memory ─ one thread ─▶ ring of host buffers ─▶ batch    host: loaded once
                   device memory ─▶ batch                                       device: loaded once

Labels are joined to store rows by image path. Where the data is kept changes no bit of a batch.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from orsanet_cache.data.manifest import Manifest, Sample
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.store.reader import PriorStore
from orsanet_train.config import ModelConfig, RunConfig
from orsanet_train.engine.distributed import ONE, Ranks
from orsanet_train.feed.plan import batch_spans, epoch_plan, erase
from orsanet_train.feed.residence import Resident, choose_residence
from orsanet_train.feed.ring import RING, Slot, ahead_in_ring

LOAD_ROWS = 256  # read at a time where everything is loaded


class PriorBatch(NamedTuple):
    """One batch on the model's device. Names are the store's; `segmentation` is the one of its two fields that the model takes."""

    image: Tensor  # float32 [B, 3, 112, 112], ImageNet-normalised, erased
    segmentation: Tensor  # float32 [B, C, 7, 7] features, or uint8 [B, 224, 224] map, as the model is configured
    landmark_features: Tensor  # float32 [B, 512, 7, 7]
    label: Tensor  # int64 [B]
    drop_path: Tensor  # float32 [B, 2, levels, scales, 2] in training, uniform in 0 … 1, of both passes; else [B, 0]

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the model's forward takes."""
        return self.image, self.segmentation, self.landmark_features


@dataclass(frozen=True)
class LabelledSplit:
    """The usable samples of a split, each with its row in the store."""

    name: str
    views: tuple[str, ...]  # in which all of the samples can be used
    samples: tuple[Sample, ...]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    rejected: dict[str, str]  # image -> why the build could not use it

    def first(self, count: int) -> "LabelledSplit":
        """At most `count` of the samples."""
        return replace(self, samples=self.samples[:count], rows=self.rows[:count], labels=self.labels[:count])

    def where(self, chosen: Sequence[bool]) -> "LabelledSplit":
        """The samples for which `chosen` is true."""
        mask = np.array(chosen, dtype=bool)
        samples = tuple(sample for sample, taken in zip(self.samples, chosen, strict=True) if taken)
        return replace(self, samples=samples, rows=self.rows[mask], labels=self.labels[mask])

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


Along = dict[str, NDArray[Any]]


class Draws(NamedTuple):
    """What comes into batches, position by position."""

    sample: NDArray[np.int64]  # [N] into the split
    view: NDArray[np.int64]  # [N] into the split's views
    along: Along  # [N, …] label, erased, drop_path, as in PriorBatch and EpochPlan

    def part(self, positions: slice) -> "Draws":
        along = {name: values[positions] for name, values in self.along.items()}
        return Draws(self.sample[positions], self.view[positions], along)


def training_draws(
    split: LabelledSplit, config: RunConfig, epoch: int, start: int, ranks: Ranks
) -> tuple[Draws, list[slice]]:
    """An epoch's draws, and where in them this rank's part of every batch from number `start` on is."""
    plan = epoch_plan(split.labels, config, epoch)
    clean = split.views.index("clean")
    flipped = split.views.index("hflip") if plan.flipped.any() else clean
    along: Along = {"label": split.labels[plan.order], "erased": plan.erased, "drop_path": plan.drop_path}
    batches = [ranks.rows(*span) for span in batch_spans(len(plan.order), config.batch_size)[start:]]
    return Draws(plan.order, np.where(plan.flipped, flipped, clean), along), batches


def ordered_draws(split: LabelledSplit, batch_size: int, view: str, ranks: Ranks) -> tuple[Draws, list[slice]]:
    """This rank's part of the split in the manifest's order, unaugmented, and where in it every batch is."""
    mine = ranks.rows(0, len(split.rows))
    sample = np.arange(mine.start, mine.stop)
    count = len(sample)
    nothing: Along = {"erased": np.zeros((count, 4), np.int64), "drop_path": np.empty((count, 0), np.float32)}
    draws = Draws(sample, np.full(count, split.views.index(view)), {"label": split.labels[sample], **nothing})
    return draws, [slice(*span) for span in batch_spans(count, batch_size)]


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
        ranks: Ranks = ONE,
    ) -> None:
        self.ranks = ranks
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

    def epoch(self, config: RunConfig, epoch: int, start: int = 0) -> Iterator[PriorBatch]:
        """The augmented training batches of an epoch from number `start` on, the last one possibly short; of each this rank's rows.

        Leaving the iterator, however early, ends its thread.
        """
        return self._batches(*training_draws(self.split, config, epoch, start, self.ranks))

    def in_order(self, batch_size: int, view: str = "clean") -> Iterator[PriorBatch]:
        """Every sample (of this rank's part) once, in the manifest's order, unaugmented."""
        return self._batches(*ordered_draws(self.split, batch_size, view, self.ranks))

    @property
    def reason(self) -> str:
        """Where the data is, in a sentence."""
        return self.residence.reason

    @property
    def own_labels(self) -> NDArray[np.int64]:
        """Labels of what `in_order` yields."""
        return self.split.labels[self.ranks.rows(0, len(self.split.rows))]

    def _batches(self, draws: Draws, batches: Sequence[slice]) -> Iterator[PriorBatch]:
        if self.residence.mode == "device":
            # The whole epoch's at once: a copy from ordinary memory makes the host wait for the device.
            places = torch.from_numpy(self._places(draws)).to(self.device)
            along = {name: torch.from_numpy(values).to(self.device) for name, values in draws.along.items()}
            for batch in batches:
                chosen = places[batch]
                fields = {name: values.index_select(0, chosen) for name, values in self._loaded.items()}
                yield self._batch({**fields, **{name: values[batch] for name, values in along.items()}})
        else:
            carried = {name: (values.shape[1:], values.dtype) for name, values in draws.along.items()}
            largest = max((batch.stop - batch.start for batch in batches), default=0)
            slots = [Slot({**self._fields, **carried}, largest, self.device) for _ in range(RING)]
            yield from ahead_in_ring((draws.part(batch) for batch in batches), slots, self._fill, self._taken)

    def _fill(self, draws: Draws, slot: "Slot") -> None:
        """What the thread does."""
        buffers = slot.to_fill(len(draws.sample))
        for name, carried in draws.along.items():
            buffers[name][:] = carried
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
        # Contiguous: with channels last, the CPU's gradient of a strided 1x1 convolution of 8 channels corrupts memory (torch 2.15).
        image = erase(imagenet_normalised(unit_range(stored["image"])), stored["erased"]).contiguous()
        segmentation, landmark_features = (_values(stored, name) for name in (self.segmentation, "landmark_features"))
        return PriorBatch(image, segmentation, landmark_features, stored["label"].clone(), stored["drop_path"].clone())

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
