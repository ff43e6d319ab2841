"""Labels and class probabilities -> the numbers of a report: metrics, their uncertainty, and a check of the label order.

The uncertainty is that of the images: how far the numbers of the same trained model would vary on other images of the same kind. Another
training seed moves them too, which only several runs can show (compare.py).

Shapes: N = images, K = classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest, norm
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from orsanet_cache.errors import OrsanetError
from orsanet_cache.paths import as_names

CONFIDENCE = 0.95
RESAMPLES = 2000
CALIBRATION_BINS = 15
SHARP_GAIN = 0.05  # of balanced accuracy: what another label order must promise before anybody is bothered
CHANCE = 0.001  # how often luck alone may look like a wrong label order


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; `low` and `high` are None where the resamples cannot tell, all of them being equal."""

    value: float
    low: float | None
    high: float | None

    def images(self, n: int) -> float | None:
        """The interval's width as a number of images out of n."""
        return None if self.low is None or self.high is None else (self.high - self.low) * n


@dataclass(frozen=True)
class ClassReport:
    """One class. No image is taken for it: no precision. It has no image: no recall. Neither: no F1."""

    images: int  # that are of this class
    predicted: int  # that are taken for it
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Bin:
    """The images whose top probability is in (low, high]."""

    low: float
    high: float
    images: int
    confidence: float  # mean top probability
    accuracy: float


@dataclass(frozen=True)
class GroupReport:
    """Metrics of one evaluated group of images. Shares are in 0 … 1."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # when it is read back; holds for its parts too

    name: str
    images: int
    rejected: int  # images of the group that the build could not use: not in any number here
    accuracy: Estimate
    balanced_accuracy: Estimate  # mean recall over the classes that occur
    macro_f1: Estimate  # mean F1 over the classes that occur or are predicted
    top2_accuracy: Estimate  # the label is among the two most probable classes
    calibration_error: float  # mean |confidence - accuracy| over the bins, weighted by images (Guo et al. 2017)
    classes: dict[str, ClassReport]  # in label order
    confusion: list[list[int]]  # [true][predicted], in label order
    reliability: list[Bin]  # those of 15 equally wide bins that have images
    chose_checkpoint: bool  # this split's accuracy chose the checkpoint, so its numbers flatter it
    trained_on: bool
    label_warning: str | None  # some classes look exchanged

    @property
    def headlines(self) -> dict[str, Estimate]:
        """The metrics that have an interval."""
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "top2_accuracy": self.top2_accuracy,
        }

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: object) -> Self:
        """The inverse of `as_json`. Raises ValueError (pydantic's ValidationError) for anything else."""
        return TypeAdapter(cls).validate_python(content)


def group_report(
    name: str,
    labels: NDArray[np.int64] | Sequence[int],
    probabilities: NDArray[np.floating[Any]] | Sequence[Sequence[float]],
    classes: Sequence[str],
    *,
    rejected: int = 0,
    chose_checkpoint: bool = False,
    trained_on: bool = False,
    seed: int = 0,
) -> GroupReport:
    """Metrics of labels [N] in 0 … K-1 and probabilities [N, K] for the K classes, K > 1, named in label order.

    Of equally probable classes the first counts as the more probable one. Intervals: see `headlines`; `seed` is theirs.
    Raises OrsanetError for a group without images, and for labels and probabilities that do not fit together or to the classes.
    """
    labels, probabilities, classes = np.asarray(labels), np.asarray(probabilities), as_names(classes, "classes")
    if not len(labels):
        raise OrsanetError(f"group '{name}' has no image; name a split, tag and view that have some")
    if probabilities.shape != (len(labels), len(classes)) or labels.ndim != 1:
        raise OrsanetError(
            f"group '{name}': labels {list(labels.shape)} and probabilities {list(probabilities.shape)}, where N labels "
            f"and [N, {len(classes)}] probabilities are expected, for the classes {', '.join(classes)}"
        )
    if labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < len(classes):
        raise OrsanetError(
            f"group '{name}': labels are whole numbers from 0 to {len(classes) - 1}: indices of the classes"
        )
    best, second = np.argsort(-probabilities, axis=1, kind="stable")[:, :2].T
    every = list(range(len(classes)))
    confusion = confusion_matrix(labels, best, labels=every)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, best, labels=every, zero_division=np.nan)
    bins = _reliability(probabilities.max(axis=1), best == labels)
    return GroupReport(
        name=name,
        images=len(labels),
        rejected=rejected,
        **headlines(confusion, int((second == labels).sum()), seed),
        calibration_error=sum(part.images * abs(part.confidence - part.accuracy) for part in bins) / len(labels),
        classes={
            label: ClassReport(
                int(confusion[k].sum()), int(confusion[:, k].sum()), *map(_or_none, (precision[k], recall[k], f1[k]))
            )
            for k, label in enumerate(classes)
        },
        confusion=confusion.tolist(),
        reliability=bins,
        chose_checkpoint=chose_checkpoint,
        trained_on=trained_on,
        label_warning=label_warning(confusion, classes),
    )


