"""Fields added to views: those of a network of one's own, and optional ones that a store lacks.

    a view's stored images, or its pictures again ─ the network ─▶ the group VIEW.NAME: shards, marker ─ read back ─▶ its own seal

A group of added fields is written, marked, read back and sealed as a view is. The view's files and
its seal do not change. A unit is added to once it is committed in its view, by the part that
committed it; a group is sealed after its view, whose seal is recorded with it.

A network that needs no more than the stored image reads no picture. Otherwise the pictures are
decoded again, and a picture with another digest than the view's is refused.

All views of a split have the same additions.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from orsanet_cache.builder.disk import bytes_needed, what_is_safe
from orsanet_cache.builder.fields import check_same, stored_additions
from orsanet_cache.builder.pipeline import Arrays, Decoding, Pipeline, ahead, not_finite
from orsanet_cache.builder.placing import is_placed, placement
from orsanet_cache.builder.plan import Plan
from orsanet_cache.data.augmentation import stored_rectangles
from orsanet_cache.data.images import IMAGE_SIZE, Pixels
from orsanet_cache.data.manifest import Manifest
from orsanet_cache.errors import OrsanetError, listed, refuse_shortage
from orsanet_cache.frozen.added import (
    STORED_SIZE,
    Added,
    AddingNetwork,
    LandmarkGrids,
    PriorNetwork,
    installed_network,
    is_installed,
    landmark_grids,
    numpy_values,
    own_networks,
)
from orsanet_cache.frozen.priors import FrozenPriors
from orsanet_cache.paths import Place
from orsanet_cache.places.files import has_file
from orsanet_cache.progress import Progress
from orsanet_cache.store.committed import CommittedRows, committed_rows
from orsanet_cache.store.container import DAMAGE, open_container
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import ADDED_TO, IMAGE_SHAPE, OPTIONAL, Addition, Field, added_group, view_and_addition
from orsanet_cache.store.seal import hex_digests
from orsanet_cache.store.units import Unit, UnitRecord
from orsanet_cache.store.zarr_folder import METADATA
from orsanet_cache.writing.writer import StoreWriter


@dataclass(frozen=True)
class Additions:
    """What a build adds to views."""

    stored: Mapping[str, Addition]  # those that the store has, finished or not
    given: tuple[Added, ...]  # those that can be computed
    asked: frozenset[str]  # names of those that every split of the build is to have

    @cached_property
    def known(self) -> dict[str, Addition]:
        """All additions by name."""
        return {**self.stored, **{one.addition.name: one.addition for one in self.given}}

    @cached_property
    def networks(self) -> dict[str, AddingNetwork]:
        """What computes an addition, by the addition's name."""
        return {one.addition.name: one.network for one in self.given}

    def use(self, priors: FrozenPriors) -> None:
        """Compute the landmark network's grids with these networks, which are on the build's device."""
        for network in self.networks.values():
            if isinstance(network, LandmarkGrids):
                network.priors = priors

    def need_no_picture(self) -> bool:
        """Whether something is asked for, and the stored images are enough for everything that may lack."""
        sizes = {self.networks[name].size if name in self.networks else IMAGE_SIZE for name in self.known}
        return bool(self.asked) and sizes == {STORED_SIZE}


def find_additions(
    out: Place,
    priors: FrozenPriors,
    feature_dtype: str,
    optional: Sequence[str],
    networks: Sequence[PriorNetwork],
    device: torch.device,
) -> Additions:
    """What a build of `out` adds to views: what is asked for, and what the store has.

    Raises OrsanetError for a network that is none, and for one whose fields the store has from another one.

    Args:
        out: the store.
        priors: the frozen networks.
        feature_dtype: type of the stored features.
        optional: names of the optional fields that are asked for.
        networks: networks of one's own, all asked for.
        device: where they run.
    """
    stored = stored_additions(out)
    grids = landmark_grids(priors, feature_dtype, [name for name in OPTIONAL if name in (*optional, *stored)])
    given = [*grids, *own_networks(networks, device)]
    named = {one.addition.name for one in given}
    given += own_networks([installed_network(name) for name in stored.keys() - named if is_installed(name)], device)
    check_same(out, stored, given)
    asked = frozenset((*optional, *(network.name for network in networks)))
    return Additions(stored, tuple(given), asked)


