"""The numbers of Tables 7 and 8, as shares: kappa too, which the tables give times 100.

    overall, average, kappa    of hyperspectral pixels: share of right ones, mean recall of the classes, Cohen's kappa
    top1, top5                 of pictures: whether the label is the most probable class, or among the five most probable

Shapes: M test samples, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orsanet_train.evaluation.statistics import averages, kappa

TITLES = {"overall": "OA", "average": "AA", "kappa": "kappa", "top1": "top-1", "top5": "top-5"}
TOP = 5


def measured(
    names: Sequence[str], labels: NDArray[np.int64], probabilities: NDArray[np.floating[Any]]
) -> dict[str, float]:
    """The named measures of labels [M] and class probabilities [M, K].

    Of equally probable classes the first counts as the more probable one.
    """
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    confusion = np.zeros((probabilities.shape[1],) * 2, np.int64)
    np.add.at(confusion, (labels, best[:, 0]), 1)
    accuracy, recall, _ = averages(confusion)
    every = {
        "overall": float(accuracy),
        "average": float(recall),
        "kappa": kappa(confusion),
        "top1": float(accuracy),
        "top5": float((best == labels[:, None]).any(axis=1).mean()),
    }
    return {name: every[name] for name in names}