def headlines(confusion: NDArray[np.int64], second_right: int, seed: int = 0) -> dict[str, Estimate]:
    """Accuracy, balanced accuracy, macro F1 and top-2 accuracy from confusion counts [true, predicted] int64 [K, K].

    `second_right` is the number of images whose label is the second most probable class.

    The intervals are percentiles of a bootstrap over images. Among N images drawn with replacement the counts of the matrix's cells are
    multinomial, so the counts are drawn and not the images: the same distribution. A class that a resample has no image of is left
    out of its mean, as it is of the value's.

    An accuracy or top-2 accuracy of 0 or 1 is the same in every resample and has Wilson's interval instead; the other two have none then.
    The top-2 accuracy of two classes is 1 by definition and has none.

    How often the true value is in the interval, in per cent of 2,000 to 4,000 simulated test sets of a usual model (accuracy 0.85) on
    RAF-DB's seven classes, the rarest of which is 2.4 % of the images:

        images                50   100   200   300  1000  3068
        accuracy            94.2  95.1  94.3  95.0  94.7  94.8
        balanced accuracy   87.1  89.9  92.6  93.2  95.1  94.5
        macro F1            90.0  91.3  93.3  93.7  94.8  95.1
        top-2 accuracy      98.1  92.3  93.9  94.1  94.2  95.1

    So the intervals of balanced accuracy and macro F1 are too narrow where a class has fewer than some ten images.
    """
    images = int(confusion.sum())
    right = int(np.trace(confusion))
    rng = np.random.default_rng(seed)
    occupied = confusion > 0  # leaving the empty cells out saves most of the time
    drawn = np.zeros((RESAMPLES, *confusion.shape), np.int64)
    drawn[:, occupied] = rng.multinomial(images, confusion[occupied] / images, size=RESAMPLES)
    drawn_top2 = rng.binomial(images, (right + second_right) / images, size=RESAMPLES) / images
    accuracy, balanced, f1 = (
        interval(float(value), resamples)
        for value, resamples in zip(_averages(confusion), _averages(drawn), strict=True)
    )
    top2 = interval((right + second_right) / images, drawn_top2)
    return {
        "accuracy": _wilson_at_the_ends(accuracy, images),
        "balanced_accuracy": balanced,
        "macro_f1": f1,
        "top2_accuracy": _wilson_at_the_ends(top2, images) if len(confusion) > 2 else top2,
    }


def interval(value: float, resamples: NDArray[np.float64]) -> Estimate:
    """The value with the middle 95 % of what it is in the resamples."""
    low, high = np.quantile(resamples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, None, None) if low == high else Estimate(value, float(low), float(high))


def _wilson_at_the_ends(share: Estimate, images: int) -> Estimate:
    if share.value not in (0.0, 1.0):
        return share
    wilson = binomtest(round(share.value * images), images).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(share.value, float(wilson.low), float(wilson.high))


