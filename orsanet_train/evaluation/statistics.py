"""Uncertainty of the numbers: intervals over images, two models on the same images, several seeds.

Resampling images estimates how far the numbers of one trained model would vary on other images of
the same kind. The variation between training seeds can only be measured with several runs.

K = classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, nct, norm, sem, t, ttest_1samp

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; `low` and `high` are None if all resamples are equal."""

    value: float
    low: float | None
    high: float | None

    def images(self, n: int) -> float | None:
        """The interval's width as a number of images out of n."""
        return None if self.low is None or self.high is None else (self.high - self.low) * n


def decimals(estimate: Estimate | None, images: int) -> int:
    """How many decimals of a share in per cent its uncertainty leaves a meaning.

    None if the 95 % interval is 10 points wide or wider, one from 1 point on, two below. A share of
    `images` without an interval is taken to have the widest interval of that many images.
    """
    if estimate is None or estimate.low is None or estimate.high is None:
        width = 2 * float(norm.isf((1 - CONFIDENCE) / 2)) * 0.5 / math.sqrt(max(images, 1))
    else:
        width = estimate.high - estimate.low
    return 0 if width >= 0.1 else 1 if width >= 0.01 else 2


def headlines(confusion: NDArray[np.int64], second_right: int, seed: int = 0) -> dict[str, Estimate]:
    """Accuracy, balanced accuracy, macro F1 and top-2 accuracy with their intervals.

    `confusion` has the counts [true, predicted], int64 [K, K]. `second_right` is the number of
    images whose label is the second most probable class.

    The intervals are percentiles of a bootstrap over images. The cell counts of N images drawn with
    replacement are multinomial, so the counts are drawn instead of the images, which gives the same
    distribution. A class without an image in a resample is left out of that resample's mean, just
    as a class without images is left out of the value.

    An accuracy or top-2 accuracy of 0 or 1 is the same in every resample, so it has Wilson's
    interval instead. Balanced accuracy and macro F1 have no interval in that case. The top-2
    accuracy of two classes is 1 by definition and has no interval.

    Share of intervals that contain the true value, in per cent of 2,000 to 4,000 simulated test
    sets of a typical model (accuracy 0.85) on RAF-DB's seven classes, the rarest of which has 2.4 %
    of the images:

        images                50   100   200   300  1000  3068
        accuracy            94.2  95.1  94.3  95.0  94.7  94.8
        balanced accuracy   87.1  89.9  92.6  93.2  95.1  94.5
        macro F1            90.0  91.3  93.3  93.7  94.8  95.1
        top-2 accuracy      98.1  92.3  93.9  94.1  94.2  95.1

    So the intervals of balanced accuracy and macro F1 are too narrow if a class has fewer than
    about ten images.
    """
    images = int(confusion.sum())
    right = int(np.trace(confusion))
    rng = np.random.default_rng(seed)
    occupied = confusion > 0  # skipping the empty cells saves most of the time
    drawn = np.zeros((RESAMPLES, *confusion.shape), np.int64)
    drawn[:, occupied] = rng.multinomial(images, confusion[occupied] / images, size=RESAMPLES)
    drawn_top2 = rng.binomial(images, (right + second_right) / images, size=RESAMPLES) / images
    accuracy, balanced, f1 = (
        interval(float(value), resamples) for value, resamples in zip(averages(confusion), averages(drawn), strict=True)
    )
    top2 = interval((right + second_right) / images, drawn_top2)
    return {
        "accuracy": _wilson_at_the_ends(accuracy, images),
        "balanced_accuracy": balanced,
        "macro_f1": f1,
        "top2_accuracy": _wilson_at_the_ends(top2, images) if len(confusion) > 2 else top2,
    }


def interval(value: float, resamples: NDArray[np.float64]) -> Estimate:
    """The value with the middle 95 % of its resamples as the interval."""
    low, high = np.quantile(resamples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, None, None) if low == high else Estimate(value, float(low), float(high))


def _wilson_at_the_ends(share: Estimate, images: int) -> Estimate:
    return share if share.value not in (0.0, 1.0) else share_interval(round(share.value * images), images)


def share_interval(count: int, images: int) -> Estimate:
    """The share of `count` in `images` with Wilson's interval."""
    wilson = binomtest(count, images).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(count / images, float(wilson.low), float(wilson.high))


