"""A model is judged beside what needs no model: the commonest class of the same images, and other named predictions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from orsanet_train.evaluation.baselines import BaselinePredictions, commonest_class
from orsanet_train.evaluation.metrics import GroupReport, baseline_meanings, group_report, not_beaten
from orsanet_train.evaluation.statistics import paired

CLASSES = ("anger", "happiness", "neutral")
LABELS = np.repeat([0, 1, 2], (20, 60, 40))


def reported(
    predicted: NDArray[np.int64], *baselines: BaselinePredictions, labels: NDArray[np.int64] = LABELS
) -> GroupReport:
    return group_report("test", labels, np.eye(3)[predicted], CLASSES, baselines=baselines)


def test_the_commonest_class_is_that_of_the_evaluated_images_and_compared_image_by_image() -> None:
    predicted = np.where(np.arange(len(LABELS)) % 5 < 4, LABELS, 0)
    (baseline,) = reported(predicted).baselines or ()
    assert (baseline.name, baseline.accuracy) == ("commonest class", 0.5)
    assert baseline.meaning == "always 'happiness', the commonest class of these images"
    assert baseline.difference == paired("", LABELS == 1, predicted == LABELS).difference
    assert baseline.beaten


def test_of_equally_common_classes_the_first_in_label_order_is_taken() -> None:
    assert commonest_class(np.array([2, 1, 2, 1]), CLASSES).predicted.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("right", "beaten"),
    [(30, False), (60, False), (62, False), (110, True)],
    ids=["worse", "equal", "by chance", "better"],
)
def test_a_baseline_is_beaten_if_the_interval_of_the_difference_is_above_0(right: int, beaten: bool) -> None:
    predicted = np.where(np.arange(len(LABELS)) < right, LABELS, (LABELS + 1) % 3)
    report = reported(predicted)
    (baseline,) = report.baselines or ()
    assert baseline.beaten is beaten
    warned = list(not_beaten([report]))
    assert bool(warned) is not beaten
    if not beaten:
        low, high = baseline.difference.low or 0, baseline.difference.high or 0
        assert warned == [
            f"the model is not shown to be better than the baseline 'commonest class' on test ({right / 120:.1%} against 50.0%, "
            f"95 % of the difference {100 * low:+.1f} … {100 * high:+.1f} points)"
        ]


def test_no_model_can_beat_a_baseline_that_is_always_right_so_nothing_is_warned_of() -> None:
    labels = np.full(30, 2)
    report = reported(labels, labels=labels)
    (baseline,) = report.baselines or ()
    assert (baseline.accuracy, baseline.meaning) == (1.0, "always 'neutral', the only class of these images")
    assert list(not_beaten([report])) == []


def test_further_baselines_stand_beside_the_commonest_class_and_are_warned_of_one_by_one() -> None:
    predicted = np.where(np.arange(len(LABELS)) % 5 < 4, LABELS, 0)
    report = reported(predicted, BaselinePredictions("oracle", "the labels, but for one", np.append(LABELS[:-1], 0)))
    assert [baseline.name for baseline in report.baselines or ()] == ["commonest class", "oracle"]
    (warning,) = not_beaten([report, report])
    assert warning.startswith(
        "the model is not shown to be better than the baseline 'oracle' on test (83.3% against 99.2%, 95 %"
    )
    assert warning.count("test (") == 2


def test_groups_with_few_images_are_named_without_numbers() -> None:
    small = group_report("test:hat", [0, 1, 1], np.eye(3)[[0, 0, 1]], CLASSES)
    (alone,) = not_beaten([small])
    assert (
        alone
        == "the model is not shown to be better than the baseline 'commonest class' on test:hat (fewer than 50 images each)"
    )
    (both,) = not_beaten([reported(np.zeros(len(LABELS), np.int64)), small])
    assert both.endswith(" points); and on test:hat (fewer than 50 images each)")


def test_what_a_baseline_predicts_is_said_once_or_with_the_groups_where_it_differs() -> None:
    first = reported(LABELS)
    assert baseline_meanings([first, first]) == [
        "commonest class: always 'happiness', the commonest class of these images"
    ]
    other = group_report("valid", [0, 0, 1], np.eye(3)[[0, 0, 1]], CLASSES)
    assert baseline_meanings([first, other]) == [
        "commonest class: always 'happiness', the commonest class of these images (test); "
        "always 'anger', the commonest class of these images (valid)"
    ]
    assert baseline_meanings([replace(first, baselines=None)]) == []


def test_a_group_comes_back_with_its_baselines_and_one_from_before_them_without() -> None:
    report = reported(LABELS)
    content = json.loads(json.dumps(report.as_json()))
    assert GroupReport.from_json(content) == report
    del content["baselines"]
    old = GroupReport.from_json(content)
    assert old.baselines is None
    assert list(not_beaten([old])) == []
