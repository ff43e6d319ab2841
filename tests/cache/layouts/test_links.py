"""Data sets made of links: every command takes what `manifest` has written, and what cannot be used is counted there."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from data_set_trees import draw, made, refused

from orsanet_cache.builder.build import build
from orsanet_cache.cli import main

CLASSES = "anger,happiness,neutral"


@pytest.fixture
def snapshot(class_folders: Path) -> Path:
    """A download cache: every picture is a link to a file named by its digest, outside the folder."""
    blobs = class_folders.parent / "blobs"
    blobs.mkdir()
    for path in sorted(class_folders.rglob("*.png")):
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    return class_folders


def test_a_download_cache_goes_from_the_manifest_to_the_store(snapshot: Path, world, tmp_path: Path) -> None:
    manifest, printed = made("folders", snapshot, "--classes", CLASSES, "--out", tmp_path / "own.toml")
    assert len(manifest.samples) == 18
    assert printed.count("behind links") == 1
    assert f"note: 18 image(s) lie outside {snapshot}, behind links that are followed" in printed
    summary = build(
        tmp_path / "own.toml", tmp_path / "s.zarr", world.load_priors(), ["clean"], device=torch.device("cpu")
    )
    assert summary.computed == 18
    assert not any(summary.rejected.values())
    doctor = CliRunner().invoke(main, ["doctor", str(tmp_path / "own.toml")])
    assert "note: 18 image(s) lie outside" in doctor.output
    assert "cannot be used" not in doctor.output


def test_folders_of_linked_splits_are_read(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/train").symlink_to(class_folders / "train")
    (tmp_path / "linked/Val").symlink_to("../own/valid")
    manifest, printed = made("folders", tmp_path / "linked", "--classes", CLASSES, "--out", tmp_path / "own.toml")
    assert {sample.split for sample in manifest.samples} == {"train", "valid"}
    assert "note: 12 image(s) lie outside" in printed


def test_links_without_a_file_of_their_own_are_left_out_and_counted(class_folders: Path, tmp_path: Path) -> None:
    anger = class_folders / "train/anger"
    (anger / "gone.png").symlink_to("nowhere.png")
    (anger / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(anger / "pipe.png")
    (anger / "train-anger-1-again.png").symlink_to("train-anger-1.png")
    (class_folders / "test/neutral/leaked.png").symlink_to("../../train/neutral/train-neutral-1.png")
    manifest, printed = made("folders", class_folders, "--classes", CLASSES, "--out", tmp_path / "own.toml")
    assert len(manifest.samples) == 17
    assert "left out, is a link whose target does not exist: 1 (train/anger/gone.png)" in printed
    assert "left out, is not a regular file: 2 (train/anger/pipe.png, train/anger/zero.png)" in printed
    assert "of its class and split, by a link: 1 (" in printed
    assert "left out, one file in several classes or splits, by links: 2 (" in printed
    assert "outside" not in printed


def test_a_split_that_is_a_link_to_another_is_refused(class_folders: Path, tmp_path: Path) -> None:
    (class_folders / "more").symlink_to("valid")
    said = refused("folders", class_folders, "--classes", CLASSES, "--out", tmp_path / "own.toml")
    assert "no picture in more, valid has a file of its own" in said


def test_links_in_a_published_layout_are_treated_alike(fer: Path, tmp_path: Path) -> None:
    picture = fer / "data/FER2013Train/fer0000000.png"
    picture.rename(tmp_path / "elsewhere.png")
    picture.symlink_to(tmp_path / "elsewhere.png")
    draw(tmp_path / "other.png")
    _, printed = made("ferplus", fer, "--out", tmp_path / "ferplus.toml")
    assert "note: 1 image(s) lie outside" in printed
