"""Numbers are in per cent and points, what is not known is a dash, and a user's text stays text in Markdown."""

import pytest

from orsanet_train.evaluation.statistics import Estimate
from orsanet_train.report.text import between, images, markdown_text, percent, points


def test_shares_are_in_per_cent_and_differences_in_points_with_their_sign() -> None:
    assert (percent(0.9228), percent(0.5, 0)) == ("92.28", "50")
    assert (points(0.0123), points(-0.5), points(0.0)) == ("+1.23", "-50.00", "+0.00")


def test_an_interval_is_its_ends_and_how_many_images_it_spans() -> None:
    estimate = Estimate(0.25, 0.125, 0.5)
    assert between(estimate) == "12.50 … 50.00"
    assert between(estimate, signed=True) == "+12.50 … +50.00"
    assert images(estimate, 80) == "30"


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
