"""Noise has its law, is a function of a picture's key alone, and is the same on every grid."""

import numpy as np
import torch

from orsanet_train.model.inputs import model_image
from orsanet_train.model.noise import KEYS, VARIANCE, noised

PICTURES = 8


def keys(count: int = PICTURES) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(1, KEYS, count))


def test_levels_get_normal_noise_rounded_down_each_independent_of_its_neighbours_and_of_other_pictures() -> None:
    """Rounding down takes half a level and adds a twelfth to the variance. Standard errors of n values: s / sqrt(n), s² sqrt(2 / n)."""
    drawn = noised(torch.full((PICTURES, 112, 112, 3), 128, dtype=torch.uint8), keys()).double().numpy() - 128 + 0.5
    n, variance = drawn.size, VARIANCE + 1 / 12
    assert abs(drawn.mean()) < 5 * np.sqrt(variance / n)
    assert abs(drawn.var() - variance) < 5 * variance * np.sqrt(2 / n)
    assert abs((drawn**4).mean() / variance**2 - 3) < 0.1  # of a normal law
    neighbours = (
        (drawn[:, 1:], drawn[:, :-1]), (drawn[:, :, 1:], drawn[:, :, :-1]), (drawn[..., 1:], drawn[..., :-1]), (drawn[1:], drawn[:-1]),
    )  # fmt: skip
    for one, other in neighbours:
        assert abs((one * other).mean()) < 5 * variance / np.sqrt(one.size)


def test_the_noise_of_a_picture_depends_on_its_key_alone_and_key_0_is_none() -> None:
    pixels = torch.randint(256, (PICTURES, 112, 112, 3), dtype=torch.uint8)
    some = keys()
    some[3] = 0
    together = noised(pixels, some)
    assert together.dtype == torch.uint8
    assert torch.equal(together[3], pixels[3])
    for n in (0, 7):
        assert torch.equal(noised(pixels[n : n + 1], some[n : n + 1])[0], together[n])
        assert not torch.equal(together[n], pixels[n])
    assert not torch.equal(noised(pixels, keys() + 1)[0], together[0])


def test_the_smaller_picture_has_the_noise_of_every_second_pixel_and_levels_stay_in_their_range() -> None:
    pixels = torch.randint(2, (2, 224, 224, 3), dtype=torch.uint8) * 255
    large, small = noised(pixels, keys(2)), noised(pixels[:, ::2, ::2], keys(2))
    assert torch.equal(large[:, ::2, ::2], small)
    assert large[pixels == 255].min() > 200  # nothing went round from 255 to 0
    assert large[pixels == 0].max() < 55


def test_the_backbones_image_is_erased_after_the_noise() -> None:
    pixels, erased = torch.randint(256, (2, 112, 112, 3), dtype=torch.uint8), torch.tensor([[0, 0, 224, 112]] * 2)
    image = model_image(pixels, erased, noise=keys(2))
    assert torch.equal(image, model_image(noised(pixels, keys(2)), erased))
    assert not image[..., :56].any()
