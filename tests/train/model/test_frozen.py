"""The frozen networks of a run are found where they are kept, and others are refused by name."""

import shutil
from pathlib import Path

import pytest
import torch

from orsanet_cache import FrozenPriors, OrsanetError
from orsanet_cache.data.images import PREPROCESSING
from orsanet_cache.frozen.priors import load_landmark_network
from orsanet_cache.frozen.shipped import weights_path
from orsanet_train.model.checkpoint import Identity
from orsanet_train.model.frozen import frozen_priors, is_demo
from orsanet_train.model_config import ORSANetConfig

DEMO = Path("demo")


def identity_of(frozen: FrozenPriors, **changes: object) -> Identity:
    recipe = {**frozen.recipe(), "preprocessing": PREPROCESSING, "precision": "fp32", "feature_dtype": "float16"}
    return Identity.model_validate(
        {
            "classes": ("a", "b"), "model": ORSANetConfig(), "segmentation_channels": 128, "landmark_channels": 512,
            "store_recipe": recipe, "ir50_sha256": None, "epoch": 1, "data_set": "small", "train_split": "train",
            "selection": "best", "selection_split": "valid", "selection_accuracy": 0.5, **changes,
        }
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights folder of this user is empty until a test puts something there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "orsanet" / "weights"
    folder.mkdir(parents=True)
    return folder


def test_named_files_are_taken_and_the_recipe_says_what_the_landmark_network_sees(world, tmp_path: Path) -> None:
    native = FrozenPriors.load(world.segmenter, world.landmarks, "native")
    found = frozen_priors(tmp_path, identity_of(native), world.segmenter, world.landmarks)
    assert found.recipe() == native.recipe()
    assert not found.training


def test_networks_in_the_run_folder_are_found_without_being_named(world, tmp_path: Path) -> None:
    shutil.copy(world.segmenter, tmp_path / "segmenter.safetensors")
    shutil.copy(world.landmarks, tmp_path / "landmarks.safetensors")
    frozen = world.load_priors()
    assert frozen_priors(tmp_path, identity_of(frozen), None, None).recipe() == frozen.recipe()


def test_a_drifted_landmark_network_beside_its_checkpoint_is_that_checkpoints(world, tmp_path: Path) -> None:
    """As `online = "published"` leaves them: best- and last-landmarks, each with statistics of its own."""
    shutil.copy(world.landmarks, tmp_path / "last-landmarks.safetensors")
    frozen = world.load_priors()
    last = identity_of(frozen, selection="last")
    assert frozen_priors(tmp_path, last, world.segmenter, None).recipe() == frozen.recipe()
    with pytest.raises(OrsanetError, match="needs the MobileFaceNet"):
        frozen_priors(tmp_path, identity_of(frozen), world.segmenter, None)


def test_the_shipped_networks_are_found_by_their_digests(tmp_path: Path) -> None:
    demo = FrozenPriors.load(weights_path(DEMO, "segmenter"), weights_path(DEMO, "landmarks"))
    identity = identity_of(demo)
    assert frozen_priors(tmp_path, identity, None, None).recipe() == demo.recipe()
    assert frozen_priors(tmp_path, identity, DEMO, DEMO).recipe() == demo.recipe()
    assert is_demo("segmenter", identity)
    assert is_demo("landmarks", identity)


def test_networks_in_the_weights_folder_are_found_under_their_published_names(
    world, tmp_path: Path, no_weights_folder: Path
) -> None:
    torch.save(
        {"state_dict": load_landmark_network(world.landmarks).state_dict()},
        no_weights_folder / "mobilefacenet_model_best.pth.tar",
    )
    frozen = world.load_priors()
    identity = identity_of(frozen)
    assert not is_demo("landmarks", identity)
    assert frozen_priors(tmp_path, identity, world.segmenter, None).recipe() == frozen.recipe()


def test_where_none_is_the_runs_the_places_looked_at_are_named(world, tmp_path: Path, no_weights_folder: Path) -> None:
    shutil.copy(world.landmarks, tmp_path / "segmenter.safetensors")
    (no_weights_folder / "model_299.pt").write_bytes(b"half a download")
    frozen = world.load_priors()
    with pytest.raises(OrsanetError, match=r"needs the SegFace .* pass its weights file with --segmenter") as refused:
        frozen_priors(tmp_path, identity_of(frozen), None, world.landmarks)
    message = str(refused.value)
    assert frozen.recipe()["segmenter"]["weights_sha256"] in message  # type: ignore[index]
    assert f"{tmp_path}/segmenter.safetensors: these are not weights of this SegFace" in message
    assert "demo: another network, with the digest" in message
    assert "model_299.pt: neither a safetensors file" in message


def test_places_without_a_file_are_named_too(world, tmp_path: Path, no_weights_folder: Path) -> None:
    with pytest.raises(OrsanetError, match="needs the MobileFaceNet") as refused:
        frozen_priors(tmp_path, identity_of(world.load_priors()), world.segmenter, None)
    looked = str(refused.value).partition("Checked:\n")[2].splitlines()
    assert [line.partition(", with")[0].strip() for line in looked] == [
        f"{tmp_path}: no best-landmarks.safetensors",
        f"{tmp_path}: no landmarks.safetensors",
        "demo: another network",
        f"{no_weights_folder}: no mobilefacenet_model_best.pth.tar",
    ]


@pytest.mark.parametrize(
    ("part", "named"), [("segmenter", "segmenter.weights_sha256"), ("landmarks", "landmarks.weights_sha256")]
)
def test_other_weights_than_the_recipes_are_refused_by_name(world, tmp_path: Path, part: str, named: str) -> None:
    given = {"segmenter": world.segmenter, "landmarks": world.landmarks, part: DEMO}
    with pytest.raises(OrsanetError, match="other frozen networks; pass --segmenter and --landmarks with") as refused:
        frozen_priors(tmp_path, identity_of(world.load_priors()), **given)
    assert named in str(refused.value)


def test_another_preprocessing_than_this_versions_is_refused_by_name(world, tmp_path: Path) -> None:
    identity = identity_of(world.load_priors())
    resized = {**identity.store_recipe, "preprocessing": {**PREPROCESSING, "resize": "224x224 nearest"}}
    with pytest.raises(OrsanetError, match=r'preprocessing\.resize: "224x224 nearest" before'):
        frozen_priors(tmp_path, identity.model_copy(update={"store_recipe": resized}), world.segmenter, world.landmarks)
