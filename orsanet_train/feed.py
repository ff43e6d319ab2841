"""From a store and a manifest to batches.

Labels are joined to store rows by image path. An epoch's order, views and erased rectangles are pure functions of
(seed, epoch, position): any epoch can be drawn again, in any process, without having run the ones before.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orsanet_cache import Manifest, OrsanetError, PriorStore, Sample, imagenet_normalised, listed, unit_range
from orsanet_train.config import AugmentationConfig, ModelConfig, RunConfig

INPUT_SIZE = 224  # RandomErasing acts on this grid in the published pipeline
ASPECT_RATIO = (0.3, 3.3)


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


class Feed:
    """Batches of one split for one model configuration."""

    def __init__(self, store: PriorStore, split: LabelledSplit, model: ModelConfig, device: torch.device) -> None:
        self.store = store
        self.split = split
        self.device = device
        # Without a semantic prior the map stands in: the smallest field, and the model ignores it.
        self.segmentation = "segmentation_features" if model.segmentation_prior == "features" else "segmentation_map"

    def epoch(self, config: RunConfig, epoch: int) -> Iterator[PriorBatch]:
        """The augmented training batches of an epoch, the last one possibly short."""
        plan = epoch_plan(self.split.labels, config, epoch)
        for start in range(0, len(plan.order), config.batch_size):
            part = slice(start, start + config.batch_size)
            views = np.where(plan.flipped[part], "hflip", "clean")
            yield self._batch(plan.order[part], views, plan.erased[part])

    def in_order(self, batch_size: int, view: str = "clean") -> Iterator[PriorBatch]:
        """Every sample once, in the manifest's order, unaugmented."""
        for start in range(0, len(self.split.rows), batch_size):
            index = np.arange(start, min(start + batch_size, len(self.split.rows)))
            yield self._batch(index, np.full(len(index), view), None)

    def _batch(self, index: NDArray[np.int64], views: NDArray[np.str_], erased: NDArray[np.int64] | None) -> PriorBatch:
        image = imagenet_normalised(unit_range(self._read("image", index, views)))
        if erased is not None:
            image = erase(image, torch.from_numpy(erased).to(self.device))
        segmentation = self._read(self.segmentation, index, views)
        return PriorBatch(
            image=image,
            segmentation=segmentation.float() if segmentation.is_floating_point() else segmentation,
            landmark_features=self._read("landmark_features", index, views).float(),
            label=torch.from_numpy(self.split.labels[index]).to(self.device),
        )

    def _read(self, field: str, index: NDArray[np.int64], views: NDArray[np.str_]) -> Tensor:
        """One field of a batch on the device, each row from its view."""
        rows = self.split.rows[index]
        parts = [
            (where := np.flatnonzero(views == view), self.store.read(self.split.name, view, field, rows[where]))
            for view in np.unique(views).tolist()
        ]
        out = np.empty((len(index), *parts[0][1].shape[1:]), parts[0][1].dtype)
        for where, values in parts:
            out[where] = values
        return torch.from_numpy(out).to(self.device)