def averages(confusion: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """Accuracy, balanced accuracy and macro F1 [...] of confusion counts [..., K, K]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN and left out
        recall, f1 = hits / true, 2 * hits / (true + predicted)
    return hits.sum(axis=-1) / true.sum(axis=-1), np.nanmean(recall, axis=-1), np.nanmean(f1, axis=-1)


def kappa(confusion: NDArray[np.int64]) -> float:
    """Cohen's kappa of confusion counts [K, K]: agreement beyond that of the same counts at random.

    (p_o - p_e) / (1 - p_e), p_o the accuracy and p_e the sum over the classes of the shares of labels
    and of predictions, multiplied. NaN if all labels and predictions are of one class.
    """
    images = confusion.sum()
    observed = np.trace(confusion) / images
    expected = (confusion.sum(axis=1) * confusion.sum(axis=0)).sum() / images**2
    with np.errstate(invalid="ignore"):
        return float((observed - expected) / (1 - expected))


@dataclass(frozen=True)
class Paired:
    """Two models on the same images."""

    name: str
    images: int
    first: float  # accuracy
    second: float
    only_first: int  # images that only the first model gets right
    only_second: int
    difference: Estimate  # second - first
    p_value: float  # exact McNemar, two-sided


def paired(name: str, first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> Paired:
    """Compare two models on the same N images; `first_right` and `second_right` are bool [N].

    The p-value is that of the exact McNemar test: if the models are equally good, an image that
    exactly one of them predicts correctly is that of either model with probability 1/2. The
    interval is that of Bonett and Price (2012), the normal interval after adding one discordant
    image for each model. It is also valid for a few discordant images, for which a bootstrap is too
    narrow and contradicts the test.
    """
    images = len(first_right)
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    gained, lost = (only_second + 1) / (images + 2), (only_first + 1) / (images + 2)
    half = norm.isf((1 - CONFIDENCE) / 2) * np.sqrt((gained + lost - (gained - lost) ** 2) / (images + 2))
    low, high = max(-1.0, gained - lost - half), min(1.0, gained - lost + half)
    return Paired(
        name=name,
        images=images,
        first=float(first_right.mean()),
        second=float(second_right.mean()),
        only_first=only_first,
        only_second=only_second,
        difference=Estimate((only_second - only_first) / images, float(low), float(high)),
        p_value=float(binomtest(only_second, only_first + only_second).pvalue) if only_first + only_second else 1.0,
    )


def mean_over_seeds(pairs: Sequence[Paired]) -> tuple[Estimate, float | None]:
    """Mean difference with its t interval, and the p-value of the paired t test.

    Interval and p-value are None if the difference is the same for all seeds.
    """
    images = pairs[0].images
    gained = np.array([pair.only_second - pair.only_first for pair in pairs])  # counts: equal ones are exactly equal
    mean = float(gained.mean() / images)
    if np.ptp(gained) == 0:
        return Estimate(mean, None, None), None
    test = ttest_1samp(gained, 0)
    low, high = test.confidence_interval(CONFIDENCE)
    return Estimate(mean, float(low / images), float(high / images)), float(test.pvalue)


def t_interval(differences: "pd.Series[float] | NDArray[np.float64]") -> tuple[float, float]:
    """95 % t interval of the mean difference over seeds. Requires two seeds or more."""
    half = float(t.ppf(0.975, len(differences) - 1) * sem(differences))
    return float(differences.mean()) - half, float(differences.mean()) + half


def smallest_seen(differences: "pd.Series[float] | NDArray[np.float64]") -> float:
    """The smallest true mean difference that so many seeds with this spread would show in four of five repetitions.

    To show it, the 95 % t interval must exclude 0 (power of the paired t test, noncentral t
    distribution). Requires two seeds or more.
    """
    freedom = len(differences) - 1
    critical = t.isf((1 - CONFIDENCE) / 2, freedom)
    standard_errors = brentq(lambda away: nct.sf(critical, freedom, away) - POWER, 0, 5 * critical)
    return float(standard_errors * sem(differences))


def spread(values: "pd.Series[float]") -> str:
    """Mean ± sample standard deviation of shares, in per cent."""
    series = values * 100
    return f"{series.mean():.2f} %" if len(series) < 2 else f"{series.mean():.2f} ± {series.std():.2f} %"
