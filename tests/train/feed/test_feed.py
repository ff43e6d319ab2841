"""The feed: labels find their rows by image path, an epoch is a pure function of seed and epoch, a batch is what the plan says.

Wherever the data is kept: streamed or resident, the batches are the same to the bit.
"""

import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import RandomErasing

from orsanet_cache import Manifest, OrsanetError, PriorStore, load_manifest
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.store.schema import schema
from orsanet_cache.store.units import UnitRecord
from orsanet_cache.store.writer import StoreWriter
from orsanet_train.config import AugmentationConfig, ModelConfig, RunConfig
from orsanet_train.feed.feed import Feed, PriorBatch, join
from orsanet_train.feed.plan import EpochPlan, epoch_plan, erase, erased_rectangles
from orsanet_train.feed.residence import Resident, choose_residence, free_memory
from orsanet_train.feed.ring import RING, ahead_in_ring

CPU = torch.device("cpu")
LABELS = np.repeat([0, 1, 2], [160, 30, 10])  # as unbalanced as expression data sets are

# Seeds are fixed, so these tests are deterministic; five standard deviations make a seed on which a correct sampler fails a
# one in a million accident.
SIGMAS = 5


def assert_share(hits: int, draws: int, probability: float) -> None:
    """`hits` of `draws` independent draws, within SIGMAS binomial standard deviations."""
    sigma = math.sqrt(draws * probability * (1 - probability))
    assert abs(hits - draws * probability) <= SIGMAS * sigma


def same_plan(one: EpochPlan, other: EpochPlan) -> bool:
    return all(np.array_equal(left, right) for left, right in zip(one, other, strict=True))


# --- the plan of an epoch ---


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10**6), sampling=st.sampled_from(["balanced", "shuffled"]))
@settings(max_examples=25, deadline=None)
def test_a_plan_is_a_pure_function_of_seed_and_epoch(seed: int, epoch: int, sampling: str) -> None:
    config = RunConfig.model_validate({"seed": seed, "sampling": sampling})
    first = epoch_plan(LABELS, config, epoch)
    np.random.default_rng().random(7)
    epoch_plan(LABELS, config, epoch + 1)
    assert same_plan(first, epoch_plan(LABELS, config, epoch))


def test_other_seeds_and_epochs_give_other_plans() -> None:
    plans = [epoch_plan(LABELS, RunConfig(seed=seed), epoch) for seed in range(4) for epoch in range(4)]
    for draws in zip(*plans, strict=True):  # orders, flips, rectangles, drop-path
        assert len({draw.tobytes() for draw in draws}) == 16


def test_order_flips_and_rectangles_do_not_disturb_each_other() -> None:
    """Turning one augmentation off leaves every other draw as it was: runs that compare settings see the same data."""
    both = epoch_plan(LABELS, RunConfig(), 3)
    no_flip = epoch_plan(LABELS, RunConfig(augmentation=AugmentationConfig(hflip=0.0)), 3)
    no_erasing = epoch_plan(LABELS, RunConfig(augmentation=AugmentationConfig(erasing=0.0)), 3)
    shuffled = epoch_plan(LABELS, RunConfig(sampling="shuffled"), 3)
    assert np.array_equal(both.order, no_flip.order)
    assert np.array_equal(both.erased, no_flip.erased)
    assert np.array_equal(both.order, no_erasing.order)
    assert np.array_equal(both.flipped, no_erasing.flipped)
    assert np.array_equal(both.flipped, shuffled.flipped)
    assert np.array_equal(both.erased, shuffled.erased)


def test_balanced_sampling_draws_every_class_and_every_image_of_a_class_equally_often() -> None:
    """Each draw is of class c with probability 1/3, so hits are binomial; likewise an image of a class of n, 1 / (3 n)."""
    orders = [epoch_plan(LABELS, RunConfig(), epoch).order for epoch in range(300)]
    assert {len(order) for order in orders} == {len(LABELS)}
    drawn = np.bincount(np.concatenate(orders), minlength=len(LABELS))
    draws = 300 * len(LABELS)
    for label in range(3):
        assert_share(drawn[label == LABELS].sum(), draws, 1 / 3)
    for image, label in enumerate(LABELS):
        assert_share(drawn[image], draws, 1 / (3 * (label == LABELS).sum()))


