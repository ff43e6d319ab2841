"""Views made from the picture alone: resized, flipped, erased."""

from itertools import combinations

import numpy as np
import pytest
import torch
from encoded_pictures import IMAGE, PICTURE, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from orsanet_cache import OrsanetError
from orsanet_cache.data.augmentation import augmentations
from orsanet_cache.data.images import (
    ERASED_COLOUR,
    IMAGE_SIZE,
    MIN_SIDE,
    Pixels,
    every_second_pixel,
    view_pixels,
)
from orsanet_cache.data.views import ERASED, UNSEEDED, View
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range

Transpose = Image.Transpose


@pytest.mark.parametrize(("height", "width"), [(100, 120), (224, 224), (500, 333), (16, 400)])
def test_a_view_is_pillows_resize_of_the_whole_picture(height: int, width: int) -> None:
    rgb = picture(3, height, width)
    bilinear = Image.fromarray(rgb).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    clean = view_pixels(rgb, "clean")
    assert clean.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert clean.dtype == np.uint8
    assert np.array_equal(clean, np.asarray(bilinear))


def test_hflip_is_the_resize_of_the_flipped_picture() -> None:
    rgb = picture(4, 100, 121)
    mirrored = Image.fromarray(rgb).transpose(Transpose.FLIP_LEFT_RIGHT)
    expected = mirrored.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    assert np.array_equal(view_pixels(rgb, "hflip"), np.asarray(expected))
    assert not np.array_equal(view_pixels(rgb, "hflip"), view_pixels(rgb, "clean"))


def test_the_flipped_view_of_the_mirrored_picture_is_the_clean_view() -> None:
    mirrored = np.asarray(IMAGE.transpose(Transpose.FLIP_LEFT_RIGHT))
    assert not np.array_equal(mirrored, PICTURE)
    assert np.array_equal(view_pixels(mirrored, "hflip"), view_pixels(PICTURE, "clean"))


def test_the_views_of_the_picture_alone_are_these() -> None:
    assert [*UNSEEDED, *ERASED] == ["clean", "hflip", *SIDES]


@pytest.mark.parametrize("view", [*UNSEEDED, *ERASED])
@pytest.mark.parametrize("size", [(32, 40), (IMAGE_SIZE, IMAGE_SIZE)])  # the second needs no resize
def test_views_leave_their_input_alone(view: str, size: tuple[int, int]) -> None:
    original = picture(0, *size)
    rgb = original.copy()
    view_pixels(rgb, view)
    assert np.array_equal(rgb, original)


# Side of a square of that share of 224 x 224 pixels: 224 times the root of the share, rounded.
SIDES = {"erase-10": 71, "erase-20": 100, "erase-30": 123}


def square(pixels: Pixels, clean: Pixels) -> tuple[int, int, int, int]:
    """Top, left, height and width of the box around all pixels that differ."""
    rows, columns = np.nonzero((pixels != clean).any(axis=2))
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left


