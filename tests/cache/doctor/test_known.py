"""What is known of the public data sets."""

import tomllib
from pathlib import Path

import pytest
from doctor_cases import COUNTED, PUBLIC, name_of, published

from orsanet_cache.doctor.known import AFFECTNET, FERPLUS, OCCLU_FER, PUBLISHED_CAP, RAFDB, Known, known_data_set
from orsanet_cache.layouts.published import published_counts

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("known", COUNTED, ids=name_of)
def test_the_class_counts_add_up_to_the_totals_of_the_published_logs(known: Known) -> None:
    totals = {split: sum(sizes.values()) for split, sizes in published(known).items()}
    cap = PUBLISHED_CAP if known in AFFECTNET.values() else None
    assert (
        totals == {split: stated.total for split, stated in published_counts(known.name, cap).items()} == known.totals
    )


@pytest.mark.parametrize("known", PUBLIC, ids=name_of)
def test_the_label_orders_are_those_of_the_shipped_descriptors(known: Known) -> None:
    descriptor = tomllib.loads((ROOT / "manifests" / f"{known.name}.toml").read_text(encoding="utf-8"))
    assert known.classes == tuple(descriptor["classes"])
    assert known_data_set(known.name, len(known.classes)) == known


@pytest.mark.parametrize(
    ("name", "classes", "known"),
    [("RAF-DB aligned", 7, RAFDB), ("AffectNet_7cls", 7, AFFECTNET[7]), ("affectnet", 8, AFFECTNET[8]), ("affectnet", 7, AFFECTNET[7]),
     ("AffectNet-8", 7, AFFECTNET[8]), ("Occlu_FER", 8, OCCLU_FER), ("FER+", 8, FERPLUS), ("FERPlus", 8, FERPLUS), ("FER2013+", 8, None), ("my-faces", 7, None)],
)  # fmt: skip
def test_a_public_data_set_is_known_however_its_name_is_written(name: str, classes: int, known: Known | None) -> None:
    assert known_data_set(name, classes) == known
