"""Every interval covers what it promises, two models are told apart as McNemar's test does, and seeds as the t test does."""

from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, ttest_1samp

from orsanet_train.evaluation.statistics import Estimate, headlines, interval, paired, smallest_seen, spread, t_interval

RIGHT = st.lists(st.booleans(), min_size=1, max_size=60)


def drawn(rng: np.random.Generator, images: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Confusion counts of some images."""
    return rng.multinomial(images, shares.ravel()).reshape(shares.shape)


def test_another_seed_gives_other_resamples(usual_model: NDArray[np.float64]) -> None:
    confusion = drawn(np.random.default_rng(0), 300, usual_model)
    lows = {headlines(confusion, 20, seed)["macro_f1"].low for seed in range(5)}
    assert len(lows) == 5


def test_drawing_counts_is_drawing_images(usual_model: NDArray[np.float64]) -> None:
    """The quantiles of the metrics over images drawn one by one. Of 2,000 resamples the 2.5 % quantile is known to within a standard error
    of 0.06 standard deviations of the metric, of 20,000 to within 0.02: four of them together are 0.26, where the interval is 3.9 wide.
    """
    rng = np.random.default_rng(0)
    confusion = drawn(rng, 300, usual_model)
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
    confusion = np.zeros((4, 4), np.int64)
    confusion[1, 1 if share else 3] = count
    estimates = headlines(confusion, 0)
    z = NORMAL_QUANTILE
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z * np.sqrt(z**2 / (4 * count**2)) / (1 + z**2 / count)
    for estimate in (estimates["accuracy"], estimates["top2_accuracy"]):
        assert estimate.value == share
        assert [estimate.low, estimate.high] == pytest.approx(
            [centre - reach, centre + reach], rel=0, abs=1e-12
        )  # rounding
    assert estimates["balanced_accuracy"] == estimates["macro_f1"] == Estimate(share, None, None)


def test_resamples_that_are_all_equal_make_no_interval() -> None:
    assert interval(0.25, np.full(10, 0.25)) == Estimate(0.25, None, None)
    spread = interval(0.5, np.arange(1001) / 1000)
    assert [spread.low, spread.high] == pytest.approx([0.025, 0.975], rel=1e-12)  # rounding


def test_four_times_the_images_halve_every_interval(usual_model: NDArray[np.float64]) -> None:
    """Quantiles of 2,000 resamples are known to within a few per cent of the width."""
    confusion = drawn(np.random.default_rng(1), 2000, usual_model)
    one, four = headlines(confusion, 100), headlines(4 * confusion, 400)
    for name in one:
        assert four[name].images(1) == pytest.approx(one[name].images(1) / 2, rel=0.15)  # type: ignore[operator]


def covered(shares: NDArray[np.float64], images: int, repetitions: int) -> dict[str, int]:
    """How often the intervals of a model with these shares of the cells, on that many images, hold the true values."""
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
def test_intervals_cover_the_true_value_95_times_in_a_hundred(usual_model: NDArray[np.float64], images: int) -> None:
    """Within the simulation's own error: a count that far from 95 % would come by chance once in a thousand."""
    for name, count in covered(usual_model, images, 600).items():
        assert binomtest(count, 600, 0.95).pvalue > 0.001, (name, count)


def test_with_two_images_of_a_class_the_interval_of_balanced_accuracy_covers_less(
    usual_model: NDArray[np.float64],
) -> None:
    """As the documentation says: 100 images of RAF-DB hold two of fear, and resamples of two images know too little of the class."""
    counts = covered(usual_model, 100, 400)
    assert binomtest(counts["accuracy"], 400, 0.95).pvalue > 0.001
    assert 0.85 < counts["balanced_accuracy"] / 400 < 0.93


@given(first=RIGHT, data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_p_value_is_mcnemars(first: list[bool], data: st.DataObject) -> None:
    """From first principles: how likely coins for the images that only one gets right fall at least as unevenly; and as scipy says."""
    second = data.draw(st.lists(st.booleans(), min_size=len(first), max_size=len(first)))
    pair = paired("test", np.array(first), np.array(second))
    assert pair.only_first == sum(a and not b for a, b in zip(first, second, strict=True))
    assert pair.only_second == sum(b and not a for a, b in zip(first, second, strict=True))
    discordant, fewer = pair.only_first + pair.only_second, min(pair.only_first, pair.only_second)
    tail = sum(comb(discordant, k) for k in range(fewer + 1)) / 2**discordant
    assert pair.p_value == pytest.approx(min(1.0, 2 * tail), rel=1e-10)  # scipy's incomplete beta function
    if discordant:
        assert pair.p_value == binomtest(pair.only_first, discordant).pvalue
    assert [pair.first, pair.second] == [np.mean(first), np.mean(second)]
    assert pair.difference.value == pytest.approx(pair.second - pair.first, abs=1e-15)  # rounding


@given(first=RIGHT, data=st.data())
@settings(max_examples=40, deadline=None)
def test_exchanging_the_models_mirrors_everything(first: list[bool], data: st.DataObject) -> None:
    second = data.draw(st.lists(st.booleans(), min_size=len(first), max_size=len(first)))
    there, back = paired("test", np.array(first), np.array(second)), paired("test", np.array(second), np.array(first))
    assert there.p_value == back.p_value
    assert (there.first, there.only_first) == (back.second, back.only_second)
    assert there.difference.value == -back.difference.value
    assert there.difference.low == pytest.approx(-back.difference.high, abs=1e-15)  # rounding
    assert there.difference.low <= there.difference.value <= there.difference.high


@pytest.mark.parametrize("images", [100, 3068])
def test_the_interval_and_the_test_agree_on_a_handful_of_images(images: int) -> None:
    """The published margin is two images: there the interval must not promise what the exact test denies."""
    index = np.arange(images)
    for only_first in range(12):
        for only_second in range(12):
            first, second = index < only_first, (index >= only_first) & (index < only_first + only_second)
            pair = paired("test", first, second)
            excludes = pair.difference.low > 0 or pair.difference.high < 0
            # Between 0.01 and 0.1 an exact and a normal test may differ.
            assert excludes or pair.p_value > 0.01
            assert not excludes or pair.p_value < 0.1


def test_equal_predictions_differ_by_nothing_and_prove_nothing() -> None:
    images = 60
    right = np.random.default_rng(0).random(images) < 0.7
    pair = paired("test", right, right)
    assert (pair.only_first, pair.only_second, pair.difference.value, pair.p_value) == (0, 0, 0, 1)
    assert pair.difference.images(images) == pytest.approx(2 * 1.96 * np.sqrt(2) * images / (images + 2), rel=1e-4)
    opposite = paired("test", right & False, right | True).difference
    assert (opposite.value, opposite.high) == (1.0, 1.0)


@pytest.mark.parametrize("shares", [(0.04, 0.04), (0.07, 0.03)])
def test_the_interval_of_the_difference_covers_the_true_one_and_equal_models_are_told_apart_rarely(
    shares: tuple[float, float],
) -> None:
    """Within the simulation's own error: a count that far from 95 % would come by chance once in a thousand. The exact test errs at most
    5 times in a hundred.
    """
    rng = np.random.default_rng(0)
    truth, count, rejected = shares[1] - shares[0], 0, 0
    for _ in range(1000):
        only_first, only_second, _ = rng.multinomial(300, [*shares, 1 - sum(shares)])
        index = np.arange(300)
        first, second = index < only_first, (index >= only_first) & (index < only_first + only_second)
        pair = paired("test", first, second)
        count += pair.difference.low <= truth <= pair.difference.high
        rejected += pair.p_value < 0.05
    assert binomtest(count, 1000, 0.95).pvalue > 0.001
    if truth == 0:
        assert binomtest(rejected, 1000, 0.05, alternative="greater").pvalue > 0.001
    else:
        assert rejected > 300  # and models that differ are told apart: 30 images against 9 are not luck


def test_the_spread_is_the_mean_and_the_sample_standard_deviation() -> None:
    values = np.random.default_rng(0).random(5)
    assert spread(pd.Series(values)) == f"{100 * values.mean():.2f} ± {100 * values.std(ddof=1):.2f} %"


def test_a_single_seed_has_no_spread() -> None:
    assert spread(pd.Series([0.5])) == "50.00 %"


def test_the_interval_over_seeds_is_scipys() -> None:
    differences = np.random.default_rng(0).normal(1, 2, 7)
    expected = ttest_1samp(differences, 0).confidence_interval(0.95)
    assert t_interval(differences) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert t_interval(pd.Series(differences)) == pytest.approx(t_interval(differences), rel=1e-12)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_smallest_difference_seen_is_seen_in_four_of_five_repetitions(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    unit = np.linspace(-1, 1, seeds)
    unit /= unit.std(ddof=1)  # of deviation 1, so that the smallest difference is a pure number
    smallest = smallest_seen(unit + 7)
    repetitions = rng.normal(smallest, 1, (4000, seeds))
    intervals = np.array([t_interval(differences) for differences in repetitions])
    assert abs((intervals[:, 0] > 0).mean() - 0.8) < 5 * (0.8 * 0.2 / 4000) ** 0.5
    assert smallest_seen(3 * unit) == pytest.approx(3 * smallest)
    assert smallest_seen(np.ones(seeds)) == 0  # seeds without a spread show any difference
