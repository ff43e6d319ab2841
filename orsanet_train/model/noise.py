"""Gaussian noise in the backbone's image, as POSTER's published training adds it: a law of a key and a place.

    level -> level + n, cut to whole levels and to 0 … 255        n normal with mean 0 and variance 30, for each value of its own

The noise of a picture is drawn on its device from one key, by a hash of key and place, in whole numbers. So it has the
same bits on every device and in every batch, and no noise has to be kept or carried.
"""

import math
from functools import cache

import torch
from torch import Tensor

from orsanet_cache.data.images import IMAGE_SIZE

VARIANCE = 30.0  # of levels 0 … 255
KEYS = 2**31  # keys are in 1 … KEYS - 1; 0 is no noise
_DRAWS = 2**16  # equally likely values of the noise


def noised(pixels: Tensor, keys: Tensor) -> Tensor:
    """Views uint8 [B, S, S, 3] with the noise of their keys, int64 [B]; S is 224, or 112 for every second pixel of them."""
    key = keys[:, None, None, None]
    drawn = _quantiles(pixels.device)[_mixed(_places(pixels.shape[1], pixels.device) ^ key) >> 16]
    return torch.where(key > 0, (pixels + drawn).clamp(0, 255).to(torch.uint8), pixels)


def _mixed(x: Tensor) -> Tensor:
    """A hash of whole numbers 0 … 2^32 - 1, onto these, int64. No product needs more than 63 bits."""
    for _ in range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B & 0xFFFFFFFF
    return (x >> 16) ^ x


@cache  # new tensors for every batch would make the host wait for the device
def _places(size: int, device: torch.device) -> Tensor:
    """A hash of every value's place on the 224-pixel grid, int64 [S, S, 3]."""
    with torch.inference_mode(False):
        along = torch.arange(0, IMAGE_SIZE, IMAGE_SIZE // size, device=device)
        channels = torch.arange(3, device=device)
        return _mixed(((along[:, None] * IMAGE_SIZE + along)[..., None] * 3 + channels) + 1)


@cache
def _quantiles(device: torch.device) -> Tensor:
    """The noise rounded down, int16 [_DRAWS]: added to a whole level this is the sum rounded down."""
    with torch.inference_mode(False):
        shares = (torch.arange(_DRAWS, dtype=torch.float64) + 0.5) / _DRAWS
        return (math.sqrt(VARIANCE) * torch.special.ndtri(shares)).floor().to(torch.int16).to(device)
