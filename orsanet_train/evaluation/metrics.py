"""Labels and class probabilities -> the numbers of a report.

These are metrics with their intervals (statistics.py), calibration, what baselines reach on the same
images (baselines.py), and the warning of label_order.py.

Shapes: N = images, K = classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from orsanet_cache.errors import OrsanetError
from orsanet_cache.paths import as_names
from orsanet_train.evaluation.baselines import Baseline, BaselinePredictions, against, commonest_class
from orsanet_train.evaluation.label_order import label_warning
from orsanet_train.evaluation.statistics import Estimate, headlines

CALIBRATION_BINS = 15
FEW_IMAGES = 50  # of a group: with fewer, the interval of an accuracy may be wider than 28 points


@dataclass(frozen=True)
class ClassReport:
    """One class. Precision is None if never predicted, recall if it has no images, F1 if both."""

    images: int  # with this label
    predicted: int  # images predicted as this class
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

    __pydantic_config__ = ConfigDict(extra="forbid")  # for reading back; applies to the nested classes too

    name: str
    images: int
    rejected: int  # images of the group that the build rejected; no other number includes them
    accuracy: Estimate
    balanced_accuracy: Estimate  # mean recall over the classes that occur
    macro_f1: Estimate  # mean F1 over the classes that occur or are predicted
    top2_accuracy: Estimate  # the label is among the two most probable classes
    calibration_error: float  # mean |confidence - accuracy| over the bins, weighted by images (Guo et al. 2017)
    classes: dict[str, ClassReport]  # in label order
    confusion: list[list[int]]  # [true][predicted], in label order
    reliability: list[Bin]  # the non-empty ones of 15 equally wide bins
    chose_checkpoint: bool  # some of these images did, so the numbers are optimistic
    trained_on: bool  # some of these images
    label_warning: str | None  # some classes look exchanged
    # How many of the images; None: not counted, because the weights have no digests.
    chose_images: int | None = None
    trained_images: int | None = None
    # What a model has to beat, on the same images. None: not recorded, in evaluations from before.
    baselines: tuple[Baseline, ...] | None = None

    @property
    def headlines(self) -> dict[str, Estimate]:
        """The metrics that have an interval."""
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "top2_accuracy": self.top2_accuracy,
        }

    @property
    def all_chose_checkpoint(self) -> bool:
        """Whether all of its images chose the checkpoint."""
        return self.chose_checkpoint and self.chose_images in (None, self.images)

    @property
    def all_trained_on(self) -> bool:
        """Whether the model was trained on all of its images."""
        return self.trained_on and self.trained_images in (None, self.images)

    @property
    def mostly_trained_on(self) -> bool:
        """Whether the model was trained on more than half of its images."""
        return self.trained_on and (self.trained_images is None or 2 * self.trained_images > self.images)

    @property
    def training_mark(self) -> str:
        """What stands behind the group's name in tables if the model was trained on its images."""
        return "(training images)" if self.all_trained_on else f"({self.trained_images:,} training images)"

    @property
    def commonest_share(self) -> float:
        """Accuracy of always predicting the commonest class of these images."""
        return max(part.images for part in self.classes.values()) / self.images

    def baseline(self, name: str) -> Baseline | None:
        """The baseline with this name; None if the group has none."""
        return next((one for one in self.baselines or () if one.name == name), None)

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
    chose_images: int | None = None,
    trained_images: int | None = None,
    baselines: Sequence[BaselinePredictions] = (),
    seed: int = 0,
) -> GroupReport:
    """Metrics of one group of images.

    Of equally probable classes the first counts as the more probable one. Raises OrsanetError for a
    group without images, and if labels, probabilities and classes do not fit together.

    Args:
        name: The group's name, as in the report.
        labels: [N] in 0 … K-1.
        probabilities: [N, K].
        classes: The names of the K classes in label order, K > 1.
        rejected: Number of images of the group that the build rejected.
        chose_checkpoint: Whether the checkpoint was chosen by the accuracy on some of these images.
        trained_on: Whether the model was trained on some of these images.
        chose_images: How many of the images chose the checkpoint; None: not counted.
        trained_images: How many of the images the model was trained on; None: not counted.
        baselines: Predictions to compare the model with, besides the commonest class.
        seed: Seed of the resamples for the intervals (see `headlines`).
    """
    labels, probabilities, classes = np.asarray(labels), np.asarray(probabilities), as_names(classes, "classes")
    if not len(labels):
        raise OrsanetError(f"group '{name}' has no image; name a split, tag and view that have some")
    if probabilities.shape != (len(labels), len(classes)) or labels.ndim != 1:
        raise OrsanetError(
            f"group '{name}': labels have shape {list(labels.shape)} and probabilities {list(probabilities.shape)}; "
            f"expected [N] and [N, {len(classes)}], for the classes {', '.join(classes)}"
        )
    if labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < len(classes):
        raise OrsanetError(
            f"group '{name}': labels must be whole numbers from 0 to {len(classes) - 1}: indices of the classes"
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
        chose_images=chose_images,
        trained_images=trained_images,
        baselines=tuple(against(one, labels, best) for one in (commonest_class(labels, classes), *baselines)),
    )


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


def _or_none(score: float) -> float | None:
    return None if np.isnan(score) else float(score)


def not_beaten(reports: Sequence[GroupReport]) -> Iterator[str]:
    """A warning for each baseline that the model does not beat on some groups (`Baseline.beaten`).

    Groups with fewer than FEW_IMAGES images are named without numbers: with so few images hardly any
    model is shown to be better.
    """
    for name in baseline_names(reports):
        found = [(report, one) for report in reports if (one := report.baseline(name)) is not None and not one.beaten]
        large = [
            f"{report.name} ({report.accuracy.value:.1%} against {one.accuracy:.1%}, 95 % of the difference "
            f"{100 * (one.difference.low or 0):+.1f} … {100 * (one.difference.high or 0):+.1f} points)"
            for report, one in found
            if report.images >= FEW_IMAGES
        ]
        small = [report.name for report, _ in found if report.images < FEW_IMAGES]
        parts = [", ".join(large)] if large else []
        parts += [f"{', '.join(small)} (fewer than {FEW_IMAGES} images each)"] if small else []
        if parts:
            yield f"the model is not shown to be better than the baseline '{name}' on {'; and on '.join(parts)}"


def baseline_names(reports: Sequence[GroupReport]) -> list[str]:
    """The names of all baselines of some groups, in their order."""
    return list(dict.fromkeys(one.name for report in reports for one in report.baselines or ()))


def baseline_meanings(reports: Sequence[GroupReport]) -> list[str]:
    """What each baseline of some groups predicts: a line each, which names the groups where they differ."""
    lines = []
    for name in baseline_names(reports):
        of_meaning: dict[str, list[str]] = {}
        for report in reports:
            if (one := report.baseline(name)) is not None:
                of_meaning.setdefault(one.meaning, []).append(report.name)
        several = len(of_meaning) > 1
        said = [meaning + (f" ({', '.join(groups)})" if several else "") for meaning, groups in of_meaning.items()]
        lines.append(f"{name}: {'; '.join(said)}")
    return lines
