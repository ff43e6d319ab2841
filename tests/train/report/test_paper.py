"""The paper's numbers are those of a known data set with its classes, and of no other."""

import tomllib
from pathlib import Path

import pytest

from orsanet_train.report.paper import published


def test_the_numbers_are_those_of_a_known_data_set_with_its_classes() -> None:
    classes = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    assert {row.group: row.accuracy for row in published("rafdb", classes)} == {
        "test": 0.9228, "test:occluded": 0.8775, "test@erase-10": 0.9051, "test@erase-20": 0.8787, "test@erase-30": 0.8402,
    }  # fmt: skip
    assert published("rafdb", classes[1:]) == []
    assert published("my-faces", classes) == []


@pytest.mark.parametrize("name", ["rafdb", "affectnet7", "affectnet8", "occlu-fer"])
def test_the_paper_knows_the_shipped_descriptors(name: str) -> None:
    manifests = Path(__file__).resolve().parents[3] / "manifests"
    descriptor = tomllib.loads((manifests / f"{name}.toml").read_text(encoding="utf-8"))
    rows = published(descriptor["name"], descriptor["classes"])
    assert rows
    assert {row.group.split(":")[0].split("@")[0] for row in rows} <= set(descriptor["splits"])
