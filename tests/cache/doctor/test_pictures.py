"""Pictures one by one."""

import numpy as np
import pytest
from doctor_cases import named, table, topics

from orsanet_cache.doctor.known import FERPLUS, RAFDB, Known
from orsanet_cache.doctor.pictures import judge_pictures


def test_every_kind_of_poor_picture_is_named_and_the_good_ones_are_not() -> None:
    data = table(
        "own", ("a",), label=["a"] * 8,
        problem=["", "damaged", "", "", "", "", "", ""],
        width=[112, 0, 111, 100, 120, 224, 1024, 140],
        height=[112, 0, 200, 100, 200, 224, 1024, 112],
        contrast=[20.0, np.nan, 20, 20, 20, 0.5, 20, 20],
    )  # fmt: skip
    images = data.pictures.image.tolist()
    findings = {finding.topic: named(finding) for finding in judge_pictures(data, None)}
    assert findings == {
        "unusable": {images[1]}, "blank": {images[5]}, "tiny": {images[2], images[3]}, "far-from-square": {images[2], images[4]},
        "large": {images[6]},
    }  # fmt: skip
    assert topics(judge_pictures(data, None), "error") == ["unusable"]


@pytest.mark.parametrize(("known", "side"), [(RAFDB, 100), (FERPLUS, 48)])
def test_small_pictures_of_the_size_they_are_distributed_in_are_a_note(known: Known, side: int) -> None:
    data = table(known.name, ("a",), label=["a", "a"], width=[side, side], height=[side, side - 1])
    findings = judge_pictures(data, known)
    assert [(f.severity, f.topic) for f in findings] == [("warning", "tiny"), ("note", "small-as-published")]
    assert [named(f) for f in findings] == [{"images/1.jpg"}, {"images/0.jpg"}]