def is_finished(out: Place, manifest: Manifest, splits: Sequence[str], views: Sequence[str]) -> bool:
    """Whether the splits of a store have the manifest's images, in its order, and these views, all finished."""
    if not has_file(out, METADATA):
        return False
    with suppress(OrsanetError):  # the build explains what is damaged
        store = PriorStore.open(out)
        return all(
            split in store.splits
            and store.sample_ids(split) == tuple(sample.image for sample in manifest.split(split))
            and set(views) <= set(store.views(split))
            for split in splits
        )
    return False


@dataclass(frozen=True)
class AddedWork:
    """A unit of a view, and the additions that it lacks."""

    unit: Unit
    view: str
    names: tuple[str, ...]

    @property
    def rows(self) -> int:
        return (self.unit.stop - self.unit.start) * len(self.names)


@dataclass(frozen=True)
class AddedPlan:
    """The groups of added fields to finish, and this part's work on them."""

    groups: Mapping[str, tuple[str, ...]]  # segment -> VIEW.NAME
    work: Sequence[AddedWork]

    @property
    def rows(self) -> int:
        """Images times views times additions to compute."""
        return sum(lacking.rows for lacking in self.work)

    def bytes_needed(self, additions: Additions) -> int:
        """Estimated bytes on disk of what is to be computed."""
        return sum(
            bytes_needed(lacking.unit.stop - lacking.unit.start, additions.known[name].fields)
            for lacking in self.work
            for name in lacking.names
        )


def plan_additions(writer: StoreWriter, plan: Plan, additions: Additions) -> AddedPlan:
    """Begin the groups that lack, and list this part's units that lack some.

    Raises OrsanetError if fields of a network that is not given lack.
    """
    names: dict[str, set[str]] = {segment: set() for segment in plan.layout.segments}
    for meaning in plan.layout.splits:
        there = {view_and_addition(group)[1] for segment in meaning.segments for group in writer.views(segment)}
        for segment in meaning.segments:
            names[segment] |= additions.asked | (there - {""})
    groups: dict[str, tuple[str, ...]] = {}
    lacking: dict[tuple[Unit, str], list[str]] = {}
    for segment, of_segment in names.items():
        views = [group for group in writer.views(segment) if not view_and_addition(group)[1]]
        views = [view for view in views if writer.is_sealed(segment, view) or view in plan.views.get(segment, ())]
        pairs = [(view, name) for view in views for name in additions.known if name in of_segment]
        groups[segment] = tuple(added_group(view, name) for view, name in pairs)
        for view, name in pairs:
            group = added_group(view, name)
            _take_back_other(writer, segment, group)
            if not writer.is_sealed(segment, group) and name not in additions.networks:
                raise OrsanetError(
                    f"{writer.path}: {segment}/{group} has fields of the network '{name}', which is needed to finish them; "
                    f"give it to `build` in networks=[…], or install the package that offers it"
                )
            writer.add_view(segment, group)
            for unit in writer.missing(segment, group):
                lacking.setdefault((unit, view), []).append(name)
    own = set(plan.own)
    work = [AddedWork(unit, view, tuple(of_unit)) for (unit, view), of_unit in lacking.items() if unit in own]
    return AddedPlan(groups, work)


def _take_back_other(writer: StoreWriter, segment: str, group: str) -> None:
    """Open a group again that was computed from another state of its view than the store has."""
    view, _ = view_and_addition(group)
    if writer.is_sealed(segment, group) and writer.is_sealed(segment, view):
        store = PriorStore.open_segments(writer.path)
        seal = store.sealed(segment, view).seal
        if open_container(writer.path).attributes(f"{segment}/{group}")["provenance"].get(ADDED_TO) != seal:
            writer.uncommit(writer.units(segment), group)


