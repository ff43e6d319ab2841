"""Stage one: run the frozen networks once over every image of a manifest.

    manifest → plan.py (units that lack views) → pipeline.py (decode, networks) → writer.py (shards, marker) → … → read back → seal

A manifest that has changed since the store was built makes it grow: rows of pictures that are in the
store stay where they are, others are added, and what the splits mean is written last (growth.py).
Rows of pictures that another store of the same recipe has can be copied from it (reuse.py).
Views with occluders come second, because the landmarks of the sealed clean view place them
(placing.py). Fields that are added to views come last, because they are computed from what the views
have (additions.py).

Unusable images are collected with their reasons. Their rows exist and are marked as rejected. Any
number of processes may build one store, each its own part; they share only the place of the store.
"""

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from orsanet_cache.builder.additions import (
    Additions,
    add_fields,
    all_sealed,
    find_additions,
    is_finished,
    plan_additions,
    waiting_additions,
)
from orsanet_cache.builder.disk import bytes_needed, check_disk, explained, what_is_safe
from orsanet_cache.builder.fields import optional_fields
from orsanet_cache.builder.hashes import Hashes
from orsanet_cache.builder.layout import Layout, ViewsOf
from orsanet_cache.builder.pipeline import Decoding, Inference, Pipeline, ahead
from orsanet_cache.builder.placing import Placement, check_clean, drawn_by, is_placed, placement
from orsanet_cache.builder.plan import (
    Plan,
    Work,
    check_nothing_waits,
    count_waiting,
    plan_build,
    plan_finished,
    plan_placed,
)
from orsanet_cache.builder.precision import chosen_precision
from orsanet_cache.builder.reuse import PlannedRows, Reuse, kept_rows, reused_rows
from orsanet_cache.data.images import ImageReading, preprocessing
from orsanet_cache.data.images import image_reading as reading_of
from orsanet_cache.data.manifest import Manifest, as_manifest
from orsanet_cache.data.views import CLEAN, HFLIP, view_names
from orsanet_cache.device import as_device
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.frozen.added import PriorNetwork
from orsanet_cache.frozen.priors import FrozenPriors, Precision, in_half_precision
from orsanet_cache.paths import Place, StrPath, StrPlace, as_names, as_place
from orsanet_cache.places.files import has_file
from orsanet_cache.progress import Progress
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import schema
from orsanet_cache.store.units import WHOLE, Share, Unit, UnitRecord
from orsanet_cache.store.zarr_folder import METADATA
from orsanet_cache.weights.networks import find_networks
from orsanet_cache.writing.writer import StoreWriter


@dataclass(frozen=True)
class BuildSummary:
    """The result of one call of `build`, and the images that cannot be used."""

    images: int
    computed: int  # images times views computed by this call
    seconds: float
    networks_seconds: float  # part of `seconds` during which the networks ran
    rejected: dict[str, dict[str, str]]  # split -> sample id -> reason, of the sealed views
    waiting: int  # units that other parts have not computed yet
    reused: int = 0  # images times views copied from the other store by this call
    damaged: dict[str, str] = field(default_factory=dict)  # rows of the other store -> damage; they were computed
    grown: tuple[str, ...] = ()  # splits that mean something else since this call: other images, names or order
    added: int = 0  # images times views times additions computed by this call


