"""The batches of a Feed, made from the image files.

They are the input of frozen networks that run inside the training step (network.py).

files ─ threads ─▶ ring of host buffers ─▶ OnlineBatch: pixels, rectangles
"""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orsanet_cache.data.files import on_disk
from orsanet_cache.data.images import RejectedImage, image_reading, read_image, view_pixels
from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.pixels import displayable
from orsanet_cache.store.reader import PriorStore
from orsanet_train.config import RunConfig
from orsanet_train.engine.distributed import ONE, Ranks
from orsanet_train.feed.plan import Drawn, Draws, ordered_draws, training_draws
from orsanet_train.feed.ring import RING, Slot, ahead_in_ring
from orsanet_train.feed.split import LabelledSplit
from orsanet_train.model.inputs import INPUT_SIZE, model_image

DECODERS = 4  # threads; each of them decodes more than a hundred pictures a second
SEED_STREAM = 4  # epoch_plan draws from the streams before


class OnlineBatch(NamedTuple):
    """One batch on the model's device."""

    pixels: Tensor  # uint8 [B, 224, 224, 3], of the view
    erased: Tensor  # int64 [B, 4] top, left, height, width on the 224-pixel grid; height 0: nothing
    label: Tensor  # int64 [B]
    drop_path: Tensor  # float32 [B, 2, levels, scales, 2] in training, uniform in 0 … 1, of both passes; else [B, 0]

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """The arguments of OnlineORSANet's forward."""
        return self.pixels, self.erased

    @property
    def pictures(self) -> Tensor:
        """uint8 [B, 112, 112, 3]: the backbone's images for display."""
        return displayable(model_image(self.pixels[:, ::2, ::2], self.erased))


class OnlineFeed:
    """Batches of one split from its image files.

    Samples, views, rectangles and draws are those of a Feed.

    Args:
        root: the folder of the manifest's image paths.
        store: the store that was built from these files.
        split: the samples and their rows in the store.
        device: the batches' device.
        ranks: the processes that share every batch.
        decoders: number of threads that decode ahead, up to RING batches.

    Raises OrsanetError, naming the image, if a file cannot be read, or is not the file that the
    store was built from: the run would not be comparable with a cached one.
    """

    def __init__(
        self,
        root: Path,
        store: PriorStore,
        split: LabelledSplit,
        device: torch.device,
        ranks: Ranks = ONE,
        decoders: int = DECODERS,
    ) -> None:
        self.root = root
        self.split = split
        self.device = device
        self.ranks = ranks
        self.decoders = decoders
        self._store_path = store.path
        self._reading = image_reading(store.recipe)
        self._sha256 = [store.sealed(split.name, view).image_sha256[split.rows] for view in split.views]  # [N, 32] each

    def epoch(self, config: RunConfig, epoch: int, start: int = 0) -> Iterator[OnlineBatch]:
        """The augmented training batches of an epoch, from number `start` on.

        Each contains this rank's rows. The last one may be short. torch's generator is seeded
        before each batch, so a step's draws depend only on seed, epoch and the batch's number, not
        on `start`. Leaving the iterator at any point ends its threads.
        """
        batches = self._batches(*training_draws(self.split, config, epoch, start, self.ranks))
        return _seeded(batches, config.seed, epoch, start)

    def in_order(self, batch_size: int, view: str = CLEAN) -> Iterator[OnlineBatch]:
        """Every sample (of this rank's part) once, in the manifest's order, unaugmented."""
        return self._batches(*ordered_draws(self.split, batch_size, view, self.ranks))

    def check_unchanged(self) -> None:
        """Nothing to check here: every picture is compared with the store's digest when it is decoded."""

    @property
    def reason(self) -> str:
        """A sentence on where the data comes from."""
        return f"pictures decoded by {self.decoders} threads; the frozen networks run in every pass"

    @property
    def own_labels(self) -> NDArray[np.int64]:
        """Labels of the samples that `in_order` yields."""
        return self.split.labels[self.ranks.rows(0, len(self.split.rows))]

    def _batches(self, draws: Draws, batches: Sequence[slice]) -> Generator[OnlineBatch, None, None]:
        layouts: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "pixels": ((INPUT_SIZE, INPUT_SIZE, 3), np.dtype(np.uint8)),
            **{name: (values.shape[1:], values.dtype) for name, values in draws.along.items()},
        }
        largest = max((batch.stop - batch.start for batch in batches), default=0)
        slots = [Slot(layouts, largest, self.device) for _ in range(min(RING, len(batches)))]
        parts = (draws.part(batch) for batch in batches)
        with ThreadPoolExecutor(self.decoders, "decode") as pool:
            yield from ahead_in_ring(parts, slots, partial(self._fill, pool), self._taken)

    def _fill(self, pool: ThreadPoolExecutor, draws: Drawn, slot: Slot) -> None:
        buffers = slot.to_fill(len(draws.sample))
        for name, carried in draws.along.items():
            buffers[name][:] = carried
        decoded = pool.map(self._decode, draws.sample.tolist(), draws.view.tolist(), buffers["pixels"])
        all(outcome is None for outcome in decoded)  # waits for all, and raises the first exception

    def _taken(self, draws: Drawn, slot: Slot) -> OnlineBatch:
        return OnlineBatch(**slot.on_device(len(draws.sample)))

    def _decode(self, sample: int, view: int, pixels: NDArray[np.uint8]) -> None:
        """Fill `pixels` [224, 224, 3]."""
        path = on_disk(self.root, self.split.samples[sample].image)
        try:
            decoded = read_image(path, self._reading)
        except RejectedImage as reason:
            raise OrsanetError(
                f'{path}: {reason}; {self._store_path} was built from it: put it back to train with priors = "online"'
            ) from reason
        if bytes.fromhex(decoded.sha256) != self._sha256[view][sample].tobytes():
            raise OrsanetError(
                f"{path}: not the image that {self._store_path} was built from; put the original image back, "
                f"or run `orsanet-cache build … --accept-changed`"
            )
        pixels[:] = view_pixels(decoded.rgb, self.split.views[view], decoded.sha256)


def _seeded(batches: Generator[OnlineBatch, None, None], seed: int, epoch: int, start: int) -> Iterator[OnlineBatch]:
    with closing(batches):
        for number, batch in enumerate(batches, start):
            torch.manual_seed(batch_seed(seed, epoch, number))
            yield batch


def batch_seed(seed: int, epoch: int, number: int) -> int:
    """Seed of torch's generator for the step of one batch, epoch and number counted from 0."""
    return int(np.random.SeedSequence([seed, epoch, SEED_STREAM, number]).generate_state(1, np.uint64)[0])
