"""The interface of a feed that training and evaluation use.

The batches come from a store (feed.py) or from pictures (reference/feed.py).
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.views import CLEAN
from orsanet_train.config import RunConfig
from orsanet_train.engine.step import Batch
from orsanet_train.feed.split import LabelledSplit


class Batches(Protocol):
    """Batches of one split, on the model's device; each contains this rank's rows."""

    @property
    def split(self) -> LabelledSplit: ...  # of all ranks together

    @property
    def reason(self) -> str: ...  # where the data comes from, for the user

    @property
    def own_labels(self) -> NDArray[np.int64]: ...  # of the samples that `in_order` yields

    def epoch(self, config: RunConfig, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The augmented training batches of an epoch, from number `start` on.

        After the last batch, this and `in_order` do what `check_unchanged` does.
        """

    def in_order(self, batch_size: int, view: str = CLEAN) -> Iterator[Batch]:
        """Every sample once, in the manifest's order, unaugmented."""

    def check_unchanged(self) -> None:
        """Raises OrsanetError if files that batches were made of have changed since they were verified."""
