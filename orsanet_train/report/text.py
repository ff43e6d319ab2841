"""Numbers and names in the formats of a report."""

import html
import math
from typing import Any

from scipy.stats import norm

from orsanet_cache.streams import printable
from orsanet_train.evaluation.statistics import CONFIDENCE, Estimate


def percent(share: float | None, digits: int = 2) -> str:
    """0.9228 -> 92.28"""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def points(share: float | None, digits: int = 2) -> str:
    """A difference of shares in percentage points, with its sign."""
    return "–" if share is None else f"{100 * share:+.{digits}f}"


def between(estimate: Estimate, signed: bool = False, digits: int = 2) -> str:
    """The 95 % interval as text."""
    if estimate.low is None or estimate.high is None:
        return "–"
    show = points if signed else percent
    return f"{show(estimate.low, digits)} … {show(estimate.high, digits)}"


def decimals(estimate: Estimate | None, images: int) -> int:
    """How many decimals of a share in per cent its uncertainty leaves a meaning.

    None if the 95 % interval is 10 points wide or wider, one from 1 point on, two below. A share of
    `images` without an interval is taken to have the widest interval of that many images.
    """
    if estimate is None or estimate.low is None or estimate.high is None:
        width = 2 * norm.isf((1 - CONFIDENCE) / 2) * 0.5 / math.sqrt(max(images, 1))
    else:
        width = estimate.high - estimate.low
    return 0 if width >= 0.1 else 1 if width >= 0.01 else 2


def images(estimate: Estimate, count: int) -> str:
    """The interval's width as a number of images."""
    width = estimate.images(count)
    return "–" if width is None else f"{width:.0f}"


def markdown_text(value: Any) -> str:
    """A user's text in Markdown: no HTML, no table bars, no control characters, one line."""
    text = html.escape(printable(" ".join(str(value).split())), quote=False)
    return "".join(f"\\{character}" if character in "\\`*_[]|#" else character for character in text)
