"""AffectNet's later release: a file for each annotation."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_set_trees import exchange, made, refused


def test_the_later_release_is_not_cropped_again(annotated: Path, tmp_path: Path) -> None:
    said = refused("affectnet", annotated, "--classes", 8, "--crops", tmp_path / "faces", "--out", tmp_path / "a.toml")
    assert "faces already" in said
    assert not (tmp_path / "faces").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: exchange(root / "train_set", root / "val_set"), "look exchanged"),
        (lambda root: shutil.rmtree(root / "val_set"), "no folder val_set/images"),
        (lambda root: (root / "train_set/images/5.jpg").unlink(), "1 of 32 pictures of the annotations are missing: train_set/images/5.jpg;"),
        (lambda root: np.save(root / "train_set/annotations/5_exp.npy", np.array(11)), "unknown expression 11"),
        (lambda root: np.save(root / "train_set/annotations/5_exp.npy", np.arange(2)), "not an annotation of one number"),
        (lambda root: (root / "train_set/annotations/5_exp.npy").write_bytes(b""), "5_exp.npy: not an annotation"),
        (lambda root: (root / "train_set/annotations/b_exp.npy").write_bytes(b""), "not of the form N_exp.npy: b"),
        (lambda root: [path.unlink() for path in (root / "val_set/annotations").iterdir()], "no file N_exp.npy"),
    ],
)  # fmt: skip
def test_every_wrong_later_release_of_affectnet_is_named(
    annotated: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(annotated)
    assert said in refused("affectnet", annotated, "--classes", "8", "--out", tmp_path / "a.toml")


def test_a_later_release_with_one_picture_less_counts_it(annotated: Path, tmp_path: Path) -> None:
    # as the validation set of 2021, which has 3,999 of 4,000
    (annotated / "val_set/images/7.jpg").unlink()
    (annotated / "val_set/annotations/7_exp.npy").unlink()
    manifest, printed = made("affectnet", annotated, "--classes", 8, "--out", tmp_path / "a.toml")
    assert len(manifest.split("valid")) == 7
    assert "published   4,000   -3,993" in printed
