"""`orsanet-cache bench build`: measures whether the frozen networks wait for disk or decoder.

The same images run through the whole build, and through the networks alone with decoded pixels in
memory.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from orsanet_cache.builder.build import build
from orsanet_cache.builder.pipeline import DecodedUnit, Pipeline
from orsanet_cache.data.images import IMAGE_SIZE
from orsanet_cache.data.manifest import Manifest, Sample
from orsanet_cache.data.views import CLEAN
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.priors import CPU_BATCH, GPU_BATCH, FrozenPriors, Precision, in_half_precision
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.outputs import temporary_folder
from orsanet_cache.store.schema import schema

PICTURE_SIZE = 100  # RAF-DB's aligned faces


@dataclass(frozen=True)
class BuildSpeed:
    """Rates in views per second."""

    views: int
    build: float
    networks_alone: float
    networks_share: float  # of the build's time


def published_sizes() -> FrozenPriors:
    """Return the published networks with random weights. The values do not affect the speed."""
    torch.manual_seed(0)
    return FrozenPriors(SegFace(SegFaceConfig()), MobileFaceNet(), "published")


def synthetic_pictures(folder: Path, count: int) -> Manifest:
    """Write JPEG files of random pixels, which take longer to decode than faces."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(count):
        picture = Image.fromarray(rng.integers(0, 256, (PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8))
        picture.save(folder / f"{index}.jpg", quality=95)
        samples.append(Sample(f"{index}.jpg", index % 2, "train", frozenset()))
    return Manifest("pictures", ("a", "b"), folder, tuple(samples))


def bench_build(
    manifest: Manifest | None, priors: FrozenPriors, images: int, views: list[str], device: torch.device,
    precision: Precision, batch_size: int | None, folder: Path | None,
) -> BuildSpeed:  # fmt: skip
    """Build a store in a temporary folder, then run the networks alone on as many images.

    Args:
        manifest: The images; None means synthetic pictures.
        priors: The frozen networks.
        images: Number of images, the first ones of the manifest.
        views: Views to build.
        device: Device of the networks.
        precision: Precision of the networks, "fp32" or "fp16".
        batch_size: Images at a time; None means the build's default.
        folder: Folder for the temporary folder; None means the system's.
    """
    with temporary_folder("orsanet-bench-", folder) as out:
        if manifest is None:
            manifest = synthetic_pictures(out, images)
        samples = tuple(Sample(one.image, one.label, "train", one.tags) for one in manifest.samples[:images])
        chosen = Manifest(manifest.name, manifest.classes, manifest.root, samples)
        warm_up = batch_size or (
            CPU_BATCH if device.type == "cpu" else 2 * GPU_BATCH
        )  # the first call of a kernel is slow
        _networks_alone(priors, min(warm_up, images), [CLEAN], device, precision, batch_size)
        summary = build(
            chosen, out / "store.zarr", priors, views, device=device, precision=precision, batch_size=batch_size
        )
        alone = _networks_alone(priors, len(samples), views, device, precision, batch_size)
    return BuildSpeed(
        summary.computed,
        summary.computed / summary.seconds,
        summary.computed / alone,
        summary.networks_seconds / summary.seconds,
    )


def _networks_alone(
    priors: FrozenPriors,
    images: int,
    views: list[str],
    device: torch.device,
    precision: Precision,
    batch_size: int | None,
) -> float:
    """Return the seconds for that many images in these views, in batches like a build's."""
    fields = schema(priors.segmenter.feature_channels, priors.landmark_network.feature_channels, "float16")
    pixels = np.random.default_rng(0).integers(0, 256, (images, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    samples = [Sample(f"{index}.jpg", 0, "train", frozenset()) for index in range(images)]
    unit = DecodedUnit(samples, dict.fromkeys(views, pixels), [""] * images, {})
    ready = (in_half_precision(priors) if precision == "fp16" else priors).to(device)
    with Pipeline(Path(), ready, fields, device, batch_size) as pipeline:
        begun = time.monotonic()
        for inference in [pipeline.start_networks(unit, view) for view in views]:
            inference.result()
        return time.monotonic() - begun
