"""Metrics: every one is scikit-learn's, every interval covers what it says, and a wrong label order is noticed and a right one not."""

import itertools
import json
import re
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    classification_report,
    confusion_matrix,
    top_k_accuracy_score,
)

from orsanet_cache import OrsanetError
from orsanet_train.evaluation.metrics import (
    ClassReport,
    Estimate,
    GroupReport,
    group_report,
    headlines,
    interval,
    label_warning,
    text_table,
)

CLASSES = ("surprise", "fear", "anger", "neutral")  # label order, on purpose not the alphabet's
PAIRS = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=40)

RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
RAFDB_SHARE = np.array([329, 74, 160, 1185, 478, 162, 680]) / 3068  # of the test split
RAFDB_RECALL = np.array([0.85, 0.60, 0.60, 0.93, 0.83, 0.78, 0.83])  # of a usual model: accuracy 0.85


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


def usual_model() -> NDArray[np.float64]:
    """Shares of the cells [true, predicted] of a usual model on RAF-DB; it takes the frequent classes for others in proportion."""
    shares = np.tile(RAFDB_SHARE, (7, 1)) * (1 - np.eye(7))
    shares *= ((1 - RAFDB_RECALL) / shares.sum(axis=1))[:, None]
    return RAFDB_SHARE[:, None] * (shares + np.diag(RAFDB_RECALL))