def test_balanced_sampling_is_with_replacement() -> None:
    """An epoch draws the 10 images of the rarest class about 67 times."""
    order = epoch_plan(LABELS, RunConfig(), 0).order
    assert (LABELS[order] == 2).sum() > 10
    assert len(set(order.tolist())) < len(LABELS)


def test_a_class_without_images_takes_no_share() -> None:
    labels = np.array([0, 0, 4, 4, 4])
    orders = [epoch_plan(labels, RunConfig(), epoch).order for epoch in range(300)]
    assert_share((labels[np.concatenate(orders)] == 4).sum(), 300 * 5, 1 / 2)


def test_shuffled_sampling_is_a_permutation_with_every_image_equally_often_first() -> None:
    config = RunConfig(sampling="shuffled")
    orders = np.stack([epoch_plan(np.arange(6), config, epoch).order for epoch in range(1200)])
    assert (np.sort(orders, axis=1) == np.arange(6)).all()
    for image in range(6):
        assert_share((orders[:, 0] == image).sum(), 1200, 1 / 6)


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 1.0])
def test_flips_and_erasing_happen_at_their_rates(probability: float) -> None:
    config = RunConfig(augmentation=AugmentationConfig(hflip=probability, erasing=probability))
    plans = [epoch_plan(LABELS, config, epoch) for epoch in range(50)]
    draws = 50 * len(LABELS)
    assert_share(sum(plan.flipped.sum() for plan in plans), draws, probability)
    assert_share(sum((plan.erased[:, 2] > 0).sum() for plan in plans), draws, probability)


def test_flips_and_erasing_are_independent_of_each_other_and_of_the_class() -> None:
    plans = [epoch_plan(LABELS, RunConfig(), epoch) for epoch in range(100)]
    flipped = np.concatenate([plan.flipped for plan in plans])
    erased = np.concatenate([plan.erased[:, 2] > 0 for plan in plans])
    label = LABELS[np.concatenate([plan.order for plan in plans])]
    assert_share((flipped & erased).sum(), len(flipped), 1 / 4)
    for number in range(3):
        assert_share(flipped[label == number].sum(), (label == number).sum(), 1 / 2)
        assert_share(erased[label == number].sum(), (label == number).sum(), 1 / 2)


# --- erasing ---

SCALES = st.tuples(*[st.floats(0.001, 0.3)] * 2).map(lambda pair: (min(pair), max(pair)))


@given(scale=SCALES, seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_rectangles_lie_inside_the_image_with_area_and_aspect_in_range_up_to_rounding(
    scale: tuple[float, float], seed: int
) -> None:
    """Sides are rounded to whole pixels, so the true side is at most half a pixel away."""
    config = AugmentationConfig(erasing=1.0, erasing_scale=scale)
    rectangles = erased_rectangles(np.random.default_rng(seed), 500, config)
    top, left, height, width = rectangles.T
    assert (rectangles >= 0).all()
    assert (top + height <= 224).all()
    assert (left + width <= 224).all()
    rounding = 1e-9  # of the square root, for a side that is exactly at .5
    assert ((height - 0.5) * (width - 0.5) <= scale[1] * 224**2 + rounding).all()
    assert ((height + 0.5) * (width + 0.5) >= scale[0] * 224**2 - rounding).all()
    assert ((height - 0.5) / (width + 0.5) <= 3.3 + rounding).all()
    assert ((height + 0.5) >= (0.3 - rounding) * (width - 0.5)).all()


def test_rectangles_reach_every_edge_of_the_image() -> None:
    config = AugmentationConfig(erasing=1.0)
    top, left, height, width = erased_rectangles(np.random.default_rng(0), 20_000, config).T
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + height).max(), (left + width).max()) == (224, 224)


