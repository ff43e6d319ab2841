"""AffectNet's first release: lists of annotations."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from data_set_trees import exchange, hashed, labels, made, refused, replace_first, write_lines


def test_affectnet_pictures_listed_twice_are_counted_and_contradictions_left_out(lists: Path, tmp_path: Path) -> None:
    table = lists / "Manually_Annotated_file_lists/training.csv"
    rows = table.read_text().splitlines()
    contradiction = rows[2].replace(",0,-0.5,0.25", ",6,-0.5,0.25")
    assert contradiction != rows[2]
    write_lines(table, [*rows, rows[1], contradiction])
    manifest, printed = made("affectnet", lists, "--classes", 8, "--out", tmp_path / "a.toml")
    assert hashed(0) in labels(manifest)
    assert hashed(1) not in labels(manifest)
    assert "left out, a repeated line of the same picture: 1" in printed
    assert "left out, annotated several times, with different labels, face boxes or splits: 1" in printed


def test_lists_that_a_spreadsheet_saved_are_read(lists: Path, tmp_path: Path) -> None:
    plain, _ = made("affectnet", lists, "--classes", "8", "--out", tmp_path / "plain.toml")
    for table in (lists / "Manually_Annotated_file_lists").iterdir():
        table.write_text("".join(f"{line},,\n" for line in table.read_text().splitlines()) + ",,,,,,,,,,\n")
    saved, _ = made("affectnet", lists, "--classes", "8", "--out", tmp_path / "saved.toml")
    assert saved.samples == plain.samples


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: exchange(root / "Manually_Annotated_file_lists/training.csv", root / "Manually_Annotated_file_lists/validation.csv"), "look exchanged"),
        (lambda root: (root / "Manually_Annotated_file_lists/validation.csv").unlink(), "no file validation.csv"),
        (lambda root: (root / f"Manually_Annotated_Images/1/{hashed(1)}.jpg").unlink(), f"1 of 32 pictures of the annotations are missing: Manually_Annotated_Images/1/{hashed(1)}.jpg;"),
        (lambda root: replace_first(root / "Manually_Annotated_file_lists/training.csv", "4.0,0,-0.5", "4.0,11,-0.5"), "line 2: unknown expression '11'"),
        (lambda root: replace_first(root / "Manually_Annotated_file_lists/training.csv", "expression", "emotion"), "no column expression"),
        (lambda root: replace_first(root / "Manually_Annotated_file_lists/validation.csv", ",0.25", ""), "line 1"),
        (lambda root: replace_first(root / "Manually_Annotated_file_lists/training.csv", ",0.25", ",0.25,9"), "line 2: 10 cells"),
        (lambda root: (root / "Manually_Annotated_file_lists/validation.csv").write_bytes(b"a\xff"), "not UTF-8"),
        (lambda root: replace_first(root / "Manually_Annotated_file_lists/training.csv", "1.0;2.0", "1.0;" * 40_000), "line 2: not valid CSV: field larger"),
        (lambda root: (root / "train_set").mkdir(), "both releases were found"),
        (lambda root: shutil.rmtree(root / "Manually_Annotated_file_lists"), "no release was found"),
        (lambda root: shutil.rmtree(root / "Manually_Annotated_Images"), "no folder Manually_Annotated_Images"),
    ],
)  # fmt: skip
def test_every_wrong_first_release_of_affectnet_is_named(
    lists: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(lists)
    assert said in refused("affectnet", lists, "--classes", "8", "--out", tmp_path / "a.toml")
