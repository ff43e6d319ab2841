"""Small models of every configuration, and random inputs for them."""

import torch
from torch import Tensor

from orsanet_train.model.model import build_model
from orsanet_train.model.orsanet import ORSANet
from orsanet_train.model_config import ORSANetConfig

CLASSES = 5
SEGMENTATION_CHANNELS = 24
LANDMARK_CHANNELS = 40
TOKENS = ("published", "spatial")
PRIORS = ("features", "map", "none")


def small(**changes: object) -> ORSANetConfig:
    sizes = {"depth": 2, "width": 64, "backbone_channels": (4, 8, 16), "backbone_units": (1, 1, 1)}
    return ORSANetConfig.model_validate({**sizes, **changes})


def small_model(config: ORSANetConfig, landmark_channels: int = LANDMARK_CHANNELS, seed: int = 0) -> ORSANet:
    torch.manual_seed(seed)
    return build_model(config, CLASSES, SEGMENTATION_CHANNELS, landmark_channels)


def inputs(
    config: ORSANetConfig, count: int, landmark_channels: int = LANDMARK_CHANNELS
) -> tuple[Tensor, Tensor, Tensor]:
    """image, segmentation as configured, landmark features."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(count, 3, 112, 112, generator=generator)
    if config.segmentation_prior == "features":
        segmentation = torch.randn(count, SEGMENTATION_CHANNELS, 7, 7, generator=generator)
    else:
        segmentation = torch.randint(11, (count, 224, 224), generator=generator, dtype=torch.uint8)
    return image, segmentation, torch.randn(count, landmark_channels, 7, 7, generator=generator)


def names(config: ORSANetConfig, landmark_channels: int = LANDMARK_CHANNELS) -> set[str]:
    with torch.device("meta"):
        return set(build_model(config, CLASSES, SEGMENTATION_CHANNELS, landmark_channels).state_dict())


def shapes(config: ORSANetConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = build_model(config, CLASSES, SEGMENTATION_CHANNELS, LANDMARK_CHANNELS)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
