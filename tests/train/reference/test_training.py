"""Whole runs with the frozen networks in the step: clean ones train as cached ones do; published ones carry their own landmark network."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from orsanet_cache import FrozenPriors, OrsanetError, PriorStore
from orsanet_cache.builder.build import build
from orsanet_train.config import RunConfig, load_config
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.run.train import RunSummary, train

pytestmark = pytest.mark.usefixtures("without_matplotlib")
CPU = torch.device("cpu")
PUBLISHED = ("priors=online", "online=published")


def config(*overrides: str) -> RunConfig:
    small = ("batch_size=5", "epochs=2", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]",
             "model.backbone_units=[1,1,1]", "loss.warmup_epochs=1")  # fmt: skip
    return load_config("small", (*small, *overrides))


def run(world, store: PriorStore, out: Path, *overrides: str, resume: bool = False) -> RunSummary:
    return train(
        config(*overrides), world.load_manifest(), store, out,
        device=CPU, frozen_weights=(world.segmenter, world.landmarks), resume=resume,
    )  # fmt: skip


@pytest.fixture(scope="module")
def float32_store(world, tmp_path_factory: pytest.TempPathFactory) -> PriorStore:
    path = tmp_path_factory.mktemp("float32") / "store.zarr"
    manifest = world.load_manifest()
    build(manifest, path, world.priors, ["clean", "hflip"], device=CPU, feature_dtype="float32")
    return PriorStore.open(path)


@pytest.fixture(scope="module")
def clean(world, tmp_path_factory: pytest.TempPathFactory, float32_store: PriorStore) -> Path:
    """A run, to be read only."""
    out = tmp_path_factory.mktemp("clean") / "run"
    run(world, float32_store, out, "priors=online", "online=clean", "augmentation.erasing=1.0")
    return out


@pytest.fixture(scope="module")
def published(world, tmp_path_factory: pytest.TempPathFactory, float32_store: PriorStore) -> Path:
    """A run, to be read only."""
    out = tmp_path_factory.mktemp("published") / "run"
    run(world, float32_store, out, *PUBLISHED)
    return out


def metrics(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "metrics.csv")


def test_a_clean_online_run_has_the_losses_of_a_cached_one(
    world, tmp_path: Path, float32_store: PriorStore, clean: Path
) -> None:
    """The frozen networks round differently in other batches (1e-6); three steps of Adam an epoch make up to 1e-3 of that."""
    run(world, float32_store, tmp_path / "cached", "augmentation.erasing=1.0")
    for column in ("loss", "perturbed_loss"):
        np.testing.assert_allclose(metrics(clean)[column], metrics(tmp_path / "cached")[column], rtol=1e-3)


def test_erased_pictures_give_other_losses_than_clean_ones(
    world, tmp_path: Path, float32_store: PriorStore, clean: Path
) -> None:
    """In the first epoch already."""
    erased = ("priors=online", "online=erased", "augmentation.erasing=1.0", "epochs=1")
    run(world, float32_store, tmp_path / "run", *erased)
    assert abs(metrics(clean)["loss"][0] - metrics(tmp_path / "run")["loss"][0]) > 1e-3


def test_a_published_run_is_evaluated_with_the_landmark_network_that_it_made(
    world, tmp_path: Path, float32_store: PriorStore, published: Path
) -> None:
    weights, manifest = published / "last.safetensors", world.load_manifest()
    with pytest.raises(OrsanetError, match=r"another recipe.*\n  landmarks\.weights_sha256"):
        evaluate(weights, manifest, float32_store, tmp_path / "report", groups=["valid"], device=CPU)
    own = FrozenPriors.load(world.segmenter, published / "last-landmarks.safetensors")
    build(manifest, tmp_path / "own.zarr", own, ["clean"], device=CPU, splits=["valid"], feature_dtype="float32")
    store = PriorStore.open(tmp_path / "own.zarr")
    evaluation = evaluate(weights, manifest, store, tmp_path / "report", groups=["valid"], device=CPU)
    assert evaluation.groups[0].accuracy.value == metrics(published)["selection_accuracy"].iloc[-1]


def test_a_published_run_goes_on_with_the_landmark_network_that_it_made(
    world, tmp_path: Path, float32_store: PriorStore, published: Path
) -> None:
    run(world, float32_store, tmp_path / "part", *PUBLISHED, "epochs=1")
    run(world, float32_store, tmp_path / "part", *PUBLISHED, resume=True)
    for name in ("last.safetensors", "last-landmarks.safetensors"):
        assert (tmp_path / "part" / name).read_bytes() == (published / name).read_bytes()


def test_networks_that_are_not_the_stores_are_refused_before_anything_is_written(world, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="pass --segmenter and --landmarks"):
        train(config("priors=online"), world.load_manifest(), world.open_store(), tmp_path / "run", device=CPU)
    other = tmp_path / "other.safetensors"
    other.write_bytes(world.segmenter.read_bytes())
    with pytest.raises(OrsanetError, match=r"other\.safetensors"):
        train(
            config("priors=online"), world.load_manifest(), world.open_store(), tmp_path / "run",
            device=CPU, frozen_weights=(world.segmenter, other),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
