"""Conversion of uint8 pictures to network inputs, in torch, shared by both stages."""

from functools import cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def unit_range(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in 0 … 1."""
    return images.movedim(-1, 1).to(torch.float32).div(255)


def imagenet_normalised(unit: Tensor) -> Tensor:
    """[B, 3, H, W] in 0 … 1 -> the same, ImageNet-normalised: (x - mean) / deviation per channel."""
    mean, std = _statistics(unit.device, unit.dtype)
    return (unit - mean) / std


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
