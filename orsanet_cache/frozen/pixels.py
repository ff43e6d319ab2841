"""Conversion of uint8 pictures to network inputs, in torch, shared by both stages."""

from functools import cache

import torch
from torch import Tensor

from orsanet_cache.data.images import IMAGE_SIZE

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def unit_range(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in 0 … 1."""
    return images.movedim(-1, 1).to(torch.float32).div(255)


def imagenet_normalised(unit: Tensor) -> Tensor:
    """[B, 3, H, W] in 0 … 1 -> the same, ImageNet-normalised: (x - mean) / deviation per channel."""
    mean, std = _statistics(unit.device, unit.dtype)
    return (unit - mean) / std


def inside(erased: Tensor, size: int) -> Tensor:
    """Rectangles int64 [B, 4] (top, left, height, width) on the 224-pixel grid -> bool [B, size, size].

    A size of 112 has every second pixel of the grid, a size of 56 every fourth, and so on.
    """
    position = torch.arange(0, IMAGE_SIZE, IMAGE_SIZE // size, device=erased.device)
    top, left, height, width = erased[:, :, None].unbind(dim=1)
    inside_y = (position >= top) & (position < top + height)
    inside_x = (position >= left) & (position < left + width)
    return inside_y[:, :, None] & inside_x[:, None, :]


def erased_unit(unit: Tensor, erased: Tensor) -> Tensor:
    """Pictures [B, 3, S, S] in 0 … 1 with the ImageNet mean in the rectangles [B, 4]: exactly zero once normalised.

    No picture of whole colour levels can have this value. S is 224, or 112 for every second pixel.
    """
    mean, _ = _statistics(unit.device, unit.dtype)
    return torch.where(inside(erased, unit.shape[-1])[:, None], mean, unit)


def displayable(normalised: Tensor) -> Tensor:
    """The inverse of unit_range and imagenet_normalised: float [B, 3, H, W] -> uint8 [B, H, W, 3]."""
    mean, std = _statistics(normalised.device, normalised.dtype)
    return (normalised * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8).movedim(1, -1)


@cache  # new tensors for every batch would make the host wait for the device
def _statistics(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and deviation, each [3, 1, 1]."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, device=device, dtype=dtype) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean[:, None, None], std[:, None, None]
