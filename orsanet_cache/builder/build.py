"""Stage one: run the frozen networks once over every image of a manifest.

    manifest → units that lack views → pipeline.py (decode, networks) → commit.py (shards, marker) → … → read back → seal

Views with occluders come second: they are placed by the landmarks of the sealed clean view.

Images that cannot be used are collected with their reasons, never guessed; their rows exist and are marked as rejected. Any number of
processes may build one store, each its part, with nothing between them but the file system.
"""

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from tqdm.auto import tqdm

from orsanet_cache.builder.pipeline import Decoding, Inference, Pipeline, ahead
from orsanet_cache.builder.placing import Placement, begin, check_clean, check_sealed, drawn_by, is_placed, placement
from orsanet_cache.builder.precision import chosen_precision, in_half_precision
from orsanet_cache.data.images import PREPROCESSING, RejectedImage, read_file
from orsanet_cache.data.manifest import Manifest, as_manifest
from orsanet_cache.data.views import CLEAN
from orsanet_cache.device import as_device
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.frozen.priors import FrozenPriors, Precision
from orsanet_cache.paths import StrPath, as_names, as_path
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import Field, schema
from orsanet_cache.store.units import WHOLE, Part, Unit, UnitRecord
from orsanet_cache.store.writer import StoreWriter
from orsanet_cache.store.zarr_folder import METADATA
from orsanet_cache.weights.networks import find_networks

# What a compressed field needs per row, as a share of its raw bytes: zstd reaches 40x on real segmentation maps, 2x on noise.
COMPRESSED_SHARE = 0.25
FREE_SPACE_MARGIN = 1.05


@dataclass(frozen=True)
class BuildSummary:
    """What one call of `build` did, and which images cannot be used."""

    images: int
    computed: int  # images times views, this time
    seconds: float
    networks_seconds: float  # of these, while the networks ran
    rejected: dict[str, dict[str, str]]  # split -> sample id -> reason, of the views that are sealed
    waiting: int  # units that other parts have still to compute


class Work(NamedTuple):
    """A unit and the views it lacks."""

    unit: Unit
    views: tuple[str, ...]

    @property
    def rows(self) -> int:
        return (self.unit.stop - self.unit.start) * len(self.views)