def build(
    manifest: Manifest | StrPath,
    out: StrPlace,
    priors: FrozenPriors | None = None,
    views: Sequence[str] = (CLEAN, HFLIP),
    *,
    fields: Sequence[str] | None = None,
    networks: Sequence[PriorNetwork] = (),
    device: torch.device | str = "auto",
    splits: Sequence[str] | None = None,
    part: Share = WHOLE,
    precision: Precision | Literal["auto"] = "auto",
    feature_dtype: str = "float16",
    image_reading: ImageReading | None = None,
    batch_size: int | None = None,
    rows_per_unit: int | None = None,
    accept_changed: bool = False,
    recompute: Sequence[tuple[Unit, str]] = (),
    reuse: StrPlace | None = None,
    rehash: bool = False,
    mix_rows: bool = False,
    on_plan: Callable[[PlannedRows], object] = lambda _: None,
) -> BuildSummary:
    """Compute this part's missing units of `views`, and seal the views that are complete.

    With `reuse`, the rows of pictures that another store of the same recipe has are copied from it,
    each against its checksum, and the others are computed. Rows are found by the SHA-256 of the
    picture's file, whatever their row, split, name or label was.

    If the store was built from another list of images, only pictures that it lacks are computed, in
    every view that the split has; the others keep their rows, whatever their names, order and splits
    were. Rows of pictures that are no longer in the manifest stay in the store.

    Fields that the store's views lack are added to them, and nothing else of the store changes.
    Where the stored images are enough for that and the splits lack nothing else, no picture is read.

    Raises OrsanetError if the recipe or an image differs from the store's; if
    another process builds this part; if the disk has too little space; if a split has no usable
    image; if views with occluders have no finished clean view, were placed by another one, or were
    drawn by another version; or if the store to reuse has another recipe or is `out` itself.

    Args:
        manifest: the manifest or its path.
        out: the store to create or to continue: a Zarr folder, or its URL (s3://…, gs://…, az://…).
        priors: the frozen networks. None selects the networks that the store was built with; for a
            new store those of `reuse`, else the published ones in the weights folder.
        views: names of the views to compute; `augmented-4` stands for four draws of the augmented
            view.
        fields: optional fields that the store is to have: "landmark_features_28" and
            "landmark_features_14", which POSTER V2 reads. Those that the store has are computed in
            any case.
        networks: networks of one's own, whose fields the store is to have (frozen/added.py). Those
            whose fields the store has already may be left out where an installed package offers them.
        device: 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device.
        splits: splits to compute, by default all of the manifest. A view that only tests need can
            be computed for the test split alone.
        part: this process's share of the units.
        precision: the networks' arithmetic. fp16 needs CUDA; "auto" chooses as precision.py
            describes.
        feature_dtype: type of the stored features: float16, float32, or int8 with scales.
        image_reading: how image files are read: "upright", or "published" as the published loader
            reads them (data/images.py). None selects that of the store; for a new store that of
            `reuse`, else "upright".
        batch_size: images at a time, at least 1. None selects 8 on a CPU and 64 on a GPU.
        rows_per_unit: rows of a unit in a new store, 1 to 65,536; an existing store keeps its own.
        accept_changed: compute the units of changed images again, in every view.
        recompute: (unit, view) pairs to compute again. For the clean view this includes the views
            that it places.
        reuse: another store, Zarr or HDF5, finished or not, which is only read. It may differ from
            call to call of an interrupted build.
        rehash: hash every picture that is in the store already, also where its inode, size and times
            are those with which it was hashed before.
        mix_rows: give new rows another order than the manifest's, in which every shard has pictures of
            all classes. Only where rows lie changes, not what a split has at which position.
        on_plan: called once, before anything is computed, with the numbers of rows to copy and to
            compute.
    """
    other = None if reuse is None else as_place(reuse, "reuse")
    given, out, device = manifest, as_place(out, "out"), as_device(device)
    manifest = as_manifest(given, check_files=not (fields or networks))
    views = view_names(as_names(views, "views"))
    priors = find_networks(out, like=other) if priors is None else priors
    channels = priors.segmenter.feature_channels, priors.landmark_network.feature_channels
    optional, lacking = optional_fields(out, None if fields is None else as_names(fields, "fields"), other)
    written = schema(*channels, feature_dtype, optional)
    splits = manifest.splits if splits is None else manifest.meant(as_names(splits, "splits"))
    additions = find_additions(out, priors, feature_dtype, lacking, networks, device)
    alone = not recompute and additions.need_no_picture() and is_finished(out, manifest, splits, views)
    if not alone and (fields or networks):
        as_manifest(given, check_files=True)
    check_clean(out, splits, views)
    images = sum(len(manifest.split(split)) for split in splits)
    if (
        isinstance(out, Path) and not out.exists()
    ):  # checked before anything is written, in case a new store does not fit
        check_disk(out, bytes_needed(images * len(views), written))
    stored = _stored_recipe(out) or (None if other is None else PriorStore.open(other).recipe)
    if image_reading is None:
        image_reading = "upright" if stored is None else reading_of(stored)
    if precision == "auto":
        precision = (
            chosen_precision(priors, manifest, splits[0], device, image_reading)
            if stored is None
            else stored["precision"]
        )
    if precision == "fp16" and device.type != "cuda":
        raise OrsanetError(
            f"{out}: fp16 needs a CUDA device; continue on a machine with one, or build another store with --precision fp32"
        )
    files = priors.files  # recorded as a hint; the networks are identified by the recipe's digests
    recipe = {
        **priors.recipe(),
        "preprocessing": preprocessing(image_reading),
        "precision": precision,
        "feature_dtype": feature_dtype,
    }
    source = None if other is None else Reuse.open(other, out, recipe, written, views)
    known = tuple(additions.known.values())
    with explained(out), StoreWriter.open(out, recipe, written, part, rows_per_unit, known) as writer:
        hashes = Hashes(manifest.root, out, rehash)
        plan = (
            plan_finished(writer, splits, views, hashes)
            if alone
            else plan_build(writer, manifest, splits, views, recompute, accept_changed, hashes, mix_rows)
        )
        added = plan_additions(writer, plan, additions)
        check_disk(out, bytes_needed(plan.rows, written) + added.bytes_needed(additions))
        if plan.layout.grows:
            source = Reuse(written) if source is None else source
            source.add(out)
        on_plan(PlannedRows(0, plan.rows, (), *kept_rows(plan)) if source is None else source.look(plan))
        hashes.save()
        if plan.rows or added.rows:
            priors = (in_half_precision(priors) if precision == "fp16" else priors).to(device)
            additions.use(priors)
        began = time.monotonic()
        with Pipeline(
            manifest.root, priors, written, device, batch_size, writer.rows_per_unit, image_reading
        ) as pipeline:
            provenance = {**_provenance(manifest, device), **files}
            reused = _finish(writer, pipeline, source, provenance, plan.only(placed=False))
            placed = plan_placed(writer, plan)
            reused += _finish(writer, pipeline, source, provenance, placed)
            rows_added = add_fields(writer, pipeline, plan, additions, provenance)
            check_nothing_waits(writer, plan, placed)
            grown = _write_states(writer, plan) if all_sealed(writer, added) else ()
            networks_seconds = pipeline.networks_seconds()
        waiting = count_waiting(writer, plan) + waiting_additions(writer, added)
    return BuildSummary(
        images,
        plan.rows - reused,
        time.monotonic() - began,
        networks_seconds,
        _rejected(out, plan, additions),
        waiting,
        reused,
        {} if source is None else source.damaged,
        grown,
        rows_added,
    )


