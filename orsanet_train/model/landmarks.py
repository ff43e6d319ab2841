"""A model of the 68 landmarks, without any picture: landmarks -> expression logits.

    landmarks ─ centred and scaled, face by face ─ linear, or one hidden layer ─ logits

Every other model must beat it to show that it reads more than where the parts of a face lie.
"""

from torch import Tensor, nn

from orsanet_cache.frozen.mobilefacenet import LANDMARKS
from orsanet_train.model.model import Expression, ExpressionModel
from orsanet_train.model.orsanet import Head
from orsanet_train.model_config import LandmarksConfig

SMALLEST = 1e-6  # of a face's size: the landmarks of a broken picture may be one point


class Landmarks(ExpressionModel):
    """Build with `build_model`. Neither the image nor any features are read."""

    def __init__(
        self, config: LandmarksConfig, classes: int, segmentation_channels: int, landmark_channels: int
    ) -> None:
        super().__init__(config)
        inputs = 2 * LANDMARKS
        linear = config.form == "linear"
        self.hidden = None if linear else nn.Sequential(nn.Linear(inputs, config.hidden), nn.GELU())
        self.head = Head(inputs if linear else config.hidden, classes)

    def forward(self, landmarks: Tensor, drop_path: Tensor | None = None) -> Expression:
        """landmarks [B, 68, 2], in units of the crop -> logits and features; `drop_path` has no effect."""
        features = shapes(landmarks).flatten(1)
        if self.hidden is not None:
            features = self.hidden(features)
        return Expression(self.head(features), features)


def shapes(landmarks: Tensor) -> Tensor:
    """Landmarks [B, 68, 2] without place and size: their mean is 0, their mean square distance from it 1."""
    centred = landmarks - landmarks.mean(dim=1, keepdim=True)
    size = centred.square().sum(dim=2).mean(dim=1).sqrt().clamp_min(SMALLEST)
    return centred / size[:, None, None]
