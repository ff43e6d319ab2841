"""What the model sees, wherever it comes from: a store's rows, a picture's fresh priors, erased in training or not.

a store's rows ─────── model_inputs ───┐
pixels and priors ─ seen_by_the_model ─┴▶ image, segmentation, landmark_features ─▶ ORSANet.forward
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from orsanet_cache.frozen.features import as_stored, given_back
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range

if TYPE_CHECKING:  # torchvision, which priors.py needs, takes seconds to import
    from orsanet_cache.frozen.priors import Priors

INPUT_SIZE = 224  # RandomErasing acts on this grid in the published pipeline


def model_inputs(stored: Mapping[str, Tensor], erased: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """A store's rows, field by field, and the rectangles to erase as in `model_image` -> what the model's forward takes.

    The segmentation prior is the one of its two fields that is there; without either the image stands in, and the model ignores it.
    A float32 feature or a map is given as it is, not copied.
    """
    image = model_image(stored["image"], erased)
    segmentation = stored.get("segmentation_map", image)
    if "segmentation_features" in stored:
        segmentation = given_back(stored, "segmentation_features")
    return image, segmentation, given_back(stored, "landmark_features")


def seen_by_the_model(
    pixels: Tensor, priors: "Priors", segmentation_prior: str, feature_dtype: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The same of clean views uint8 [B, 224, 224, 3] and their priors: as `model_inputs` gives it from a store of this type.

    Without a semantic prior the segmentation map stands in.
    """
    image = model_image(pixels[:, ::2, ::2])
    segmentation = priors.segmentation_map
    if segmentation_prior == "features":
        segmentation = as_stored(priors.segmentation_features, feature_dtype)
    return image, segmentation, as_stored(priors.landmark_features, feature_dtype)


def model_image(pixels: Tensor, erased: Tensor | None = None) -> Tensor:
    """uint8 [B, 112, 112, 3], every second pixel of a view -> float32 [B, 3, 112, 112], ImageNet-normalised, then `erase`d."""
    image = imagenet_normalised(unit_range(pixels))
    if erased is not None:
        image = erase(image, erased)
    # Channels last, torch 2.15 on a CPU corrupts memory or crashes in the gradients of small strided 1x1 convolutions.
    return image.contiguous()


def erase(image: Tensor, erased: Tensor) -> Tensor:
    """Zero the rectangles [B, 4], given on the 224-pixel grid, in normalised images [B, 3, 112, 112].

    The 112-pixel image holds the even pixels of that grid, so this is exactly erasing before taking every second pixel.
    """
    return image.masked_fill(inside(erased, image.shape[-1])[:, None], 0.0)


def inside(erased: Tensor, size: int) -> Tensor:
    """Rectangles [B, 4] on the 224-pixel grid -> bool [B, size, size]; a smaller size holds every second pixel of the grid, and so on."""
    position = torch.arange(0, INPUT_SIZE, INPUT_SIZE // size, device=erased.device)
    top, left, height, width = erased[:, :, None].unbind(dim=1)
    inside_y = (position >= top) & (position < top + height)
    inside_x = (position >= left) & (position < left + width)
    return inside_y[:, :, None] & inside_x[:, None, :]