def waiting_additions(writer: StoreWriter, plan: AddedPlan) -> int:
    """The number of units of all parts that lack a group."""
    return len(
        {unit for segment, groups in plan.groups.items() for group in groups for unit in writer.missing(segment, group)}
    )


def all_sealed(writer: StoreWriter, plan: AddedPlan) -> bool:
    """Whether no group lacks anything."""
    return all(writer.is_sealed(segment, group) for segment, groups in plan.groups.items() for group in groups)


def add_fields(
    writer: StoreWriter,
    pipeline: Pipeline,
    plan: Plan,
    additions: Additions,
    provenance: Mapping[str, Any],
) -> int:
    """Compute this part's missing units of added fields, and seal the groups that are complete -> rows computed.

    Units whose view is not committed, because it waits for another part, are left out. What lacks is
    determined again: a view may have another seal than before it was finished.
    """
    added = plan_additions(writer, plan, additions)
    computed = _Adding(writer, pipeline, plan, additions).compute(added.work)
    damaged = _seal(writer, added, provenance)
    if damaged:  # data read back differs from the data written: one more try
        _Adding(writer, pipeline, plan, additions).compute(damaged)
        damaged = _seal(writer, added, provenance)
    if damaged:
        names = [f"{work.unit.split}, rows {work.unit.start} to {work.unit.stop - 1}" for work in damaged]
        raise OrsanetError(f"{writer.path}: data read back from disk differs from what was written:\n{listed(names)}")
    return computed


def _seal(writer: StoreWriter, plan: AddedPlan, provenance: Mapping[str, Any]) -> list[AddedWork]:
    """Seal the complete groups of finished views. Units that differ when read back are returned."""
    damaged = []
    for segment, groups in plan.groups.items():
        for group in groups:
            view, name = view_and_addition(group)
            if not writer.is_sealed(segment, view) or writer.is_sealed(segment, group):
                continue
            seal = PriorStore.open_segments(writer.path).sealed(segment, view).seal
            units = writer.seal(segment, group, {**provenance, ADDED_TO: seal})
            if units:
                writer.uncommit(units, group)
            damaged += [AddedWork(unit, view, (name,)) for unit in units]
    return damaged


@dataclass
class _Input:
    """What networks are given of a unit. N = rows of the unit."""

    work: AddedWork
    committed: CommittedRows  # of the view
    pictures: Decoding | None  # None: no network needs them
    stored: Pixels | None  # [N, 112, 112, 3]; None: no network needs them
    sha256: list[str] = field(default_factory=list)  # [N], of the pictures' files


