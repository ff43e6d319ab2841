"""Numbers are in per cent and points, what is not known is a dash, and a user's text stays text in Markdown."""

import pytest

from orsanet_train.evaluation.statistics import Estimate, decimals
from orsanet_train.report.text import between, day, images, markdown_text, percent, points


def test_shares_are_in_per_cent_and_differences_in_points_with_their_sign() -> None:
    assert (percent(0.9228), percent(0.5, 0)) == ("92.28", "50")
    assert (points(0.0123), points(-0.5), points(0.0)) == ("+1.23", "-50.00", "+0.00")


def test_an_interval_is_its_ends_and_how_many_images_it_spans() -> None:
    estimate = Estimate(0.25, 0.125, 0.5)
    assert between(estimate) == "12.50 … 50.00"
    assert between(estimate, signed=True) == "+12.50 … +50.00"
    assert images(estimate, 80) == "30"


@pytest.mark.parametrize(
    ("low", "high", "digits", "shown"),
    [(0.4, 0.51, 0, "40 … 51"), (0.44, 0.47, 1, "44.0 … 47.0"), (0.44, 0.449, 2, "44.00 … 44.90")],
)
def test_decimals_follow_the_width_of_the_interval(low: float, high: float, digits: int, shown: str) -> None:
    estimate = Estimate(0.45, low, high)
    assert decimals(estimate, 100) == digits
    assert between(estimate, digits=digits) == shown


def test_without_an_interval_decimals_follow_the_number_of_images() -> None:
    without = Estimate(1.0, None, None)
    assert [decimals(without, images) for images in (0, 1, 384, 385, 38_414, 38_416)] == [0, 0, 0, 1, 1, 2]
    assert decimals(None, 385) == 1


def test_what_is_not_known_is_a_dash() -> None:
    nothing = Estimate(1.0, None, None)
    assert [percent(None), points(None), between(nothing), images(nothing, 80)] == ["–"] * 4


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b", "a\\|b"),
        ("<b>bold</b>", "&lt;b&gt;bold&lt;/b&gt;"),
        ("two\n  lines", "two lines"),
        ("`*_[]#\\", "\\`\\*\\_\\[\\]\\#\\\\"),
        (12, "12"),
        ("a\x1b(0\x07\x9b", "a\\\\x1b(0\\\\x07\\\\x9b"),
    ],
)
def test_a_users_text_is_no_markup(text: object, written: str) -> None:
    assert markdown_text(text) == written


def test_a_date_is_a_day_and_a_time() -> None:
    assert day("2026-01-31T12:00:59+00:00") == "2026-01-31 12:00 UTC"
