"""The images that a run trains on, and the images that choose its best epoch.

The best epoch is chosen on a split of its own. A data set without such a split uses a part of the
training split, which is then not trained on (`selection_split = "held-out"`): of every class the
images whose names have the smallest digests, so the part is the same for every seed and machine.
The published code chooses on the test split. This is possible too, and every report then mentions
it.

Labels are joined to store rows by image path.
"""

import hashlib
import shlex
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.augmentation import stored_rectangles
from orsanet_cache.data.images import IMAGE_SIZE
from orsanet_cache.data.manifest import Manifest, Sample, meant_split
from orsanet_cache.data.views import CLEAN, HFLIP
from orsanet_cache.errors import OrsanetError, did_you_mean, listed
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.recipe import build_options
from orsanet_cache.store.schema import OPTIONAL
from orsanet_train.config import HELD_OUT, RunConfig


@dataclass(frozen=True)
class LabelledSplit:
    """The usable samples of a split, each with its row in the store."""

    name: str
    views: tuple[str, ...]  # all samples can be used in each of them
    samples: tuple[Sample, ...]
    rows: NDArray[np.int64]
    units: NDArray[np.int64]  # the store's unit of each sample: its rows are in one file of each field
    labels: NDArray[np.int64]
    rejected: dict[str, str]  # image -> the reason why the build could not use it
    # Augmented view -> [N, 4], the rectangle on the 224-pixel grid that each sample has lost in it.
    rectangles: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def first(self, count: int) -> "LabelledSplit":
        """The first samples, at most `count` of them."""
        return self._at(np.arange(min(count, len(self.samples))))

    def where(self, chosen: Sequence[bool]) -> "LabelledSplit":
        """The samples for which `chosen` is true."""
        return self._at(np.flatnonzero(chosen))

    def _at(self, places: NDArray[np.int64]) -> "LabelledSplit":
        return replace(
            self,
            samples=tuple(self.samples[place] for place in places.tolist()),
            rows=self.rows[places],
            units=self.units[places],
            labels=self.labels[places],
            rectangles={view: of_view[places] for view, of_view in self.rectangles.items()},
        )

    def erased(
        self, sample: NDArray[np.int64], view: NDArray[np.int64], otherwise: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The rectangles [n, 4] to erase in samples [n] in views [n], both by their index.

        A picture of an augmented view has lost its own rectangle, in the nearest colour that whole
        levels have: erasing it again makes it exactly zero. In other views it is `otherwise` [n, 4].
        """
        rectangles = otherwise.copy()
        for name, of_view in self.rectangles.items():
            here = view == self.views.index(name)
            rectangles[here] = of_view[sample[here]]
        return rectangles

    def class_counts(self, classes: Sequence[str]) -> dict[str, int]:
        """Number of usable samples of each class, in label order."""
        return dict(zip(classes, np.bincount(self.labels, minlength=len(classes)).tolist(), strict=True))

    def sha256(self) -> str:
        """Identifies the usable images, their labels and their order."""
        lines = (f"{sample.label} {sample.image}\0" for sample in self.samples)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def join(
    manifest: Manifest,
    store: PriorStore,
    split: str,
    views: Sequence[str],
    tag: str | None = None,
    fields: Collection[str] = (),
) -> LabelledSplit:
    """Join labels to the store's rows, without images that the build rejected in any view.

    Args:
        manifest: the labels.
        store: the rows.
        split: the name of the split.
        views: the names of the views.
        tag: only samples with this tag; None: all samples.
        fields: those that will be read. Of fields that were added to the views, the images that were
            rejected then are left out too.

    Raises OrsanetError if the store lacks an image of the manifest or a view, and if no image of
    the split has the tag.
    """
    split = meant_split(split, manifest.splits)
    samples = manifest.split(split)
    if tag is not None:
        tags = sorted(set().union(*(sample.tags for sample in samples)))
        if tag not in tags:
            raise OrsanetError(
                f"split '{split}' has no image with the tag '{tag}'; its tags: {', '.join(tags) or 'none'}{did_you_mean(tag, tags)}"
            )
        samples = tuple(sample for sample in samples if tag in sample.tags)
    # The seals first: for exchanged splits their message names the exchange; the images' only names missing ones.
    accepted = np.all([store.accepted(split, view, fields) for view in views], axis=0)
    row_of = {image: row for row, image in enumerate(store.sample_ids(split))}
    missing = [sample.image for sample in samples if sample.image not in row_of]
    if missing:
        raise OrsanetError(
            f"{store.path} lacks {len(missing)} image(s) of split '{split}'; run `orsanet-cache build` with this manifest and "
            f"`--out {store.path}`, which computes only new pictures:\n{listed(missing)}"
        )
    usable = tuple(sample for sample in samples if accepted[row_of[sample.image]])
    rows = np.array([row_of[sample.image] for sample in usable], dtype=np.int64)
    drawn = {view: stored_rectangles(view, store.sealed(split, view).image_sha256[rows], IMAGE_SIZE) for view in views}
    reasons = {image: reason for view in views for image, reason in store.rejected(split, view, fields).items()}
    return LabelledSplit(
        name=split,
        views=tuple(views),
        samples=usable,
        rows=rows,
        units=store.units(split, rows),
        labels=np.array([sample.label for sample in usable], dtype=np.int64),
        rejected={sample.image: reasons[sample.image] for sample in samples if sample.image in reasons},
        rectangles={view: rectangles for view, rectangles in drawn.items() if rectangles is not None},
    )


def check_fields(store: PriorStore, split: str, views: Sequence[str], fields: Collection[str], reader: str) -> None:
    """Raises OrsanetError, with the command that adds it, if a view of the store lacks a field that `reader` reads."""
    for view in views:
        absent = [field for field in fields if field not in store.fields(split, view)]
        if absent:
            raise OrsanetError(
                f"{store.path}: '{split}' ({view}) has no {' and no '.join(absent)}, which {reader} reads; {_adding(store, split, view, absent)}"
            )


def _adding(store: PriorStore, split: str, view: str, absent: Sequence[str]) -> str:
    """How to add fields to the views of a store, as the end of a sentence."""
    if own := [field for field in absent if field not in OPTIONAL]:
        there = store.fields(split, view)
        return (
            f"it has {', '.join(there)}{did_you_mean(own[0], there) or '.'} A network of your own adds {', '.join(own)} with "
            f"build(…, networks=[…]), or with `orsanet-cache build … --networks NAME` where it is installed"
        )
    folder = isinstance(store.path, Path) and store.path.is_dir()
    command = [
        "orsanet-cache", "build", "MANIFEST", "--out", str(store.path) if folder else "STORE", "--fields", ",".join(absent),
        *build_options(store.recipe),
    ]  # fmt: skip
    views = store.views(split)
    command += ["--splits", ",".join(store.splits)] + (
        [] if {CLEAN, HFLIP} <= set(views) else ["--views", ",".join(views)]
    )
    added = f"add it, which computes nothing else: `{shlex.join(command)}`"
    return added if folder else f"in the Zarr folder that it was copied from, {added}, and copy that again"


def image_digests(store: PriorStore, split: LabelledSplit) -> NDArray[np.uint8]:
    """SHA-256 of the image files of a split's samples, [views * N, 32], view after view."""
    return np.concatenate([store.sealed(split.name, view).image_sha256[split.rows] for view in split.views])


def meant_splits(config: RunConfig, manifest: Manifest) -> RunConfig:
    """The configuration with the manifest's names of its splits, where it has other usual spellings of them."""
    splits = {key: meant_split(getattr(config, key), manifest.splits) for key in ("train_split", "selection_split")}
    return config.model_copy(update=splits)


def training_split(config: RunConfig, manifest: Manifest, store: PriorStore) -> LabelledSplit:
    """The images that a run of this configuration trains on.

    Raises OrsanetError if the manifest has no training split, if the store lacks views that are
    drawn among, or if a class has no usable image.
    """
    if config.train_split not in manifest.splits:
        raise OrsanetError(
            f"manifest '{manifest.name}' has no split '{config.train_split}', so there is nothing to train on; "
            f"evaluate a run on its images ({', '.join(manifest.splits)}), or choose a split with --set train_split=NAME{did_you_mean(config.train_split, manifest.splits)}"
        )
    views = config.augmentation.read_views
    _check_views(store, config.train_split, views)
    training = join(manifest, store, config.train_split, views, fields=config.model.fields)
    if config.selection_split == HELD_OUT:
        held_out = held_out_images(manifest.split(config.train_split), config.held_out_share)
        training = training.where([sample.image not in held_out for sample in training.samples])
    present = set(training.labels.tolist())
    absent = [name for label, name in enumerate(manifest.classes) if label not in present]
    if absent:
        raise OrsanetError(
            f"split '{training.name}' has no usable image of class {', '.join(absent)}; "
            f"remove the class from the manifest or add images"
        )
    return training


def _check_views(store: PriorStore, split: str, views: Sequence[str]) -> None:
    """Raises OrsanetError, with the command that adds them, if the store lacks several views of a split.

    A single one is refused when it is read.
    """
    lacking = [view for view in views if split in store.splits and view not in store.views(split)]
    if len(lacking) > 1:
        raise OrsanetError(
            f"{store.path}: split '{split}' lacks the views {', '.join(lacking)}, which augmentation.views names; add them with "
            f"`orsanet-cache build … --views {','.join(lacking)} --splits {split}`"
        )


def selection_split(config: RunConfig, manifest: Manifest, store: PriorStore) -> LabelledSplit:
    """The images whose accuracy chooses the best epoch.

    Raises OrsanetError if there are no such images, or if the run trains on them.
    """
    name = config.selection_split
    if name in manifest.splits and name == HELD_OUT:
        raise OrsanetError(
            f"manifest '{manifest.name}' has a split named '{HELD_OUT}', which as selection_split means a part of the training split; "
            f"rename the split"
        )
    if name == HELD_OUT:
        held_out = held_out_images(manifest.split(config.train_split), config.held_out_share)
        whole = join(manifest, store, config.train_split, [CLEAN], fields=config.model.fields)
        selection = whole.where([sample.image in held_out for sample in whole.samples])
    elif name not in manifest.splits:
        others = [split for split in manifest.splits if split != config.train_split]
        raise OrsanetError(
            f"selection_split = \"{name}\", but manifest '{manifest.name}' has no such split; keep a part of the training images for it "
            f"with --set selection_split={HELD_OUT}, or choose one with --set selection_split=NAME "
            f"(it has {', '.join(others) or 'none besides training'}){did_you_mean(name, (*others, HELD_OUT))}"
        )
    elif name == config.train_split:
        raise OrsanetError(
            f"selection_split is the training split '{config.train_split}': choose images not trained on"
        )
    else:
        selection = join(manifest, store, name, [CLEAN], fields=config.model.fields)
    if not selection.samples:
        raise OrsanetError(f"split '{name}' has no usable image to choose the best epoch by; see `orsanet-cache info`")
    return selection


def held_out_images(samples: Sequence[Sample], share: float) -> frozenset[str]:
    """A share of every class's images: rounded, at least one and never all.

    A class with a single image keeps it for training.
    """
    by_class: dict[int, list[str]] = defaultdict(list)
    for sample in samples:
        by_class[sample.label].append(sample.image)
    chosen: list[str] = []
    for images in by_class.values():
        count = int(np.clip(round(share * len(images)), 1, len(images) - 1))
        chosen += sorted(images, key=lambda image: hashlib.sha256(image.encode()).digest())[:count]
    return frozenset(chosen)