def test_rectangles_are_distributed_as_torchvisions() -> None:
    """Two-sample Kolmogorov-Smirnov on each of top, left, height, width and area.

    Distribution functions of two samples of size n from one distribution differ by more than sqrt(ln(2 / p) / n) with
    probability p at most; p is 1e-6 here.
    """
    count = 3000
    image = torch.zeros(1, 224, 224)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array([RandomErasing.get_params(image, (0.02, 0.1), (0.3, 3.3), [0.0])[:4] for _ in range(count)])
    ours = erased_rectangles(np.random.default_rng(0), count, AugmentationConfig(erasing=1.0))
    for mine, other in zip([*ours.T, ours[:, 2] * ours[:, 3]], [*theirs.T, theirs[:, 2] * theirs[:, 3]], strict=True):
        values = np.union1d(mine, other)
        below = [np.searchsorted(np.sort(sample), values, side="right") / count for sample in (mine, other)]
        assert np.abs(below[0] - below[1]).max() < math.sqrt(math.log(2 / 1e-6) / count)


@st.composite
def rectangles_on_the_grid(draw: st.DrawFn) -> list[int]:
    height, width = draw(st.integers(0, 224)), draw(st.integers(0, 224))
    return [draw(st.integers(0, 224 - height)), draw(st.integers(0, 224 - width)), height, width]


@given(rectangles=st.lists(rectangles_on_the_grid(), min_size=2, max_size=2))
@settings(max_examples=60, deadline=None)
def test_erasing_the_small_image_is_erasing_the_large_one_and_taking_every_second_pixel(
    rectangles: list[list[int]],
) -> None:
    large = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    small = large[..., ::2, ::2].clone()
    expected = large.clone()
    for image, (top, left, height, width) in zip(expected, rectangles, strict=True):
        image[:, top : top + height, left : left + width] = 0
    assert torch.equal(erase(small, torch.tensor(rectangles)), expected[..., ::2, ::2])
    assert torch.equal(small, large[..., ::2, ::2])  # the argument is left as it was


# --- joining labels to rows ---


def rewrite_manifest(source: Path, folder: Path, change: Callable[[list[str]], list[str]]) -> Manifest:
    """The manifest with other CSV lines (without the header); the images stay where they are and are not looked at."""
    shutil.copy(source, folder)
    header, *lines = (source.parent / "samples.csv").read_text(encoding="utf-8").splitlines()
    (folder / "samples.csv").write_text("\n".join([header, *change(lines)]) + "\n", encoding="utf-8")
    return load_manifest(folder / source.name, check_files=False)


@pytest.fixture
def manifest(world: Any) -> Manifest:
    return world.load_manifest()


@pytest.fixture
def store(world: Any) -> PriorStore:
    return world.open_store()


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_sample_is_joined_to_the_row_of_its_image(split: str, manifest: Manifest, store: PriorStore) -> None:
    joined = join(manifest, store, split, ["clean", "hflip"])
    assert joined.name == split
    assert joined.samples == manifest.split(split)
    assert joined.rejected == {}
    ids = store.sample_ids(split)
    assert [ids[row] for row in joined.rows] == [sample.image for sample in joined.samples]
    assert joined.labels.tolist() == [sample.label for sample in joined.samples]


@pytest.fixture
def reordered(world: Any, tmp_path: Path) -> Manifest:
    """The manifest with its CSV rows in another order than the store's."""
    order = np.random.default_rng(0).permutation(26)
    return rewrite_manifest(world.manifest, tmp_path, lambda lines: [lines[index] for index in order])


def test_the_order_of_csv_rows_does_not_matter(manifest: Manifest, reordered: Manifest, store: PriorStore) -> None:
    for split in ("train", "valid", "test"):
        one, two = (join(m, store, split, ["clean"]) for m in (manifest, reordered))
        assert one.samples != two.samples
        pairs = [set(zip(j.samples, j.rows.tolist(), j.labels.tolist(), strict=True)) for j in (one, two)]
        assert pairs[0] == pairs[1]


def test_labels_come_from_the_manifest_of_the_day(world: Any, store: PriorStore, tmp_path: Path) -> None:
    """A corrected label needs no new store."""
    corrected = rewrite_manifest(
        world.manifest,
        tmp_path,
        lambda lines: [line.replace("train_0.png,anger", "train_0.png,neutral") for line in lines],
    )
    before, after = (join(m, store, "train", ["clean"]) for m in (world.load_manifest(), corrected))
    assert (before.labels[0], after.labels[0]) == (0, 2)
    assert np.array_equal(before.labels[1:], after.labels[1:])
    assert np.array_equal(before.rows, after.rows)


