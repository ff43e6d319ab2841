"""Reports: every metric is scikit-learn's, every count adds up, and nothing depends on the names of the classes."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, classification_report, confusion_matrix

from orsanet_train.report import SplitReport, split_report, text_table

CLASSES = ("surprise", "fear", "anger", "neutral")  # label order, on purpose not the alphabet's
PAIRS = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=40)


def report_of(pairs: list[tuple[str, str]], name: str = "test", rejected: int = 0, chose: bool = False) -> SplitReport:
    """The report of (true, predicted) pairs."""
    return split_report(name, pd.DataFrame(pairs, columns=["label", "predicted"]), CLASSES, rejected, chose)


@given(pairs=PAIRS)
@settings(max_examples=60, deadline=None)
def test_metrics_are_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    true, predicted = zip(*pairs, strict=True)
    report = report_of(pairs)
    # Sums of at most four shares in another order: a few units in the last place.
    near = {"rel": 1e-14, "abs": 1e-14}
    assert report.images == len(pairs)
    assert report.accuracy == accuracy_score(true, predicted)
    assert report.confusion == confusion_matrix(true, predicted, labels=CLASSES).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's warning about classes that are predicted and never true
        assert report.balanced_accuracy == pytest.approx(balanced_accuracy_score(true, predicted), **near)
    by_class = classification_report(true, predicted, output_dict=True, zero_division=0)
    assert report.macro_f1 == pytest.approx(by_class["macro avg"]["f1-score"], **near)
    for name in CLASSES:
        assert report.recall[name] == (by_class[name]["recall"] if name in true else None)


@given(pairs=PAIRS)
@settings(max_examples=60, deadline=None)
def test_counts_add_up(pairs: list[tuple[str, str]]) -> None:
    report = report_of(pairs)
    confusion = np.array(report.confusion)
    true, predicted = zip(*pairs, strict=True)
    assert confusion.sum(axis=1).tolist() == [true.count(name) for name in CLASSES]
    assert confusion.sum(axis=0).tolist() == [predicted.count(name) for name in CLASSES]
    assert report.accuracy == np.trace(confusion) / len(pairs)


@given(pairs=PAIRS)
@settings(max_examples=60, deadline=None)
def test_recall_and_f1_follow_from_the_confusion_matrix(pairs: list[tuple[str, str]]) -> None:
    """From first principles: recall = hits / true, F1 = 2 hits / (true + predicted), averaged over the classes that occur."""
    report = report_of(pairs)
    confusion = np.array(report.confusion)
    hits, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    recall = [hit / count if count else None for hit, count in zip(hits.tolist(), true.tolist(), strict=True)]
    assert list(report.recall.values()) == recall
    assert report.balanced_accuracy == pytest.approx(np.mean(hits[true > 0] / true[true > 0]), rel=1e-14, abs=1e-14)
    seen = true + predicted > 0
    f1 = 2 * hits[seen] / (true + predicted)[seen]
    assert report.macro_f1 == pytest.approx(f1.mean(), rel=1e-14, abs=1e-14)


@given(pairs=PAIRS, order=st.permutations(CLASSES))
@settings(max_examples=30, deadline=None)
def test_classes_are_in_label_order_and_only_order_depends_on_it(
    pairs: list[tuple[str, str]], order: list[str]
) -> None:
    report = report_of(pairs)
    other = split_report("test", pd.DataFrame(pairs, columns=["label", "predicted"]), order, 0, False)
    assert list(report.recall) == list(CLASSES)
    assert list(other.recall) == order
    assert other.recall == report.recall
    index = [CLASSES.index(name) for name in order]
    assert other.confusion == np.array(report.confusion)[np.ix_(index, index)].tolist()
    assert (other.accuracy, other.images) == (report.accuracy, report.images)


def test_an_absent_class_has_no_recall_and_no_part_in_the_balanced_accuracy() -> None:
    """`neutral` is predicted and never true; `anger` is neither. No warning either: warnings fail every test here."""
    report = report_of([("surprise", "surprise"), ("surprise", "neutral"), ("fear", "fear")])
    assert report.recall == {"surprise": 0.5, "fear": 1.0, "anger": None, "neutral": None}
    assert report.balanced_accuracy == 0.75
    assert report.confusion == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_all_wrong_and_a_single_image_are_reports_too() -> None:
    report = report_of([("fear", "anger")])
    assert (report.images, report.accuracy, report.balanced_accuracy, report.macro_f1) == (1, 0.0, 0.0, 0.0)
    assert report_of([("fear", "fear")]).macro_f1 == 1.0


@given(pairs=PAIRS)
@settings(max_examples=20, deadline=None)
def test_a_report_survives_json(pairs: list[tuple[str, str]]) -> None:
    report = report_of(pairs, "test:occluded", 3, True)
    read = json.loads(json.dumps(report.as_json(), allow_nan=False))
    read["accuracy_interval"] = tuple(read["accuracy_interval"])  # JSON has arrays only
    assert SplitReport(**read) == report


NORMAL_QUANTILE = 1.959963984540054  # of 97.5 %: 2.5 % are left out on either side


@given(count=st.integers(1, 400), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_interval_is_wilsons_and_holds_the_accuracy(count: int, share: float) -> None:
    """The accuracies p at which (observed - p) / sqrt(p (1 - p) / n) is the quantile, solved for p."""
    right = round(share * count)
    report = report_of([("fear", "fear")] * right + [("fear", "anger")] * (count - right))
    low, high = report.accuracy_interval
    observed, z = right / count, NORMAL_QUANTILE
    centre = (observed + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z * np.sqrt(observed * (1 - observed) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    assert report.accuracy_interval == pytest.approx((centre - reach, centre + reach), rel=0, abs=1e-12)  # rounding
    assert 0 <= low <= report.accuracy <= high <= 1
    assert high - low > 0


@pytest.mark.parametrize("right", [0, 1, 3, 4])
def test_the_interval_shrinks_with_more_images(right: int) -> None:
    widths = []
    for times in (1, 4, 16, 64):
        report = report_of([("fear", "fear")] * right * times + [("fear", "anger")] * (4 - right) * times)
        widths.append(report.accuracy_interval[1] - report.accuracy_interval[0])
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4
    assert widths[0] > 0.4
    assert widths[3] < 0.15


def test_the_table_has_a_row_per_report_in_per_cent() -> None:
    first = report_of([("surprise", "surprise"), ("surprise", "fear"), ("fear", "fear")], "valid", 2, True)
    second = report_of([("anger", "anger")] * 7, "test:occluded")
    header, *rows = text_table([first, second]).splitlines()
    assert header.split() == ["split", "images", "rejected", "accuracy", "95", "%", "balanced", "macro", "F1", *CLASSES]
    assert [row.split() for row in rows] == [
        ["valid", "*", "3", "2", "66.67", "20.77–93.85", "75.00", "66.67", "50.00", "100.00", "-", "-"],
        ["test:occluded", "7", "0", "100.00", "64.57–100.00", "100.00", "100.00", "-", "-", "100.00", "-"],
    ]


def test_the_table_shortens_no_name_and_leaves_out_no_column() -> None:
    """Data frames abbreviate long cells and wide tables unless told not to."""
    classes = [f"expression-number-{index}" for index in range(30)]
    group = "test:" + "a" * 80
    frame = pd.DataFrame({"label": classes, "predicted": classes})
    reports = [split_report(f"{group}{index}", frame, classes, 0, False) for index in range(70)]
    lines = text_table(reports).splitlines()
    assert len(lines) == 71
    assert lines[0].split()[-30:] == classes
    assert [line.split()[0] for line in lines[1:]] == [report.name for report in reports]


def test_a_class_may_be_called_like_a_column() -> None:
    """The count of images stays beside the recall of a class called `images`."""
    frame = pd.DataFrame({"label": ["images"] * 3, "predicted": ["images"] * 3})
    _, row = text_table([split_report("test", frame, ["images", "rejected"], 5, False)]).splitlines()
    assert row.split() == ["test", "3", "5", "100.00", "43.85–100.00", "100.00", "100.00", "100.00", "-"]
