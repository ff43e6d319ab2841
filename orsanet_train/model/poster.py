"""POSTER, the trainable part: image and cached landmark features -> expression logits.

    image ─ IR50 ─ tokens ─ pyramid of two-way cross-attention(· , landmark features) ─ gate ─ logits

Parameter names are the published checkpoint's. The tokens, the pyramid around the blocks, gate and
head are ORSANet's, which took them from POSTER. The block differs: both token sets ask the other
one, from the same input, and no query is projected.

    image    += attend(q = norm1(landmark), kv = norm1(image))       image    += mlp1(norm2(image))
    landmark += attend(q = norm3(image),    kv = norm3(landmark))    landmark += mlp2(norm4(landmark))

Shapes: B batch, D token width (512), w a scale's width, K classes.
"""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from orsanet_train.model.fusion import LAYER_NORM_EPS, MLP, TOKENS, CrossAttention, TokenPyramid
from orsanet_train.model.ir50 import IR50
from orsanet_train.model.model import OUTPUT_LAYER, Expression, ExpressionModel, output_layer_parameters
from orsanet_train.model.orsanet import Gate, Head, published_tokens, spatial_tokens
from orsanet_train.model_config import PosterConfig


class Poster(ExpressionModel):
    """Build with `build_model`. The segmentation features are not read."""

    frozen_prefixes = ("face_landback.",)
    unread_prefixes = (OUTPUT_LAYER, "pyramid_fuse.cls_token")

    def __init__(self, config: PosterConfig, classes: int, segmentation_channels: int, landmark_channels: int) -> None:
        super().__init__(config)
        width = config.width
        # The published model has no such layer: its token width is that of the landmark features.
        same = landmark_channels == width
        self.landmark_sample = None if same else nn.Conv2d(landmark_channels, width, kernel_size=1)
        self.ir_back = IR50(config.backbone_channels, config.backbone_units)
        self.ir_layer = nn.Linear(4 * config.backbone_channels[-1], width)
        self.image_tokens = published_tokens if config.tokens == "published" else spatial_tokens
        self.pyramid_fuse = TokenPyramid(width, config.depth, True, 4, lambda w: PosterBlock(w, config.mixing))
        self.mixing = config.mixing
        self.se_block = Gate(width)
        self.head = Head(width, classes)

    def forward(self, image: Tensor, landmark_features: Tensor, drop_path: Tensor | None = None) -> Expression:
        """Image and prior -> logits and features.

        image [B, 3, 112, 112], normalised; landmark_features [B, 512, 7, 7]; drop_path
        [B, *PosterConfig.drop_path_shape], see ExpressionModel.
        """
        return self.from_maps(self.maps(image), landmark_features, drop_path=drop_path)

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.ir_back(image),)

    def from_maps(self, maps: tuple[Tensor, ...], *priors: Tensor, drop_path: Tensor | None = None) -> Expression:
        (landmark_features,) = priors
        if self.landmark_sample is not None:
            landmark_features = self.landmark_sample(landmark_features)
        tokens = self.ir_layer(self.image_tokens(maps[-1]))
        features = self.se_block(self.pyramid_fuse(tokens, landmark_features.flatten(2).transpose(1, 2), drop_path))
        return Expression(self.head(features), features)

    def repeated_parts(self) -> Iterator[nn.Module]:
        yield from self.ir_back.units()
        yield from self.pyramid_fuse.blocks

    def other_variant(self, names: Collection[str]) -> str:
        mixing = "pyramid_fuse.blocks.0.block_l.conv.weight" in names
        if mixing == self.mixing:
            return ""
        data_set, value = ("RAF-DB", "true") if mixing else ("AffectNet", "false")
        return f"a checkpoint of the variant published for {data_set}; pass --set model.mixing={value}"

    @classmethod
    def published_unread(cls) -> dict[str, Tensor]:
        with torch.device("meta"):
            return {**output_layer_parameters(), "pyramid_fuse.cls_token": torch.empty(1, 1, 512)}


class PosterBlock(nn.Module):
    """Tokens [B, 100, w] -> [B, 100, w]; with `mixing` a 1x1 convolution over tokens at the end."""

    def __init__(self, width: int, mixing: bool) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width, eps=LAYER_NORM_EPS) for _ in range(4))
        self.attn_img, self.attn_lm = CrossAttention(width), CrossAttention(width)
        self.mlp1, self.mlp2 = MLP(width), MLP(width)
        self.conv = nn.Conv1d(TOKENS, TOKENS, 1) if mixing else None

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """`kept` [4, B, 1, 1]: factors of the branches, in the order in which they are added."""
        image, landmark = tokens.chunk(2, dim=1)
        (image_1, landmark_1), (image_3, landmark_3) = (norm(tokens).chunk(2, 1) for norm in (self.norm1, self.norm3))
        image = image + kept[0] * self.attn_img(landmark_1, image_1)
        image = image + kept[1] * self.mlp1(self.norm2(image))
        landmark = landmark + kept[2] * self.attn_lm(image_3, landmark_3)
        landmark = landmark + kept[3] * self.mlp2(self.norm4(landmark))
        mixed = torch.cat([image, landmark], dim=1)
        return mixed if self.conv is None else self.conv(mixed)
