"""ORSANet, the trainable part: image and cached priors -> expression logits.

    image ─ IR50 ─ tokens ─ SSGM(· , segmentation prior) ─ MCM(· , landmark features) ─ gate ─ logits

Parameter names are the published checkpoint's.

Shapes: B batch, D token width (512), K classes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from orsanet_cache.store.schema import LAPA_CLASSES
from orsanet_train.model.fusion import MCM, SSGM
from orsanet_train.model.ir50 import IR50
from orsanet_train.model.model import OUTPUT_LAYER, Expression, ExpressionModel, output_layer_parameters
from orsanet_train.model_config import ORSANetConfig


class ORSANet(ExpressionModel):
    """Build with `build_model`; `segmentation_channels` is the width of the store's segmentation features."""

    frozen_prefixes = ("face_segment.", "face_landback.")
    unread_prefixes = (OUTPUT_LAYER, "pyramid_fuse.cls_token")

    def __init__(self, config: ORSANetConfig, classes: int, segmentation_channels: int, landmark_channels: int) -> None:
        super().__init__(config)
        width = config.width
        self.reads_landmarks = config.reads_landmarks
        if landmark_channels != width and config.reads_landmarks:
            # The published model has no such layer: its token width is that of the landmark features.
            self.landmark_sample: nn.Module | None = nn.Conv2d(landmark_channels, width, kernel_size=1)
        else:
            self.landmark_sample = None
        self.ir_back = IR50(config.backbone_channels, config.backbone_units)
        self.ir_layer = nn.Linear(4 * config.backbone_channels[-1], width)
        self.image_tokens = published_tokens if config.tokens == "published" else spatial_tokens
        self.segmentation_prior = config.segmentation_prior
        if config.segmentation_prior == "features":
            self.seg_sample = nn.Conv2d(segmentation_channels, width, kernel_size=1)
        elif config.segmentation_prior == "map":
            self.map_encoder = MapEncoder(width)
        if config.segmentation_prior != "none":
            self.seg_fusion = SSGM(width, config.spade)
        self.pyramid_fuse = (
            MCM(
                width,
                config.depth,
                config.multi_scale,
                config.cross_interaction,
                config.landmark_reintegration,
                config.query,
            )
            if config.mcm
            else None
        )
        self.se_block = Gate(width)
        self.head = Head(width, classes)

    def forward(
        self, image: Tensor, segmentation: Tensor, landmark_features: Tensor, drop_path: Tensor | None = None
    ) -> Expression:
        """Image and priors -> logits and features.

        image [B, 3, 112, 112], ImageNet-normalised; segmentation features [B, C, 7, 7] or
        segmentation map uint8 [B, 224, 224], as configured; landmark_features [B, 512, 7, 7]. A prior
        that the configuration leaves out is ignored.

        drop_path [B, *ORSANetConfig.drop_path_shape], uniform in 0 … 1, decides which branches of
        the MCM are dropped (None: no branch, in training mode too).
        """
        return self.from_maps(self.maps(image), segmentation, landmark_features, drop_path=drop_path)

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.ir_back(image),)

    def from_maps(self, maps: tuple[Tensor, ...], *priors: Tensor, drop_path: Tensor | None = None) -> Expression:
        segmentation, landmark_features = priors
        return self.expression(self.guided(self.tokens(maps[-1]), segmentation), landmark_features, drop_path)

    def unguided(self, maps: tuple[Tensor, ...], *priors: Tensor) -> Expression | None:
        """The SSGM is bypassed: the MCM gets the image tokens unchanged."""
        return None if self.segmentation_prior == "none" else self.expression(self.tokens(maps[-1]), priors[1])

    def repeated_parts(self) -> Iterator[nn.Module]:
        yield from self.ir_back.units()
        yield from () if self.pyramid_fuse is None else self.pyramid_fuse.blocks

    @classmethod
    def published_unread(cls) -> dict[str, Tensor]:
        with torch.device("meta"):
            return {**output_layer_parameters(), "pyramid_fuse.cls_token": torch.empty(1, 1, 512)}

    def tokens(self, feature_map: Tensor) -> Tensor:
        """The backbone's [B, C, 14, 14] -> [B, 49, D]."""
        return self.ir_layer(self.image_tokens(feature_map))

    def guided(self, tokens: Tensor, segmentation: Tensor) -> Tensor:
        """Tokens [B, 49, D] after the SSGM; unchanged if no segmentation prior is configured."""
        if self.segmentation_prior == "none":
            return tokens
        prior = (
            self.seg_sample(segmentation) if self.segmentation_prior == "features" else self.map_encoder(segmentation)
        )
        return self.seg_fusion(tokens.transpose(1, 2).unflatten(2, (7, 7)), prior).flatten(2).transpose(1, 2)

    def expression(self, tokens: Tensor, landmark_features: Tensor, drop_path: Tensor | None = None) -> Expression:
        """Tokens [B, 49, D] and landmark features, as `forward` takes them -> MCM, gate, head.

        Without landmarks the MCM gets the image tokens in their place. Without the MCM the gate gets
        the mean of the image tokens.
        """
        if self.pyramid_fuse is None:
            fused = tokens.mean(dim=1)
        elif self.reads_landmarks:
            if self.landmark_sample is not None:
                landmark_features = self.landmark_sample(landmark_features)
            fused = self.pyramid_fuse(tokens, landmark_features.flatten(2).transpose(1, 2), drop_path)
        else:
            fused = self.pyramid_fuse(tokens, tokens, drop_path)
        features = self.se_block(fused)
        return Expression(self.head(features), features)


def published_tokens(feature_map: Tensor) -> Tensor:
    """[B, C, 14, 14] -> [B, 49, 4C] by re-viewing memory, as published in code.

    Token 0 is all positions of the first few channels, so the 7x7 grid that follows is not spatial.
    Published checkpoints need this form. The re-view requires NCHW memory, hence `contiguous`.
    """
    return feature_map.contiguous().flatten(1).unflatten(1, (49, -1))


def spatial_tokens(feature_map: Tensor) -> Tensor:
    """[B, C, 14, 14] -> [B, 49, 4C] by 2x2 pixel-unshuffle: token n is the n-th cell of the 7x7 grid."""
    cells = feature_map.unflatten(3, (7, 2)).unflatten(2, (7, 2))  # [B, C, 7, 2, 7, 2]; pixel_unshuffle refuses B = 0
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class MapEncoder(nn.Module):
    """Segmentation map uint8 [B, 224, 224] -> [B, D, 7, 7] by strided convolutions of its one-hot planes.

    The published code defines it and never uses it; the paper's text describes maps as the prior.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = (len(LAPA_CLASSES), width // 8, width // 4, width // 2, width)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU())
                for inputs, outputs, stride in zip(channels[:-1], channels[1:], (4, 2, 2, 2), strict=True)
            )
        )

    def forward(self, segmentation_map: Tensor) -> Tensor:
        planes = one_hot(segmentation_map.long(), len(LAPA_CLASSES)).movedim(-1, 1)
        return self.layers(planes.to(next(self.parameters()).dtype))


class Gate(nn.Module):
    """f * sigmoid(W2 relu(W1 f))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return features * self.linear2(self.linear1(features).relu()).sigmoid()


class Head(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)
