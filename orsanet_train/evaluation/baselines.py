"""Predictions that need no trained model, judged on the same images: what a model has to beat.

    labels ─ the commonest ─┐
    further predictions ────┴─▶ Baseline: accuracy, and the model's difference from it, image by image

Shapes: N = images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orsanet_train.evaluation.statistics import Estimate, paired

COMMONEST = "commonest class"


@dataclass(frozen=True)
class Baseline:
    """A baseline's accuracy on a group of images. Shares are in 0 … 1."""

    name: str  # unique among a group's baselines, the same in all groups
    accuracy: float
    meaning: str  # one line: what is predicted
    difference: Estimate  # the model's accuracy − this one, paired image by image, with its 95 % interval

    @property
    def beaten(self) -> bool:
        """Whether the model's accuracy is above the baseline's by more than chance explains.

        This requires that the whole 95 % interval of the difference is above 0. It is always True
        if the baseline is right for all images, because then no model can be better.
        """
        return self.accuracy == 1.0 or (self.difference.low is not None and self.difference.low > 0)


@dataclass(frozen=True)
class BaselinePredictions:
    """What a baseline predicts for the N images of a group."""

    name: str
    meaning: str
    predicted: NDArray[np.int64]  # [N] class indices


def commonest_class(labels: NDArray[np.int64], classes: Sequence[str]) -> BaselinePredictions:
    """The prediction of the commonest class of these images for each of them.

    `labels` [N] are indices of `classes`; of equally common classes the first in label order is
    taken. It is the best that a constant prediction can reach on these images. The training images'
    commonest class reaches the same or less.
    """
    counts = np.bincount(labels, minlength=len(classes))
    commonest = int(counts.argmax())
    which = "only" if counts[commonest] == len(labels) else "commonest"
    meaning = f"always '{classes[commonest]}', the {which} class of these images"
    return BaselinePredictions(COMMONEST, meaning, np.full(len(labels), commonest))


def against(baseline: BaselinePredictions, labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Baseline:
    """A baseline, and the model that predicts `predicted` [N], on the same images with `labels` [N]."""
    pair = paired(baseline.name, baseline.predicted == labels, predicted == labels)
    return Baseline(baseline.name, pair.first, baseline.meaning, pair.difference)
