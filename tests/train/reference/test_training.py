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

CPU = torch.device("cpu")


def config(*overrides: str) -> RunConfig:
    small = ("batch_size=5", "epochs=2", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]",
             "model.backbone_units=[1,1,1]", "loss.warmup_epochs=1")  # fmt: skip
    return load_config("small", (*small, *overrides))


def run(world, out: Path, *overrides: str, store: PriorStore | None = None, resume: bool = False) -> RunSummary:
    return train(
        config(*overrides), world.load_manifest(), store or world.open_store(), out,
        device=CPU, frozen_weights=(world.segmenter, world.landmarks), resume=resume,
    )  # fmt: skip


@pytest.fixture(scope="module")
def float32_store(world, tmp_path_factory: pytest.TempPathFactory) -> PriorStore:
    path = tmp_path_factory.mktemp("float32") / "store.zarr"
    manifest = world.load_manifest()
    build(manifest, path, world.load_priors(), ["clean", "hflip"], device=CPU, feature_dtype="float32")
    return PriorStore.open(path)


def test_a_clean_online_run_has_the_losses_of_a_cached_one(world, tmp_path: Path, float32_store: PriorStore) -> None:
    """The frozen networks round differently in other batches (1e-6); three steps of Adam an epoch make up to 1e-3 of that."""
    run(world, tmp_path / "cached", store=float32_store)
    run(world, tmp_path / "online", "priors=online", "online=clean", store=float32_store)
    cached, online = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("cached", "online"))
    for column in ("loss", "perturbed_loss"):
        np.testing.assert_allclose(online[column], cached[column], rtol=1e-3)


def test_erased_pictures_give_other_losses_than_clean_ones(world, tmp_path: Path) -> None:
    for mode in ("clean", "erased"):
        run(world, tmp_path / mode, "priors=online", f"online={mode}", "augmentation.erasing=1.0")
    clean, erased = (pd.read_csv(tmp_path / mode / "metrics.csv") for mode in ("clean", "erased"))
    assert (abs(clean["loss"] - erased["loss"]) > 1e-3).any()


def test_a_published_run_is_evaluated_with_the_landmark_network_that_it_made(
    world, tmp_path: Path, float32_store: PriorStore
) -> None:
    out = tmp_path / "run"
    run(world, out, "priors=online", "online=published", store=float32_store)
    with pytest.raises(OrsanetError, match=r"another recipe.*\n  landmarks\.weights_sha256"):
        evaluate(
            out / "last.safetensors", world.load_manifest(), float32_store, tmp_path / "report", groups=["valid"], device=CPU
        )  # fmt: skip
    own = FrozenPriors.load(world.segmenter, out / "last-landmarks.safetensors")
    build(world.load_manifest(), tmp_path / "own.zarr", own, ["clean"], device=CPU, feature_dtype="float32")
    evaluation = evaluate(
        out / "last.safetensors", world.load_manifest(), PriorStore.open(tmp_path / "own.zarr"), tmp_path / "report",
        groups=["valid"], device=CPU,
    )  # fmt: skip
    assert evaluation.groups[0].accuracy.value == pd.read_csv(out / "metrics.csv")["selection_accuracy"].iloc[-1]


def test_a_published_run_goes_on_with_the_landmark_network_that_it_made(world, tmp_path: Path) -> None:
    published = ("priors=online", "online=published")
    run(world, tmp_path / "whole", *published)
    run(world, tmp_path / "part", *published, "epochs=1")
    run(world, tmp_path / "part", *published, resume=True)
    for name in ("last.safetensors", "last-landmarks.safetensors"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


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