def plain(number: int) -> Pixels:
    """One of many plain pictures, each of a colour that differs from the erased one in every pixel."""
    return np.full((IMAGE_SIZE, IMAGE_SIZE, 3), (number % 256, number // 256, 255), dtype=np.uint8)


@given(
    view=st.sampled_from(sorted(SIDES)),
    seed=st.integers(0, 1000),
    height=st.integers(MIN_SIDE, 300),
    width=st.integers(MIN_SIDE, 300),
)
@settings(max_examples=60, deadline=None)
def test_erasing_is_one_square_of_one_colour_and_leaves_every_other_pixel(
    view: str, seed: int, height: int, width: int
) -> None:
    """Of smooth pictures a border pixel may have the erased colour by chance: the box is then one of those that hold it."""
    rgb, side = picture(seed, height, width), SIDES[view]
    clean, erased = view_pixels(rgb, "clean"), view_pixels(rgb, view)
    top, left, *size = square(erased, clean)
    assert max(size) <= side
    places = [
        (y, x)
        for y in range(max(0, top + size[0] - side), min(top, IMAGE_SIZE - side) + 1)
        for x in range(max(0, left + size[1] - side), min(left, IMAGE_SIZE - side) + 1)
    ]
    expected = []
    for y, x in places:
        expected.append(clean.copy())
        expected[-1][y : y + side, x : x + side] = ERASED_COLOUR
    assert any(np.array_equal(erased, one) for one in expected)


@pytest.mark.parametrize("view", SIDES)
def test_erased_views_have_the_stated_share_and_are_the_same_every_time(view: str) -> None:
    side = SIDES[view]
    assert abs(side - (int(view.removeprefix("erase-")) / 100) ** 0.5 * IMAGE_SIZE) <= 0.5  # whole pixels
    for number in range(20):
        erased = view_pixels(plain(number), view)
        assert square(erased, plain(number))[2:] == (side, side)
        assert (erased == ERASED_COLOUR).all(axis=2).sum() == side**2
        assert np.array_equal(view_pixels(plain(number), view), erased)


def test_the_place_depends_on_the_picture_and_on_the_share() -> None:
    """A pixel of one level more is another picture. One draw scaled to the room that each square has would agree within 0.01."""
    other = plain(0)
    other[0, 0, 0] += 1
    places = [
        np.array(square(view_pixels(rgb, view), rgb)[:2]) / (IMAGE_SIZE - side)
        for view, side in SIDES.items()
        for rgb in (plain(0), other)
    ]
    assert all(np.abs(one - two).max() > 0.02 for one, two in combinations(places, 2))


@pytest.mark.parametrize("view", SIDES)
def test_over_many_pictures_the_square_goes_everywhere_evenly(view: str) -> None:
    """Tops and lefts are independent and uniform, so corners are reached as often as any place."""
    room, count = IMAGE_SIZE - SIDES[view], 1200
    places = np.array([square(view_pixels(plain(n), view), plain(n))[:2] for n in range(count)])
    # At most 154 places along an axis: 1200 draws miss a given one with a probability of 4e-4, and these pictures are fixed.
    assert places.min(axis=0).tolist() == [0, 0]
    assert places.max(axis=0).tolist() == [room, room]
    thirds = 3 * places // (room + 1)
    cells = np.bincount(thirds[:, 0] * 3 + thirds[:, 1], minlength=9)
    # Nine cells of nearly equal chance: within 5 binomial standard deviations, and 3 % for thirds of whole pixels.
    np.testing.assert_allclose(cells, count / 9, rtol=5 * (8 / count) ** 0.5 + 0.03)


DIGEST = "5e" * 32  # of a picture's file


@pytest.mark.parametrize("number", range(12))
def test_an_augmented_view_is_the_clean_or_flipped_one_with_its_rectangle_erased(number: int) -> None:
    """The sides of a rectangle, its place and the flip are those that training draws again."""
    rgb, view = picture(7, 120, 100), str(View("augmented", number))
    (flipped,), (rectangle,) = augmentations(np.frombuffer(bytes.fromhex(DIGEST), np.uint8)[None], number, IMAGE_SIZE)
    top, left, height, width = rectangle.tolist()
    expected = view_pixels(rgb, "hflip" if flipped else "clean")
    expected[top : top + height, left : left + width] = ERASED_COLOUR
    assert np.array_equal(view_pixels(rgb, view, DIGEST), expected)


def test_another_file_has_other_draws() -> None:
    """One of them may be equal by chance: in a quarter of all cases both are without a rectangle, and half of those are mirrored alike."""
    views = [str(View("augmented", number)) for number in range(12)]
    ours, others = (
        [view_pixels(picture(7, 120, 100), view, digest) for view in views] for digest in (DIGEST, "5f" * 32)
    )
    assert sum(np.array_equal(one, other) for one, other in zip(ours, others, strict=True)) < 6


def test_without_the_files_digest_an_augmented_view_is_refused() -> None:
    with pytest.raises(OrsanetError, match="view 'augmented-seed2' is drawn by the digest of the picture's file"):
        view_pixels(picture(0, 40, 40), "augmented-seed2")


def test_the_erased_colour_is_the_nearest_to_zero_after_normalisation() -> None:
    levels = torch.arange(256, dtype=torch.uint8)[None, :, None, None].expand(1, 256, 1, 3).numpy()
    away = imagenet_normalised(unit_range(torch.from_numpy(levels.copy())))[0, :, :, 0].abs()  # [3, 256]
    assert tuple(away.argmin(dim=1).tolist()) == ERASED_COLOUR
    assert away.min(dim=1).values.max() < 0.009


def test_the_small_image_of_a_flip_is_not_the_flip_of_the_small_image() -> None:
    """The trap: every second pixel keeps the even columns, and a flip of an even width makes them the odd ones."""
    rgb = picture(5, 100, 120)
    clean, flipped = view_pixels(rgb, "clean"), view_pixels(rgb, "hflip")
    assert np.array_equal(every_second_pixel(flipped), flipped[::2, ::2])
    assert not np.array_equal(every_second_pixel(flipped), every_second_pixel(clean)[:, ::-1])


def test_every_second_pixel_is_the_published_nearest_resize() -> None:
    batch = np.stack([view_pixels(picture(seed), "clean") for seed in range(2)])
    planes = torch.from_numpy(batch).movedim(-1, 1).float()
    nearest = torch.nn.functional.interpolate(planes, size=IMAGE_SIZE // 2, mode="nearest").movedim(1, -1)
    assert np.array_equal(every_second_pixel(batch), nearest.numpy())
