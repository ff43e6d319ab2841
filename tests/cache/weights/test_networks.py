"""A build finds the frozen networks that it is not given: the store's by their digests, a new store's in the weights folder."""

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from orsanet_cache import FrozenPriors, OrsanetError, PriorStore, build
from orsanet_cache.cli import main
from orsanet_cache.weights.networks import find_networks
from orsanet_cache.weights.sources import SOURCES, default_folder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty weights folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def moving(world, tmp_path: Path) -> Path:
    """A folder with networks and the store that was built from them."""
    folder = tmp_path / "moving"
    folder.mkdir()
    for name, path in (("a.safetensors", world.segmenter), ("b.safetensors", world.landmarks)):
        shutil.copy(path, folder / name)
    frozen = FrozenPriors.load(folder / "a.safetensors", folder / "b.safetensors")
    build(world.load_manifest(), folder / "store.zarr", frozen, ["clean"], splits=["test"], device=CPU)
    return folder


def into_weights_folder(segmenter: Path, landmarks: Path) -> None:
    default_folder().mkdir(parents=True)
    shutil.copy(segmenter, default_folder() / SOURCES["segface"].file_name)
    shutil.copy(landmarks, default_folder() / SOURCES["mobilefacenet"].file_name)


def test_a_store_remembers_where_its_networks_were(world, moving: Path) -> None:
    store = PriorStore.open(moving / "store.zarr")
    said = store.provenance("test", "clean")
    assert said["segmenter_file"] == str(moving / "a.safetensors")
    assert said["landmarks_file"] == str(moving / "b.safetensors")
    found = find_networks(str(moving / "store.zarr"))
    assert found.recipe() == world.load_priors().recipe()
    assert list(found.files.values()) == [said["segmenter_file"], said["landmarks_file"]]


def test_the_digest_decides_and_not_the_place(world, moving: Path) -> None:
    shutil.copy(world.landmarks, moving / "a.safetensors")  # another network, and a file that is gone
    (moving / "b.safetensors").unlink()
    with pytest.raises(OrsanetError, match=r"digest .*; pass its weights file with --segmenter. Checked:\n") as refused:
        find_networks(moving / "store.zarr")
    assert str(moving / "a.safetensors") in str(refused.value)
    assert "demo: another network, with the digest" in str(refused.value)
    into_weights_folder(world.segmenter, world.landmarks)
    assert find_networks(moving / "store.zarr").recipe() == world.load_priors().recipe()


def test_a_new_store_takes_the_published_ones_of_the_weights_folder(world, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match=r"weights fetch segface`, or pass its file with --segmenter"):
        build(world.manifest, tmp_path / "new.zarr")
    assert not (tmp_path / "new.zarr").exists()
    into_weights_folder(world.segmenter, world.landmarks)
    build(world.manifest, tmp_path / "new.zarr", splits=["test"], device="cpu")
    seals = [
        store.sealed("test", "clean").seal for store in (PriorStore.open(tmp_path / "new.zarr"), world.open_store())
    ]
    assert seals[0] == seals[1]


def test_the_command_builds_a_further_view_without_naming_them(world, moving: Path) -> None:
    line = [
        "build",
        world.manifest,
        "--out",
        moving / "store.zarr",
        "--views",
        "erase-10",
        "--splits",
        "test",
        "--device",
        "cpu",
    ]
    result = CliRunner(catch_exceptions=False).invoke(main, [str(word) for word in line])
    assert result.exit_code == 0, result.output
    assert f"networks: {moving / 'a.safetensors'}, {moving / 'b.safetensors'}" in result.output
    assert PriorStore.open(moving / "store.zarr").views("test") == ("clean", "erase-10")


def test_the_word_demo_is_remembered_as_that_word(world, tmp_path: Path) -> None:
    build(
        world.manifest,
        tmp_path / "demo.zarr",
        FrozenPriors.load("demo", "demo"),
        ["clean"],
        splits=["test"],
        device="cpu",
    )
    assert PriorStore.open(tmp_path / "demo.zarr").provenance("test", "clean")["segmenter_file"] == "demo"
    assert list(find_networks(tmp_path / "demo.zarr").files.values()) == ["demo", "demo"]