def test_a_manifest_of_fewer_images_takes_only_their_rows(world: Any, store: PriorStore, tmp_path: Path) -> None:
    fewer = rewrite_manifest(world.manifest, tmp_path, lambda lines: lines[3:9])
    joined = join(fewer, store, "train", ["clean"])
    assert joined.rows.tolist() == [3, 4, 5, 6, 7, 8]


def test_images_that_the_store_lacks_are_refused_by_name(world: Any, store: PriorStore, tmp_path: Path) -> None:
    more = rewrite_manifest(
        world.manifest, tmp_path, lambda lines: [*lines, "images/new.png,anger,train,", "images/newer.png,anger,train,"]
    )
    with pytest.raises(OrsanetError) as caught:
        join(more, store, "train", ["clean"])
    for part in ("2 image(s)", "images/new.png", "images/newer.png", "train", str(store.path)):
        assert part in str(caught.value)


def test_a_tag_chooses_exactly_the_samples_that_have_it(manifest: Manifest, store: PriorStore) -> None:
    joined = join(manifest, store, "test", ["clean"], tag="occluded")
    assert joined.samples == tuple(sample for sample in manifest.split("test") if "occluded" in sample.tags)
    assert 0 < len(joined.samples) < len(manifest.split("test"))
    ids = store.sample_ids("test")
    assert [ids[row] for row in joined.rows] == [sample.image for sample in joined.samples]
    assert joined.labels.tolist() == [sample.label for sample in joined.samples]


def test_an_unknown_tag_is_answered_with_the_known_ones(manifest: Manifest, store: PriorStore) -> None:
    with pytest.raises(OrsanetError, match=r"'profile'.*occluded"):
        join(manifest, store, "test", ["clean"], tag="profile")


def test_an_unknown_split_is_answered_with_the_known_ones(manifest: Manifest, store: PriorStore) -> None:
    with pytest.raises(OrsanetError, match=r"'holdout'.*train, valid, test"):
        join(manifest, store, "holdout", ["clean"])


@dataclass(frozen=True)
class Damaged:
    """A store of five images, with the clean view only and with both: image 1 was not readable, image 3 has no priors in hflip."""

    manifest: Manifest
    clean: Path
    both: Path


def write_store(path: Path, manifest: Manifest, rejected: Mapping[str, Sequence[str]]) -> Path:
    """A store of the manifest's images with arbitrary values: view -> the images rejected in it."""
    fields = schema(8, 512, "float16")
    rng = np.random.default_rng(0)
    with StoreWriter.open(path, {}, fields) as writer:
        for split in manifest.splits:
            writer.add_split(split, [sample.image for sample in manifest.split(split)])
            for view, images in rejected.items():
                writer.add_view(split, view)
                for unit in writer.units(split):
                    count = unit.stop - unit.start
                    arrays = {
                        field.name: rng.integers(0, 99, (count, *field.shape)).astype(field.dtype) for field in fields
                    }
                    record = UnitRecord(["00" * 32] * count, dict.fromkeys(images, "no image"))
                    writer.commit(unit, view, arrays, record)
                writer.seal(split, view, {})
    return path


