"""GFNet (Rao et al., 2021): tokens are mixed by learned filters in the frequency domain.

    filter: tokens as a map [h, w] ─ rfft2 ─▶ times a complex weight per frequency and channel ─ irfft2 ─▶ tokens
    block:  x + gamma droppath( MLP(LN(filter(LN(x)))) )        gamma: in the pyramids alone, otherwise 1

One stage, with patches of 16 pixels, or a pyramid of four, with patches of 4 pixels and a 2 x 2
convolution between stages. The mean of the tokens is classified; there is no class token.

Shapes: B images, h x w tokens of C channels, K classes.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from orsanet_cache.errors import OrsanetError

EPS = 1e-6  # of every LayerNorm
DEVIATION = 0.02  # of filters, linear weights and the position at the start
GAMMA = 1e-3  # of a pyramid's branches at the start


class Shape(NamedTuple):
    """The sizes of a published variant."""

    widths: tuple[int, ...]  # of each stage
    depths: tuple[int, ...]
    drop_path: float  # of the last block; the rates rise linearly from 0

    @property
    def pyramid(self) -> bool:
        return len(self.widths) > 1


VARIANTS = {
    "gfnet-ti": Shape((256,), (12,), 0.0),
    "gfnet-xs": Shape((384,), (12,), 0.0),
    "gfnet-s": Shape((384,), (19,), 0.15),
    "gfnet-b": Shape((512,), (19,), 0.25),
    "gfnet-h-ti": Shape((64, 128, 256, 512), (3, 3, 10, 3), 0.0),
    "gfnet-h-s": Shape((96, 192, 384, 768), (3, 3, 10, 3), 0.0),
    "gfnet-h-b": Shape((96, 192, 384, 768), (3, 3, 27, 3), 0.0),
}
PATCH, PYRAMID_PATCH = 16, 4


class GFNet(nn.Module):
    """A variant at one size of images.

    Args:
        shape: of VARIANTS.
        classes: K.
        image_size: pixels of a side; a multiple of the patch, in a pyramid of 32.
        patch_size: pixels of a token's side; None: the published 16, in a pyramid 4.
        drop_path: rate of the last block; None: the variant's.

    Raises OrsanetError for an image size that is no such multiple.
    """

    def __init__(
        self, shape: Shape, classes: int, image_size: int, patch_size: int | None = None, drop_path: float | None = None
    ) -> None:
        super().__init__()
        patch = patch_size or (PYRAMID_PATCH if shape.pyramid else PATCH)
        reduced = patch * 2 ** (len(shape.widths) - 1)
        if image_size % reduced:
            raise OrsanetError(
                f"image_size = {image_size}: this GFNet needs a multiple of {reduced}; use --set image_size="
                f"{max(reduced, image_size // reduced * reduced)}"
            )
        side = image_size // patch
        rates = np.linspace(0, shape.drop_path if drop_path is None else drop_path, sum(shape.depths)).tolist()
        self.position = nn.Parameter(torch.zeros(1, side * side, shape.widths[0]))
        self.embed, self.stages = nn.ModuleList(), nn.ModuleList()
        before, kernel = 3, patch
        for width, depth in zip(shape.widths, shape.depths, strict=True):
            self.embed.append(nn.Conv2d(before, width, kernel, stride=kernel))
            own, rates = rates[:depth], rates[depth:]
            self.stages.append(nn.Sequential(*(Block(width, side, rate, shape.pyramid) for rate in own)))
            before, kernel, side = width, 2, side // 2
        self.norm = nn.LayerNorm(before, EPS)
        self.head = nn.Linear(before, classes)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.position, std=DEVIATION)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> logits [B, K]."""
        x = self.embed[0](image)
        height, width = x.shape[2:]
        x = x.flatten(2).transpose(1, 2) + self.position
        x = self.stages[0](x)
        for embed, stage in zip(self.embed[1:], self.stages[1:], strict=True):
            x = embed(x.transpose(1, 2).unflatten(2, (height, width)))
            height, width = x.shape[2:]
            x = stage(x.flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(dim=1))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=DEVIATION)
        nn.init.zeros_(module.bias)


class Block(nn.Module):
    """Filter and MLP in one residual branch."""

    def __init__(self, width: int, side: int, drop_path: float, scaled: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPS)
        self.filter = GlobalFilter(width, side)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.gamma = nn.Parameter(torch.full((width,), GAMMA)) if scaled else None
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """[B, h w, C] -> the same shape."""
        branch = self.mlp(self.norm2(self.filter(self.norm1(x))))
        if self.gamma is not None:
            branch = self.gamma * branch
        if self.training and self.drop_path:
            kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path
            branch = branch * kept / (1 - self.drop_path)
        return x + branch


class GlobalFilter(nn.Module):
    """A circular convolution as large as the map, one per channel, as a product of frequencies."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(DEVIATION * torch.randn(side, side // 2 + 1, width, 2))  # real and imaginary parts

    def forward(self, x: Tensor) -> Tensor:
        """[B, side², C] -> the same shape. The transforms are in float32, under autocast too."""
        with torch.autocast(x.device.type, enabled=False):
            grid = x.float().unflatten(1, (self.side, self.side))
            frequencies = torch.fft.rfft2(grid, dim=(1, 2), norm="ortho")
            filtered = frequencies * torch.view_as_complex(self.weight.float())
            back: Tensor = torch.fft.irfft2(filtered, s=(self.side, self.side), dim=(1, 2), norm="ortho")
        return back.flatten(1, 2)
