"""Numbers and names in the formats of a report."""

import html
from typing import Any

from orsanet_cache.streams import printable
from orsanet_train.evaluation.statistics import Estimate


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


def day(date: str) -> str:
    """An ISO date and time in UTC -> 2026-01-31 12:00 UTC."""
    return f"{date[:16].replace('T', ' ')} UTC"


def images(estimate: Estimate, count: int) -> str:
    """The interval's width as a number of images."""
    width = estimate.images(count)
    return "–" if width is None else f"{width:.0f}"


def markdown_text(value: Any) -> str:
    """A user's text in Markdown: no HTML, no table bars, no control characters, one line."""
    text = html.escape(printable(" ".join(str(value).split())), quote=False)
    return "".join(f"\\{character}" if character in "\\`*_[]|#" else character for character in text)
