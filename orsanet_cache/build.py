"""Stage one: run the frozen networks once over every image of a manifest.

    manifest row → one decode → each view's pixels → frozen networks → one shard per field → marker → … → sealed view

Images that cannot be used are collected with their reasons, never guessed; their rows exist and are marked as not accepted.
"""

import datetime
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from orsanet_cache.commit import StoreWriter, Unit, UnitRecord
from orsanet_cache.errors import OrsanetError
from orsanet_cache.images import (
    IMAGE_SIZE,
    PREPROCESSING,
    Pixels,
    RejectedImage,
    every_second_pixel,
    read_image,
    view_pixels,
)
from orsanet_cache.manifest import Manifest, Sample
from orsanet_cache.priors import FrozenPriors, Precision
from orsanet_cache.store import Field, schema

# What a compressed field needs per row, as a share of its raw bytes: zstd reaches 40x on real segmentation maps, 2x on noise.
COMPRESSED_SHARE = 0.25
FREE_SPACE_MARGIN = 1.05


@dataclass
class BuildSummary:
    """What one call of `build` did and what the store now lacks."""

    images: int = 0
    computed: int = 0  # images times views, this time
    seconds: float = 0.0
    rejected: dict[str, dict[str, str]] = field(default_factory=dict)  # split -> sample id -> reason


def build(
    manifest: Manifest,
    out: Path,
    priors: FrozenPriors,
    views: Sequence[str],
    *,
    device: torch.device,
    precision: Precision = "fp32",
    feature_dtype: str = "float16",
    batch_size: int = 32,
) -> BuildSummary:
    """Compute what the store lacks and seal it; with nothing lacking, only summarise.

    `precision` is the networks' arithmetic (fp16 on CUDA only), `feature_dtype` how the store keeps features.
    Raises OrsanetError for another recipe or image list than the store's, too little disk, or a split without a usable image.
    """
    if precision == "fp16" and device.type != "cuda":
        raise OrsanetError("--precision fp16 needs a CUDA device; use --precision fp32 here")
    fields = schema(priors.segmenter.feature_channels, priors.landmark_network.feature_channels, feature_dtype)
    recipe = {
        **priors.recipe(),
        "preprocessing": PREPROCESSING,
        "precision": precision,
        "feature_dtype": feature_dtype,
    }
    needed = bytes_needed(manifest, views, fields)
    if not out.exists():  # an existing store is checked against what is still lacking, below
        _check_disk(out, needed)
    writer = StoreWriter.open(out, recipe, _provenance(manifest, device), fields)
    for split in manifest.splits:
        writer.add_split(split, [sample.image for sample in manifest.split(split)])
    work = [pending for split in manifest.splits for pending in writer.pending(split, views)]
    _check_disk(out, sum((unit.stop - unit.start) * len(lacking) for unit, lacking in work) * _row_bytes(fields))

    summary = BuildSummary(images=len(manifest.samples))
    began = time.monotonic()
    if work:
        priors = priors.to(device=device, dtype=torch.float16 if precision == "fp16" else torch.float32)
        total = sum((unit.stop - unit.start) * len(lacking) for unit, lacking in work)
        with tqdm(total=total, unit="img", desc="build", smoothing=0.05) as progress:
            for unit, lacking in work:
                _build_unit(writer, manifest, unit, lacking, priors, fields, device, batch_size, progress)
        summary.computed = total
    for split in manifest.splits:
        for view in views:
            summary.rejected.setdefault(split, {}).update(writer.seal(split, view))
    summary.seconds = time.monotonic() - began
    for split, rejected in summary.rejected.items():
        if len(rejected) == len(manifest.split(split)):
            first = next(iter(rejected.items()))
            raise OrsanetError(f"{out}: no image of split '{split}' could be used; the first: {first[0]}: {first[1]}")
    return summary


def bytes_needed(manifest: Manifest, views: Sequence[str], fields: Sequence[Field]) -> int:
    """Disk estimate of the whole store."""
    return len(manifest.samples) * len(views) * _row_bytes(fields)


def _row_bytes(fields: Sequence[Field]) -> int:
    return int(sum(field.row_bytes * (COMPRESSED_SHARE if field.compressed else 1) for field in fields))


def _check_disk(out: Path, needed: int) -> None:
    folder = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed * FREE_SPACE_MARGIN > free:
        raise OrsanetError(
            f"{out}: the store needs about {needed / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free there; "
            f"free some space or choose another --out"
        )


def _build_unit(
    writer: StoreWriter,
    manifest: Manifest,
    unit: Unit,
    views: Sequence[str],
    priors: FrozenPriors,
    fields: Sequence[Field],
    device: torch.device,
    batch_size: int,
    progress: "tqdm[Any]",
) -> None:
    """Decode a unit's images once, compute and commit each view it lacks."""
    samples = manifest.split(unit.split)[unit.rows]
    pixels, digests, unreadable = _decode(manifest.root, samples, views)
    for view in views:
        rejected = dict(unreadable)
        arrays = {field.name: np.zeros((len(samples), *field.shape), field.dtype) for field in fields}
        arrays["image"][:] = every_second_pixel(pixels[view])
        rows = [row for row, sample in enumerate(samples) if sample.image not in unreadable]
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            outputs = priors(torch.from_numpy(pixels[view][batch]).to(device))
            for name, tensor in outputs._asdict().items():
                with np.errstate(over="ignore"):  # an overflow becomes infinite and is reported below
                    arrays[name][batch] = tensor.cpu().numpy()
            progress.update(len(batch))
        progress.update(len(samples) - len(rows))
        rejected |= _not_finite(samples, arrays)
        writer.commit(unit, view, arrays, UnitRecord(digests, rejected))


def _decode(
    root: Path, samples: Sequence[Sample], views: Sequence[str]
) -> tuple[dict[str, Pixels], list[str], dict[str, str]]:
    """Each view's pixels [N, 224, 224, 3] (black where unreadable), each file's digest, and id -> reason of the unreadable."""
    pixels = {view: np.zeros((len(samples), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8) for view in views}
    digests: list[str] = []
    unreadable: dict[str, str] = {}
    for row, sample in enumerate(samples):
        try:
            decoded = read_image(root / sample.image)
        except RejectedImage as reason:
            unreadable[sample.image] = str(reason)
            digests.append("")
            continue
        digests.append(decoded.sha256)
        for view in views:
            pixels[view][row] = view_pixels(decoded.rgb, view)
    return pixels, digests, unreadable


def _not_finite(samples: Sequence[Sample], arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
    """A network output that is not a number is never trained on."""
    rejected = {}
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
            for row in np.flatnonzero(~finite).tolist():
                rejected[samples[row].image] = f"{name} is not finite as {array.dtype}; build with --features float32"
    return rejected


def _provenance(manifest: Manifest, device: torch.device) -> dict[str, str]:
    packages = ("orsanet", "torch", "torchvision", "numpy", "pillow", "zarr")
    return {
        "manifest": manifest.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
