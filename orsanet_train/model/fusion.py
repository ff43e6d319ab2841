"""Fusion of priors and image: SSGM (semantic guidance) and MCM (multi-scale cross-interaction).

SSGM, a SPADE residual block on the 7x7 grid, with x the image tokens and s the segmentation prior:

    x + conv_1(act(norm_1(conv_0(act(norm_0(x, s))), s)))        norm(x, s) = IN(x) * (1 + gamma(s)) + beta(s)

(As published in code. The paper's Eq. 5 has no "1 +", which is the form "paper".)

MCM and POSTER's pyramid treat the 100 tokens (mean + 49 of the image, mean + 49 of the landmark
features) as the channels of 1-d convolutions, which make two narrower scales of them, w/2 and w/4.
In every level each scale runs a block, then s is added to m and m to l. The output is the image's
mean token of the widest scale.

Shapes: B batch, D token width (512 as published), w a scale's width, T = 49 grid tokens.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu, normalize, scaled_dot_product_attention

Spade = Literal["published", "paper"]
Query = Literal["published", "projected"]
BlockOfWidth = Callable[[int], nn.Module]

GRID_TOKENS = 49
TOKENS = 2 * (GRID_TOKENS + 1)  # image and landmark tokens, each with its mean in front
HEADS = 8
DROP_PATH = 0.1  # of the deepest level; grows linearly from 0
LAYER_NORM_EPS = 1e-6


class SPADE(nn.Module):
    """x [B, D, 7, 7] normalised per channel, then scaled and shifted per position.

    The scales and shifts are computed from s [B, D, 7, 7]. `form` "published" scales by 1 + gamma,
    "paper" by gamma.
    """

    def __init__(self, width: int, form: Spade = "published") -> None:
        super().__init__()
        hidden = width // 4
        self.offset = 1 if form == "published" else 0
        self.norm = nn.InstanceNorm2d(width, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(width, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, width, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, width, 3, padding=1)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        shared = self.mlp_shared(s)
        return self.norm(x) * (self.offset + self.mlp_gamma(shared)) + self.mlp_beta(shared)


class SpectralConv(nn.Module):
    """3x3 convolution [B, D, H, W] -> [B, D, H, W] by W / sigma, sigma = u · W v the largest singular value of W as [D, 9 D].

    One power iteration per training forward changes `weight_u` and `weight_v`, as published. The
    iteration and sigma are always computed in float32, also under autocast.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        plain = nn.Conv2d(width, width, 3)
        self.weight_orig = plain.weight
        self.bias = plain.bias
        self.weight_u: Tensor
        self.weight_v: Tensor
        self.register_buffer("weight_u", normalize(torch.randn(width), dim=0))
        self.register_buffer("weight_v", normalize(torch.randn(9 * width), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cuda" if x.is_cuda else "cpu", enabled=False):  # the meta device has no autocast
            weight = self.weight_orig / self._largest_singular_value()
        return conv2d(x, weight, self.bias, padding=1)

    def _largest_singular_value(self) -> Tensor:
        matrix = self.weight_orig.flatten(1)
        if not self.training:
            return torch.dot(self.weight_u, torch.mv(matrix, self.weight_v))
        with torch.no_grad():
            v = normalize(torch.mv(matrix.T, self.weight_u), dim=0, eps=1e-12)
        stretched = torch.mv(matrix, v)
        with torch.no_grad():
            u = normalize(stretched, dim=0, eps=1e-12)
            self.weight_u.copy_(u)
            self.weight_v.copy_(v)
        return torch.dot(u, stretched)


class SSGM(nn.Module):
    """SPADE residual block without a learned shortcut; both convolutions are spectrally normalised."""

    def __init__(self, width: int, form: Spade = "published") -> None:
        super().__init__()
        self.conv_0 = SpectralConv(width)
        self.conv_1 = SpectralConv(width)
        self.norm_0 = SPADE(width, form)
        self.norm_1 = SPADE(width, form)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        y = self.conv_0(leaky_relu(self.norm_0(x, s), 0.2))
        return x + self.conv_1(leaky_relu(self.norm_1(y, s), 0.2))


class CrossAttention(nn.Module):
    """Attention of queries [B, 50, w] to a source [B, 50, w], which gives keys and values.

    The queries are not projected as published in code. With `query` "projected" they are multiplied
    by a matrix first, without bias (paper, Eq. 6).
    """

    def __init__(self, width: int, query: Query = "published") -> None:
        super().__init__()
        self.q = nn.Linear(width, width, bias=False) if query == "projected" else None
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, query: Tensor, source: Tensor) -> Tensor:
        projected = query if self.q is None else self.q(query)
        q = projected.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        k, v = self.kv(source).unflatten(-1, (2, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, [B, heads, T, w / heads] each; `bias` [heads, T, T] is added to the products.

    It is computed in float32 on a CPU, where the half-precision kernel is far slower.
    """
    if q.shape[0] == 0:  # of a rank without rows; on a GPU Flash and cuDNN refuse it (pytorch #133780)
        return q + k + v  # carries their gradients, which other ranks wait for
    if q.is_cuda:
        return scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype))
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        return scaled_dot_product_attention(q.to(wide), k.to(wide), v.to(wide), None if bias is None else bias.to(wide))


class MLP(nn.Module):
    """Linear, GELU, linear on tokens [B, T, w]; `ratio` times as wide inside."""

    def __init__(self, width: int, ratio: int = 2) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class CrossFusionBlock(nn.Module):
    """Tokens [B, 100, w] -> [B, 100, w]: cross-attention, an MLP, a 1x1 convolution over tokens.

    Landmark tokens are the queries; image tokens are the keys and values. Ablations (paper, Table
    6): without `cross_interaction` the block has no attention and no norm of it, and the image
    tokens have only their MLP. Without `reintegration` the block has no scale of the landmark
    tokens and no mixing convolution, and passes both token sets on side by side. (With several
    scales, the convolutions between scales still run over all tokens.)
    """

    def __init__(self, width: int, cross_interaction: bool, reintegration: bool, query: Query = "published") -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS) if cross_interaction else None
        self.attn_img = CrossAttention(width, query) if cross_interaction else None
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = MLP(width)
        self.scale = nn.Parameter(torch.ones(1)) if reintegration else None
        self.conv = nn.Conv1d(TOKENS, TOKENS, 1) if reintegration else None

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """`kept` [2, B, 1, 1]: factors of the attention's and of the MLP's branch."""
        image, landmark = tokens.chunk(2, dim=1)
        if self.attn_img is not None and self.norm1 is not None:
            normed_image, normed_landmark = self.norm1(tokens).chunk(2, dim=1)
            image = image + kept[0] * self.attn_img(normed_landmark, normed_image)
        image = image + kept[1] * self.mlp(self.norm2(image))
        if self.conv is None or self.scale is None:
            return torch.cat([image, landmark], dim=1)
        return self.conv(torch.cat([image, landmark * self.scale], dim=1))


class Level(nn.Module):
    """One block per scale, then the narrower scales are added into the wider ones."""

    def __init__(self, width: int, multi_scale: bool, block: BlockOfWidth) -> None:
        super().__init__()
        self.block_l = block(width)
        if multi_scale:
            self.block_m = block(width // 2)
            self.block_s = block(width // 4)
            self.upsample_m = nn.ConvTranspose1d(TOKENS, TOKENS, kernel_size=2, stride=2)
            self.upsample_s = nn.ConvTranspose1d(TOKENS, TOKENS, kernel_size=2, stride=2)

    def forward(self, scales: list[Tensor], kept: Tensor) -> list[Tensor]:
        """`kept` [S, branches, B, 1, 1]: factors of the branches of every scale."""
        if len(scales) == 1:
            return [self.block_l(scales[0], kept[0])]
        large, middle, small = (
            block(scale, factors)
            for block, scale, factors in zip((self.block_l, self.block_m, self.block_s), scales, kept, strict=True)
        )
        middle = middle + self.upsample_s(small)
        large = large + self.upsample_m(middle)
        return [large, middle, small]


class TokenPyramid(nn.Module):
    """Image tokens [B, 49, D] and landmark tokens [B, 49, D] -> expression feature [B, D].

    Args:
        width: D, a multiple of 32.
        depth: number of levels.
        multi_scale: whether to use three scales (D, D/2, D/4) or only D.
        branches: of a block, each of which may be dropped.
        block: makes the block of a scale's width, called with its tokens [B, 100, w] and the
            factors of its branches [branches, B, 1, 1].
    """

    def __init__(self, width: int, depth: int, multi_scale: bool, branches: int, block: BlockOfWidth) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID_TOKENS + 1, width))
        self.multi_scale = multi_scale
        self.branches = branches
        if multi_scale:
            self.downsample_m = nn.Conv1d(TOKENS, TOKENS, kernel_size=2, stride=2)
            self.downsample_s = nn.Conv1d(TOKENS, TOKENS, kernel_size=4, stride=4)
        self.blocks = nn.ModuleList(Level(width, multi_scale, block) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, image: Tensor, landmark: Tensor, drop_path: Tensor | None = None) -> Tensor:
        """`drop_path` [B, levels, scales, branches], uniform in 0 … 1, decides which branches are dropped; None drops none."""
        image = _with_mean(image) + self.pos_embed
        large = torch.cat([image, _with_mean(landmark)], dim=1)
        scales = [large, self.downsample_m(large), self.downsample_s(large)] if self.multi_scale else [large]
        depth = len(self.blocks)
        for index, level in enumerate(self.blocks):
            rate = DROP_PATH * index / max(depth - 1, 1)
            if drop_path is None:
                kept = large.new_ones(len(scales), self.branches, 1, 1, 1)
            else:
                kept = (drop_path[:, index] >= rate).movedim(0, -1)[..., None, None] / (1 - rate)
            scales = level(scales, kept)
        return self.norm(scales[0][:, 0])


class MCM(TokenPyramid):
    """ORSANet's pyramid, of CrossFusionBlocks.

    Args:
        width: D, a multiple of 32.
        depth: number of levels.
        multi_scale: whether to use three scales (D, D/2, D/4) or only D.
        cross_interaction: see CrossFusionBlock.
        reintegration: see CrossFusionBlock.
        query: see CrossAttention.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        multi_scale: bool,
        cross_interaction: bool,
        reintegration: bool,
        query: Query = "published",
    ) -> None:
        super().__init__(
            width, depth, multi_scale, 2, lambda w: CrossFusionBlock(w, cross_interaction, reintegration, query)
        )


def _with_mean(tokens: Tensor) -> Tensor:
    """[B, T, D] -> [B, 1 + T, D], the mean token first."""
    return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
