"""AffectNet, whichever release it is."""

from collections import Counter
from pathlib import Path

import pytest
from data_set_trees import AFFECTNET_EXPRESSIONS, hashed, labels, made, write_lines

AFFECTNET_ORDER = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]


@pytest.mark.parametrize("release", ["lists", "annotated"])
@pytest.mark.parametrize("classes", [7, 8])
def test_both_releases_of_affectnet_give_the_same_labels(
    release: str, classes: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root: Path = request.getfixturevalue(release)
    manifest, printed = made("affectnet", root, "--classes", classes, "--out", tmp_path / "a.toml")
    assert manifest.name == f"affectnet{classes}"
    assert list(manifest.classes) == AFFECTNET_ORDER[:classes]
    counts = Counter((sample.split, sample.label) for sample in manifest.samples)
    assert counts == {
        (split, label): 3 if split == "train" else 1 for split in ("train", "valid") for label in range(classes)
    }
    assert "left out, labelled 8 none: 2" in printed
    assert "left out, labelled 9 uncertain: 1" in printed
    assert "left out, labelled 10 no face: 1" in printed
    assert ("left out, labelled 7 contempt: 4" in printed) is (classes == 7)
    expected = {hashed(index): expression for index, expression in enumerate(AFFECTNET_EXPRESSIONS)}
    if release == "annotated":
        expected = {str(number): expression for number, expression in enumerate(AFFECTNET_EXPRESSIONS)}
        assert [Path(sample.image).stem for sample in manifest.split("train")] == [str(n) for n in range(3 * classes)]
    for sample in manifest.split("train"):
        assert sample.label == expected[Path(sample.image).stem]


def test_only_the_first_release_warns_of_pictures_that_are_not_cropped(
    lists: Path, annotated: Path, tmp_path: Path
) -> None:
    assert "face boxes are not applied" in made("affectnet", lists, "--classes", 8, "--out", tmp_path / "a.toml")[1]
    assert "note:" not in made("affectnet", annotated, "--classes", 8, "--out", tmp_path / "b.toml")[1]


@pytest.mark.parametrize("release", ["lists", "annotated"])
def test_a_cap_keeps_the_same_training_pictures_of_each_class_wherever_the_data_lies(
    release: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root: Path = request.getfixturevalue(release)
    arguments = ("--classes", 8, "--cap-per-class", 2)
    manifest, printed = made("affectnet", root, *arguments, "--out", tmp_path / "a.toml")
    counts = Counter((sample.split, sample.label) for sample in manifest.samples)
    assert counts == {
        (split, label): 2 if split == "train" else 1 for split in ("train", "valid") for label in range(8)
    }
    assert "left out, beyond 2 a class in train: 8" in printed
    if release == "lists":  # in the other of the two folders that the release is found in
        (root / "Manually_Annotated").mkdir()
        (root / "Manually_Annotated_Images").rename(root / "Manually_Annotated/Manually_Annotated_Images")
        table = root / "Manually_Annotated_file_lists/training.csv"
        header, *rows = table.read_text().splitlines()
        write_lines(table, [header, *reversed(rows)])
    moved, _ = made("affectnet", root, *arguments, "--out", tmp_path / "b.toml")
    assert set(labels(moved)) == set(labels(manifest))


def test_a_cap_is_compared_with_the_capped_published_counts(lists: Path, tmp_path: Path) -> None:
    _, printed = made("affectnet", lists, "--classes", 8, "--cap-per-class", 5000, "--out", tmp_path / "a.toml")
    assert "published  37,553" in printed
    _, printed = made("affectnet", lists, "--classes", 7, "--out", tmp_path / "b.toml")
    assert [line.split()[0] for line in printed.splitlines() if "published" in line] == ["valid"]  # none without a cap
