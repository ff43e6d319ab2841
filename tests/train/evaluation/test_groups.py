"""A group's name says which images it has, and its rows are those."""

import numpy as np
import pandas as pd
import pytest

from orsanet_train.evaluation.groups import Group


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("test", Group("test", None, "clean")),
        ("test:occluded", Group("test", "occluded", "clean")),
        ("test@erase-20", Group("test", None, "erase-20")),
        ("test:occluded@erase-20", Group("test", "occluded", "erase-20")),
        ("test:pose:left@hflip", Group("test", "pose:left", "hflip")),
        ("test:", Group("test", "", "clean")),
        ("test@", Group("test", None, "")),
    ],
)
def test_a_group_is_a_split_a_tag_and_a_view(text: str, group: Group) -> None:
    assert Group.parse(text) == group
    assert str(group) == text


def test_the_rows_of_a_group_are_those_of_its_split_tag_and_view() -> None:
    table = pd.DataFrame(
        {
            "split": ["test", "test", "valid", "test", "test"],
            "view": ["clean", "clean", "clean", "hflip", "clean"],
            "tags": ["", "hat;occluded", "occluded", "occluded", "not-occluded"],
        }
    )
    rows = {
        "test": [0, 1, 4],
        "test:occluded": [1],
        "test:hat": [1],
        "valid:occluded": [2],
        "test:occluded@hflip": [3],
        "valid@hflip": [],
    }
    assert {name: np.flatnonzero(Group.parse(name).of(table)).tolist() for name in rows} == rows
