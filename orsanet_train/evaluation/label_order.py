"""Detects from confusion counts a model that was trained with another class order.

K = classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest, norm

from orsanet_train.evaluation.statistics import averages

SHARP_GAIN = 0.05  # smallest gain of balanced accuracy by another label order that gives a warning
CHANCE = 0.001  # largest probability of a warning by chance alone


def label_warning(confusion: NDArray[np.int64], classes: Sequence[str]) -> str | None:
    """Return a warning if confusion counts [true, predicted] fit another label order; else None.

    Renaming the predicted classes for the highest accuracy is an assignment problem. Its solution
    consists of cycles of classes; a swap is a cycle of two. A cycle is evident if both conditions
    hold, each with p < 0.001 corrected for the number of pairs of classes:

    - Renaming turns more than twice as many images from wrong to right as from right to wrong
      (exact binomial test).
    - Within the cycle, renamed prediction and label agree better than by chance (Cohen's kappa,
      normal approximation). This excludes a model that predicts a rare class for every image:
      renaming that class to the most frequent one raises accuracy, but no classes were exchanged.

    The evident cycles together must raise balanced accuracy by at least 5 points. The criterion is
    not accuracy, which hardly changes if two rare classes are exchanged.
    """
    level = CHANCE / (len(classes) * (len(classes) - 1) / 2)
    stay = np.eye(len(classes), dtype=np.int64)  # prefers the present names among equally good solutions
    predicted, true = linear_sum_assignment((confusion * (len(classes) + 1) + stay).T, maximize=True)
    renamed = dict(zip(predicted.tolist(), true.tolist(), strict=True))
    evident = [cycle for cycle in _cycles(renamed) if _looks_exchanged(confusion, cycle, level)]
    if not evident:
        return None
    names = {k: k for k in renamed} | {k: renamed[k] for cycle in evident for k in cycle}
    corrected = np.empty_like(confusion)
    corrected[:, list(names.values())] = confusion[:, list(names)]
    (before, balanced_before, _), (after, balanced_after, _) = averages(confusion), averages(corrected)
    if balanced_after - balanced_before < SHARP_GAIN:
        return None
    exchanges = " and ".join(_exchange([classes[k] for k in cycle]) for cycle in evident)
    return (
        f"{exchanges}; with corrected names accuracy would be {after:.1%} instead of {before:.1%}; "
        "check the label order of the manifest"
    )


def _cycles(renamed: dict[int, int]) -> list[list[int]]:
    """Cycles in which each class is followed by its new name; unchanged classes are left out."""
    left, cycles = {k for k, to in renamed.items() if to != k}, []
    while left:
        cycle = [min(left)]
        while (following := renamed[cycle[-1]]) != cycle[0]:
            cycle.append(following)
        left -= set(cycle)
        cycles.append(cycle)
    return cycles


def _looks_exchanged(confusion: NDArray[np.int64], cycle: list[int], level: float) -> bool:
    renamed_to = cycle[1:] + cycle[:1]
    gained, lost = int(confusion[renamed_to, cycle].sum()), int(confusion[cycle, cycle].sum())
    if gained + lost == 0 or binomtest(gained, gained + lost, 2 / 3, alternative="greater").pvalue >= level:
        return False
    within = confusion[np.ix_(renamed_to, cycle)]  # the diagonal is agreement
    images = within.sum()
    true, predicted = within.sum(axis=1) / images, within.sum(axis=0) / images
    chance = (true * predicted).sum()
    # The variance of the agreement of two independent namings (Fleiss, Cohen and Everitt 1969, kappa's under kappa = 0).
    variance = (chance + chance**2 - (true * predicted * (true + predicted)).sum()) / images
    return bool(gained / images - chance > norm.isf(level) * np.sqrt(max(variance, 0)))


def _exchange(names: list[str]) -> str:
    if len(names) == 2:
        return f"predictions of '{names[0]}' and '{names[1]}' look exchanged"
    circle = ", ".join(f"'{name}' is '{to}'" for name, to in zip(names, names[1:] + names[:1], strict=True))
    return f"predictions of {len(names)} classes look exchanged in a circle (predicted {circle})"
