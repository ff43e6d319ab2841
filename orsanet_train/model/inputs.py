"""The model's inputs, from a store's rows or from pixels and priors, erased in training.

a store's rows ─────── model_inputs ───┐
pixels and priors ─ seen_by_the_model ─┴▶ the arguments of the model's forward (ModelConfig.reads)
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from orsanet_cache.frozen.features import as_stored, given_back
from orsanet_cache.frozen.pixels import imagenet_normalised, inside, unit_range
from orsanet_cache.store.schema import LAPA_CLASSES, OPTIONAL, SCALE, schema
from orsanet_train.model.noise import noised
from orsanet_train.model_config import ModelConfig

if TYPE_CHECKING:  # torchvision, which priors.py needs, takes seconds to import
    from orsanet_cache.frozen.priors import Priors

INPUT_SIZE = 224  # RandomErasing acts on this grid in the published pipeline
FEATURES = "_features"  # in the name of a field that a store may round
IMAGE = "image"


def model_inputs(
    config: ModelConfig, stored: Mapping[str, Tensor], erased: Tensor | None = None, noise: Tensor | None = None
) -> tuple[Tensor, ...]:
    """A store's rows, field by field -> the arguments of the model's forward.

    `erased` are the rectangles to erase and `noise` the keys of the noise to add, as in `model_image`. Float32 features, maps and landmarks
    are not copied.
    """
    return arguments(
        config,
        {
            name: model_image(stored[IMAGE], erased, config.image_channels, noise)
            if name == IMAGE
            else (given_back(stored, name) if _is_rounded(stored, name) else stored[name])
            for name in config.fields
        },
    )


def _is_rounded(stored: Mapping[str, Tensor], name: str) -> bool:
    """Whether a field has floating-point values that a store may round."""
    return stored[name].is_floating_point() or f"{name}{SCALE}" in stored


def seen_by_the_model(config: ModelConfig, pixels: Tensor, priors: "Priors", feature_dtype: str) -> tuple[Tensor, ...]:
    """Clean views uint8 [B, 224, 224, 3] and their priors -> the arguments of the model's forward.

    They equal those that `model_inputs` returns for a store with features of type `feature_dtype`.
    """
    values = {}
    for name in config.fields:
        if name == IMAGE:
            values[name] = model_image(pixels[:, ::2, ::2], channels=config.image_channels)
        else:
            prior: Tensor = getattr(priors, name)
            values[name] = as_stored(prior, feature_dtype) if FEATURES in name else prior
    return arguments(config, values)


def arguments(config: ModelConfig, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Fields by name, as the model takes them -> the arguments of its forward, in order."""
    return tuple(values[field] for field in config.reads.values())


def random_inputs(
    config: ModelConfig,
    count: int,
    segmentation_channels: int = 1024,
    landmark_channels: int = 512,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, ...]:
    """Arguments of the model's forward for `count` images: of the right shapes and types, without meaning."""
    values = {}
    for field in schema(segmentation_channels, landmark_channels, "float32", OPTIONAL):
        if field.name == IMAGE:
            values[IMAGE] = torch.randn(count, 3, *field.shape[:2], device=device)
        elif field.name in config.fields and field.dtype == "uint8":
            classes = len(LAPA_CLASSES)
            values[field.name] = torch.randint(classes, (count, *field.shape), dtype=torch.uint8, device=device)
        elif field.name in config.fields:
            values[field.name] = torch.randn(count, *field.shape, device=device)
    return arguments(config, values)


def model_image(
    pixels: Tensor,
    erased: Tensor | None = None,
    channels: Literal["rgb", "bgr"] = "rgb",
    noise: Tensor | None = None,
) -> Tensor:
    """Every second pixel of a view -> the backbone's image.

    uint8 [B, 112, 112, 3] -> float32 [B, 3, 112, 112], ImageNet-normalised, then `erase`d. "bgr"
    exchanges the colours before they are normalised with the numbers of rgb. `noise` are keys of
    `noised`, whose noise is added first.
    """
    if noise is not None:
        pixels = noised(pixels, noise)
    image = imagenet_normalised(unit_range(pixels if channels == "rgb" else pixels.flip(-1)))
    if erased is not None:
        image = erase(image, erased)
    # With channels last, torch 2.15 on a CPU corrupts memory or crashes in the gradients of small
    # strided 1x1 convolutions.
    return image.contiguous()


def erase(image: Tensor, erased: Tensor) -> Tensor:
    """Zero the rectangles [B, 4], given on the 224-pixel grid, in normalised images [B, 3, 112, 112].

    The 112-pixel image has the even pixels of that grid, so the result is exactly that of erasing
    before taking every second pixel.
    """
    return image.masked_fill(inside(erased, image.shape[-1])[:, None], 0.0)
