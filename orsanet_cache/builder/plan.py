"""The work of a build, determined from the store once, before anything is computed.

    manifest laid out over the store's segments (growth.py) → segments begun → changed images' units uncommitted → views to finish begun → this part's units that lack some ─▶ Plan

A unit that must be computed again loses its marker first. After that, the units to compute are
exactly those without a marker. The work on views with occluders is determined again after the clean
view that places them is sealed, because other parts may have computed some of it meanwhile. Here "split" in a name of code is a segment, which it is in a store that has not grown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orsanet_cache.builder.changes import take_back, take_back_returned, treat_changed
from orsanet_cache.builder.growth import lay_out, samples_of
from orsanet_cache.builder.hashes import Hashes
from orsanet_cache.builder.layout import Layout, Meaning, Segment, ViewsOf
from orsanet_cache.builder.placing import begin, check_sealed, is_placed
from orsanet_cache.data.manifest import Manifest
from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import view_and_addition
from orsanet_cache.store.units import Unit
from orsanet_cache.writing.writer import StoreWriter


class Work(NamedTuple):
    """A unit and the views it lacks."""

    unit: Unit
    views: tuple[str, ...]

    @property
    def rows(self) -> int:
        return (self.unit.stop - self.unit.start) * len(self.views)


@dataclass(frozen=True)
class Plan:
    """Views to finish, and this part's work on them."""

    own: Sequence[Unit]  # this part's units of all splits
    views: ViewsOf  # to finish, by split
    work: Sequence[Work]  # units of `own` that lack some of `views`
    layout: Layout  # the pictures of all units

    @property
    def rows(self) -> int:
        """Images times views to compute."""
        return sum(lacking.rows for lacking in self.work)

    def only(self, placed: bool) -> "Plan":
        """The plan for views placed by the clean view's landmarks, or for the other views."""

        def chosen(views: Sequence[str]) -> tuple[str, ...]:
            return tuple(view for view in views if is_placed(view) is placed)

        work = [Work(unit, chosen(views)) for unit, views in self.work]
        return Plan(
            self.own,
            {split: chosen(views) for split, views in self.views.items()},
            [lacking for lacking in work if lacking.views],
            self.layout,
        )


def plan_build(
    writer: StoreWriter,
    manifest: Manifest,
    splits: Sequence[str],
    views: Sequence[str],
    recompute: Sequence[tuple[Unit, str]],
    accept_changed: bool,
    hashes: Hashes | None = None,
    mix_rows: bool = False,
) -> Plan:
    """Begin splits and views, uncommit units to compute again, and list this part's missing units.

    Raises OrsanetError for changed images without `accept_changed`, for an unfinished split of which
    the manifest has no image, and for views with occluders that another version drew or another clean view
    placed.

    Args:
        writer: the store's writer.
        manifest: the images.
        splits: splits to build.
        views: views to build.
        recompute: (unit, view) pairs to compute even if they are committed.
        accept_changed: compute the units of changed images again, in every view.
        hashes: the digests of the images; None computes them.
        mix_rows: whether new rows are mixed (growth.py).
    """
    hashes = Hashes(manifest.root) if hashes is None else hashes
    layout = lay_out(writer, manifest, splits, views, hashes, accept_changed, mix_rows)
    for name, segment in layout.segments.items():
        writer.add_split(name, [sample.image for sample in segment.samples])
    units = [unit for name in layout.segments for unit in writer.units(name)]
    own = [unit for position, unit in enumerate(units) if writer.part.has(position)]
    take_back_returned(writer, layout, own)
    treat_changed(writer, layout, own, accept_changed, {(unit.split, view) for unit, view in recompute})
    reopened = take_back(writer, recompute)
    wanted = _wanted(writer, layout.views, accept_changed, reopened)
    for split, of_split in wanted.items():
        for view in of_split:
            if is_placed(view):
                _check_drawing(writer, split, view)
            writer.add_view(split, view)
    return Plan(own, wanted, _lacking(writer, own, wanted), layout)


