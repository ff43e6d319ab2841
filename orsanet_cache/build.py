"""Stage one: run the frozen networks once over every image of a manifest.

    manifest row → one decode → each view's pixels → frozen networks → one shard per field → marker → … → sealed view

Images that cannot be used are collected with their reasons, never guessed; their rows exist and are marked as not accepted.
"""

import datetime
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from orsanet_cache.commit import StoreWriter, UnitRecord
from orsanet_cache.errors import OrsanetError, listed
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
from orsanet_cache.priors import NO_CLASS, FrozenPriors, Precision
from orsanet_cache.store import Field, schema

# What a compressed field needs per row, as a share of its raw bytes: zstd reaches 40x on real segmentation maps, 2x on noise.
COMPRESSED_SHARE = 0.25
FREE_SPACE_MARGIN = 1.05


@dataclass(frozen=True)
class BuildSummary:
    """What one call of `build` did, and which images cannot be used."""

    images: int
    computed: int  # images times views, this time
    seconds: float
    rejected: dict[str, dict[str, str]]  # split -> sample id -> reason


def build(
    manifest: Manifest,
    out: Path,
    priors: FrozenPriors,
    views: Sequence[str],
    *,
    device: torch.device,
    splits: Sequence[str] | None = None,
    precision: Precision = "fp32",
    feature_dtype: str = "float16",
    batch_size: int = 32,
) -> BuildSummary:
    """Compute what the store lacks of `views` and seal it; with nothing lacking, only summarise.

    `splits` are all of the manifest's unless named: a view that only testing needs is computed for the test split alone.
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
    splits = manifest.splits if splits is None else splits
    images = sum(len(manifest.split(split)) for split in splits)
    if not out.exists():  # leave nothing behind where a new store would not fit
        _check_disk(out, bytes_needed(images * len(views), fields))
    writer = StoreWriter.open(out, recipe, _provenance(manifest, device), fields)
    for split in splits:
        writer.add_split(split, [sample.image for sample in manifest.split(split)])
    lacking = [pending for split in splits for pending in writer.pending(split, views)]
    rows = sum((unit.stop - unit.start) * len(unit_views) for unit, unit_views in lacking)
    _check_disk(out, bytes_needed(rows, fields))

    began = time.monotonic()
    if lacking:
        priors = priors.to(device=device, dtype=torch.float16 if precision == "fp16" else torch.float32)
    with tqdm(total=rows, unit="view", desc="build", smoothing=0.05, disable=not lacking) as progress:
        for unit, unit_views in lacking:
            samples = manifest.split(unit.split)[unit.rows]
            decoded = _decode(manifest.root, samples, unit_views)
            for view in unit_views:
                arrays = _compute(priors, decoded.pixels[view], decoded.readable, fields, device, batch_size, progress)
                rejected = decoded.unreadable | _not_finite(samples, arrays)
                writer.commit(unit, view, arrays, UnitRecord(decoded.sha256, rejected))
    rejected_by_split: dict[str, dict[str, str]] = {}
    for split in splits:
        sealed = [writer.seal(split, view) for view in views]
        rejected_by_split[split] = {image: reason for view in sealed for image, reason in view.items()}
    for split, unusable in rejected_by_split.items():
        if len(unusable) == len(manifest.split(split)):
            reasons = [f"{image!r}: {reason}" for image, reason in unusable.items()]
            raise OrsanetError(f"{out}: no image of split '{split}' could be used:\n{listed(reasons)}")
    return BuildSummary(images, rows, time.monotonic() - began, rejected_by_split)


def bytes_needed(rows: int, fields: Sequence[Field]) -> int:
    """Disk estimate for rows, each of one image in one view."""
    return rows * int(sum(field.row_bytes * (COMPRESSED_SHARE if field.compressed else 1) for field in fields))


def _check_disk(out: Path, needed: int) -> None:
    folder = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed * FREE_SPACE_MARGIN > free:
        raise OrsanetError(
            f"{out}: the store needs about {needed / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free there; "
            f"free some space or choose another --out"
        )


@dataclass(frozen=True)
class _DecodedUnit:
    """A unit's images, read once. Rows that could not be read are black."""

    pixels: dict[str, Pixels]  # view -> [N, 224, 224, 3]
    sha256: list[str]  # per row, empty where unreadable
    readable: list[int]  # rows
    unreadable: dict[str, str]  # sample id -> reason


def _decode(root: Path, samples: Sequence[Sample], views: Sequence[str]) -> _DecodedUnit:
    pixels = {view: np.zeros((len(samples), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8) for view in views}
    unit = _DecodedUnit(pixels, [""] * len(samples), [], {})
    for row, sample in enumerate(samples):
        try:
            decoded = read_image(root / sample.image)
        except RejectedImage as reason:
            unit.unreadable[sample.image] = str(reason)
            continue
        unit.readable.append(row)
        unit.sha256[row] = decoded.sha256
        for view in views:
            pixels[view][row] = view_pixels(decoded.rgb, view)
    return unit


def _compute(
    priors: FrozenPriors,
    pixels: Pixels,
    readable: Sequence[int],
    fields: Sequence[Field],
    device: torch.device,
    batch_size: int,
    progress: "tqdm[Any]",
) -> dict[str, NDArray[Any]]:
    """One view's pixels [N, 224, 224, 3] -> every field's array, first axis N; rows that are not readable stay zero."""
    arrays = {field.name: np.zeros((len(pixels), *field.shape), field.dtype) for field in fields}
    arrays["image"][:] = every_second_pixel(pixels)
    for start in range(0, len(readable), batch_size):
        rows = readable[start : start + batch_size]
        try:
            said = priors(torch.from_numpy(pixels[rows]).to(device))
        except torch.OutOfMemoryError as error:
            raise OrsanetError(
                f"--batch-size {batch_size} does not fit into the memory of {device}; lower it"
            ) from error
        for name, tensor in said._asdict().items():
            with np.errstate(over="ignore"):  # an overflow becomes infinite, and is reported as such
                arrays[name][rows] = tensor.cpu().numpy()
        progress.update(len(rows))
    progress.update(len(pixels) - len(readable))
    return arrays


def _not_finite(samples: Sequence[Sample], arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
    """A network output that is not a number is never trained on: sample id -> reason."""
    rejected = {}
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            bad = ~np.isfinite(array)
        elif name == "segmentation_map":
            bad = array == NO_CLASS
        else:
            continue
        advice = "; what overflows float16 may fit --features float32" if array.dtype == np.float16 else ""
        for row in np.flatnonzero(bad.reshape(len(array), -1).any(axis=1)).tolist():
            rejected[samples[row].image] = f"the networks' {name} is not finite as {array.dtype}{advice}"
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
