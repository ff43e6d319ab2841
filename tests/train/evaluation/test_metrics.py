"""Metrics: every one is scikit-learn's, and a report has them, their intervals and what the label order looks like."""

import json
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    classification_report,
    confusion_matrix,
    top_k_accuracy_score,
)

from orsanet_cache import OrsanetError
from orsanet_train.evaluation.metrics import ClassReport, GroupReport, group_report
from orsanet_train.evaluation.statistics import Estimate

CLASSES = ("surprise", "fear", "anger", "neutral")  # label order, on purpose not the alphabet's
PAIRS = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=40)


def near(value: float) -> object:
    """Equal but for sums of a few shares in another order: some units in the last place."""
    return pytest.approx(value, rel=1e-14, abs=1e-14)


def report_of(
    pairs: Sequence[tuple[str, str]], name: str = "test", rejected: int = 0, chose: bool = False
) -> GroupReport:
    """The report of (true, predicted) pairs."""
    labels, predicted = np.array([(CLASSES.index(true), CLASSES.index(said)) for true, said in pairs]).T
    probabilities = np.full((len(pairs), len(CLASSES)), 0.1)
    probabilities[np.arange(len(pairs)), predicted] = 0.7
    return group_report(name, labels, probabilities, CLASSES, rejected=rejected, chose_checkpoint=chose)


def random_group(seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64], tuple[str, ...]]:
    """Labels, probabilities that know something of them, and class names."""
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(1, 200)), int(rng.integers(3, 9))
    labels = rng.integers(0, classes, images)
    logits = rng.normal(size=(images, classes)) + 2 * np.eye(classes)[labels] * rng.integers(0, 2, (images, 1))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probabilities, tuple(f"class {k}" for k in range(classes))


@given(pairs=PAIRS)
@settings(max_examples=40, deadline=None)
def test_metrics_are_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    true, predicted = zip(*pairs, strict=True)
    report = report_of(pairs)
    assert report.images == len(pairs)
    assert report.accuracy.value == accuracy_score(true, predicted)
    assert report.confusion == confusion_matrix(true, predicted, labels=CLASSES).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's warning about classes that are predicted and never true
        assert report.balanced_accuracy.value == near(balanced_accuracy_score(true, predicted))
    by_class = classification_report(true, predicted, output_dict=True, zero_division=0)
    assert report.macro_f1.value == near(by_class["macro avg"]["f1-score"])
    for name, part in report.classes.items():
        assert part.images == true.count(name)
        assert part.predicted == predicted.count(name)
        assert part.recall == (by_class[name]["recall"] if name in true else None)
        assert part.precision == (by_class[name]["precision"] if name in predicted else None)
        assert part.f1 == (by_class[name]["f1-score"] if name in true + predicted else None)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_top_2_accuracy_is_scikit_learns(seed: int) -> None:
    labels, probabilities, classes = random_group(seed)
    expected = top_k_accuracy_score(labels, probabilities, k=2, labels=range(len(classes)))
    assert group_report("test", labels, probabilities, classes).top2_accuracy.value == near(expected)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_reliability_bins_are_scikit_learns_and_make_the_calibration_error(seed: int) -> None:
    labels, probabilities, classes = random_group(seed)
    report = group_report("test", labels, probabilities, classes)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    accuracies, confidences = calibration_curve(right, confidence, n_bins=15)
    assert [part.accuracy for part in report.reliability] == pytest.approx(accuracies, rel=1e-12)  # rounding
    assert [part.confidence for part in report.reliability] == pytest.approx(confidences, rel=1e-12)
    for part in report.reliability:
        assert part.high - part.low == pytest.approx(1 / 15, rel=1e-12)
        assert part.images == ((confidence > part.low) & (confidence <= part.high)).sum()
    assert sum(part.images for part in report.reliability) == len(labels)
    gaps = [abs(part.images * part.confidence - part.images * part.accuracy) for part in report.reliability]
    assert report.calibration_error == pytest.approx(sum(gaps) / len(labels), rel=1e-12)


def test_calibrated_probabilities_have_no_calibration_error_and_false_certainty_has_all() -> None:
    labels = np.repeat([0, 1], [80, 20])
    calibrated = group_report("test", labels, np.tile([0.8, 0.2], (100, 1)), ("a", "b"))
    assert calibrated.calibration_error == pytest.approx(0, abs=1e-15)  # rounding of 0.8
    assert group_report("test", labels, np.tile([0.0, 1.0], (100, 1)), ("a", "b")).calibration_error == 0.8
    single = np.tile(np.nextafter(np.array([1, 0], np.float32), np.float32(2)), (100, 1))  # a softmax may exceed 1
    assert [part.images for part in group_report("test", labels, single, ("a", "b")).reliability] == [100]


def test_a_confidence_on_the_edge_is_in_the_lower_bin() -> None:
    edges = np.linspace(0, 1, 16)
    confidence = edges[8:]
    report = group_report("test", np.zeros(8, np.int64), np.stack([confidence, 1 - confidence], axis=1), ("a", "b"))
    assert [(part.high, part.images) for part in report.reliability] == [(edge, 1) for edge in confidence]


@given(pairs=PAIRS)
@settings(max_examples=40, deadline=None)
def test_counts_add_up(pairs: list[tuple[str, str]]) -> None:
    report = report_of(pairs)
    confusion = np.array(report.confusion)
    true, predicted = zip(*pairs, strict=True)
    assert confusion.sum(axis=1).tolist() == [true.count(name) for name in CLASSES]
    assert confusion.sum(axis=0).tolist() == [predicted.count(name) for name in CLASSES]
    assert report.accuracy.value == np.trace(confusion) / len(pairs)


