"""Properties of pictures that go with the class or the split."""

import numpy as np
import pytest
from doctor_cases import only, table, topics

from orsanet_cache.doctor.confounds import FEWEST, judge_confounds


def test_a_property_that_goes_with_the_class_is_named_with_its_shares() -> None:
    label = ["a"] * 100 + ["b"] * 100
    chroma = [0.0] * 90 + [40.0] * 10 + [0.0] * 20 + [40.0] * 80
    finding = only(judge_confounds(table("own", ("a", "b"), label=label, chroma=chroma)), "confound-class")
    assert finding.severity == "warning"
    assert "colour is associated with the class (Cramér's V 0.70)" in finding.what  # phi of (90 10; 20 80)
    assert "share of coloured: b 80%, a 10%; overall 45%" in finding.what
    assert "right for 85% (mean over the classes); chance is 50%" in finding.what
    assert "tag the pictures (grey, colour) and read test:grey and test:colour" in finding.advice


@pytest.mark.parametrize(
    ("column", "values"), [("format", ("PNG", "JPEG")), ("width", (96, 224)), ("quality", (95.0, 40.0))]
)
@pytest.mark.parametrize("group", ["class", "split"])
def test_size_format_and_quality_are_judged_against_class_and_split(
    column: str, values: tuple[object, object], group: str
) -> None:
    half = np.repeat([0, 1], 60)
    mixed = np.tile([0, 1], 60)
    label, split = (half, mixed) if group == "class" else (mixed, half)
    data = table(
        "own", ("a", "b"), label=np.array(["a", "b"])[label], split=np.array(["train", "test"])[split],
        **{column: [values[at] for at in half]},
    )  # fmt: skip
    assert topics(judge_confounds(data)) == [f"confound-{group}"]


def test_properties_that_fall_by_chance_are_no_finding() -> None:
    rng = np.random.default_rng(0)
    classes = ("a", "b", "c", "d", "e", "f", "g")
    for size in (60, 300, 3_000):
        for _ in range(6):
            data = table(
                "own", classes, label=rng.choice(classes, size), split=rng.choice(["train", "test"], size),
                chroma=rng.choice([0.0, 40.0], size), width=rng.choice([90, 150, 300], size), format=rng.choice(["JPEG", "PNG"], size),
            )  # fmt: skip
            assert judge_confounds(data) == []


def test_a_value_of_few_pictures_is_left_out() -> None:
    def of(grey_ones: int) -> list[str]:
        chroma = [0.0] * grey_ones + [40.0] * (200 - grey_ones)
        label = ["a"] * grey_ones + ["b"] * (200 - grey_ones)
        return topics(judge_confounds(table("own", ("a", "b"), label=label, chroma=chroma)))

    assert of(FEWEST - 1) == []
    assert of(FEWEST) == ["confound-class"]
