"""A batch is what the plan says, to the bit the same wherever the data is kept."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feeds import CPU, MODES, PRIORS, Damaged, assert_same_batches, drawn, joined_feed, rewrite_manifest, write_store
from numpy.typing import NDArray
from torch import Tensor

from orsanet_cache import Manifest, PriorStore
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_train.config import ModelConfig, RunConfig
from orsanet_train.feed.feed import Feed, PriorBatch, join
from orsanet_train.feed.plan import epoch_plan
from orsanet_train.feed.residence import Resident


def expected_image(store: PriorStore, split: str, view: str, row: int, rectangle: NDArray[np.int64]) -> Tensor:
    """One image by itself: normalised, then erased on the 224-pixel grid, of which it holds the even pixels."""
    image = imagenet_normalised(unit_range(torch.from_numpy(store.read(split, view, "image", np.array([row])))))[0]
    top, left, height, width = rectangle.tolist()
    for y in range(112):
        for x in range(112):
            if top <= 2 * y < top + height and left <= 2 * x < left + width:
                image[:, y, x] = 0
    return image


@pytest.mark.parametrize("sampling", ["balanced", "shuffled"])
@pytest.mark.parametrize("prior", ["features", "map"])
def test_an_epochs_batches_hold_exactly_the_rows_views_and_rectangles_of_the_plan(
    sampling: str, prior: str, reordered: Manifest, store: PriorStore
) -> None:
    config = RunConfig.model_validate({"sampling": sampling, "batch_size": 4, "seed": 2})
    joined = join(reordered, store, "train", ["clean", "hflip"])
    feed = Feed(store, joined, ModelConfig.model_validate({"segmentation_prior": prior}), CPU)
    batches = list(feed.epoch(config, 5))
    assert [len(batch.label) for batch in batches] == [4, 4, 4, 2]

    plan = epoch_plan(joined.labels, config, 5)
    assert 0 < plan.flipped.sum() < 14
    assert 0 < (plan.erased[:, 2] > 0).sum() < 14
    whole = PriorBatch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    for position, (index, flipped, rectangle, draws) in enumerate(zip(*plan, strict=True)):
        np.testing.assert_array_equal(whole.drop_path[position], draws)
        sample = reordered.split("train")[index]
        view, row = "hflip" if flipped else "clean", store.sample_ids("train").index(sample.image)
        field = "segmentation_features" if prior == "features" else "segmentation_map"
        segmentation, landmark_features = (
            torch.from_numpy(store.read("train", view, name, np.array([row]))[0])
            for name in (field, "landmark_features")
        )
        assert torch.equal(whole.image[position], expected_image(store, "train", view, row, rectangle))
        assert torch.equal(whole.segmentation[position].to(segmentation.dtype), segmentation)
        assert torch.equal(whole.landmark_features[position], landmark_features.float())
        assert whole.label[position] == sample.label


@pytest.mark.parametrize(
    ("prior", "dtype", "shape"),
    [
        ("features", torch.float32, (14, 128, 7, 7)),
        ("map", torch.uint8, (14, 224, 224)),
        ("none", torch.uint8, (14, 224, 224)),
    ],
)
def test_a_batch_has_the_types_and_shapes_that_the_model_takes(
    prior: str, dtype: torch.dtype, shape: tuple[int, ...], manifest: Manifest, store: PriorStore
) -> None:
    joined = join(manifest, store, "train", ["clean"])
    (batch,) = Feed(store, joined, ModelConfig.model_validate({"segmentation_prior": prior}), CPU).in_order(20)
    assert (batch.segmentation.dtype, tuple(batch.segmentation.shape)) == (dtype, shape)
    assert (batch.image.dtype, tuple(batch.image.shape)) == (torch.float32, (14, 3, 112, 112))
    assert (batch.landmark_features.dtype, tuple(batch.landmark_features.shape)) == (torch.float32, (14, 512, 7, 7))
    assert (batch.label.dtype, tuple(batch.label.shape)) == (torch.int64, (14,))


@pytest.mark.parametrize("view", ["clean", "hflip"])
@pytest.mark.parametrize("batch_size", [1, 4, 14, 20])
def test_in_order_is_every_sample_once_in_the_manifests_order_unaugmented(
    view: str, batch_size: int, reordered: Manifest, store: PriorStore
) -> None:
    joined = join(reordered, store, "train", ["clean", "hflip"])
    batches = list(Feed(store, joined, ModelConfig(), CPU).in_order(batch_size, view))
    assert max(len(batch.label) for batch in batches) <= batch_size
    samples, ids = reordered.split("train"), store.sample_ids("train")
    stored = store.read("train", view, "image", np.array([ids.index(sample.image) for sample in samples]))
    expected = imagenet_normalised(unit_range(torch.from_numpy(stored)))
    assert torch.equal(torch.cat([batch.image for batch in batches]), expected)
    assert torch.cat([batch.label for batch in batches]).tolist() == [sample.label for sample in samples]


def test_a_batch_of_an_erased_view_holds_that_views_rows_in_every_field(world: Any, tmp_path: Path) -> None:
    """And of no other view: the picture and what the frozen networks said of it belong together."""
    shutil.copytree(world.store, tmp_path / "store.zarr")
    manifest = world.load_manifest()
    build(manifest, tmp_path / "store.zarr", world.load_priors(), ["erase-30"], device=CPU, splits=["test"])
    store = PriorStore.open(tmp_path / "store.zarr")
    joined = join(manifest, store, "test", ["erase-30"])
    batches = list(Feed(store, joined, ModelConfig(), CPU).in_order(4, "erase-30"))
    whole = PriorBatch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    for view, same in (("erase-30", True), ("clean", False)):
        image, segmentation, landmark_features = (
            torch.from_numpy(store.read("test", view, name, joined.rows))
            for name in ("image", "segmentation_features", "landmark_features")
        )
        assert torch.equal(whole.image, imagenet_normalised(unit_range(image))) == same
        assert torch.equal(whole.segmentation, segmentation.float()) == same
        assert torch.equal(whole.landmark_features, landmark_features.float()) == same


def test_an_epoch_can_be_drawn_again_without_the_ones_before(manifest: Manifest, store: PriorStore, world: Any) -> None:
    joined = join(manifest, store, "train", ["clean", "hflip"])
    feed = Feed(store, joined, ModelConfig(), CPU)
    config = RunConfig(batch_size=5)
    for epoch in range(2):
        earlier = list(feed.epoch(config, epoch))
    fresh_store = world.open_store()
    fresh = Feed(fresh_store, join(world.load_manifest(), fresh_store, "train", ["clean", "hflip"]), ModelConfig(), CPU)
    for one, other in zip(earlier, fresh.epoch(config, 1), strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize("prior", PRIORS)
def test_streamed_and_resident_batches_are_the_same_to_the_bit(
    prior: str, kept_as: PriorStore, reordered: Manifest
) -> None:
    stream, host, device = (drawn(joined_feed(kept_as, reordered, mode, prior)) for mode in MODES)
    assert [len(batch.label) for batch in stream] == [4, 4, 4, 2, 5, 5, 4, 14]
    assert_same_batches(stream, host)
    assert_same_batches(stream, device)


@pytest.mark.parametrize("mode", MODES)
def test_features_are_float32_whatever_they_are_kept_as(
    mode: Resident, kept_as: PriorStore, manifest: Manifest
) -> None:
    """int8 is multiplied by its sample's and channel's scale."""
    feed = joined_feed(kept_as, manifest, mode)
    for view in ("clean", "hflip"):
        (batch,) = feed.in_order(14, view)
        for name, values in (
            ("segmentation_features", batch.segmentation),
            ("landmark_features", batch.landmark_features),
        ):
            expected = kept_as.read("train", view, name, feed.split.rows).astype(np.float32)
            if f"{name}_scale" in kept_as.fields("train", view):
                expected *= kept_as.read("train", view, f"{name}_scale", feed.split.rows)[:, :, None, None]
            assert values.dtype == torch.float32
            assert np.array_equal(values.numpy(), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prior", PRIORS)
def test_what_is_done_to_a_batch_reaches_no_other(
    mode: Resident, prior: str, kept_as: PriorStore, manifest: Manifest
) -> None:
    feed = joined_feed(kept_as, manifest, mode, prior)
    expected = drawn(feed)
    for batch in feed.epoch(RunConfig(batch_size=4), 2):
        for tensor in batch:
            tensor.fill_(7)
    assert_same_batches(drawn(feed), expected)


@pytest.mark.parametrize("mode", MODES)
def test_epochs_of_one_feed_may_be_drawn_side_by_side(mode: Resident, store: PriorStore, manifest: Manifest) -> None:
    feed, config = joined_feed(store, manifest, mode), RunConfig(batch_size=3)
    pairs = list(zip(feed.epoch(config, 0), feed.epoch(config, 1), strict=True))
    for epoch, batches in enumerate(zip(*pairs, strict=True)):
        assert_same_batches(batches, list(joined_feed(store, manifest, mode).epoch(config, epoch)))


@pytest.mark.parametrize("mode", ["host", "device"])
def test_resident_data_needs_the_store_no_more(mode: Resident, world: Any, manifest: Manifest, tmp_path: Path) -> None:
    shutil.copytree(world.store, tmp_path / "store.zarr")
    feed = joined_feed(PriorStore.open(tmp_path / "store.zarr"), manifest, mode)
    expected = drawn(joined_feed(world.open_store(), manifest, "stream"))
    shutil.rmtree(tmp_path / "store.zarr")
    assert_same_batches(drawn(feed), expected)


@pytest.mark.parametrize("mode", MODES)
def test_rejected_images_have_no_place_in_any_batch(mode: Resident, damaged: Damaged) -> None:
    store = PriorStore.open(damaged.both)
    joined = join(damaged.manifest, store, "train", ["clean", "hflip"])
    (batch,) = Feed(store, joined, ModelConfig(), CPU, mode).in_order(9, "hflip")
    expected = torch.from_numpy(store.read("train", "hflip", "landmark_features", np.array([0, 2, 4]))).float()
    assert torch.equal(batch.landmark_features, expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_split_without_usable_images_has_no_batches(mode: Resident, world: Any, tmp_path: Path) -> None:
    manifest = rewrite_manifest(world.manifest, tmp_path, lambda lines: lines[:2])
    images = [sample.image for sample in manifest.split("train")]
    store = PriorStore.open(write_store(tmp_path / "store.zarr", manifest, {"clean": images}))
    assert list(Feed(store, join(manifest, store, "train", ["clean"]), ModelConfig(), CPU, mode).in_order(4)) == []


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@pytest.mark.parametrize("prior", PRIORS)
def test_on_a_gpu_all_modes_give_the_same_batches(prior: str, kept_as: PriorStore, reordered: Manifest) -> None:
    """Forty epochs into one ring: a buffer that is filled before it was copied would show."""
    cuda = torch.device("cuda", 0)
    stream, host, device = (joined_feed(kept_as, reordered, mode, prior, cuda) for mode in MODES)
    for epoch in range(40):
        config = RunConfig(batch_size=1 + epoch % 5)
        expected = list(device.epoch(config, epoch))
        assert {tensor.device for batch in expected for tensor in batch} == {cuda}
        assert_same_batches(list(stream.epoch(config, epoch)), expected)
        assert_same_batches(list(host.epoch(config, epoch)), expected)


@needs_cuda
def test_on_a_gpu_stored_values_arrive_unchanged(kept_as: PriorStore, manifest: Manifest) -> None:
    """Pictures and features that no arithmetic touches, and the label."""
    cuda, on_cpu = torch.device("cuda", 0), joined_feed(kept_as, manifest, "stream")
    for here, there in zip(drawn(joined_feed(kept_as, manifest, "stream", device=cuda)), drawn(on_cpu), strict=True):
        assert torch.equal(here.segmentation.cpu(), there.segmentation)
        assert torch.equal(here.landmark_features.cpu(), there.landmark_features)
        assert torch.equal(here.label.cpu(), there.label)
