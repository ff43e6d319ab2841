"""An epoch is a pure function of seed and epoch, and draws classes, flips and rectangles as the configuration and torchvision do."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomErasing

from orsanet_train.config import AugmentationConfig, RunConfig
from orsanet_train.feed.plan import EpochPlan, Uniforms, epoch_plan, erased_rectangles

LABELS = np.repeat([0, 1, 2], [160, 30, 10])  # as unbalanced as expression data sets are

# Seeds are fixed, so these tests are deterministic; five standard deviations make a seed on which a correct sampler fails a
# one in a million accident.
SIGMAS = 5


def assert_share(hits: int, draws: int, probability: float) -> None:
    """`hits` of `draws` independent draws, within SIGMAS binomial standard deviations."""
    sigma = math.sqrt(draws * probability * (1 - probability))
    assert abs(hits - draws * probability) <= SIGMAS * sigma


def same_plan(one: EpochPlan, other: EpochPlan) -> bool:
    return all(np.array_equal(left[:], right[:]) for left, right in zip(one, other, strict=True))


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
        assert len({draw[:].tobytes() for draw in draws}) == 16


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


@given(
    seed=st.integers(0, 2**63 - 1),
    shape=st.sampled_from([(2,), (2, 3), (2, 8, 3, 2), (2, 0)]),
    ends=st.tuples(*[st.integers(0, 50)] * 2).map(sorted),
)
def test_rows_drawn_when_they_are_asked_for_are_those_of_one_draw_for_all(
    seed: int, shape: tuple[int, ...], ends: list[int]
) -> None:
    rows = slice(*ends)
    at_once = np.random.default_rng([seed, 7, 3]).random((50, *shape), dtype=np.float32)
    assert np.array_equal(Uniforms([seed, 7, 3], 50, shape)[rows], at_once[rows])


def test_a_plan_has_sixty_bytes_a_sample_whatever_the_model_drops() -> None:
    """Order, flip and rectangle are 41 bytes; drawing them takes some more for a moment."""
    count = 100_000
    config = RunConfig()
    tracemalloc.start()
    plan = epoch_plan(np.arange(count) % 7, config, 0)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.drop_path[:1].nbytes == 4 * 2 * math.prod(config.model.drop_path_shape) > 300
    assert held < 45 * count
    assert peak < 150 * count


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
