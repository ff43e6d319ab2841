"""The draws of augmented views follow the published law, each picture its own, and are the same on every machine."""

import hashlib
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import RandomErasing

from orsanet_cache.data.augmentation import augmentations, random_rectangles, stored_rectangles

SIZE = 224
COUNT = 20_000
SIGMAS = 5  # the digests are fixed: five make one with which a correct draw fails a one in a million accident
UNLIKELY = 1e-6
# Of the third draw after the first, for the digests of the pictures 0 to 5.
RECORDED_FLIPS = [False, False, True, True, False, False]
RECORDED = [
    [0, 0, 0, 0], [19, 36, 22, 73], [0, 0, 0, 0], [35, 25, 71, 69], [72, 64, 106, 34], [194, 71, 25, 76]
]  # fmt: skip


def digests(count: int, first: int = 0) -> NDArray[np.uint8]:
    """Digests of pictures, [count, 32]."""
    made = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(first, first + count))
    return np.frombuffer(made, np.uint8).reshape(count, 32)


@pytest.fixture(scope="module")
def drawn() -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The first draw of many pictures."""
    return augmentations(digests(COUNT), 0, SIZE)


def assert_share(hits: NDArray[np.bool_], probability: float) -> None:
    sigma = math.sqrt(len(hits) * probability * (1 - probability))
    assert abs(hits.sum() - len(hits) * probability) <= SIGMAS * sigma


def assert_same_law(one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
    """Two-sample Kolmogorov-Smirnov: a larger distance has a probability of at most UNLIKELY."""
    values = np.union1d(one, other)
    below = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (one, other)]
    bound = math.sqrt(math.log(2 / UNLIKELY) * (1 / len(one) + 1 / len(other)) / 2)
    assert np.abs(below[0] - below[1]).max() < bound


def test_half_are_flipped_and_half_are_erased_independently_of_each_other(drawn) -> None:
    flipped, rectangles = drawn
    erased = rectangles[:, 2] > 0
    assert_share(flipped, 0.5)
    assert_share(erased, 0.5)
    assert_share(flipped & erased, 0.25)


def test_rectangles_are_torchvisions(drawn) -> None:
    """RandomErasing(scale=(0.02, 0.1), ratio=(0.3, 3.3)): sides, area, ratio and place."""
    image = torch.zeros(1, SIZE, SIZE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array([RandomErasing.get_params(image, (0.02, 0.1), (0.3, 3.3), [0.0])[:4] for _ in range(5000)])
    rectangles = drawn[1]
    ours = rectangles[rectangles[:, 2] > 0]
    for one, other in zip(_looked_at(ours), _looked_at(theirs), strict=True):
        assert_same_law(one, other)


def _looked_at(rectangles: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    top, left, height, width = rectangles.T
    room = SIZE + 1 - rectangles[:, 2:]
    places = (rectangles[:, :2] + 0.5) / room  # uniform in 0 … 1, whatever the size
    return [top, left, height, width, height * width, height / width, *places.T]


def test_area_is_uniform_the_ratio_log_uniform_and_the_place_uniform_and_independent(drawn) -> None:
    """Against the formulas themselves. Whole pixels move a share by less than the hundredth that is allowed for here."""
    rectangles = drawn[1]
    _, _, height, width, area, ratio, *places = _looked_at(rectangles[rectangles[:, 2] > 0])
    uniform = [
        (area / SIZE**2 - 0.02) / 0.08,
        (np.log(ratio) - math.log(0.3)) / (math.log(3.3) - math.log(0.3)),
        *places,
    ]
    count = len(area)
    for values in uniform:
        ranks = np.sort(values)
        distance = np.abs(ranks - (np.arange(count) + 0.5) / count).max()
        assert distance < math.sqrt(math.log(2 / UNLIKELY) / (2 * count)) + 0.01
    correlation = np.corrcoef(uniform) - np.eye(len(uniform))
    assert np.abs(correlation).max() < SIGMAS / math.sqrt(count) + 0.01
    assert (height * width > 0).all()


def test_rectangles_lie_inside_and_reach_every_edge(drawn) -> None:
    top, left, height, width = drawn[1][drawn[1][:, 2] > 0].T
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + height).max(), (left + width).max()) == (SIZE, SIZE)


def test_the_draws_of_a_picture_are_independent_of_each_other() -> None:
    pictures = digests(COUNT)
    (flip_a, erased_a), (flip_b, erased_b) = (augmentations(pictures, number, SIZE) for number in (0, 1))
    a, b = erased_a[:, 2] > 0, erased_b[:, 2] > 0
    assert_share(flip_a & flip_b, 0.25)
    assert_share(a & b, 0.25)
    both = a & b
    for one, other in zip(_looked_at(erased_a[both]), _looked_at(erased_b[both]), strict=True):
        assert abs(np.corrcoef(one, other)[0, 1]) < SIGMAS / math.sqrt(both.sum())


def test_a_draw_depends_on_the_picture_and_the_number_alone() -> None:
    pictures = digests(300)
    flipped, rectangles = augmentations(pictures, 2, SIZE)
    order = np.random.default_rng(0).permutation(300)
    again = augmentations(pictures[order], 2, SIZE)
    assert np.array_equal(again[0], flipped[order])
    assert np.array_equal(again[1], rectangles[order])
    alone = augmentations(pictures[7:8], 2, SIZE)
    assert (alone[0][0], alone[1][0].tolist()) == (flipped[7], rectangles[7].tolist())
    assert len({augmentations(pictures, number, SIZE)[1].tobytes() for number in range(5)}) == 5


def test_draws_are_the_recorded_ones_because_training_draws_them_again() -> None:
    """A store outlives this version: with other draws, training would erase what was not erased."""
    flipped, rectangles = augmentations(digests(6), 3, SIZE)
    assert flipped.tolist() == RECORDED_FLIPS
    assert rectangles.tolist() == RECORDED


def test_only_augmented_views_have_rectangles_of_their_own() -> None:
    pictures = digests(5)
    assert stored_rectangles("clean", pictures, SIZE) is None
    assert stored_rectangles("erase-20-seed1", pictures, SIZE) is None
    found = stored_rectangles("augmented-seed3", pictures, SIZE)
    assert found is not None
    assert np.array_equal(found, augmentations(pictures, 3, SIZE)[1])


def test_no_picture_has_no_draw() -> None:
    flipped, rectangles = augmentations(np.zeros((0, 32), np.uint8), 0, SIZE)
    assert (flipped.shape, rectangles.shape) == ((0,), (0, 4))


@pytest.mark.parametrize("size", [112, 224])
def test_both_stages_draw_by_one_law(size: int, drawn) -> None:
    """Training's generator and the digests give the same laws, in shares of the picture."""
    ours = drawn[1][drawn[1][:, 2] > 0]
    theirs = random_rectangles(np.random.default_rng(0), 10_000, size, 1.0, (0.02, 0.1))
    for one, other in zip(ours.T / SIZE, theirs.T / size, strict=True):
        if size == SIZE:
            assert_same_law(one, other)
        else:
            assert abs(one.mean() - other.mean()) < 0.01
