"""Pictures are decoded ahead, each batch whole and its own, and a picture that is not the store's is named."""

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from orsanet_cache import OrsanetError, PriorStore
from orsanet_train.config import RunConfig
from orsanet_train.engine.distributed import ONE, Ranks
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.ring import RING
from orsanet_train.feed.split import LabelledSplit
from orsanet_train.reference.feed import OnlineBatch, OnlineFeed

CPU = torch.device("cpu")


def run_config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate({"batch_size": 4, "model": {"depth": 2}, **changes})


def files_elsewhere(world: Any, folder: Path) -> Path:
    """A copy of the images that may be changed."""
    shutil.copytree(world.folder / "images", folder / "images")
    return folder


def test_ranks_together_have_the_whole_batch(
    world: Any, store: PriorStore, split: LabelledSplit, feed: OnlineFeed
) -> None:
    config = run_config(online="erased")
    parts = [OnlineFeed(world.folder, store, split, CPU, Ranks(rank, 2)) for rank in range(2)]
    for whole, *ranks in zip(feed.epoch(config, 0), *(part.epoch(config, 0) for part in parts), strict=True):
        for value, *of_ranks in zip(whole, *ranks, strict=True):
            assert torch.equal(value, torch.cat(of_ranks))


def test_batches_do_not_depend_on_the_number_of_decoding_threads(
    world: Any, store: PriorStore, split: LabelledSplit
) -> None:
    one, three = (OnlineFeed(world.folder, store, split, CPU, ONE, decoders) for decoders in (1, 3))
    for left, right in zip(one.epoch(run_config(), 1), three.epoch(run_config(), 1), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_noise_is_in_the_pixels_that_the_frozen_networks_see_and_at_the_backbone_that_of_a_store(
    store: PriorStore, split: LabelledSplit, feed: OnlineFeed
) -> None:
    config = run_config(online="erased", augmentation={"noise": 0.5})
    cached = Feed(store, split, config.model, CPU).epoch(config, 0)
    plain = feed.epoch(run_config(online="erased"), 0)
    noisy = 0
    for batch, without, stored in zip(feed.epoch(config, 0), plain, cached, strict=True):
        assert torch.equal(batch.pictures, stored.pictures)
        noisy += int((batch.pixels != without.pixels).flatten(1).any(dim=1).sum())
    assert 0 < noisy < 14


def test_a_kept_batch_is_not_written_over_by_later_ones(feed: OnlineFeed) -> None:
    batches = feed.epoch(run_config(batch_size=2), 0)
    first = next(batches)
    kept = first.pixels.clone()
    assert len(list(batches)) > RING
    assert torch.equal(first.pixels, kept)


def test_at_most_the_ring_is_decoded_ahead(world: Any, store: PriorStore, split: LabelledSplit, tmp_path: Path) -> None:
    """Once the files are gone, only what was decoded before can still come; then the missing one is named."""
    root = files_elsewhere(world, tmp_path)
    batches = OnlineFeed(root, store, split, CPU).epoch(run_config(batch_size=2), 0)
    next(batches)
    shutil.rmtree(root / "images")
    came: list[OnlineBatch] = []
    with pytest.raises(OrsanetError, match=r"images/train_\d+\.png: cannot be read \(No such file"):
        came.extend(batches)  # keeps what came before the error
    assert len(came) <= RING


def test_a_vanished_image_is_named(world: Any, store: PriorStore, split: LabelledSplit, tmp_path: Path) -> None:
    root = files_elsewhere(world, tmp_path)
    (root / split.samples[5].image).unlink()
    with pytest.raises(OrsanetError, match=r"images/train_5\.png: cannot be read .* put it back"):
        list(OnlineFeed(root, store, split, CPU).in_order(4))


def test_an_image_other_than_the_stores_is_named(
    world: Any, store: PriorStore, split: LabelledSplit, tmp_path: Path
) -> None:
    root = files_elsewhere(world, tmp_path)
    path = root / split.samples[9].image
    Image.fromarray(np.asarray(Image.open(path)) ^ 1).save(path)
    with pytest.raises(OrsanetError, match=r"images/train_9\.png: not the image that .*store\.zarr was built from"):
        list(OnlineFeed(root, store, split, CPU).in_order(4))


@pytest.mark.parametrize("training", [True, False])
def test_leaving_early_ends_the_threads(feed: OnlineFeed, training: bool) -> None:
    batches = feed.epoch(run_config(batch_size=2), 0) if training else feed.in_order(2)
    next(batches)
    assert any(thread.name.startswith("decode") for thread in threading.enumerate())
    batches.close()  # type: ignore[attr-defined]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "feed"))]


def test_every_batch_draws_other_residual_branches(feed: OnlineFeed) -> None:
    draws = {
        torch.rand(4).numpy().tobytes()
        for seed in (0, 1)
        for epoch in (0, 1)
        for _ in feed.epoch(run_config(seed=seed), epoch)
    }
    assert len(draws) == 2 * 2 * 4
