"""The arithmetic of the frozen networks.

Half precision is chosen automatically only on a GPU, and only if it changes the features of this
data set's own images by hardly more than those of Swin-B's published weights (1.7e-3). bfloat16
changes them eight times as much (1.4e-2).
"""

import torch

from orsanet_cache.data.images import ImageReading, RejectedImage, read_image, view_pixels
from orsanet_cache.data.manifest import Manifest
from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.priors import FrozenPriors, Precision, in_half_precision

MAX_DRIFT = 2e-3
TRIAL_IMAGES = 16


def chosen_precision(
    priors: FrozenPriors, manifest: Manifest, split: str, device: torch.device, reading: ImageReading = "upright"
) -> Precision:
    """fp16 on a GPU if the first images' features drift by at most MAX_DRIFT, otherwise fp32.

    `reading` is how image files are read. The result is the same for every part of a build. Raises OrsanetError if no image of the split
    can be read.
    """
    if device.type != "cuda":
        return "fp32"
    pixels = []
    for sample in manifest.split(split):
        try:
            pixels.append(torch.from_numpy(view_pixels(read_image(manifest.path(sample), reading).rgb, CLEAN)))
        except RejectedImage:
            continue
        if len(pixels) == TRIAL_IMAGES:
            break
    if not pixels:
        raise OrsanetError(f"{manifest.root}: no image of split '{split}' can be read")
    return "fp16" if half_precision_drift(priors, torch.stack(pixels), device) <= MAX_DRIFT else "fp32"


def half_precision_drift(priors: FrozenPriors, images: torch.Tensor, device: torch.device) -> float:
    """Relative RMS difference between features in fp16 and in fp32, the larger of both networks'.

    images [B, 224, 224, 3] uint8.
    """
    images = images.to(device)
    full = priors.to(device)(images)
    half = in_half_precision(priors)(images)
    drifts = [
        (a.float() - b).norm() / b.norm()
        for a, b in (
            (half.segmentation_features, full.segmentation_features),
            (half.landmark_features, full.landmark_features),
        )
    ]
    return float(torch.stack(drifts).max())