def _averages(confusion: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """Accuracy, balanced accuracy and macro F1 [...] of confusion counts [..., K, K]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, and left out
        recall, f1 = hits / true, 2 * hits / (true + predicted)
    return hits.sum(axis=-1) / true.sum(axis=-1), np.nanmean(recall, axis=-1), np.nanmean(f1, axis=-1)


def _reliability(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> list[Bin]:
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    of_bin = np.digitize(confidence, edges[1:-1], right=True)
    return [
        Bin(
            float(edges[index]),
            float(edges[index + 1]),
            int((of_bin == index).sum()),
            float(confidence[of_bin == index].mean(dtype=np.float64)),
            float(right[of_bin == index].mean()),
        )
        for index in np.unique(of_bin)
    ]


def label_warning(confusion: NDArray[np.int64], classes: Sequence[str]) -> str | None:
    """A sentence if the confusion counts [true, predicted] look like those of another label order; None otherwise.

    To rename the predicted classes so that accuracy is highest is an assignment problem. Its solution falls into cycles of classes, a swap
    being a cycle of two. A cycle is evident if both hold, each with p < 0.001 corrected for the number of pairs of classes:

    - more than twice as many images would become right as wrong (exact binomial test);
    - within the cycle, renamed prediction and label agree better than by chance (Cohen's kappa, normal approximation). A model that takes
      everything for a rare class gains by calling it by the most frequent class's name, and has exchanged nothing.

    The evident cycles together must raise balanced accuracy by at least 5 points: accuracy would hardly notice two rare classes.
    """
    level = CHANCE / (len(classes) * (len(classes) - 1) / 2)
    stay = np.eye(len(classes), dtype=np.int64)  # decides between equally good solutions
    predicted, true = linear_sum_assignment((confusion * (len(classes) + 1) + stay).T, maximize=True)
    renamed = dict(zip(predicted.tolist(), true.tolist(), strict=True))
    evident = [cycle for cycle in _cycles(renamed) if _looks_exchanged(confusion, cycle, level)]
    if not evident:
        return None
    names = {k: k for k in renamed} | {k: renamed[k] for cycle in evident for k in cycle}
    put_right = np.empty_like(confusion)
    put_right[:, list(names.values())] = confusion[:, list(names)]
    (before, balanced_before, _), (after, balanced_after, _) = _averages(confusion), _averages(put_right)
    if balanced_after - balanced_before < SHARP_GAIN:
        return None
    said = " and ".join(_exchange([classes[k] for k in cycle]) for cycle in evident)
    return (
        f"{said}; with the names put right accuracy would be {after:.1%} instead of {before:.1%}; "
        "check the label order of the manifest"
    )


def _cycles(renamed: dict[int, int]) -> list[list[int]]:
    """Each class followed by the one it would be renamed to; classes that keep their name are in none."""
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
    return f"predictions of {len(names)} classes look exchanged in a circle (what is called {circle})"


def text_table(reports: Sequence[GroupReport]) -> str:
    """The headlines of several groups, for a terminal, columns two spaces apart. A `*` marks groups that chose the checkpoint.

    Metrics, the calibration error ECE among them, are in per cent; `width` is how many images the interval of the accuracy spans.
    """
    columns = [
        "group", "images", "rejected", "accuracy, %", "95 % interval", "width", "balanced, %", "macro F1, %", "top-2, %", "ECE, %",
    ]  # fmt: skip
    rows = [
        [
            report.name + (" *" if report.chose_checkpoint else ""),
            report.images,
            report.rejected,
            _percent(report.accuracy.value),
            "–".join(map(_percent, (report.accuracy.low, report.accuracy.high))),
            "-" if (width := report.accuracy.images(report.images)) is None else f"{width:.0f}",
            *(_percent(metric.value) for metric in (report.balanced_accuracy, report.macro_f1, report.top2_accuracy)),
            _percent(report.calibration_error),
        ]
        for report in reports
    ]
    apart = [columns[0], *(f" {column}" for column in columns[1:])]  # pandas puts one space between columns
    return pd.DataFrame(rows, columns=apart).astype(str).to_string(index=False)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _or_none(score: float) -> float | None:
    return None if np.isnan(score) else float(score)