def build(
    manifest: Manifest | StrPath,
    out: StrPath,
    priors: FrozenPriors | None = None,
    views: Sequence[str] = ("clean", "hflip"),
    *,
    device: torch.device | str = "auto",
    splits: Sequence[str] | None = None,
    part: Part = WHOLE,
    precision: Precision | Literal["auto"] = "auto",
    feature_dtype: str = "float16",
    batch_size: int | None = None,
    rows_per_unit: int | None = None,
    accept_changed: bool = False,
    recompute: Sequence[tuple[Unit, str]] = (),
) -> BuildSummary:
    """Compute what the store lacks of `views`, this part's units of it, and seal what is complete.

    `priors` are the frozen networks; None finds them: those that the store was built with, for a new store the published ones in the
    weights folder. `splits` are all of the manifest's unless named: a view that only testing needs is computed for the test split alone.
    `precision` is the networks' arithmetic (fp16 on CUDA only; "auto" decides as precision.py says), `feature_dtype` how the store keeps
    features: float16, float32, or int8 with scales. `rows_per_unit` is a new store's. With `accept_changed`, units whose images have
    changed since are computed again, in every view; so are the units of views named by `recompute`, and with those of the clean view
    what they place.
    Raises OrsanetError for another recipe, image list or image than the store's, a part that another process builds, too little disk,
    a split without a usable image, or views with occluders where the clean view that places them is not finished, or was another, or
    another version drew them.
    """
    manifest, out, device = as_manifest(manifest, check_files=True), as_path(out, "out"), as_device(device)
    views = as_names(views, "views")
    priors = find_networks(out) if priors is None else priors
    fields = schema(priors.segmenter.feature_channels, priors.landmark_network.feature_channels, feature_dtype)
    splits = manifest.splits if splits is None else as_names(splits, "splits")
    check_clean(out, splits, views)
    images = sum(len(manifest.split(split)) for split in splits)
    if not out.exists():  # leave nothing behind where a new store would not fit
        _check_disk(out, bytes_needed(images * len(views), fields))
    if precision == "auto":
        precision = _stored_precision(out) or chosen_precision(priors, manifest, splits[0], device)
    if precision == "fp16" and device.type != "cuda":
        raise OrsanetError(
            f"{out}: fp16 needs a CUDA device; go on where there is one, or build another store with --precision fp32"
        )
    files = priors.files  # a hint where to look for them; the recipe's digests decide
    recipe = {
        **priors.recipe(),
        "preprocessing": PREPROCESSING,
        "precision": precision,
        "feature_dtype": feature_dtype,
    }
    with _explained(out), StoreWriter.open(out, recipe, fields, part, rows_per_unit) as writer:
        for split in splits:
            writer.add_split(split, [sample.image for sample in manifest.split(split)])
        units = [unit for split in splits for unit in writer.units(split)]
        own = [unit for position, unit in enumerate(units) if part.has(position)]
        _treat_changed(writer, manifest, own, accept_changed, {(unit.split, view) for unit, view in recompute})
        reopened = _take_back(writer, recompute)
        wanted = _wanted(writer, splits, views, accept_changed, reopened)
        for split in splits:
            for view in wanted[split]:
                if is_placed(view):
                    _check_drawing(writer, split, view)
                writer.add_view(split, view)

        rows = sum(lacking.rows for lacking in _lacking(writer, own, wanted))
        _check_disk(out, bytes_needed(rows, fields))
        if rows:
            priors = (in_half_precision(priors) if precision == "fp16" else priors).to(device)
        began = time.monotonic()
        with Pipeline(manifest.root, priors, fields, device, batch_size) as pipeline:
            provenance = {**_provenance(manifest, device), **files}
            _finish(_only(wanted, placed=False), own, writer, pipeline, manifest, provenance)
            placed = _only(wanted, placed=True)
            placeable = {split: views for split, views in placed.items() if writer.is_sealed(split, CLEAN)}
            _finish(placeable, own, writer, pipeline, manifest, provenance)
            _check_placeable(writer, own, {split: views for split, views in placed.items() if split not in placeable})
            networks_seconds = pipeline.networks_seconds()
        waiting = len({unit for split in splits for view in wanted[split] for unit in writer.missing(split, view)})
    return BuildSummary(
        images, rows, time.monotonic() - began, networks_seconds, _rejected(out, manifest, wanted), waiting
    )


def _treat_changed(
    writer: StoreWriter, manifest: Manifest, own: Sequence[Unit], accept: bool, damaged: set[tuple[str, str]]
) -> None:
    """Images that are not those the store was built from: refuse them, or take back what was computed from them, in every view.

    Views that are `damaged` (split, view) need not say what they were built from.
    """
    changed = _changed_images(writer, manifest, own, damaged)
    if changed and not accept:
        found = [f"{unit.split}: {text}" for unit, texts in changed.items() for text in texts]
        rows = sum(unit.stop - unit.start for unit in changed)
        raise OrsanetError(
            f"{writer.path}: {len(found)} image(s) are not those that the store was built from; put them back, or run "
            f"`orsanet-cache build … --accept-changed`, which computes the {len(changed)} unit(s) they are in again ({rows:,} images):\n{listed(found)}"
        )
    _take_back(writer, [(unit, view) for unit in changed for view in writer.views(unit.split)])


def _take_back(writer: StoreWriter, units: Sequence[tuple[Unit, str]]) -> list[tuple[str, str]]:
    """Uncommit units of views, and with those of a clean view what they place -> the placed views (split, view) that were sealed."""
    follow = [(unit, view) for unit, of_view in units if of_view == CLEAN for view in writer.views(unit.split)]
    # What is placed goes first: wherever this ends, nothing is left that was placed by landmarks that will be others.
    units = sorted(
        dict.fromkeys([*units, *(one for one in follow if is_placed(one[1]))]), key=lambda one: not is_placed(one[1])
    )
    sealed = []
    for split, view in dict.fromkeys((unit.split, view) for unit, view in units):
        if is_placed(view):
            sealed += [(split, view)] if writer.is_sealed(split, view) else []
            begin(writer.path, split, view)
        writer.uncommit([unit for unit, of_view in units if (unit.split, of_view) == (split, view)], view)
    return sealed


