"""One epoch's order, views and erased rectangles, and their layout in a feed's batches.

The law of the rectangles is in orsanet_cache/data/augmentation.py.

The draws are pure functions of (seed, epoch, position). Any process can draw any epoch again
without running the epochs before it. An epoch's plan takes some 60 bytes a sample. The numbers for
drop-path, which would take six times as much, are drawn batch by batch.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.augmentation import random_rectangles
from orsanet_cache.data.views import CLEAN, HFLIP
from orsanet_train.config import AugmentationConfig, RunConfig
from orsanet_train.engine.distributed import Ranks
from orsanet_train.feed.split import LabelledSplit
from orsanet_train.model.inputs import INPUT_SIZE

DROP_PATH_STREAM = 3  # the order, flips and rectangles have the streams before, and reference/feed.py has the fourth
VIEW_STREAM = 5
WINDOW_STREAM = 6


class Uniforms:
    """Float32 rows, uniform in 0 … 1, which are drawn when they are asked for.

    Rows start … stop - 1 are those of one call of `random` for all rows, to the bit.

    Args:
        key: the generator's seed.
        count: number of rows.
        shape: of a row; an even number of values, because a step of the generator gives two.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, key: Sequence[int], count: int, shape: tuple[int, ...]) -> None:
        self._key = tuple(key)
        self._steps, odd = divmod(math.prod(shape), 2)
        if odd:
            raise ValueError(f"rows of shape {shape} have an odd number of values")
        self.shape = (count, *shape)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        start, stop, _ = rows.indices(self.shape[0])
        generator = np.random.PCG64(self._key)  # that of np.random.default_rng
        generator.advance(start * self._steps)
        return np.random.Generator(generator).random((stop - start, *self.shape[1:]), dtype=np.float32)


class EpochPlan(NamedTuple):
    """One epoch, position by position."""

    order: NDArray[np.int64]  # [N] index into the split
    flipped: NDArray[np.bool_]  # [N] take the hflip view
    erased: NDArray[np.int64]  # [N, 4] top, left, height, width on the 224-pixel grid; height 0: nothing
    drop_path: Uniforms  # [N, 2, *ModelConfig.drop_path_shape] of both passes of a step


def epoch_plan(
    labels: NDArray[np.int64], config: RunConfig, epoch: int, units: NDArray[np.int64] | None = None
) -> EpochPlan:
    """Draw an epoch (counted from 0).

    Args:
        labels: the split's, [N]; balanced sampling weighs each sample by 1 / the number of samples
            of its class.
        config: seed, sampling, order and augmentation.
        epoch: counted from 0.
        units: the store's unit of each sample, [N]; order = "windowed" needs them.
    """
    count = len(labels)
    order_rng, flip_rng, erase_rng = (np.random.default_rng([config.seed, epoch, stream]) for stream in range(3))
    if config.sampling == "balanced":
        weight = 1 / np.bincount(labels)[labels]
        order = order_rng.choice(count, size=count, p=weight / weight.sum())
    else:
        order = order_rng.permutation(count)
    if config.order == "windowed":
        if units is None:
            raise TypeError("units: order = windowed needs the unit of each sample")
        order = in_windows(
            order, units, config.window_units, np.random.default_rng([config.seed, epoch, WINDOW_STREAM])
        )
    flipped = flip_rng.random(count) < config.augmentation.hflip
    drop_path = Uniforms([config.seed, epoch, DROP_PATH_STREAM], count, (2, *config.model.drop_path_shape))
    return EpochPlan(order, flipped, erased_rectangles(erase_rng, count, config.augmentation), drop_path)


def in_windows(
    order: NDArray[np.int64], units: NDArray[np.int64], window_units: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The same draws, sorted by windows of units; in a window they keep their order, which is random.

    All units are shuffled and cut into windows of `window_units`.
    """
    known, unit = np.unique(units, return_inverse=True)
    window = rng.permutation(len(known)) // window_units
    return order[np.argsort(window[unit[order]], kind="stable")]


def batch_spans(count: int, batch_size: int) -> list[tuple[int, int]]:
    """First and last (exclusive) position of every batch; the last batch may be short."""
    return [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


def erased_rectangles(rng: np.random.Generator, count: int, config: AugmentationConfig) -> NDArray[np.int64]:
    """Rectangles [count, 4] on the 224-pixel grid."""
    return random_rectangles(rng, count, INPUT_SIZE, config.erasing, config.erasing_scale)


def drawn_views(count: int, config: RunConfig, epoch: int) -> NDArray[np.int64]:
    """[count] indices into augmentation.views, each equally likely."""
    rng = np.random.default_rng([config.seed, epoch, VIEW_STREAM])
    return rng.integers(len(config.augmentation.views), size=count)


Along = dict[str, NDArray[Any] | Uniforms]


class Draws(NamedTuple):
    """The samples of batches, position by position."""

    sample: NDArray[np.int64]  # [N] into the split
    view: NDArray[np.int64]  # [N] into the split's views
    along: Along  # [N, …] label, erased, drop_path, as in PriorBatch and EpochPlan

    def part(self, positions: slice) -> "Drawn":
        along = {name: values[positions] for name, values in self.along.items()}
        return Drawn(self.sample[positions], self.view[positions], along)


class Drawn(NamedTuple):
    """The samples of one batch, all of them drawn: as Draws."""

    sample: NDArray[np.int64]
    view: NDArray[np.int64]
    along: dict[str, NDArray[Any]]


def training_draws(
    split: LabelledSplit, config: RunConfig, epoch: int, start: int, ranks: Ranks
) -> tuple[Draws, list[slice]]:
    """The draws of an epoch, and the slice of them for every batch.

    The slices are this rank's parts of the batches.

    Args:
        split: the training split.
        config: sampling, augmentation and batch size.
        epoch: counted from 0.
        start: number of the first batch, counted from 0.
        ranks: the processes that share every batch.
    """
    plan = epoch_plan(split.labels, config, epoch, split.units)
    places = np.array([split.views.index(name) for name in config.augmentation.views])
    view = places[drawn_views(len(plan.order), config, epoch)]
    if CLEAN in split.views and plan.flipped.any():
        view = np.where(plan.flipped & (view == split.views.index(CLEAN)), split.views.index(HFLIP), view)
    erased = split.erased(plan.order, view, plan.erased)
    along: Along = {"label": split.labels[plan.order], "erased": erased, "drop_path": plan.drop_path}
    batches = [ranks.rows(*span) for span in batch_spans(len(plan.order), config.batch_size)[start:]]
    return Draws(plan.order, view, along), batches


def ordered_draws(split: LabelledSplit, batch_size: int, view: str, ranks: Ranks) -> tuple[Draws, list[slice]]:
    """This rank's samples in the manifest's order, unaugmented, and the slice for every batch."""
    mine = ranks.rows(0, len(split.rows))
    sample = np.arange(mine.start, mine.stop)
    count = len(sample)
    views = np.full(count, split.views.index(view))
    erased = split.erased(sample, views, np.zeros((count, 4), np.int64))
    along: Along = {
        "label": split.labels[sample],
        "erased": erased,
        "drop_path": np.empty((count, 0), np.float32),
    }
    return Draws(sample, views, along), [slice(*span) for span in batch_spans(count, batch_size)]
