"""The shipped descriptors and the published counts."""

import tomllib
from pathlib import Path

import pytest

from orsanet_cache.layouts import affectnet_release, ferplus, occlu_fer, rafdb
from orsanet_cache.layouts.published import published_counts

ROOT = Path(__file__).resolve().parents[3]


def test_shipped_descriptors_have_the_name_classes_and_splits_that_are_written() -> None:
    written = {
        "rafdb": (rafdb.CLASSES, rafdb.SPLITS),
        "affectnet7": (affectnet_release.CLASSES[:7], affectnet_release.SPLITS),
        "affectnet8": (affectnet_release.CLASSES, affectnet_release.SPLITS),
        "occlu-fer": (tuple(occlu_fer.CLASSES.values()), ("train", "valid")),
        "ferplus": (ferplus.CLASSES, ferplus.SPLITS),
    }
    shipped = {}
    for path in (ROOT / "manifests").glob("*.toml"):
        descriptor = tomllib.loads(path.read_text(encoding="utf-8"))
        assert descriptor["name"] == path.stem
        shipped[path.stem] = (tuple(descriptor["classes"]), tuple(descriptor["splits"]))
    assert shipped == written


@pytest.mark.parametrize(
    ("name", "cap", "totals"),
    [
        ("rafdb", None, {"train": 12271, "test": 3068}),
        ("affectnet7", 5000, {"train": 33803, "valid": 3500}),
        ("affectnet8", 5000, {"train": 37553, "valid": 4000}),
        ("affectnet8", None, {"valid": 4000}),
        ("affectnet8", 4999, {"valid": 4000}),
        ("occlu-fer", None, {"train": 6838, "valid": 880}),
        ("my-faces", None, {}),
    ],
)
def test_published_totals_are_those_of_the_same_cap(name: str, cap: int | None, totals: dict[str, int]) -> None:
    counts = published_counts(name, cap)
    assert {split: known.total for split, known in counts.items()} == totals
    assert all(sum(known.classes.values()) in (0, known.total) for known in counts.values())