@dataclass
class _Adding:
    """The computation of added fields."""

    writer: StoreWriter
    pipeline: Pipeline
    plan: Plan
    additions: Additions

    def __post_init__(self) -> None:
        self._container = open_container(self.writer.path)
        self._store = PriorStore(self._container)
        self._committed: dict[tuple[str, str], CommittedRows] = {}

    def compute(self, work: Sequence[AddedWork]) -> int:
        """Read, compute and commit -> the number of rows computed."""
        work = [lacking for lacking in work if self._is_there(lacking)]
        total = sum(lacking.rows for lacking in work)
        fields = [one for name in {name for lacking in work for name in lacking.names} for one in self._fields(name)]
        safe = 0
        with Progress(total, "add fields", "view") as progress:
            for given, arrays, rejected, batches in ahead(self._begun(work)):
                for batch in batches:
                    batch.result()
                for name in given.work.names:
                    own = {one.name: arrays[one.name] for one in self._fields(name)}
                    bad = not_finite(self.plan.layout.samples(given.work.unit), own)
                    record = UnitRecord(given.sha256, rejected | bad)
                    with what_is_safe(self.writer.path, safe, total, fields):
                        self.writer.commit(given.work.unit, added_group(given.work.view, name), own, record)
                safe += given.work.rows
                progress.update(given.work.rows)
        return safe

    def _fields(self, name: str) -> Sequence[Field]:
        return self.additions.known[name].fields

    def _is_there(self, work: AddedWork) -> bool:
        """Whether the unit is committed in its view."""
        key = work.unit.split, work.view
        if key not in self._committed:
            self._committed[key] = committed_rows(self._store, self._container, *key)
        return bool(self._committed[key].is_committed[work.unit.rows].all())

    def _begun(
        self, work: Sequence[AddedWork]
    ) -> Iterator[tuple[_Input, Arrays, dict[str, str], list["Future[None]"]]]:
        """Every unit with the networks running on it: input, the arrays that they fill, rejected images, batches."""
        for given in ahead(map(self._input, work)):
            unit, view = given.work.unit, given.work.view
            samples = self.plan.layout.samples(unit)
            rejected = {
                sample.image: given.committed.rejected[sample.image]
                for sample in samples
                if sample.image in given.committed.rejected
            }
            digests = given.committed.image_sha256[unit.rows]
            given.sha256 = hex_digests(digests)
            pictures = None
            if given.pictures is not None:
                decoded = given.pictures.result()
                rejected = decoded.rejected | rejected
                pictures, given.sha256 = decoded.pixels[view], decoded.sha256
            rows = np.flatnonzero([sample.image not in rejected for sample in samples])
            arrays: Arrays = {
                one.name: np.zeros((len(samples), *one.shape), one.dtype)
                for name in given.work.names
                for one in self._fields(name)
            }
            rectangles = stored_rectangles(view, digests, IMAGE_SIZE)
            batches = []
            for network in dict.fromkeys(self.additions.networks[name] for name in given.work.names):
                pixels = given.stored if network.size == STORED_SIZE else pictures
                assert pixels is not None
                batches += self._started(network, pixels, rows, arrays, rectangles)
            yield given, arrays, rejected, batches

    def _started(
        self,
        network: AddingNetwork,
        pixels: Pixels,
        rows: NDArray[np.int64],
        arrays: Arrays,
        rectangles: NDArray[np.int64] | None,
    ) -> list["Future[None]"]:
        def compute(images: Pixels, erased: NDArray[np.int64] | None) -> Arrays:
            return numpy_values(network, images, erased, self.pipeline.device)

        size = self.pipeline.batch_size
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [
            self.pipeline.submit(pixels, part, arrays, None if rectangles is None else rectangles[part], compute)
            for part in parts
        ]

    def _input(self, work: AddedWork) -> _Input:
        unit, view = work.unit, work.view
        committed = self._committed[unit.split, view]
        sizes = {self.additions.networks[name].size for name in work.names}
        pictures = stored = None
        if IMAGE_SIZE in sizes:
            where = placement(PriorStore.open_segments(self.writer.path), unit) if is_placed(view) else None
            layout = self.plan.layout
            digests = hex_digests(committed.image_sha256[unit.rows])
            pictures = self.pipeline.start_decoding(
                layout.samples(unit), [view], where, None, layout.files(unit), digests
            )
        if STORED_SIZE in sizes:
            stored = self._stored_images(unit, view, committed)
        return _Input(work, committed, pictures, stored)

    def _stored_images(self, unit: Unit, view: str, committed: CommittedRows) -> Pixels:
        """The images of a unit [N, 112, 112, 3], each compared with its checksum."""
        count = unit.stop - unit.start
        images = np.empty((count, *IMAGE_SHAPE), np.uint8)
        try:
            reader = self._container.rows(f"{unit.split}/{view}/image", committed.crc32c["image"])
            reader.read(np.arange(unit.start, unit.stop), images, np.arange(count))
        except DAMAGE as error:
            refuse_shortage(error, self.writer.path)
            raise OrsanetError(
                f"{self.writer.path}: {unit.split}/{view}/image is damaged ({error}), and fields are computed from it; repair it with "
                f"`orsanet-cache verify {self.writer.path} --deep --repair --manifest …`, and run the same command again"
            ) from error
        return images
