"""Pictures of people, as the backbone reads them: a manifest whose classes are people.

The order of a pass, mirroring and erased rectangles are functions of (seed, pass), as in a run.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orsanet_cache.data.images import every_second_pixel, read_image, view_pixels
from orsanet_cache.data.manifest import Manifest
from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError
from orsanet_train.config import AugmentationConfig
from orsanet_train.feed.plan import erased_rectangles
from orsanet_train.model.inputs import model_image

AUGMENTATION = AugmentationConfig()


class People:
    """The pictures of one split. `persons` int64 [N] counts the split's people from 0."""

    def __init__(self, manifest: Manifest, split: str) -> None:
        samples = manifest.split(split)
        self.paths = [manifest.path(sample) for sample in samples]
        names, self.persons = np.unique([sample.label for sample in samples], return_inverse=True)
        self.count = len(names)
        if self.count < 2 or len(samples) < 2 * self.count:
            raise OrsanetError(
                f"manifest '{manifest.name}', split '{split}': {len(samples):,} pictures of {self.count:,} people; "
                "to tell people apart takes two people or more, with two pictures each on average"
            )

    def batch(self, index: NDArray[np.int64], erased: NDArray[np.int64] | None = None) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, 112, 112], ImageNet-normalised and erased, and their people [B]."""
        pixels = np.stack([every_second_pixel(view_pixels(read_image(self.paths[i]).rgb, CLEAN)) for i in index])
        image = model_image(torch.from_numpy(pixels), None if erased is None else torch.from_numpy(erased))
        return image, torch.from_numpy(self.persons[index])

    def training_batch(self, seed: int, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """The batch of a step, half of it mirrored and half of it erased.

        Each pass has its own order and uses each picture at most once. A rest smaller than a batch
        is not used in that pass.
        """
        passed, place = divmod(step, len(self.paths) // batch_size)
        here = slice(place * batch_size, (place + 1) * batch_size)
        order, flips, rectangles = (np.random.default_rng([seed, passed, stream]) for stream in range(3))
        index = order.permutation(len(self.paths))[here]
        erased = erased_rectangles(rectangles, len(self.paths), AUGMENTATION)[here]
        flipped = torch.from_numpy(flips.random(len(self.paths))[here] < AUGMENTATION.hflip)
        image, person = self.batch(index, erased)
        return torch.where(flipped[:, None, None, None], image.flip(3), image), person

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every picture once, unaugmented."""
        for start in range(0, len(self.paths), batch_size):
            yield self.batch(np.arange(start, min(start + batch_size, len(self.paths))))
