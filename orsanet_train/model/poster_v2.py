"""POSTER V2, the trainable part: image and the landmark network's three grids -> expression logits.

    image ─ IR50 ─ maps of 56, 28, 14 pixels ─ conv, norm ─┐
    landmark features of 28, 14, 7 pixels ─ queries ───────┴▶ window attention, MLP ─ 3 x 49 tokens ─ ViT ─ gate ─ logits

A level's window is the whole grid, and its queries are the prior's tokens, unprojected. Parameter
names are the published checkpoint's, less `relative_position_index`, which only says which row of
the table belongs to which offset.

Shapes: B batch, c a level's width (64, 128, 256), g its grid (28, 14, 7), D token width (768), K classes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_, zeros_

from orsanet_train.model.fusion import HEADS, LAYER_NORM_EPS, MLP, attend
from orsanet_train.model.ir50 import StagedIR50
from orsanet_train.model.model import OUTPUT_LAYER, Expression, ExpressionModel, output_layer_parameters
from orsanet_train.model.orsanet import Gate, Head
from orsanet_train.model_config import POSTER_V2_HEADS, PosterV2Config

GRIDS = (28, 14, 7)
TOKENS = 3 * 49
DROP_PATH = (0.0, 0.125, 0.25)  # of the levels
PRIOR_CHANNELS = (64, 128)  # of MobileFaceNet's grids of 28 and 14 pixels
GAMMA = 1e-5  # initial factor of a level's branches: the landmarks hardly count at first


class PosterV2(ExpressionModel):
    """Build with `build_model`. The segmentation features are not read."""

    frozen_prefixes = ("face_landback.",)
    unread_prefixes = (
        OUTPUT_LAYER, "VIT.patch_embed.", "VIT.eca_block.", "VIT.CON1.", "VIT.IRLinear1.", "VIT.IRLinear2.",
        "VIT.blocks.0.conv.", "VIT.blocks.1.conv.",
        *(f"attn{level}.relative_position_index" for level in (1, 2, 3)),
    )  # fmt: skip

    levels = "VIT.blocks."
    head_weight = "VIT.head.linear.weight"

    def __init__(
        self, config: PosterV2Config, classes: int, segmentation_channels: int, landmark_channels: int
    ) -> None:
        super().__init__(config)
        channels = config.backbone_channels
        self.ir_back = StagedIR50(channels, config.backbone_units)
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(width, width, 3, 2, 1) for width in channels)
        self.window1, self.window2, self.window3 = (Window(width) for width in channels)
        self.attn1, self.attn2, self.attn3 = (
            WindowAttention(width, heads, grid)
            for width, heads, grid in zip(channels, POSTER_V2_HEADS, GRIDS, strict=True)
        )
        self.ffn1, self.ffn2, self.ffn3 = (FeedForward(width) for width in channels)
        self.last_face_conv = nn.Conv2d(landmark_channels, channels[2], 3, 1, 1)
        # The published model has no such layers: its two wide grids have the landmark network's widths.
        self.face_sample1, self.face_sample2 = (
            None if theirs == ours else nn.Conv2d(theirs, ours, kernel_size=1)
            for theirs, ours in zip(PRIOR_CHANNELS, channels[:2], strict=True)
        )
        width = config.width
        self.embed_q = nn.Sequential(nn.Conv2d(channels[0], width, 3, 2, 1), nn.Conv2d(width, width, 3, 2, 1))
        self.embed_k = nn.Sequential(nn.Conv2d(channels[1], width, 3, 2, 1))
        self.embed_v = Embedding(channels[2], width)
        self.VIT = ViT(width, config.depth, classes)
        self.plain_residual = config.residual == "plain"

    def forward(
        self,
        image: Tensor,
        landmark_features_28: Tensor,
        landmark_features_14: Tensor,
        landmark_features: Tensor,
        drop_path: Tensor | None = None,
    ) -> Expression:
        """Image and priors -> logits and features.

        image [B, 3, 112, 112], normalised; landmark features [B, 64, 28, 28], [B, 128, 14, 14] and
        [B, 512, 7, 7]; drop_path [B, *PosterV2Config.drop_path_shape], see ExpressionModel.
        """
        priors = (landmark_features_28, landmark_features_14, landmark_features)
        return self.from_maps(self.maps(image), *priors, drop_path=drop_path)

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.ir_back(image)

    def from_maps(self, maps: tuple[Tensor, ...], *priors: Tensor, drop_path: Tensor | None = None) -> Expression:
        widest, wide, last = priors
        if self.face_sample1 is not None:
            widest = self.face_sample1(widest)
        if self.face_sample2 is not None:
            wide = self.face_sample2(wide)
        grids = []
        for index, (conv, window, attention, feed_forward, feature_map, prior) in enumerate(
            zip(
                (self.conv1, self.conv2, self.conv3), (self.window1, self.window2, self.window3),
                (self.attn1, self.attn2, self.attn3), (self.ffn1, self.ffn2, self.ffn3),
                maps, (widest, wide, self.last_face_conv(last)), strict=True,
            )
        ):  # fmt: skip
            plain = _tokens(conv(feature_map))
            normed = window(plain)
            kept = _kept(drop_path, index, plain)
            attended = attention(_tokens(prior), normed)
            tokens = feed_forward(plain if self.plain_residual else normed, attended, kept)
            grids.append(tokens.transpose(1, 2).unflatten(2, (GRIDS[index], GRIDS[index])))
        embedded = (embed(grid) for embed, grid in zip((self.embed_q, self.embed_k, self.embed_v), grids, strict=True))
        return self.VIT(torch.cat([_tokens(each) for each in embedded], dim=1))

    def repeated_parts(self) -> Iterator[nn.Module]:
        yield from self.ir_back.units()
        yield from self.VIT.blocks

    @classmethod
    def published_unread(cls) -> dict[str, Tensor]:
        with torch.device("meta"):
            layers = nn.ModuleDict({
                "patch_embed": Embedding(256, 768), "CON1": nn.Conv2d(256, 768, 1, bias=False),
                "IRLinear1": nn.Linear(1024, 768), "IRLinear2": nn.Linear(768, 512),
                "eca_block": nn.ModuleDict({"conv": nn.Conv1d(1, 1, 5, bias=False)}),
                "blocks": nn.ModuleList(nn.ModuleDict({"conv": nn.Conv1d(TOKENS + 1, TOKENS + 1, 1)}) for _ in range(2)),
            })  # fmt: skip
            return {**output_layer_parameters(), **{f"VIT.{name}": value for name, value in layers.named_parameters()}}


class Window(nn.Module):
    """Tokens of a grid [B, g g, c] -> normed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens)