@pytest.fixture(scope="module")
def damaged(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    folder = tmp_path_factory.mktemp("damaged")

    def first_five(lines: list[str]) -> list[str]:
        return lines[:5]

    manifest = rewrite_manifest(world.manifest, folder, first_five)
    one, three = "images/train_1.png", "images/train_3.png"
    clean = write_store(folder / "clean.zarr", manifest, {"clean": [one]})
    both = write_store(folder / "both.zarr", manifest, {"clean": [one], "hflip": [one, three]})
    return Damaged(manifest, clean, both)


@pytest.mark.parametrize(("views", "excluded"), [(["clean"], [1]), (["clean", "hflip"], [1, 3])])
def test_images_rejected_in_any_of_the_views_are_left_out_and_listed(
    views: list[str], excluded: list[int], damaged: Damaged
) -> None:
    joined = join(damaged.manifest, PriorStore.open(damaged.both), "train", views)
    names = [f"images/train_{index}.png" for index in range(5)]
    assert list(joined.rejected) == [names[index] for index in excluded]
    assert all(joined.rejected.values())
    assert joined.rows.tolist() == [index for index in range(5) if index not in excluded]
    assert [sample.image for sample in joined.samples] == [names[row] for row in joined.rows]
    assert joined.labels.tolist() == [sample.label for sample in joined.samples]


def test_only_rejected_images_with_the_tag_are_listed(damaged: Damaged) -> None:
    """Images 1 and 3 are rejected; image 3 loses its tag here."""
    samples = tuple(
        replace(sample, tags=frozenset()) if sample.image == "images/train_3.png" else sample
        for sample in damaged.manifest.samples
    )
    manifest = replace(damaged.manifest, samples=samples)
    joined = join(manifest, PriorStore.open(damaged.both), "train", ["clean", "hflip"], tag="occluded")
    assert list(joined.rejected) == ["images/train_1.png"]
    assert joined.samples == ()


def test_a_missing_view_is_answered_with_the_command_that_adds_it(damaged: Damaged) -> None:
    with pytest.raises(OrsanetError) as caught:
        join(damaged.manifest, PriorStore.open(damaged.clean), "train", ["clean", "hflip"])
    for part in ("hflip", "orsanet-cache build", "--views hflip", str(damaged.clean)):
        assert part in str(caught.value)


def test_without_flips_the_flipped_view_is_not_needed(damaged: Damaged) -> None:
    store = PriorStore.open(damaged.clean)
    joined = join(damaged.manifest, store, "train", ["clean"])
    config = RunConfig(batch_size=3, augmentation=AugmentationConfig(hflip=0.0))
    batches = list(Feed(store, joined, ModelConfig(), CPU).epoch(config, 0))
    assert [len(batch.label) for batch in batches] == [3, 1]


# --- batches ---


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


# --- where the data is kept ---

MODES: tuple[Resident, ...] = ("stream", "host", "device")  # on a CPU the device's memory is the host's
PRIORS = ("features", "map")


@pytest.fixture(scope="module", params=["float16", "float32", "int8"])
def kept_as(request: pytest.FixtureRequest, world: Any, tmp_path_factory: pytest.TempPathFactory) -> PriorStore:
    """A store per type that features are kept as."""
    if request.param == "float16":
        return world.open_store()
    out = tmp_path_factory.mktemp("kept_as") / "store.zarr"
    build(
        world.load_manifest(), out, world.load_priors(), ["clean", "hflip"],
        device=CPU, splits=["train"], feature_dtype=request.param,
    )  # fmt: skip
    return PriorStore.open(out)


def joined_feed(
    store: PriorStore, manifest: Manifest, resident: Resident, prior: str = "features", device: torch.device = CPU
) -> Feed:
    joined = join(manifest, store, "train", ["clean", "hflip"])
    return Feed(store, joined, ModelConfig.model_validate({"segmentation_prior": prior}), device, resident)


def drawn(feed: Feed) -> list[PriorBatch]:
    """An epoch with a short last batch, and both views in order, all kept until the last is drawn."""
    return [*feed.epoch(RunConfig(batch_size=4), 2), *feed.in_order(5), *feed.in_order(14, "hflip")]


def assert_same_batches(batches: Sequence[PriorBatch], others: Sequence[PriorBatch]) -> None:
    for batch, other in zip(batches, others, strict=True):
        for one, two in zip(batch, other, strict=True):
            assert one.dtype == two.dtype
            assert one.device == two.device
            assert one.stride() == two.stride()  # or a convolution may round otherwise
            assert torch.equal(one, two)


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


# --- whether the data fits ---


def test_on_a_cpu_auto_is_to_stream() -> None:
    """However little it is."""
    residence = choose_residence("auto", 10**6, CPU)
    assert residence.mode == "stream"
    assert "1.00MB streamed from the store" in residence.reason
    assert "page cache" in residence.reason


@pytest.mark.parametrize("mode", MODES)
def test_what_fits_is_kept_where_it_is_asked_for(mode: Resident) -> None:
    residence = choose_residence(mode, 10**6, CPU)
    assert residence.mode == mode
    assert "1.00MB" in residence.reason
    assert "as asked for" in residence.reason


@pytest.mark.parametrize("mode", ["host", "device"])
def test_more_than_the_memory_is_refused_at_once_with_both_sizes_and_the_alternative(
    mode: Resident, store: PriorStore, manifest: Manifest
) -> None:
    """A hundred million samples, all of them the same row."""
    few = join(manifest, store, "train", ["clean", "hflip"])
    many = replace(few, rows=np.broadcast_to(few.rows[:1], 10**8))
    with pytest.raises(OrsanetError) as caught:
        Feed(store, many, ModelConfig(), CPU, mode)
    row_bytes = 112 * 112 * 3 + (128 + 512) * 7 * 7 * 2
    for part in (f"--resident {mode}", f"{2 * row_bytes / 1e4:.1f}TB", "free on cpu", "--resident stream"):
        assert part in str(caught.value)
    assert Feed(store, many, ModelConfig(), CPU, "stream").residence.mode == "stream"


def test_free_memory_is_a_part_of_the_machines() -> None:
    assert 0 < free_memory(CPU) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# --- the thread and its buffers ---


class Watched(PriorStore):
    """A store that notes who reads which field and into what. The arrays are kept, so that no address is used twice by chance."""

    def read(
        self, split: str, view: str, field: str, rows: Any, out: Any = None, positions: Any = None
    ) -> NDArray[Any]:
        self.noted = [*getattr(self, "noted", []), (threading.current_thread(), field, out)]
        return super().read(split, view, field, rows, out, positions)


def others() -> set[threading.Thread]:
    return set(threading.enumerate()) - {threading.main_thread()}


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    before = others()
    yield
    assert others() == before


def image_reads(store: Watched) -> list[NDArray[Any]]:
    return [out for _, field, out in getattr(store, "noted", []) if field == "image"]


@pytest.fixture
def watched(world: Any) -> Watched:
    return Watched.open(world.store)


def test_one_thread_reads_and_it_is_not_the_consumers(
    watched: Watched, manifest: Manifest, no_thread_is_left: None
) -> None:
    before, feed = others(), joined_feed(watched, manifest, "stream")
    assert others() == before
    for _ in feed.epoch(RunConfig(batch_size=1), 0):
        assert len(others() - before) == 1
    assert len({thread for thread, _, _ in watched.noted}) == 1
    assert watched.noted[0][0] is not threading.main_thread()


@pytest.mark.parametrize("mode", ["host", "device"])
def test_only_gathering_in_host_memory_needs_a_thread(
    mode: Resident, store: PriorStore, manifest: Manifest, no_thread_is_left: None
) -> None:
    feed = joined_feed(store, manifest, mode)
    before = others()
    for _ in feed.epoch(RunConfig(batch_size=4), 0):
        assert len(others() - before) == (mode == "host")


def test_an_epoch_reads_into_the_buffers_of_the_ring_and_no_other(watched: Watched, manifest: Manifest) -> None:
    """Without flips a batch is read in one piece, from the beginning of its buffer."""
    config = RunConfig(batch_size=1, augmentation=AugmentationConfig(hflip=0.0))
    list(joined_feed(watched, manifest, "stream").epoch(config, 0))
    reads = image_reads(watched)
    assert len(reads) == 14
    assert len({out.ctypes.data for out in reads}) == RING == 3


def test_the_reader_is_never_further_ahead_than_the_ring(
    watched: Watched, manifest: Manifest, no_thread_is_left: None
) -> None:
    """A consumer that takes its time with a batch finds all buffers full, and the rest unread."""
    config = RunConfig(batch_size=1)
    batches = joined_feed(watched, manifest, "stream").epoch(config, 0)
    for taken in range(1, 4):
        next(batches)
        deadline = time.monotonic() + 30
        while len(image_reads(watched)) < taken + RING and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # for a reader that does not stop there
        assert len(image_reads(watched)) == taken + RING


class Stop(Exception):
    """Raised by a consumer in the middle of an epoch."""


def leave_by_break(batches: Iterator[PriorBatch]) -> None:
    for _ in batches:
        break


def leave_by_error(batches: Iterator[PriorBatch]) -> None:
    for _ in batches:
        raise Stop


def leave_by_ctrl_c(batches: Iterator[PriorBatch]) -> None:
    for _ in batches:
        raise KeyboardInterrupt


def leave_unused(batches: Iterator[PriorBatch]) -> None:
    pass


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_error, leave_by_ctrl_c, leave_unused])
@pytest.mark.parametrize("mode", MODES)
def test_leaving_an_epoch_early_ends_its_thread_and_the_reading(
    mode: Resident, leave: Callable[[Iterator[PriorBatch]], None], watched: Watched, manifest: Manifest
) -> None:
    feed, before = joined_feed(watched, manifest, mode), others()
    expected = drawn(feed)
    watched.noted = []
    with suppress(Stop, KeyboardInterrupt):
        leave(feed.epoch(RunConfig(batch_size=1), 0))
    assert others() == before
    assert len(image_reads(watched)) <= 1 + RING
    assert_same_batches(drawn(feed), expected)