@given(pairs=PAIRS)
@settings(max_examples=40, deadline=None)
def test_recall_and_f1_follow_from_the_confusion_matrix(pairs: list[tuple[str, str]]) -> None:
    """From first principles: recall = hits / true, F1 = 2 hits / (true + predicted), averaged over the classes that occur."""
    report = report_of(pairs)
    confusion = np.array(report.confusion)
    hits, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    recall = [hit / count if count else None for hit, count in zip(hits.tolist(), true.tolist(), strict=True)]
    assert [part.recall for part in report.classes.values()] == recall
    assert report.balanced_accuracy.value == near(np.mean(hits[true > 0] / true[true > 0]))
    seen = true + predicted > 0
    assert report.macro_f1.value == near((2 * hits[seen] / (true + predicted)[seen]).mean())


@given(seed=st.integers(0, 10_000), data=st.data())
@settings(max_examples=25, deadline=None)
def test_another_label_order_changes_the_order_and_no_value(seed: int, data: st.DataObject) -> None:
    labels, probabilities, classes = random_group(seed)
    order = data.draw(st.permutations(range(len(classes))))  # new position -> old
    report = group_report("test", labels, probabilities, classes)
    other = group_report("test", np.argsort(order)[labels], probabilities[:, order], [classes[old] for old in order])
    assert list(report.classes) == list(classes)
    assert list(other.classes) == [classes[old] for old in order]
    assert other.classes == report.classes
    assert other.confusion == np.array(report.confusion)[np.ix_(order, order)].tolist()
    assert other.reliability == report.reliability
    for name, estimate in other.headlines.items():
        assert estimate.value == near(report.headlines[name].value)


def test_an_absent_class_has_no_recall_and_no_part_in_the_balanced_accuracy() -> None:
    """`neutral` is predicted and never true; `anger` is neither. No warning either: warnings fail every test here."""
    report = report_of([("surprise", "surprise"), ("surprise", "neutral"), ("fear", "fear")])
    assert {name: part.recall for name, part in report.classes.items()} == {
        "surprise": 0.5, "fear": 1.0, "anger": None, "neutral": None
    }  # fmt: skip
    assert report.classes["neutral"] == ClassReport(0, 1, 0.0, None, 0.0)
    assert report.classes["anger"] == ClassReport(0, 0, None, None, None)
    assert report.balanced_accuracy.value == 0.75
    assert report.confusion == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_of_equally_probable_classes_the_first_is_predicted_and_the_next_is_second() -> None:
    """As argmax does, so that predictions and metrics agree; and who is first is among the first two."""
    report = group_report("test", np.arange(40), np.full((40, 40), 1 / 40), [f"class {k}" for k in range(40)])
    assert report.confusion == [[1] + [0] * 39] * 40
    assert report.top2_accuracy.value == 2 / 40


def test_two_classes_have_all_metrics_and_a_top_2_accuracy_that_needs_no_interval() -> None:
    report = group_report(
        "test", np.array([0, 1, 1, 0]), np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]]), ("a", "b")
    )
    assert report.accuracy.value == 0.75
    assert report.top2_accuracy == Estimate(1.0, None, None)


def test_a_group_without_images_is_refused_by_name() -> None:
    with pytest.raises(OrsanetError, match="group 'test:occluded' has no image"):
        group_report("test:occluded", np.zeros(0, np.int64), np.zeros((0, 4)), CLASSES)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_report_survives_json(seed: int) -> None:
    labels, probabilities, classes = random_group(seed)
    report = group_report("test:occluded", labels, probabilities, classes, rejected=3, chose_checkpoint=True, seed=seed)
    assert GroupReport.from_json(json.loads(json.dumps(report.as_json(), allow_nan=False))) == report


def test_json_that_is_not_a_report_is_refused() -> None:
    content = report_of([("fear", "fear"), ("fear", "anger")]).as_json()
    spoilt: list[object] = [
        {**content, "accuracy": 0.5},
        {**content, "accuracy": {**content["accuracy"], "median": 0.5}},
        {**content, "recall": {}},
        {name: value for name, value in content.items() if name != "images"},
        [],
    ]
    for spoiled in spoilt:
        with pytest.raises(ValidationError):
            GroupReport.from_json(spoiled)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_every_interval_holds_its_value_and_is_the_same_for_the_same_seed(seed: int) -> None:
    labels, probabilities, classes = random_group(seed)
    report = group_report("test", labels, probabilities, classes, seed=seed)
    assert report == group_report("test", labels, probabilities, classes, seed=seed)
    for estimate in report.headlines.values():
        if estimate.low is not None and estimate.high is not None:
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
            assert estimate.low < estimate.high
            assert estimate.images(len(labels)) == (estimate.high - estimate.low) * len(labels)
        else:
            assert estimate.images(len(labels)) is None
            assert report.accuracy.value in (0, 1)


def test_a_report_says_what_the_check_found() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 400)
    certain = np.eye(4)[labels]
    assert group_report("test", labels, certain, CLASSES).label_warning is None
    said = group_report("test", labels, certain[:, [1, 0, 2, 3]], CLASSES).label_warning
    assert said is not None
    assert "'surprise' and 'fear' look exchanged; with corrected names accuracy would be 100.0%" in said


def test_a_class_may_be_called_like_a_column() -> None:
    report = group_report("test", np.array([0, 0]), np.array([[0.9, 0.1], [0.8, 0.2]]), ["images", "class"])
    assert {name: (part.images, part.predicted) for name, part in report.classes.items()} == {
        "images": (2, 2),
        "class": (0, 0),
    }
