"""Class folders."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from data_set_trees import draw, made, make, refused


def test_class_folders_take_the_order_that_is_said(class_folders: Path, tmp_path: Path) -> None:
    manifest, _ = made("folders", class_folders, "--classes", "neutral,anger,happiness", "--out", tmp_path / "own.toml")
    assert manifest.name == "own"
    assert list(manifest.classes) == ["neutral", "anger", "happiness"]
    assert Counter(sample.split for sample in manifest.samples) == {"train": 9, "valid": 3, "test": 6}
    for sample in manifest.samples:
        assert manifest.classes[sample.label] == Path(sample.image).parent.name


def test_numbered_class_folders_get_names_and_ten_is_not_before_two(tmp_path: Path) -> None:
    root = tmp_path / "numbered"
    for folder in range(1, 11):
        draw(root / "train" / str(folder) / f"{folder}.png")
    order = ",".join(f"{folder}=class-{folder}" for folder in range(1, 11))
    manifest, _ = made("folders", root, "--classes", order, "--name", "ten", "--out", tmp_path / "numbered.toml")
    assert manifest.name == "ten"
    assert {Path(sample.image).stem: sample.label for sample in manifest.samples} == {
        str(n): n - 1 for n in range(1, 11)
    }


def test_files_that_are_no_labelled_pictures_are_left_out_by_name(class_folders: Path, tmp_path: Path) -> None:
    (class_folders / "train/anger/Thumbs.db").write_bytes(b"")
    draw(class_folders / "train/stray.png")
    draw(class_folders / "train/anger/.ipynb_checkpoints/train-anger-1-checkpoint.png")
    draw(class_folders / "train/anger/._train-anger-1.png")
    (class_folders / "valid/neutral/valid-neutral-1.png").unlink()  # an empty class folder is allowed and counted
    manifest, printed = made(
        "folders", class_folders, "--classes", "anger,happiness,neutral", "--out", tmp_path / "own.toml"
    )
    assert len(manifest.samples) == 17
    assert "left out, not a picture by its suffix: 1 (train/anger/Thumbs.db)" in printed
    assert "left out, hidden, a name that begins with a dot: 2 " in printed
    assert "left out, beside the class folders, so without a class: 1 (train/stray.png)" in printed
    assert any(line.split() == ["valid", "neutral", "0"] for line in printed.splitlines())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: shutil.rmtree(root / "valid/happiness"), "valid: no folder of class happiness. Unpack it completely, or make an empty folder"),
        (
            lambda root: [(root / "train" / name).mkdir() for name in ("contempt", "disgust", "fear", "sadness", "surprise")],
            "train: folders that are not classes: contempt, disgust, fear, sadness, surprise. Name them in --classes, or move them out",
        ),
        (lambda root: (root / "test/anger").rename(root / "test/Anger"), "no folder of class anger; folders that are not classes: Anger"),
        (lambda root: (root / "train").rename(root / "training"), "no folder train among test, training, valid"),
        (lambda root: (root / "train").rename(root / "my train"), "my train where split folders should be"),
        (lambda root: [shutil.rmtree(root / split) for split in ("train", "valid", "test")], "no folders where split folders"),
        (lambda root: [path.unlink() for path in root.rglob("*.png")], "no pictures"),
        (lambda root: [shutil.move(root / "train" / name, root / name) for name in ("anger", "happiness", "neutral")], "class folders (anger, happiness, neutral) where split folders"),
    ],
)  # fmt: skip
def test_every_wrong_tree_of_class_folders_is_named(
    class_folders: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(class_folders)
    assert said in refused(
        "folders", class_folders, "--classes", "anger,happiness,neutral", "--out", tmp_path / "own.toml"
    )


@pytest.mark.parametrize("classes", ["anger", "anger,anger", "1=anger,2=anger", "anger,,neutral", "1=,2=anger"])
def test_a_list_of_classes_that_has_no_order_is_refused(class_folders: Path, tmp_path: Path, classes: str) -> None:
    result = make("folders", class_folders, "--classes", classes, "--out", tmp_path / "own.toml")
    assert result.exit_code == 2
    assert "Invalid value for '--classes'" in result.output
    assert not (tmp_path / "own.toml").exists()


def test_commas_quotes_and_line_ends_in_file_names_survive(tmp_path: Path) -> None:
    root = tmp_path / "odd"
    names = ["a,b.png", 'say "cheese".png', "ü ñ.png"]
    for label in ("anger", "neutral"):
        for name in names:
            draw(root / "train" / label / name)
    manifest, _ = made("folders", root, "--classes", "anger,neutral", "--out", tmp_path / "odd.toml")
    assert {Path(sample.image).name for sample in manifest.samples} == set(names)


def test_a_file_name_that_is_not_utf8_is_named(class_folders: Path, tmp_path: Path) -> None:
    shutil.copy(class_folders / "train/anger/train-anger-1.png", bytes(class_folders / "train/anger") + b"/\xff.png")
    said = refused("folders", class_folders, "--classes", "anger,happiness,neutral", "--out", tmp_path / "own.toml")
    assert "not UTF-8" in said