def flip_a_bit(store: Path, view: str, field: str, row: int) -> Path:
    """Damage a row of the train split; rows of uncompressed fields lie in order, each with four bytes of checksum."""
    (shard,) = (store / "train" / view / field).glob("c.*")
    row_bytes = np.prod(PriorStore.open(store).fields("train", view)[field].shape[1:])
    row_bytes *= PriorStore.open(store).fields("train", view)[field].dtype.itemsize
    content = bytearray(shard.read_bytes())
    content[row * (int(row_bytes) + 4) + 5] ^= 16
    shard.write_bytes(content)
    return shard


def test_damage_is_raised_where_its_batch_would_have_been(
    world: Any, manifest: Manifest, tmp_path: Path, no_thread_is_left: None
) -> None:
    copy = tmp_path / "store.zarr"
    shutil.copytree(world.store, copy)
    shard = flip_a_bit(copy, "hflip", "landmark_features", 9)
    batches = joined_feed(PriorStore.open(copy), manifest, "stream").in_order(4, "hflip")
    assert_same_batches(
        [next(batches), next(batches)],
        list(joined_feed(world.open_store(), manifest, "stream").in_order(4, "hflip"))[:2],
    )
    with pytest.raises(OrsanetError, match=f"{re.escape(str(shard.parent))}: row 9 is damaged"):
        next(batches)


