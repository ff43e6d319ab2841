"""FERPlus."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from data_set_trees import FERPLUS_HEADER, FERPLUS_ROWS, labels, made, refused, replace_first, write_lines


@pytest.mark.parametrize("base", ["data", "."])
def test_ferplus_takes_the_class_with_most_votes_and_counts_the_rest(fer: Path, tmp_path: Path, base: str) -> None:
    if base == ".":
        for folder in (fer / "data").iterdir():
            folder.rename(fer / folder.name)
    manifest, printed = made("ferplus", fer, "--out", tmp_path / "ferplus.toml")
    assert labels(manifest) == {
        "fer0000000": "neutral", "fer0000001": "happiness", "fer0000003": "surprise", "fer0028638": "contempt", "fer0032220": "disgust",
    }  # fmt: skip
    assert {sample.split for sample in manifest.samples} == {"train", "valid", "test"}
    assert "left out, no single expression with the most votes: 1" in printed
    assert "left out, most votes for unknown: 1" in printed
    assert "left out, most votes for NF: 1" in printed
    assert "left out, a row without a picture (not a face): 1 (line 8)" in printed


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "fer2013new.csv").unlink(), "no file fer2013new.csv"),
        (lambda root: shutil.rmtree(root / "data"), "no folder FER2013Train"),
        (lambda root: shutil.rmtree(root / "data/FER2013Test"), "no folder data/FER2013Test"),
        (lambda root: (root / "data/FER2013Train/fer0000003.png").unlink(), "1 of 5 pictures of fer2013new.csv are missing: data/FER2013Train/fer0000003.png;"),
        (lambda root: replace_first(root / "fer2013new.csv", "contempt", "scorn"), "missing column(s) contempt"),
        (lambda root: replace_first(root / "fer2013new.csv", "PublicTest", "Valid"), "unknown usage 'Valid'"),
        (lambda root: replace_first(root / "fer2013new.csv", "0,10,0", "0,ten,0"), "line 3: 'ten' is not a number of votes"),
        (lambda root: replace_first(root / "fer2013new.csv", "0,10,0", "0,10,0,0"), "line 3: 13 cells"),
        (lambda root: replace_first(root / "fer2013new.csv", "fer0000001", "fer0000000"), "line 3: fer0000000.png occurs twice"),
        (lambda root: write_lines(root / "fer2013new.csv", [FERPLUS_HEADER, *(row.replace("Training,", "PrivateTest,") for row in FERPLUS_ROWS[-1:])]), "look exchanged"),
    ],
)  # fmt: skip
def test_every_wrong_ferplus_is_named(fer: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(fer)
    assert said in refused("ferplus", fer, "--out", tmp_path / "ferplus.toml")