def _wanted(
    writer: StoreWriter,
    splits: Sequence[str],
    views: Sequence[str],
    accept_changed: bool,
    reopened: Sequence[tuple[str, str]],
) -> dict[str, tuple[str, ...]]:
    """Per split the views to finish: with changed images also those that were begun or had to be opened again for them."""
    wanted = {}
    for split in splits:
        opened = [view for view in writer.views(split) if not writer.is_sealed(split, view)] if accept_changed else []
        wanted[split] = tuple(dict.fromkeys((*views, *opened, *(view for of, view in reopened if of == split))))
    return wanted


def _only(wanted: Mapping[str, Sequence[str]], placed: bool) -> dict[str, tuple[str, ...]]:
    return {split: tuple(view for view in views if is_placed(view) is placed) for split, views in wanted.items()}


def _check_drawing(writer: StoreWriter, split: str, view: str) -> None:
    if writer.is_sealed(split, view):
        check_sealed(PriorStore.open(writer.path), split, view)
    else:
        begin(writer.path, split, view)


def _check_placeable(writer: StoreWriter, own: Sequence[Unit], placed: Mapping[str, Sequence[str]]) -> None:
    """Raises OrsanetError where views of these splits wait for a clean view that other parts are at."""
    waiting = _lacking(writer, own, placed)
    if waiting:
        splits = ", ".join(dict.fromkeys(lacking.unit.split for lacking in waiting))
        views = ", ".join(dict.fromkeys(view for lacking in waiting for view in lacking.views))
        raise OrsanetError(
            f"{writer.path}: {views} go where the landmarks of the clean view say, and other parts are still at the clean view of {splits}; "
            f"what was computed is kept: run the same command again when they have finished"
        )


def _lacking(writer: StoreWriter, own: Sequence[Unit], wanted: Mapping[str, Sequence[str]]) -> list[Work]:
    """The units of this part that some view lacks."""
    missing = {
        (unit, view) for split, views in wanted.items() for view in views for unit in writer.missing(split, view)
    }
    work = [Work(unit, tuple(view for view in wanted.get(unit.split, ()) if (unit, view) in missing)) for unit in own]
    return [lacking for lacking in work if lacking.views]


def _finish(
    wanted: Mapping[str, Sequence[str]],
    own: Sequence[Unit],
    writer: StoreWriter,
    pipeline: Pipeline,
    manifest: Manifest,
    provenance: Mapping[str, Any],
) -> None:
    """Compute what this part lacks of these views, and seal what is complete."""
    placed = any(is_placed(view) for views in wanted.values() for view in views)
    place = partial(placement, PriorStore.open(writer.path)) if placed else None
    _compute(_lacking(writer, own, wanted), writer, pipeline, manifest, place)
    damaged = _seal(writer, wanted, provenance)
    if damaged:  # they did not read back as they were written
        _compute(damaged, writer, pipeline, manifest, place)
        damaged = _seal(writer, wanted, provenance)
    if damaged:
        names = [f"{unit.split}, rows {unit.start} to {unit.stop - 1}" for unit, _ in damaged]
        raise OrsanetError(f"{writer.path}: the disk does not give back what was written:\n{listed(names)}")


def _compute(
    work: Sequence[Work],
    writer: StoreWriter,
    pipeline: Pipeline,
    manifest: Manifest,
    place: Callable[[Unit], Placement] | None,
) -> None:
    """Decode, run the networks and write, all three at once; `place` says where the occluders of views that have some go."""
    total = sum(lacking.rows for lacking in work)
    samples = {split: manifest.split(split) for split in {lacking.unit.split for lacking in work}}

    def decoding() -> Iterator[tuple[Work, Decoding]]:
        for lacking in work:
            unit = lacking.unit
            where = place(unit) if place else None
            yield lacking, pipeline.start_decoding(samples[unit.split][unit.rows], lacking.views, where)

    def inference() -> Iterator[tuple[Unit, str, Inference]]:
        for lacking, images in ahead(decoding()):
            decoded = images.result()
            for view in lacking.views:
                yield lacking.unit, view, pipeline.start_networks(decoded, view)

    name = "build" if writer.part.count == 1 else f"part {writer.part}"
    safe = 0
    with tqdm(total=total, unit="view", desc=name, smoothing=0.05, disable=not work) as progress:
        # One ahead, which the networks are at while this thread writes. More would be lost by a kill.
        for unit, view, priors in ahead(inference()):
            computed = priors.result(progress.update)
            with _what_is_safe(writer.path, safe, total, pipeline.fields):
                writer.commit(unit, view, computed.arrays, UnitRecord(computed.sha256, computed.rejected))
            safe += unit.stop - unit.start