@pytest.mark.parametrize("mode", ["host", "device"])
def test_loading_finds_damage_in_any_row(mode: Resident, world: Any, manifest: Manifest, tmp_path: Path) -> None:
    copy = tmp_path / "store.zarr"
    shutil.copytree(world.store, copy)
    shard = flip_a_bit(copy, "hflip", "image", 13)
    with pytest.raises(OrsanetError, match=f"{re.escape(str(shard.parent))}: row 13 is damaged"):
        joined_feed(PriorStore.open(copy), manifest, mode)


@given(parts=st.integers(0, 12), slots=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_ring_gives_every_part_once_in_order_and_fills_no_slot_that_is_in_use(parts: int, slots: int) -> None:
    buffers: list[list[int]] = [[] for _ in range(slots)]

    def fill(part: int, slot: list[int]) -> None:
        assert slot == []
        slot.append(part)

    def take(part: int, slot: list[int]) -> int:
        assert slot == [part]
        return slot.pop()

    assert list(ahead_in_ring(range(parts), buffers, fill, take)) == list(range(parts))
    assert buffers == [[]] * slots


# --- on a GPU ---

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


@needs_cuda
def test_auto_is_resident_on_a_gpu_up_to_half_of_its_free_memory(store: PriorStore, manifest: Manifest) -> None:
    cuda = torch.device("cuda", 0)
    assert joined_feed(store, manifest, "auto", device=cuda).residence.mode == "device"
    assert choose_residence("auto", int(0.6 * free_memory(cuda)), cuda).mode == "stream"
    with pytest.raises(OrsanetError, match=r"--resident device: .* free on cuda:0; use --resident stream"):
        choose_residence("device", 2 * free_memory(cuda), cuda)
