"""Occlu-FER."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from data_set_trees import exchange, made, refused


@pytest.mark.parametrize("valid", ["valid", "val", "Validation", "DEV"])
def test_occlu_fer_has_the_order_of_the_published_script(occlu: Path, tmp_path: Path, valid: str) -> None:
    (occlu / "valid").rename(occlu / valid)
    manifest, printed = made("occlu-fer", occlu, "--out", tmp_path / "occlu-fer.toml")
    assert manifest.name == "occlu-fer"
    assert {Path(s.image).parent.name: s.label for s in manifest.samples} == dict(zip(("AN", "CO", "DI", "FE", "HA", "NE", "SA", "SU"), range(8), strict=True))  # fmt: skip
    assert manifest.splits == ("train", "valid")
    assert "published   6,838" in printed
    assert "published     880" in printed


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: shutil.rmtree(root / "valid/CO"), "valid: no folder of class CO"),
        (lambda root: exchange(root / "train", root / "valid"), "look exchanged"),
        (
            lambda root: (root / "valid").rename(root / "test"),
            "test where split folders should be (train or valid)",
        ),
        (lambda root: shutil.copytree(root / "valid", root / "val"), "mean the same split"),
    ],
)
def test_every_wrong_occlu_fer_is_named(
    occlu: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(occlu)
    assert said in refused("occlu-fer", occlu, "--out", tmp_path / "occlu-fer.toml")