def _seal(writer: StoreWriter, wanted: Mapping[str, Sequence[str]], provenance: Mapping[str, Any]) -> list[Work]:
    """Seal every complete view; what does not read back as it was committed loses its marker and is returned."""
    damaged = []
    for split, views in wanted.items():
        for view in views:
            drawing = drawn_by(PriorStore.open(writer.path), split) if is_placed(view) else {}
            units = writer.seal(split, view, {**provenance, **drawing})
            if units:
                writer.uncommit(units, view)
            damaged += [Work(unit, (view,)) for unit in units]
    return damaged


def _changed_images(
    writer: StoreWriter, manifest: Manifest, own: Sequence[Unit], damaged: set[tuple[str, str]]
) -> dict[Unit, list[str]]:
    """Units whose image files are not those they were computed from -> what is different."""
    known: dict[Unit, list[list[str]]] = {unit: [] for unit in own}
    for split in dict.fromkeys(unit.split for unit in own):
        for view in writer.views(split):
            try:
                of_view = writer.image_sha256(split, view)
            except OrsanetError:
                if (split, view) not in damaged:
                    raise
                continue
            for unit, digests in of_view.items():
                if unit in known:
                    known[unit].append(digests)

    def difference(image: str, before: set[str]) -> str:
        now = _file_sha256(manifest.root / image)
        if before == {now}:
            return ""
        return f"{image!r}: " + (
            "cannot be read now" if not now else "changed" if "" not in before else "can be read now"
        )

    changed: dict[Unit, list[str]] = {}
    samples = {split: manifest.split(split) for split in {unit.split for unit in own}}
    finished = {unit: of_views for unit, of_views in known.items() if of_views}
    total = sum(unit.stop - unit.start for unit in finished)
    with (
        ThreadPoolExecutor(os.cpu_count(), "hash") as pool,
        tqdm(total=total, unit="image", desc="check images", delay=2, leave=False) as progress,
    ):
        for unit, of_views in finished.items():
            images = [sample.image for sample in samples[unit.split][unit.rows]]
            before = [set(of_image) for of_image in zip(*of_views, strict=True)]
            found = [text for text in pool.map(difference, images, before) if text]
            progress.update(len(images))
            if found:
                changed[unit] = found
    return changed


def _file_sha256(path: Path) -> str:
    """In hex; empty for a file that cannot be read."""
    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except RejectedImage:
        return ""


def _rejected(out: Path, manifest: Manifest, wanted: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Per split the images that cannot be used, and why. Raises OrsanetError for a split of which none can."""
    store = PriorStore.open(out)
    rejected: dict[str, dict[str, str]] = {}
    for split, views in wanted.items():
        sealed = [store.rejected(split, view) for view in views if view in store.views(split)]
        rejected[split] = {image: reason for view in sealed for image, reason in view.items()}
        if len(rejected[split]) == len(manifest.split(split)):
            reasons = [f"{image!r}: {reason}" for image, reason in rejected[split].items()]
            raise OrsanetError(f"{out}: no image of split '{split}' could be used:\n{listed(reasons)}")
    return rejected


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


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    """A disk or folder that cannot be written, wherever it strikes."""
    try:
        yield
    except OSError as error:
        raise OrsanetError(
            f"{out}: cannot be written ({error.strerror or error}); what was finished is safe: mend that and run the same command again"
        ) from error


@contextmanager
def _what_is_safe(out: Path, safe: int, total: int, fields: Sequence[Field]) -> Iterator[None]:
    """A disk that takes no more: say what is safe and how much is missing."""
    try:
        yield
    except OSError as error:
        raise OrsanetError(
            f"{out}: cannot be written ({error.strerror or error}); {safe:,} of {total:,} views are safe, the others need about "
            f"{bytes_needed(total - safe, fields) / 1e9:.2f} GB more; free some space and run the same command again"
        ) from error


def _stored_precision(out: Path) -> Precision | None:
    """What a store that is continued was begun with."""
    return PriorStore.open(out).recipe["precision"] if (out / METADATA).exists() else None


def _provenance(manifest: Manifest, device: torch.device) -> dict[str, str]:
    packages = ("orsanet", "torch", "torchvision", "numpy", "pillow", "zarr")
    return {
        "manifest": manifest.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
