"""Both frozen networks as one module: a batch of views -> the priors that a store keeps.

Both networks always stay in evaluation mode. (In the published code `model.train()` applies to them
too, so its landmark network drifts during training. A cache cannot reproduce this drift.)
"""

import copy
import math
from typing import Literal, NamedTuple, Self

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from orsanet_cache.data.images import IMAGE_SIZE
from orsanet_cache.errors import OrsanetError, listed, validation_findings
from orsanet_cache.frozen.loading import build_frozen, read_weights, tensors_digest
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.pixels import erased_unit, imagenet_normalised, unit_range
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.frozen.shipped import DEMO, weights_path
from orsanet_cache.paths import StrPath, as_path

# published: ImageNet-normalised, every second pixel, as in ORSANet's code.
# native:    0 … 1, bilinear to 112 (the mean of 2x2 pixels), as in the network's own training:
#            landmarks are visibly better.
LandmarkInput = Literal["published", "native"]
Precision = Literal["fp32", "fp16"]

# Images at a time. Larger batches do not fit into a CPU's caches: on two cores, batches of 8 ran
# 1.1 to 1.6 times as fast as batches of 32.
CPU_BATCH, GPU_BATCH = 8, 64

NO_CLASS = 255
ARCHITECTURE_KEY = "architecture"  # of a safetensors header: SegFaceConfig as JSON


class Priors(NamedTuple):
    """The frozen networks' outputs for a batch. Stores, batches and models use the same names."""

    segmentation_map: Tensor  # uint8 [B, 224, 224], LaPa class; NO_CLASS if a logit is not finite
    segmentation_entropy: Tensor  # float32 [B], 0 (every pixel certain) … 1 (uniform)
    segmentation_features: Tensor  # [B, 1024, 7, 7], last Swin stage before its LayerNorm
    landmark_features: Tensor  # [B, 512, 7, 7]
    landmarks: Tensor  # float32 [B, 68, 2], x and y in units of the crop
    landmark_features_28: Tensor  # [B, 64, 28, 28], of the landmark network's grid of 28 pixels
    landmark_features_14: Tensor  # [B, 128, 14, 14]


