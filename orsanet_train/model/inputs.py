"""The model's inputs, from a store's rows or from pixels and priors, erased in training.

a store's rows ─────── model_inputs ───┐
pixels and priors ─ seen_by_the_model ─┴▶ image, segmentation, landmark_features ─▶ ORSANet.forward
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from orsanet_cache.frozen.features import as_stored, given_back
from orsanet_cache.frozen.pixels import imagenet_normalised, inside, unit_range

if TYPE_CHECKING:  # torchvision, which priors.py needs, takes seconds to import
    from orsanet_cache.frozen.priors import Priors

INPUT_SIZE = 224  # RandomErasing acts on this grid in the published pipeline


def model_inputs(stored: Mapping[str, Tensor], erased: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """A store's rows, field by field -> the arguments of the model's forward.

    `erased` are the rectangles to erase, as in `model_image`. The segmentation prior is the one of
    its two fields that `stored` has. In place of a prior that `stored` does not have, the image is
    passed, which the model ignores. Float32 features and maps are not copied.
    """
    image = model_image(stored["image"], erased)
    segmentation = stored.get("segmentation_map", image)
    if "segmentation_features" in stored:
        segmentation = given_back(stored, "segmentation_features")
    landmarks = given_back(stored, "landmark_features") if "landmark_features" in stored else image
    return image, segmentation, landmarks


def seen_by_the_model(
    pixels: Tensor, priors: "Priors", segmentation_prior: str, feature_dtype: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean views uint8 [B, 224, 224, 3] and their priors -> the arguments of the model's forward.

    They equal those that `model_inputs` returns for a store with features of type `feature_dtype`.
    Without a semantic prior the segmentation map takes its place.
    """
    image = model_image(pixels[:, ::2, ::2])
    segmentation = priors.segmentation_map
    if segmentation_prior == "features":
        segmentation = as_stored(priors.segmentation_features, feature_dtype)
    return image, segmentation, as_stored(priors.landmark_features, feature_dtype)


def model_image(pixels: Tensor, erased: Tensor | None = None) -> Tensor:
    """Every second pixel of a view -> the backbone's image.

    uint8 [B, 112, 112, 3] -> float32 [B, 3, 112, 112], ImageNet-normalised, then `erase`d.
    """
    image = imagenet_normalised(unit_range(pixels))
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
