"""Class folders."""

import shutil
import unicodedata
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
        (lambda root: shutil.copytree(root / "train", root / "Training"), "Training, train, test, valid mean the same split"),
        (lambda root: (root / "train/anger/up").symlink_to(".."), "train/anger/up: is a link to a folder that it lies in"),
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


def test_pictures_that_are_not_read_are_counted_by_suffix_and_jfif_is_read(class_folders: Path, tmp_path: Path) -> None:
    anger = class_folders / "train/anger"
    for name in ("a.avif", "b.AVIF", "c.gif", "d.heic"):
        (anger / name).write_bytes(b"")
    (anger / "train-anger-1.png").rename(anger / "one.JFIF")
    draw(class_folders / "beside.jpg")
    manifest, printed = made(
        "folders", class_folders, "--classes", "anger,happiness,neutral", "--out", tmp_path / "own.toml"
    )
    assert len(manifest.samples) == 18
    assert "train/anger/one.JFIF" in {sample.image for sample in manifest.samples}
    assert (
        "left out, .avif is not read; save these pictures as PNG or JPEG: 2 (train/anger/a.avif, train/anger/b.AVIF)"
        in printed
    )
    assert "left out, .gif is not read, as it may be an animation; save the frame that you mean as PNG: 1" in printed
    assert "left out, .heic is not read" in printed
    assert "left out, beside the split folders, so without a split: 1 (beside.jpg)" in printed


@pytest.mark.parametrize(
    "names", [("TRAIN", "val", "Test"), ("training", "Validation", "testing"), ("Train", "DEV", "TEST")]
)
def test_usual_names_of_splits_are_understood(class_folders: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    for split, name in zip(("train", "valid", "test"), names, strict=True):
        (class_folders / split).rename(class_folders / f"{split}.moving")
        (class_folders / f"{split}.moving").rename(class_folders / name)
    manifest, _ = made("folders", class_folders, "--classes", "anger,happiness,neutral", "--out", tmp_path / "own.toml")
    assert Counter(sample.split for sample in manifest.samples) == {"train": 9, "valid": 3, "test": 6}


def test_a_set_for_evaluation_only_is_taken_with_a_note(class_folders: Path, tmp_path: Path) -> None:
    shutil.rmtree(class_folders / "train")
    shutil.rmtree(class_folders / "valid")
    manifest, printed = made(
        "folders", class_folders, "--classes", "anger,happiness,neutral", "--out", tmp_path / "own.toml"
    )
    assert manifest.splits == ("test",)
    assert "note: there is no split train, only test, so there is nothing to train on" in printed


@pytest.mark.parametrize(
    ("folders", "options", "said"),
    [
        (["train/b b", "train/a", "test/a"], (), "Found here: --classes 'a,b b' (the order decides the labels"),
        (["test/1", "test/2", "test/10"], (), "Found here: --classes 1,2,10 ("),
        (["joy", "anger"], (), "Found here, without split folders: --classes anger,joy ("),
        (["joy", "anger"], ("--split", "80/20"), "Found here: --classes anger,joy ("),
        (["joy", "a,b"], (), "class folders that --classes cannot name: a,b; rename them"),
        ([], (), "no class folders; expected train/CLASS/"),
    ],
)
def test_without_classes_the_folders_found_are_the_option_to_copy(
    tmp_path: Path, folders: list[str], options: tuple[str, ...], said: str
) -> None:
    (tmp_path / "own").mkdir()
    for folder in folders:
        (tmp_path / "own" / folder).mkdir(parents=True)
    assert said in refused("folders", tmp_path / "own", *options, "--out", tmp_path / "own.toml")


@pytest.mark.parametrize(("typed", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_class_folders_are_found_in_the_other_form_of_their_accents(tmp_path: Path, typed: str, on_disk: str) -> None:
    for name in ("화남", "colère"):
        draw(tmp_path / "own/train" / unicodedata.normalize(on_disk, name) / "1.png")
    order = unicodedata.normalize(typed, "화남,colère")
    manifest, _ = made("folders", tmp_path / "own", "--classes", order, "--out", tmp_path / "own.toml")
    assert list(manifest.classes) == order.split(",")
    assert sorted(sample.label for sample in manifest.samples) == [0, 1]


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