def _finish(
    writer: StoreWriter,
    pipeline: Pipeline,
    source: Reuse | None,
    provenance: Mapping[str, Any],
    plan: Plan,
) -> int:
    """Copy or compute this part's missing units of the plan, commit them, and seal complete views.

    Returns the number of rows that were copied.
    """
    placed = any(is_placed(view) for views in plan.views.values() for view in views)
    place = partial(placement, PriorStore.open_segments(writer.path)) if placed else None
    copied = _compute(plan.work, plan.layout, writer, pipeline, source, place)
    damaged = _seal(writer, plan.views, provenance)
    if damaged:  # data read back differs from the data written: one more try
        _compute(damaged, plan.layout, writer, pipeline, source, place)
        damaged = _seal(writer, plan.views, provenance)
    if damaged:
        names = [f"{unit.split}, rows {unit.start} to {unit.stop - 1}" for unit, _ in damaged]
        raise OrsanetError(f"{writer.path}: data read back from disk differs from what was written:\n{listed(names)}")
    return copied


def _compute(
    work: Sequence[Work],
    layout: Layout,
    writer: StoreWriter,
    pipeline: Pipeline,
    source: Reuse | None,
    place: Callable[[Unit], Placement] | None,
) -> int:
    """Decode, run the networks, copy known rows and write, all concurrently -> the number of rows copied.

    Args:
        work: units with the views to compute.
        layout: the units' pictures.
        writer: the store's writer.
        pipeline: the threads that decode and that run the networks.
        source: the stores whose rows are copied, if any.
        place: returns a unit's placement for views with occluders; None for other views.
    """
    total = sum(lacking.rows for lacking in work)

    def decoding() -> Iterator[tuple[Work, Decoding]]:
        for lacking in work:
            unit = lacking.unit
            where = place(unit) if place else None
            of_unit, files = layout.samples(unit), layout.files(unit)
            known = {} if source is None else source.known(unit, of_unit, lacking.views, where)
            gone = writer.digests(unit) if None in files else None
            yield lacking, pipeline.start_decoding(of_unit, lacking.views, where, known, files, gone)

    def inference() -> Iterator[tuple[Unit, str, Inference]]:
        for lacking, images in ahead(decoding()):
            decoded = images.result()
            for view in lacking.views:
                yield lacking.unit, view, pipeline.start_networks(decoded, view)

    name = "build" if writer.part.count == 1 else f"part {writer.part}"
    safe = copied = 0
    with Progress(total, name, "view") as progress:
        # One unit ahead: the networks compute it while this thread writes. With more units ahead, a
        # kill would lose more.
        for unit, view, priors in ahead(inference()):
            computed = priors.result(progress.update)
            copied += computed.copied
            with what_is_safe(writer.path, safe, total, pipeline.fields):
                if source is not None and computed.copied:
                    source.note(writer, unit, view)
                writer.commit(unit, view, computed.arrays, UnitRecord(computed.sha256, computed.rejected))
            safe += unit.stop - unit.start
    return copied


