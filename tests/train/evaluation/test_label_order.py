"""A wrong label order is noticed and named, and a right one is not doubted."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from orsanet_train.evaluation.label_order import label_warning

CLASSES = ("surprise", "fear", "anger", "neutral")
RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")


def drawn(rng: np.random.Generator, images: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Confusion counts of some images."""
    return rng.multinomial(images, shares.ravel()).reshape(shares.shape)


def renamed(confusion: NDArray[np.int64], order: Sequence[int]) -> NDArray[np.int64]:
    """The counts that the same predictions have where the model was trained with its classes in another order."""
    return confusion[:, order]


@pytest.mark.parametrize("pair", list(itertools.combinations(range(7), 2)))
def test_every_swapped_pair_of_a_good_classifier_is_named_with_what_putting_it_right_gives(
    usual_model: NDArray[np.float64], pair: tuple[int, int]
) -> None:
    """Also fear and disgust, which are 8 % of the images."""
    confusion = drawn(np.random.default_rng(0), 3068, usual_model)
    order = list(range(7))
    order[pair[0]], order[pair[1]] = pair[1], pair[0]
    swapped = renamed(confusion, order)
    first, second = (RAFDB[k] for k in pair)
    assert label_warning(swapped, RAFDB) == (
        f"predictions of '{first}' and '{second}' look exchanged; with corrected names accuracy would be "
        f"{np.trace(confusion) / 3068:.1%} instead of {np.trace(swapped) / 3068:.1%}; check the label order of the manifest"
    )


@pytest.mark.parametrize("shift", [1, 2, 3, 4, 5, 6])
def test_a_rotated_label_order_is_named_as_one_circle(usual_model: NDArray[np.float64], shift: int) -> None:
    confusion = drawn(np.random.default_rng(1), 1000, usual_model)
    order = np.roll(np.arange(7), shift)
    said = label_warning(renamed(confusion, order.tolist()), RAFDB)
    assert said is not None
    assert said.startswith("predictions of 7 classes look exchanged in a circle (predicted ")
    assert f"accuracy would be {np.trace(confusion) / 1000:.1%}" in said
    for k in range(7):
        assert f"'{RAFDB[k]}' is '{RAFDB[order[k]]}'" in said


def test_the_alphabets_order_for_the_data_sets_is_put_right_and_two_swaps_are_two(
    usual_model: NDArray[np.float64],
) -> None:
    confusion = drawn(np.random.default_rng(2), 3068, usual_model)
    alphabet = [RAFDB.index(name) for name in sorted(RAFDB)]
    said = label_warning(renamed(confusion, alphabet), RAFDB)
    assert said is not None
    assert f"accuracy would be {np.trace(confusion) / 3068:.1%}" in said
    twice = label_warning(renamed(confusion, [3, 1, 2, 0, 4, 6, 5]), RAFDB)
    assert twice is not None
    assert (
        "of 'surprise' and 'happiness' look exchanged and predictions of 'anger' and 'neutral' look exchanged" in twice
    )


def test_two_classes_can_be_exchanged_too() -> None:
    said = label_warning(np.array([[10, 190], [180, 20]]), ("calm", "angry"))
    assert said is not None
    assert "'calm' and 'angry'" in said
    assert "92.5% instead of 7.5%" in said


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_no_class_is_drawn_into_an_exchange_that_it_does_not_need(order: tuple[int, ...]) -> None:
    """What is called `fear` may be `surprise` or `anger` alike, and nothing is called `anger`: a circle would be as accurate as the swap."""
    counts = np.array([[10, 90, 0, 0], [190, 10, 0, 0], [0, 90, 0, 0], [0, 0, 0, 200]])
    said = label_warning(counts[np.ix_(order, order)], [CLASSES[k] for k in order])
    assert said is not None
    assert "circle" not in said
    assert "'surprise'" in said
    assert "'fear'" in said


def knows_nothing(rng: np.random.Generator) -> NDArray[np.float64]:
    """Predicts some classes more often than others, whatever the image; now and then a single one."""
    return np.tile(rng.dirichlet(np.full(7, rng.choice([0.01, 0.2, 1, 5]))), (7, 1))


def is_good(rng: np.random.Generator) -> NDArray[np.float64]:
    """Recalls from 0.5 to 0.95, mistakes anywhere."""
    recall = rng.uniform(0.5, 0.95, 7)
    mistakes = np.array([np.insert(rng.dirichlet(np.full(6, 0.5)), k, 0) for k in range(7)])
    return mistakes * (1 - recall)[:, None] + np.diag(recall)


def has_collapsed(rng: np.random.Generator) -> NDArray[np.float64]:
    """Predicts two to four of the classes only, those well, as models do in their first epochs."""
    kept = rng.choice(7, rng.integers(2, 5), replace=False)
    shares = np.zeros((7, 7))
    shares[:, kept] = rng.dirichlet(np.ones(len(kept)), 7)
    shares[kept] *= 0.3
    shares[kept, kept] += 0.7
    return shares


@pytest.mark.parametrize("model", [knows_nothing, is_good, has_collapsed])
def test_a_right_label_order_is_not_doubted(
    usual_model: NDArray[np.float64], model: Callable[[np.random.Generator], NDArray[np.float64]]
) -> None:
    """The check allows luck one in a thousand: of 500, luck makes at most two, 98.6 % of the time."""
    rng = np.random.default_rng(0)
    for frequencies in (usual_model.sum(axis=1), np.full(7, 1 / 7)):
        doubted = 0
        for images in (30, 100, 300, 1000, 3068) * 100:
            doubted += label_warning(drawn(rng, images, frequencies[:, None] * model(rng)), RAFDB) is not None
        assert doubted <= 2
