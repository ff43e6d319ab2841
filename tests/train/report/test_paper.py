"""Published numbers are those of a known data set with its classes, and of no other; contradicting ones name each other."""

import tomllib
from pathlib import Path

import pytest

from orsanet_train.model_config import kinds
from orsanet_train.report.paper import NUMBERS, ORSANET, POSTER, POSTER_V2, published, published_table, remark_of

SEVEN = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
ROOT = Path(__file__).resolve().parents[3]


def test_the_numbers_are_those_of_a_known_data_set_with_its_classes() -> None:
    assert {row.group: row.accuracy for row in published("rafdb", SEVEN) if row.model == ORSANET} == {
        "test": 0.9228, "test:occluded": 0.8775, "test@erase-10": 0.9051, "test@erase-20": 0.8787, "test@erase-30": 0.8402,
    }  # fmt: skip
    assert published("rafdb", SEVEN[1:]) == []
    assert published("my-faces", SEVEN) == []


@pytest.mark.parametrize("name", ["rafdb", "affectnet7", "affectnet8", "occlu-fer", "ferplus"])
def test_the_paper_knows_the_shipped_descriptors(name: str) -> None:
    descriptor = tomllib.loads((ROOT / "manifests" / f"{name}.toml").read_text(encoding="utf-8"))
    rows = published(descriptor["name"], descriptor["classes"])
    assert rows
    assert {row.group.split(":")[0].split("@")[0] for row in rows} <= set(descriptor["splits"])


def test_every_number_has_its_source_and_the_models_of_ours_have_their_titles() -> None:
    assert {ORSANET, POSTER, POSTER_V2} <= {kind.title for kind in kinds().values()}
    assert all(row.source and 0.5 < row.accuracy < 1 for row in NUMBERS)
    assert len({row[:4] for row in NUMBERS}) == len(NUMBERS)


def test_values_that_contradict_each_other_are_all_there_and_name_each_other() -> None:
    by_value = {(row.model, row.data_set, row.accuracy): row for row in NUMBERS}
    for model, data_set, one, other in (
        (POSTER_V2, "affectnet7", 0.6749, 0.6620), (POSTER_V2, "affectnet8", 0.6377, 0.6237), ("EAC", "rafdb", 0.8999, 0.9035),
        (ORSANET, "occlu-fer", 0.6807, 0.6805),
    ):  # fmt: skip
        here, there = by_value[model, data_set, one], by_value[model, data_set, other]
        assert remark_of(here).startswith(f"contradicted by {100 * other:.2f} ({there.source})")
        assert remark_of(there).startswith(f"contradicted by {100 * one:.2f} ({here.source})")
    alone = by_value[POSTER, "rafdb", 0.9205]
    assert remark_of(alone) == alone.remark
    # The contradiction that matters most: above ORSANet's own numbers.
    for data_set, own, ours in (("affectnet7", 0.6749, 0.6669), ("affectnet8", 0.6377, 0.6295)):
        assert by_value[POSTER_V2, data_set, own].accuracy > by_value[ORSANET, data_set, ours].accuracy


def test_ours_stands_in_a_column_of_its_own() -> None:
    rows = published("affectnet7", SEVEN)
    lines = published_table(rows, [str(n) for n in range(len(rows))]).splitlines()
    assert lines[0] == "| model | data set | group | published | ours | source | remark |"
    assert (
        lines[2]
        == "| ORSANet | affectnet7 | valid | 66.69 | 0 | ORSANet's paper, Table 2 | trained on 33,803 images, according to the log |"
    )


def test_the_page_on_reproducing_has_all_of_them() -> None:
    assert published_table(NUMBERS) in (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
