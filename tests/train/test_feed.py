"""The feed: labels find their rows by image path, an epoch is a pure function of seed and epoch, a batch is what the plan says."""

import math
import shutil
from collections.abc import Callable
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

from orsanet_cache import Manifest, OrsanetError, PriorStore, imagenet_normalised, load_manifest, unit_range
from orsanet_cache.build import build
from orsanet_train.config import AugmentationConfig, ModelConfig, RunConfig
from orsanet_train.feed import (
    EpochPlan,
    Feed,
    PriorBatch,
    epoch_plan,
    epoch_seed,
    erase,
    erased_rectangles,
    join,
)

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
    assert epoch_seed(seed, epoch) == epoch_seed(seed, epoch)


def test_other_seeds_and_epochs_give_other_plans() -> None:
    plans = [epoch_plan(LABELS, RunConfig(seed=seed), epoch) for seed in range(4) for epoch in range(4)]
    for draws in zip(*plans, strict=True):  # orders, flips, rectangles
        assert len({draw.tobytes() for draw in draws}) == 16
    assert len({epoch_seed(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16


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
    """A store of five images with the clean view only at first: image 1 was never readable, image 3 broke before hflip."""

    manifest: Manifest
    clean: Path  # a copy of the store before hflip was added
    both: Path


@pytest.fixture(scope="module")
def damaged(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "images").mkdir()

    def first_five(lines: list[str]) -> list[str]:
        return lines[:5]

    rewrite_manifest(world.manifest, folder, first_five)
    for index in range(5):
        shutil.copy(world.manifest.parent / "images" / f"train_{index}.png", folder / "images")
    (folder / "images" / "train_1.png").write_bytes(b"no image")
    manifest = load_manifest(folder / world.manifest.name)
    build(manifest, folder / "clean.zarr", world.load_priors(), ["clean"], device=CPU)
    shutil.copytree(folder / "clean.zarr", folder / "both.zarr")
    (folder / "images" / "train_3.png").write_bytes(b"")
    build(manifest, folder / "both.zarr", world.load_priors(), ["clean", "hflip"], device=CPU)
    return Damaged(manifest, folder / "clean.zarr", folder / "both.zarr")


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
    for position, (index, flipped, rectangle) in enumerate(zip(*plan, strict=True)):
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