def plan_finished(writer: StoreWriter, splits: Sequence[str], views: Sequence[str], hashes: Hashes) -> Plan:
    """The plan of a build for which the splits lack nothing: no picture is read, and no work is left.

    Their lists of images are those of the manifest, and their views are finished.
    """
    store, segments = PriorStore.open(writer.path), PriorStore.open_segments(writer.path)
    meanings = [Meaning(split, tuple(views), store.segments(split), None, 0) for split in splits]
    found = {}
    for name in dict.fromkeys(name for meaning in meanings for name in meaning.segments):
        ids = segments.sample_ids(name)
        writer.add_split(name, ids)
        found[name] = Segment(name, samples_of(name, ids), ids)
    units = [unit for name in found for unit in writer.units(name)]
    own = [unit for position, unit in enumerate(units) if writer.part.has(position)]
    layout = Layout(found, tuple(meanings), hashes)
    return Plan(own, layout.views, [], layout)


def plan_placed(writer: StoreWriter, plan: Plan) -> Plan:
    """The plan's placed views in splits whose clean view is now sealed, and the units they lack."""
    placed = plan.only(placed=True).views
    ready = {split: views for split, views in placed.items() if writer.is_sealed(split, CLEAN)}
    return Plan(plan.own, ready, _lacking(writer, plan.own, ready), plan.layout)


def check_nothing_waits(writer: StoreWriter, plan: Plan, placed: Plan) -> None:
    """Raises OrsanetError if views of the plan wait for a clean view of other parts.

    `placed` is the plan of the views that did not have to wait.
    """
    views = {split: of_split for split, of_split in plan.only(placed=True).views.items() if split not in placed.views}
    waiting = _lacking(writer, plan.own, views)
    if waiting:
        splits = ", ".join(dict.fromkeys(lacking.unit.split for lacking in waiting))
        names = ", ".join(dict.fromkeys(view for lacking in waiting for view in lacking.views))
        raise OrsanetError(
            f"{writer.path}: {names} are placed by the landmarks of the clean view, and other parts still compute the clean view of {splits}; "
            f"finished units are kept: run the same command again when the other parts have finished"
        )


def count_waiting(writer: StoreWriter, plan: Plan) -> int:
    """The number of units of all parts that lack a view of the plan."""
    return len(_missing(writer, plan.views))


def _wanted(
    writer: StoreWriter,
    views: ViewsOf,
    accept_changed: bool,
    reopened: Sequence[tuple[str, str]],
) -> ViewsOf:
    """The views to finish per split.

    With `accept_changed` they include unfinished views, and in any case reopened ones.
    """
    wanted = {}
    for split, of_split in views.items():
        there = [view for view in writer.views(split) if not view_and_addition(view)[1]]
        opened = [view for view in there if not writer.is_sealed(split, view)] if accept_changed else []
        wanted[split] = tuple(dict.fromkeys((*of_split, *opened, *(view for of, view in reopened if of == split))))
    return wanted


def _check_drawing(writer: StoreWriter, split: str, view: str) -> None:
    if writer.is_sealed(split, view):
        check_sealed(writer.segments(), split, view)
    else:
        begin(writer, split, view)


def _lacking(writer: StoreWriter, own: Sequence[Unit], views: ViewsOf) -> list[Work]:
    """This part's units that lack a view, with the views they lack."""
    missing = _missing(writer, views)
    return [Work(unit, tuple(missing[unit])) for unit in own if unit in missing]


def _missing(writer: StoreWriter, views: ViewsOf) -> dict[Unit, list[str]]:
    """Units of every part that are not committed -> the views they lack."""
    missing: dict[Unit, list[str]] = {}
    for split, of_split in views.items():
        for view in of_split:
            for unit in writer.missing(split, view):
                missing.setdefault(unit, []).append(view)
    return missing
