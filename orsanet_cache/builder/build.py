"""Stage one: run the frozen networks once over every image of a manifest.

    manifest → plan.py (units that lack views) → engine.py (decode, networks, shards, marker) → … → read back → seal

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
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
from orsanet_cache.builder.disk import bytes_needed, check_disk, explained
from orsanet_cache.builder.engine import Engine, EngineName, Machines, Setup
from orsanet_cache.builder.fields import optional_fields
from orsanet_cache.builder.hashes import Hashes
from orsanet_cache.builder.layout import ViewsOf
from orsanet_cache.builder.local_engine import ThisMachine
from orsanet_cache.builder.placing import check_clean, drawn_by, is_placed
from orsanet_cache.builder.plan import (
    Plan,
    Work,
    check_nothing_waits,
    count_waiting,
    plan_build,
    plan_finished,
    plan_placed,
)
from orsanet_cache.builder.reuse import PlannedRows, Reuse, kept_rows, reused_rows
from orsanet_cache.data.images import ImageReading, preprocessing
from orsanet_cache.data.images import image_reading as reading_of
from orsanet_cache.data.manifest import Manifest, as_manifest
from orsanet_cache.data.views import CLEAN, HFLIP, view_names
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.frozen.added import PriorNetwork
from orsanet_cache.frozen.priors import FrozenPriors, Precision
from orsanet_cache.paths import Place, StrPath, StrPlace, as_names, as_place
from orsanet_cache.places.files import has_file
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import schema
from orsanet_cache.store.units import WHOLE, Share, Unit
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
    engine: EngineName = "local",
    address: str | None = None,
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
        device: 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device. With `engine` "ray" it is that of every
            worker, without a number; 'auto' is a GPU if the cluster has one.
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
        engine: what computes the units. "local" is this process. "ray" is the workers of a Ray cluster
            (docs/clusters.md), one on each GPU or, without GPUs, on each core; this process plans and
            seals. A Ray that this process has already initialised is used, and left as it is.
        address: of the Ray cluster: "auto", "HOST:PORT" or "ray://HOST:PORT". None selects that in the
            variable RAY_ADDRESS, or else starts a cluster on this machine, which ends with the build.
        on_plan: called once, before anything is computed, with the numbers of rows to copy and to
            compute.
    """
    other = None if reuse is None else as_place(reuse, "reuse")
    given, out = manifest, as_place(out, "out")
    machines = machines_of(engine, address, device, part)
    manifest = as_manifest(given, check_files=not (fields or networks))
    views = view_names(as_names(views, "views"))
    priors = find_networks(out, like=other) if priors is None else priors
    channels = priors.segmenter.feature_channels, priors.landmark_network.feature_channels
    optional, lacking = optional_fields(out, None if fields is None else as_names(fields, "fields"), other)
    written = schema(*channels, feature_dtype, optional)
    splits = manifest.splits if splits is None else manifest.meant(as_names(splits, "splits"))
    additions = find_additions(out, priors, feature_dtype, lacking, networks, machines.own_device)
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
    files = priors.files  # recorded as a hint; the networks are identified by the recipe's digests
    with machines:
        if precision == "auto":
            precision = (
                machines.chosen_precision(priors, manifest, splits[0], image_reading)
                if stored is None
                else stored["precision"]
            )
        if precision == "fp16" and machines.device.type != "cuda":
            raise OrsanetError(
                f"{out}: fp16 needs a CUDA device; continue on a machine with one, or build another store with --precision fp32"
            )
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
            if grows := plan.layout.grows:
                source = Reuse(written) if source is None else source
                source.add(out)
            on_plan(PlannedRows(0, plan.rows, (), *kept_rows(plan)) if source is None else source.look(plan))
            hashes.save()
            setup = Setup(
                out, recipe, manifest.root, priors, written, precision, feature_dtype, image_reading, batch_size,
                views, lacking, tuple(networks), other,
            )  # fmt: skip
            began = time.monotonic()
            with machines.engine(writer, setup, source, additions, grows, not (plan.rows or added.rows)) as computing:
                provenance = {**_provenance(manifest), **files}
                reused = _finish(writer, computing, provenance, plan.only(placed=False))
                placed = plan_placed(writer, plan)
                reused += _finish(writer, computing, provenance, placed)
                rows_added = add_fields(writer, computing, plan, additions, provenance)
                check_nothing_waits(writer, plan, placed)
                grown = _write_states(writer, plan) if all_sealed(writer, added) else ()
                networks_seconds = computing.networks_seconds()
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


def machines_of(engine: EngineName, address: str | None, device: torch.device | str, part: Share = WHOLE) -> Machines:
    """Where an engine runs. Arguments as for `build`.

    Raises OrsanetError for an engine or a device that does not exist, without Ray for that engine,
    and for a part with it.
    """
    if engine == "ray":
        if part != WHOLE:
            raise OrsanetError(
                f"--part {part} and --engine ray exclude each other: Ray's workers share the units; leave one of the two out"
            )
        from orsanet_cache.builder.ray_engine import RayCluster

        return RayCluster(address, device)
    if engine != "local":
        raise OrsanetError(f"no engine '{engine}'; choose local or ray")
    if address is not None:
        raise OrsanetError(f"--address {address}: is that of a Ray cluster; add --engine ray")
    return ThisMachine(device)


def _finish(
    writer: StoreWriter,
    engine: Engine,
    provenance: Mapping[str, Any],
    plan: Plan,
) -> int:
    """Copy or compute this part's missing units of the plan, commit them, and seal complete views.

    Returns the number of rows that were copied.
    """
    copied = engine.compute(plan.work, plan.layout)
    provenance = {**provenance, "device": engine.device_name()}
    damaged = _seal(writer, plan.views, provenance)
    if damaged:  # data read back differs from the data written: one more try
        engine.compute(damaged, plan.layout)
        damaged = _seal(writer, plan.views, provenance)
    if damaged:
        names = [f"{unit.split}, rows {unit.start} to {unit.stop - 1}" for unit, _ in damaged]
        raise OrsanetError(f"{writer.path}: data read back from disk differs from what was written:\n{listed(names)}")
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


def _provenance(manifest: Manifest) -> dict[str, str]:
    packages = ("orsanet", "torch", "torchvision", "numpy", "pillow", "zarr")
    return {
        "manifest": manifest.name,
        "python": platform.python_version(),
        **{package: _installed(package) for package in packages},
    }


@cache
def _installed(package: str) -> str:
    return version(package)
