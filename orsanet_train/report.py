"""Predictions -> the numbers of a report. Metrics are scikit-learn's, the confidence interval is scipy's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score


@dataclass(frozen=True)
class SplitReport:
    """Metrics of one evaluated group of images. Shares are in 0 … 1."""

    name: str
    images: int
    rejected: int  # images of the group that the build could not use: not in any number here
    accuracy: float
    accuracy_interval: tuple[
        float, float
    ]  # 95 % confidence (Wilson), as if images were independent; not of the training seed
    balanced_accuracy: float  # mean recall over the classes that occur
    macro_f1: float  # mean F1 over the classes that occur or are predicted
    recall: dict[str, float | None]  # per class, in label order; None: no image of it here
    confusion: list[list[int]]  # [true][predicted], in label order
    chose_checkpoint: bool  # this split's accuracy chose the checkpoint, so its numbers flatter it

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def split_report(
    name: str, predictions: pd.DataFrame, classes: Sequence[str], rejected: int, chose_checkpoint: bool
) -> SplitReport:
    """Metrics of a predictions table with the columns `label` and `predicted`."""
    label, predicted = predictions["label"].to_numpy(), predictions["predicted"].to_numpy()
    present = [name for name in classes if (label == name).any()]
    recall = recall_score(label, predicted, labels=present, average=None)
    right = binomtest(int((label == predicted).sum()), len(predictions)).proportion_ci(method="wilson")
    by_class = dict(zip(present, map(float, recall), strict=True))
    return SplitReport(
        name=name,
        images=len(predictions),
        rejected=rejected,
        accuracy=float(accuracy_score(label, predicted)),
        accuracy_interval=(float(right.low), float(right.high)),
        balanced_accuracy=float(recall.mean()),
        macro_f1=float(f1_score(label, predicted, average="macro", zero_division=0)),
        recall={name: by_class.get(name) for name in classes},
        confusion=confusion_matrix(label, predicted, labels=list(classes)).tolist(),
        chose_checkpoint=chose_checkpoint,
    )


def text_table(reports: Sequence[SplitReport]) -> str:
    """The reports side by side, in per cent, for a terminal."""
    columns = ["split", "images", "rejected", "accuracy", "95 %", "balanced", "macro F1", *reports[0].recall]
    rows = [
        [
            report.name + (" *" if report.chose_checkpoint else ""),
            report.images,
            report.rejected,
            _percent(report.accuracy),
            "–".join(map(_percent, report.accuracy_interval)),
            *map(_percent, (report.balanced_accuracy, report.macro_f1, *report.recall.values())),
        ]
        for report in reports
    ]
    return pd.DataFrame(rows, columns=columns).to_string(index=False)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
