"""RAF-DB."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from data_set_trees import RAF_TEST, RAF_TRAIN, draw, labels, made, raf_list, refused, replace_first, tagged


def test_rafdb_labels_splits_and_classes(raf: Path, tmp_path: Path) -> None:
    manifest, printed = made("rafdb", raf, "--out", tmp_path / "rafdb.toml")
    assert manifest.name == "rafdb"
    assert [manifest.classes[label] for label in range(7)] == [
        "surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral",
    ]  # fmt: skip
    assert Counter(sample.split for sample in manifest.samples) == {"train": RAF_TRAIN, "test": RAF_TEST}
    assert labels(manifest)["train_00004_aligned"] == "happiness"
    assert labels(manifest)["train_00008_aligned"] == "surprise"
    assert labels(manifest)["test_0007_aligned"] == "neutral"
    assert "left out: nothing" in printed
    assert "published  12,271" in printed
    assert "published   3,068   -3,061" in printed


def test_rafdb_is_found_from_the_folder_above(raf: Path, tmp_path: Path) -> None:
    manifest, _ = made("rafdb", raf.parent, "--out", tmp_path / "rafdb.toml")
    assert manifest.samples[0].image == "basic/Image/aligned/train_00001_aligned.jpg"
    assert manifest.root.resolve() == tmp_path.resolve()


def test_pictures_that_no_list_names_are_left_out_by_name(raf: Path, tmp_path: Path) -> None:
    draw(raf / "Image/aligned/train_99999_aligned.jpg")
    manifest, printed = made("rafdb", raf, "--out", tmp_path / "rafdb.toml")
    assert len(manifest.samples) == RAF_TRAIN + RAF_TEST
    assert "left out, not in list_patition_label.txt: 1 (Image/aligned/train_99999_aligned.jpg)" in printed


def test_lines_that_agree_count_once_and_others_are_left_out(raf: Path, tmp_path: Path) -> None:
    with raf_list(raf).open("a") as file:
        file.write("train_00001.jpg 1\ntrain_00001.jpg 1\ntest_0002.jpg 5\n")
    (tmp_path / "tags.txt").write_text("train_00001_aligned\n")
    manifest, printed = made(
        "rafdb", raf, "--out", tmp_path / "rafdb.toml", "--tag-list", f"occluded={tmp_path / 'tags.txt'}"
    )
    assert len(manifest.samples) == RAF_TRAIN + RAF_TEST - 1
    assert "left out, a repeated line of the same picture: 2 (Image/aligned/train_00001_aligned.jpg" in printed
    assert "left out, named several times, with different labels: 1 (Image/aligned/test_0002_aligned.jpg)" in printed
    assert "not in list_patition_label.txt" not in printed
    assert tagged(manifest, "occluded") == {"train_00001_aligned"}  # kept, though a line of it is left out


def test_the_compound_list_is_refused_by_name(raf: Path, tmp_path: Path) -> None:
    with raf_list(raf).open("a") as file:
        file.write("train_00099.jpg 11\n")
    assert "compound expressions" in refused("rafdb", raf, "--out", tmp_path / "rafdb.toml")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda raf: raf_list(raf).unlink(), "list_patition_label.txt"),
        (lambda raf: shutil.rmtree(raf / "Image"), "no folder Image/aligned"),
        (lambda raf: (raf / "Image/aligned/test_0003_aligned.jpg").unlink(), "1 of 21 pictures of list_patition_label.txt are missing: Image/aligned/test_0003_aligned.jpg;"),
        (lambda raf: replace_first(raf_list(raf), "train_00002.jpg 2", "train_00002.jpg two"), "line 2"),
        (lambda raf: replace_first(raf_list(raf), "train_00002.jpg 2", "train_00002.jpg 0"), "label 0"),
        (lambda raf: replace_first(raf_list(raf), "train_00002.jpg", "valid_00002.jpg"), "line 2"),
        (lambda raf: raf_list(raf).write_bytes(b"train_00001.jpg 5\n\xff\n"), "line 2 is not UTF-8"),
        (lambda raf: raf_list(raf).write_text("test_0001.jpg 1\n"), "1 images in test but only 0 in train"),
        (lambda raf: raf_list(raf).write_text(""), "no images for training"),
    ],
)  # fmt: skip
def test_every_wrong_rafdb_is_named(raf: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(raf)
    assert said in refused("rafdb", raf, "--out", tmp_path / "rafdb.toml")
