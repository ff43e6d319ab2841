"""IR50 and a linear head, without any prior: image -> expression logits.

    image ─ IR50 ─ mean over the 14x14 grid ─ logits

A model with priors must beat it to show that the priors help.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from orsanet_train.model.ir50 import IR50
from orsanet_train.model.model import Expression, ExpressionModel
from orsanet_train.model.orsanet import Head
from orsanet_train.model_config import BackboneConfig


class Backbone(ExpressionModel):
    """Build with `build_model`. No prior is read."""

    def __init__(
        self, config: BackboneConfig, classes: int, segmentation_channels: int, landmark_channels: int
    ) -> None:
        super().__init__(config)
        self.ir_back = IR50(config.backbone_channels, config.backbone_units)
        self.head = Head(config.backbone_channels[-1], classes)

    def forward(self, image: Tensor, drop_path: Tensor | None = None) -> Expression:
        """image [B, 3, 112, 112], normalised -> logits and features; `drop_path` has no effect."""
        return self.from_maps(self.maps(image))

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.ir_back(image),)

    def from_maps(self, maps: tuple[Tensor, ...], *priors: Tensor, drop_path: Tensor | None = None) -> Expression:
        features = maps[-1].mean(dim=(2, 3))
        return Expression(self.head(features), features)

    def repeated_parts(self) -> Iterator[nn.Module]:
        yield from self.ir_back.units()