def drawn(rng: np.random.Generator, images: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Confusion counts of some images."""
    return rng.multinomial(images, shares.ravel()).reshape(shares.shape)


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


def test_another_seed_gives_other_resamples() -> None:
    confusion = drawn(np.random.default_rng(0), 300, usual_model())
    lows = {headlines(confusion, 20, seed)["macro_f1"].low for seed in range(5)}
    assert len(lows) == 5


def test_drawing_counts_is_drawing_images() -> None:
    """The quantiles of the metrics over images drawn one by one. Of 2,000 resamples the 2.5 % quantile is known to within a standard error
    of 0.06 standard deviations of the metric, of 20,000 to within 0.02: four of them together are 0.26, where the interval is 3.9 wide.
    """
    rng = np.random.default_rng(0)
    confusion = drawn(rng, 300, usual_model())
    images = np.repeat(np.arange(49), confusion.ravel())
    second = np.isin(
        np.arange(300), rng.permutation(np.flatnonzero(images % 8))[:20]
    )  # some of the wrong ones: 8 k is right
    resampled = rng.integers(0, 300, (20_000, 300))
    counts = np.apply_along_axis(np.bincount, 1, images[resampled], minlength=49).reshape(-1, 7, 7)
    hits, true, predicted = np.einsum("nii->ni", counts), counts.sum(axis=2), counts.sum(axis=1)
    assert (true > 0).all(axis=1).mean() > 0.99  # else the next lines would need to leave out classes
    whole = (true > 0).all(axis=1)
    expected = {
        "accuracy": hits.sum(axis=1) / 300,
        "balanced_accuracy": (hits[whole] / true[whole]).mean(axis=1),
        "macro_f1": (2 * hits[whole] / (true + predicted)[whole]).mean(axis=1),
        "top2_accuracy": hits.sum(axis=1) / 300 + second[resampled].mean(axis=1),
    }
    for name, estimate in headlines(confusion, 20).items():
        low, high = np.quantile(expected[name], [0.025, 0.975])
        assert [estimate.low, estimate.high] == pytest.approx([low, high], abs=0.26 * expected[name].std())


NORMAL_QUANTILE = 1.959963984540054  # of 97.5 %: 2.5 % are left out on either side


@pytest.mark.parametrize("share", [0, 1])
@pytest.mark.parametrize("count", [1, 7, 400])
def test_where_resamples_cannot_tell_accuracy_has_wilsons_interval(count: int, share: int) -> None:
    """The accuracies p at which (observed - p) / sqrt(p (1 - p) / n) is the quantile, solved for p."""
    report = report_of([("fear", "fear" if share else "neutral")] * count)
    z = NORMAL_QUANTILE
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z * np.sqrt(z**2 / (4 * count**2)) / (1 + z**2 / count)
    for estimate in (report.accuracy, report.top2_accuracy):
        assert estimate.value == share
        assert [estimate.low, estimate.high] == pytest.approx(
            [centre - reach, centre + reach], rel=0, abs=1e-12
        )  # rounding
    assert report.balanced_accuracy == report.macro_f1 == Estimate(share, None, None)


def test_resamples_that_are_all_equal_make_no_interval() -> None:
    assert interval(0.25, np.full(10, 0.25)) == Estimate(0.25, None, None)
    spread = interval(0.5, np.arange(1001) / 1000)
    assert [spread.low, spread.high] == pytest.approx([0.025, 0.975], rel=1e-12)  # rounding


def test_four_times_the_images_halve_every_interval() -> None:
    """Quantiles of 2,000 resamples are known to within a few per cent of the width."""
    confusion = drawn(np.random.default_rng(1), 2000, usual_model())
    one, four = headlines(confusion, 100), headlines(4 * confusion, 400)
    for name in one:
        assert four[name].images(1) == pytest.approx(one[name].images(1) / 2, rel=0.15)  # type: ignore[operator]


def covered(images: int, repetitions: int) -> dict[str, int]:
    """How often the intervals of a usual model on that many images of RAF-DB hold the true values."""
    shares = usual_model()
    hits = np.diag(shares)
    truth = {
        "accuracy": hits.sum(),
        "balanced_accuracy": (hits / shares.sum(axis=1)).mean(),
        "macro_f1": (2 * hits / (shares.sum(axis=0) + shares.sum(axis=1))).mean(),
    }
    rng = np.random.default_rng(images)
    counts = dict.fromkeys(truth, 0)
    for seed in range(repetitions):
        estimates = headlines(drawn(rng, images, shares), 0, seed)
        for name, value in truth.items():
            low, high = estimates[name].low, estimates[name].high
            assert low is not None
            assert high is not None
            counts[name] += bool(low - 1e-12 <= value <= high + 1e-12)  # an accuracy may be the interval's end
    return counts


@pytest.mark.parametrize("images", [300, 1000])
def test_intervals_cover_the_true_value_95_times_in_a_hundred(images: int) -> None:
    """Within the simulation's own error: a count that far from 95 % would come by chance once in a thousand."""
    for name, count in covered(images, 600).items():
        assert binomtest(count, 600, 0.95).pvalue > 0.001, (name, count)


def test_with_two_images_of_a_class_the_interval_of_balanced_accuracy_covers_less() -> None:
    """As the documentation says: 100 images of RAF-DB hold two of fear, and resamples of two images know too little of the class."""
    counts = covered(100, 400)
    assert binomtest(counts["accuracy"], 400, 0.95).pvalue > 0.001
    assert 0.85 < counts["balanced_accuracy"] / 400 < 0.93


def renamed(confusion: NDArray[np.int64], order: Sequence[int]) -> NDArray[np.int64]:
    """The counts that the same predictions have where the model was trained with its classes in another order."""
    return confusion[:, order]


@pytest.mark.parametrize("pair", list(itertools.combinations(range(7), 2)))
def test_every_swapped_pair_of_a_good_classifier_is_named_with_what_putting_it_right_gives(
    pair: tuple[int, int],
) -> None:
    """Also fear and disgust, which are 8 % of the images."""
    confusion = drawn(np.random.default_rng(0), 3068, usual_model())
    order = list(range(7))
    order[pair[0]], order[pair[1]] = pair[1], pair[0]
    swapped = renamed(confusion, order)
    first, second = (RAFDB[k] for k in pair)
    assert label_warning(swapped, RAFDB) == (
        f"predictions of '{first}' and '{second}' look exchanged; with the names put right accuracy would be "
        f"{np.trace(confusion) / 3068:.1%} instead of {np.trace(swapped) / 3068:.1%}; check the label order of the manifest"
    )


@pytest.mark.parametrize("shift", [1, 2, 3, 4, 5, 6])
def test_a_rotated_label_order_is_named_as_one_circle(shift: int) -> None:
    confusion = drawn(np.random.default_rng(1), 1000, usual_model())
    order = np.roll(np.arange(7), shift)
    said = label_warning(renamed(confusion, order.tolist()), RAFDB)
    assert said is not None
    assert said.startswith("predictions of 7 classes look exchanged in a circle (what is called ")
    assert f"accuracy would be {np.trace(confusion) / 1000:.1%}" in said
    for k in range(7):
        assert f"'{RAFDB[k]}' is '{RAFDB[order[k]]}'" in said


def test_the_alphabets_order_for_the_data_sets_is_put_right_and_two_swaps_are_two() -> None:
    confusion = drawn(np.random.default_rng(2), 3068, usual_model())
    alphabet = [RAFDB.index(name) for name in sorted(RAFDB)]
    said = label_warning(renamed(confusion, alphabet), RAFDB)
    assert said is not None
    assert f"accuracy would be {np.trace(confusion) / 3068:.1%}" in said
    twice = label_warning(renamed(confusion, [3, 1, 2, 0, 4, 6, 5]), RAFDB)
    assert twice is not None
    assert (
        "of 'surprise' and 'happiness' look exchanged and predictions of 'anger' and 'neutral' look exchanged" in twice
    )


def test_two_classes_can_be_exchanged_too() -> None:
    said = label_warning(np.array([[10, 190], [180, 20]]), ("calm", "angry"))
    assert said is not None
    assert "'calm' and 'angry'" in said
    assert "92.5% instead of 7.5%" in said


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_no_class_is_drawn_into_an_exchange_that_it_does_not_need(order: tuple[int, ...]) -> None:
    """What is called `fear` may be `surprise` or `anger` alike, and nothing is called `anger`: a circle would be as accurate as the swap."""
    counts = np.array([[10, 90, 0, 0], [190, 10, 0, 0], [0, 90, 0, 0], [0, 0, 0, 200]])
    said = label_warning(counts[np.ix_(order, order)], [CLASSES[k] for k in order])
    assert said is not None
    assert "circle" not in said
    assert "'surprise'" in said
    assert "'fear'" in said


def test_a_report_says_what_the_check_found() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 400)
    certain = np.eye(4)[labels]
    assert group_report("test", labels, certain, CLASSES).label_warning is None
    said = group_report("test", labels, certain[:, [1, 0, 2, 3]], CLASSES).label_warning
    assert said is not None
    assert "'surprise' and 'fear' look exchanged; with the names put right accuracy would be 100.0%" in said