def _seal(writer: StoreWriter, views: ViewsOf, provenance: Mapping[str, Any]) -> list[Work]:
    """Seal every complete view.

    Units that differ when read back lose their markers and are returned.
    """
    damaged = []
    for split, of_split in views.items():
        for view in of_split:
            drawing = drawn_by(writer.segments(), split) if is_placed(view) else {}
            reused = reused_rows(writer, split, view)
            units = writer.seal(split, view, {**provenance, **drawing, **reused})
            if units:
                writer.uncommit(units, view)
            damaged += [Work(unit, (view,)) for unit in units]
    return damaged


def _write_states(writer: StoreWriter, plan: Plan) -> tuple[str, ...]:
    """Write what the splits mean, all at once -> those that mean something else now.

    While other parts still build a segment, this is left to the last of them.
    """
    splits = plan.layout.splits
    if not all(writer.is_sealed(name, view) for one in splits for name in one.segments for view in one.views):
        return ()
    return writer.write_states({one.split: one.state for one in splits if one.state is not None})


def _rejected(out: Place, plan: Plan, additions: Additions) -> dict[str, dict[str, str]]:
    """The unusable images of each split, with reasons.

    Raises OrsanetError for a split without a usable image.
    """
    store = PriorStore.open(out)
    fields = [field.name for addition in additions.known.values() for field in addition.fields]
    rejected: dict[str, dict[str, str]] = {}
    for meaning in plan.layout.splits:
        split = meaning.split
        views = dict.fromkeys((*meaning.views, *plan.views.get(split, ())))
        finished = [view for view in views if split in store.splits and view in store.views(split)]
        sealed = [store.rejected(split, view, fields) for view in finished]
        rejected[split] = {image: reason for view in sealed for image, reason in view.items()}
        if finished and len(rejected[split]) == len(store.sample_ids(split)):
            reasons = [f"{image!r}: {reason}" for image, reason in rejected[split].items()]
            raise OrsanetError(f"{out}: no image of split '{split}' could be used:\n{listed(reasons)}")
    return rejected


def _stored_recipe(out: Place) -> dict[str, Any] | None:
    """The recipe of an existing store, None for a new one."""
    return PriorStore.open(out).recipe if has_file(out, METADATA) else None


def _provenance(manifest: Manifest, device: torch.device) -> dict[str, str]:
    packages = ("orsanet", "torch", "torchvision", "numpy", "pillow", "zarr")
    return {
        "manifest": manifest.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        **{package: _installed(package) for package in packages},
    }


@cache
def _installed(package: str) -> str:
    return version(package)