class FrozenPriors(nn.Module):
    """uint8 views [B, 224, 224, 3] -> Priors.

    Of an augmented view the rectangles int64 [B, 4] too, which are zero in the normalised pictures.
    """

    def __init__(self, segmenter: SegFace, landmark_network: MobileFaceNet, landmark_input: LandmarkInput) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.landmark_network = landmark_network
        self.landmark_input = landmark_input
        self.files: dict[str, str] = {}  # the weights' paths: a hint for finding the files again
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def load(cls, segmenter: StrPath, landmarks: StrPath, landmark_input: LandmarkInput = "published") -> Self:
        """Read both networks' weights from disk. The word demo means the shipped networks.

        Raises OrsanetError for a file that does not fit its network exactly.
        """
        segmenter, landmarks = as_path(segmenter, "segmenter"), as_path(landmarks, "landmarks")
        priors = cls(
            load_segmenter(weights_path(segmenter, "segmenter")),
            load_landmark_network(weights_path(landmarks, "landmarks")),
            landmark_input,
        )
        priors.remember(segmenter, landmarks)
        return priors

    def remember(self, segmenter: StrPath, landmarks: StrPath) -> None:
        """Record the paths of the weights; the word demo is kept as it is."""
        files = {
            "segmenter_file": as_path(segmenter, "segmenter"),
            "landmarks_file": as_path(landmarks, "landmarks"),
        }
        self.files = {name: str(path if path == DEMO else path.absolute()) for name, path in files.items()}

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def recipe(self) -> dict[str, object]:
        """Return what determines the priors: architectures, weights digests, landmark input."""
        return {
            "segmenter": {
                **self.segmenter.config.model_dump(mode="json"),
                "weights_sha256": tensors_digest(self.segmenter.state_dict()),
            },
            "landmarks": {
                "architecture": "mobilefacenet",
                "input": self.landmark_input,
                "weights_sha256": tensors_digest(self.landmark_network.state_dict()),
            },
        }

    @torch.no_grad()
    def forward(self, images: Tensor, erased: Tensor | None = None) -> Priors:
        dtype = next(self.segmenter.parameters()).dtype
        unit = unit_range(images)
        if erased is not None:
            unit = erased_unit(unit, erased)
        normalised = imagenet_normalised(unit)
        segmentation_features, logits = self.segmenter(normalised.to(dtype))
        crop = self.landmark_crop(unit).to(dtype)
        landmark_features, landmarks, grid_28, grid_14 = self.landmark_network.with_grids(crop)
        return Priors(
            map_of(logits), mean_entropy(logits), segmentation_features, landmark_features, landmarks.float(),
            grid_28, grid_14,
        )  # fmt: skip

    @torch.no_grad()
    def landmark_grids(self, images: Tensor, erased: Tensor | None = None) -> dict[str, Tensor]:
        """The landmark network's earlier grids, by the names of Priors, with the same values.

        `images` are views uint8 [B, 224, 224, 3]. If the landmark input is "published", every second pixel of
        them is enough: [B, 112, 112, 3], as a store has them. `erased` as in `forward`.
        """
        unit = unit_range(images)
        if erased is not None:
            unit = erased_unit(unit, erased)
        crop = self.landmark_crop(unit) if unit.shape[-1] == IMAGE_SIZE else imagenet_normalised(unit)
        dtype = next(self.landmark_network.parameters()).dtype
        _, _, grid_28, grid_14 = self.landmark_network.with_grids(crop.to(dtype))
        return {"landmark_features_28": grid_28, "landmark_features_14": grid_14}

    def landmark_crop(self, unit: Tensor) -> Tensor:
        """Pictures [B, 3, 224, 224] in 0 … 1 -> input of the landmark network, [B, 3, 112, 112]."""
        return avg_pool2d(unit, 2) if self.landmark_input == "native" else imagenet_normalised(unit[..., ::2, ::2])


def in_half_precision(priors: FrozenPriors) -> FrozenPriors:
    """Return a copy in fp16. Converting in place would round the weights permanently."""
    return copy.deepcopy(priors).half()


def map_of(logits: Tensor) -> Tensor:
    """Logits [B, 11, H, W] -> uint8 [B, H, W]: LaPa class, NO_CLASS if a logit is not finite."""
    # On a CPU max is faster than argmax, and checking the sum is faster than checking every logit.
    finite = logits.sum(dim=1, dtype=torch.float32).isfinite()
    return logits.max(dim=1).indices.to(torch.uint8).masked_fill(~finite, NO_CLASS)


def mean_entropy(logits: Tensor) -> Tensor:
    """Logits [B, K, H, W] -> float32 [B]: mean over pixels of the softmax's entropy / log K, 0 … 1.

    The result is NaN if a logit is not finite.
    """
    log_probability = logits.float().log_softmax(dim=1)
    entropy = log_probability.exp().mul_(log_probability).sum(dim=1).neg_()
    # Row means first: several threads would sum a picture that is alone in its batch, in another
    # order than in a larger batch.
    return entropy.mean(dim=2).mean(dim=1) / math.log(logits.shape[1])


def load_segmenter(path: StrPath) -> SegFace:
    """Build SegFace from its weights. Its sizes are in the safetensors header, or as published."""
    weights = read_weights(path)
    try:
        config = SegFaceConfig.model_validate_json(weights.metadata.get(ARCHITECTURE_KEY, "{}"))
    except ValidationError as error:
        raise OrsanetError(
            f"{path}: the header's {ARCHITECTURE_KEY}:\n{listed(validation_findings(error, SegFaceConfig))}"
        ) from error
    with torch.device("meta"):
        network = SegFace(config)
    return build_frozen(network, weights)


def load_landmark_network(path: StrPath) -> MobileFaceNet:
    """Build MobileFaceNet from its weights."""
    weights = read_weights(path)
    with torch.device("meta"):
        network = MobileFaceNet()
    return build_frozen(network, weights)
