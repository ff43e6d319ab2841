"""Erasing the picture that the model sees is erasing the view that it was taken from."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_train.model.inputs import erase, model_image


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


def test_the_image_is_the_views_even_pixels_normalised_and_zero_where_it_is_erased() -> None:
    view = torch.randint(0, 256, (2, 224, 224, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = imagenet_normalised(unit_range(view))
    assert torch.equal(model_image(view[:, ::2, ::2]), expected[..., ::2, ::2])
    expected[0, :, 10:31, 100:150] = 0
    image = model_image(view[:, ::2, ::2], torch.tensor([[10, 100, 21, 50], [0, 0, 0, 0]]))
    assert torch.equal(image, expected[..., ::2, ::2])
    assert image.is_contiguous()