class WindowAttention(nn.Module):
    """Queries [B, g g, c] to a source of the same shape, which gives keys and values; with a bias for each offset."""

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads, self.grid = heads, grid
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * grid - 1) ** 2, heads))
        trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, query: Tensor, source: Tensor) -> Tensor:
        q = query.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.qkv(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v, self.bias()).transpose(1, 2).flatten(2))

    def bias(self) -> Tensor:
        """The bias of every pair of a query and a key [heads, g g, g g].

        Row (dy + g - 1)(2g - 1) + dx + g - 1 of the table belongs to the offset (dy, dx) = query - key.
        """
        side = 2 * self.grid - 1
        index = relative_position_index(self.grid, self.relative_position_bias_table.device)
        rows = self.relative_position_bias_table.reshape(side * side, self.heads).index_select(0, index.flatten())
        return rows.unflatten(0, index.shape).permute(2, 0, 1)


def relative_position_index(grid: int, device: torch.device | None = None) -> Tensor:
    """Row of the table for every pair of a query and a key, int64 [g g, g g]; also the published buffer of this name."""
    place = torch.arange(grid, device=device)
    y, x = place.repeat_interleave(grid), place.repeat(grid)
    dy, dx = (axis[:, None] - axis[None, :] + grid - 1 for axis in (y, x))
    return dy * (2 * grid - 1) + dx


class FeedForward(nn.Module):
    """x [B, g g, c] plus the attention, then plus an MLP of it; both times a learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma1, self.gamma2 = (nn.Parameter(torch.full((width,), GAMMA)) for _ in range(2))
        self.mlp = MLP(width, ratio=4)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, attended: Tensor, kept: Tensor) -> Tensor:
        """`kept` [2, B, 1, 1]: factors of both branches."""
        x = x + kept[0] * (self.gamma1 * attended)
        return x + kept[1] * (self.gamma2 * self.mlp(self.norm(x)))


class Embedding(nn.Module):
    """A grid [B, c, g, g] -> [B, D, g, g]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, 1)

    def forward(self, grid: Tensor) -> Tensor:
        return self.proj(grid)


class ViT(nn.Module):
    """147 tokens [B, 147, D] -> expression: a class token, pre-norm blocks, gate and head."""

    def __init__(self, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, TOKENS + 1, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.se_block = Gate(width)
        self.head = Head(width, classes)
        for parameter in (self.cls_token, self.pos_embed):
            trunc_normal_(parameter, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=0.01)
                zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Expression:
        x = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        features = self.se_block(self.norm(x)[:, 0])
        return Expression(self.head(features), features)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); tokens [B, T, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=LAYER_NORM_EPS) for _ in range(2))
        self.attn = SelfAttention(width)
        self.mlp = MLP(width, ratio=4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


def _tokens(grid: Tensor) -> Tensor:
    """[B, c, g, g] -> [B, g g, c]."""
    return grid.flatten(2).transpose(1, 2)


def _kept(drop_path: Tensor | None, level: int, tokens: Tensor) -> Tensor:
    """Factors of a level's two branches, [2, B, 1, 1]."""
    if drop_path is None:
        return tokens.new_ones(2, 1, 1, 1)
    rate = DROP_PATH[level]
    return (drop_path[:, level] >= rate).movedim(0, -1)[..., None, None] / (1 - rate)