def knows_nothing(rng: np.random.Generator) -> NDArray[np.float64]:
    """Predicts some classes more often than others, whatever the image; now and then a single one."""
    return np.tile(rng.dirichlet(np.full(7, rng.choice([0.01, 0.2, 1, 5]))), (7, 1))


def is_good(rng: np.random.Generator) -> NDArray[np.float64]:
    """Recalls from 0.5 to 0.95, mistakes anywhere."""
    recall = rng.uniform(0.5, 0.95, 7)
    mistakes = np.array([np.insert(rng.dirichlet(np.full(6, 0.5)), k, 0) for k in range(7)])
    return mistakes * (1 - recall)[:, None] + np.diag(recall)


def has_collapsed(rng: np.random.Generator) -> NDArray[np.float64]:
    """Predicts two to four of the classes only, those well, as models do in their first epochs."""
    kept = rng.choice(7, rng.integers(2, 5), replace=False)
    shares = np.zeros((7, 7))
    shares[:, kept] = rng.dirichlet(np.ones(len(kept)), 7)
    shares[kept] *= 0.3
    shares[kept, kept] += 0.7
    return shares


@pytest.mark.parametrize("model", [knows_nothing, is_good, has_collapsed])
def test_a_right_label_order_is_not_doubted(model: Callable[[np.random.Generator], NDArray[np.float64]]) -> None:
    """The check allows luck one in a thousand: of 500, luck makes at most two, 98.6 % of the time."""
    rng = np.random.default_rng(0)
    for frequencies in (RAFDB_SHARE, np.full(7, 1 / 7)):
        doubted = 0
        for images in (30, 100, 300, 1000, 3068) * 100:
            doubted += label_warning(drawn(rng, images, frequencies[:, None] * model(rng)), RAFDB) is not None
        assert doubted <= 2


def test_the_table_has_a_row_per_group_in_per_cent_with_columns_two_spaces_apart() -> None:
    first = report_of([("surprise", "surprise"), ("surprise", "fear"), ("fear", "fear")], "valid", 2, True)
    second = report_of([("anger", "anger")] * 7, "test:occluded")
    header, *rows = (re.split(r" {2,}", line.strip()) for line in text_table([first, second]).splitlines())
    assert header == [
        "group", "images", "rejected", "accuracy, %", "95 % interval", "width", "balanced, %", "macro F1, %", "top-2, %", "ECE, %",
    ]  # fmt: skip
    assert rows == [
        ["valid *", "3", "2", "66.67", "0.00–100.00", "3", "75.00", "66.67", "100.00", "3.33"],
        ["test:occluded", "7", "0", "100.00", "64.57–100.00", "2", "100.00", "100.00", "100.00", "30.00"],
    ]


def test_the_tables_shorten_no_name_and_leave_out_no_row() -> None:
    """Data frames abbreviate long cells and long tables unless told not to."""
    classes = [f"expression-{'x' * 80}-{index}" for index in range(70)]
    report = group_report("test:" + "a" * 80, np.arange(70), np.eye(70), classes)
    lines = text_table([report] * 70).splitlines()
    assert len(lines) == 71
    assert {line.split()[0] for line in lines[1:]} == {report.name}


def test_a_class_may_be_called_like_a_column() -> None:
    report = group_report("test", np.array([0, 0]), np.array([[0.9, 0.1], [0.8, 0.2]]), ["images", "class"])
    assert {name: (part.images, part.predicted) for name, part in report.classes.items()} == {
        "images": (2, 2),
        "class": (0, 0),
    }
