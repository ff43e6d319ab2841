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


def test_a_picture_on_several_lines_counts_once_if_they_agree_and_is_left_out_otherwise(
    fer: Path, tmp_path: Path
) -> None:
    rows = list(FERPLUS_ROWS)
    rows.insert(3, rows[0])
    rows.insert(5, "Training,fer0000001.png,0,0,0,0,0,0,0,0,0,10")  # now not a face
    rows.append("PublicTest,fer0032220.png,0,0,0,0,0,7,3,0,0,0")  # the same votes in another split
    write_lines(fer / "fer2013new.csv", [FERPLUS_HEADER, *rows])
    manifest, printed = made("ferplus", fer, "--out", tmp_path / "ferplus.toml")
    assert labels(manifest) == {"fer0000000": "neutral", "fer0000003": "surprise", "fer0028638": "contempt"}
    assert "left out, a repeated line of the same picture: 1 (data/FER2013Train/fer0000000.png)" in printed
    assert (
        "left out, named several times, with different votes or usages: 3 (data/FER2013Train/fer0000001.png, "
        "data/FER2013Test/fer0032220.png, data/FER2013Valid/fer0032220.png)" in printed
    )
    assert "left out, most votes for NF: 1" in printed
    assert "not in fer2013new.csv" not in printed


def test_a_list_that_a_spreadsheet_saved_is_read(fer: Path, tmp_path: Path) -> None:
    plain, _ = made("ferplus", fer, "--out", tmp_path / "plain.toml")
    write_lines(fer / "fer2013new.csv", [FERPLUS_HEADER + ",,", *(f"{row},," for row in FERPLUS_ROWS), "," * 13])
    assert made("ferplus", fer, "--out", tmp_path / "saved.toml")[0].samples == plain.samples
    replace_first(fer / "fer2013new.csv", "0,10,0,0,0,0,0,0,0,0,,", "0,10,0,0,0,0,0,0,0,0,,x")
    assert "line 3: column 14 has content but no name" in refused("ferplus", fer, "--out", tmp_path / "other.toml")


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
        (lambda root: write_lines(root / "fer2013new.csv", [FERPLUS_HEADER, *(row.replace("Training,", "PrivateTest,") for row in FERPLUS_ROWS[-1:])]), "look exchanged"),
    ],
)  # fmt: skip
def test_every_wrong_ferplus_is_named(fer: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(fer)
    assert said in refused("ferplus", fer, "--out", tmp_path / "ferplus.toml")
