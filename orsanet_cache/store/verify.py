"""Verification that a store is unchanged since it was built.

It lists damaged units, so that only those are computed again.

    seal ─ over recipe, sample ids, image digests and unit digests ─▶ unit digest ─ over a unit's values in one field ─▶ the values

Without `deep`, the first and last row of every unit are read in every field, which finds files that
are missing, cut short or exchanged. With `deep`, all rows are read. A view that is not at its place,
or that was computed from other image files than another view, is found in any case. A view that is
not finished is no damage; `unfinished` names it. A store that has grown is checked segment by segment,
rows that the manifest no longer names included; then the indices that its splits are (states.py).
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.paths import StrPlace, as_place
from orsanet_cache.progress import tracked
from orsanet_cache.store.committed import marked_checksums, read_markers
from orsanet_cache.store.container import DAMAGE, Container, open_container
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.rows import Checksums, part_of
from orsanet_cache.store.seal import RECORDS, Readers, SealedView, unit_digest
from orsanet_cache.store.states import SPLITS, States, has_rows
from orsanet_cache.store.units import COMMITS, WHOLE, Share, Unit, marker_name, units_of
from orsanet_cache.store.zarr_folder import METADATA, Layout, ZarrFolder


@dataclass(frozen=True)
class Damage:
    """A damaged unit. With `unit` None the view's records are damaged, and so the whole view."""

    split: str
    view: str
    unit: Unit | None
    what: str

    def __str__(self) -> str:
        rows = "" if self.unit is None else f", rows {self.unit.start} to {self.unit.stop - 1}"
        return f"{self.split}/{self.view}{rows}: {self.what}"


@dataclass(frozen=True)
class _Check:
    """One unit of one view, with its expected digests."""

    split: str
    view: str
    unit: Unit
    sha256: dict[str, bytes]  # by field
    of_view: "_View"


class _View:
    """What the checks of one view share: it is read once."""

    def __init__(self, container: Container, name: str, crc32c: Mapping[str, Checksums]) -> None:
        self.readers = Readers(container, name, crc32c)
        self._container = container
        self._name = name
        self._lock = threading.Lock()
        self._layouts: dict[str, Layout] | None = None

    def layout(self, field: str) -> Layout:
        """The layout of a field. Raises one of DAMAGE."""
        with self._lock:
            if self._layouts is None:
                self._layouts = self._container.arrays(self._name)
            return self._layouts[field]


def verify(path: StrPlace, deep: bool = False, sample: Share = WHOLE) -> tuple[int, list[Damage]]:
    """Check every unit of a store -> number of units read, and the damage found.

    With `sample` i/n, every n-th unit from the i-th is checked.

    Units of unfinished views are compared with their markers; that a view is not finished is no
    damage; `unfinished` lists it. Raises OrsanetError if `path` is not a store, or if a split's
    metadata is damaged.
    """
    container = open_container(as_place(path, "store"))
    store = PriorStore(container)
    damage: list[Damage] = []
    checks: list[_Check] = []
    for split in _segments(store, container):
        count = len(store.sample_ids(split))
        units = units_of(split, count, store.rows_per_unit)
        for view, sealed in store.all_groups(split).items():
            try:
                checks += (
                    _sealed(container, store.sealed(split, view), view, units)
                    if sealed
                    else _marked(container, view, units, count)
                )
            except OrsanetError as error:
                refuse_shortage(error, container.path)
                damage.append(Damage(split, view, None, str(error.__cause__ or error)))
    damage += _without_metadata(container)
    damage += _indices(container)
    checks = [check for position, check in enumerate(checks) if sample.has(position)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda check: _damage(container, check, deep), checks)
        for result in tracked(results, len(checks), "verify", "unit"):
            damage += result
    return len(checks), damage


def unfinished(path: StrPlace) -> list[str]:
    """What a build has begun and not finished, one description per view, or per split without a view.

    The list is empty for a store whose views are all sealed. Raises OrsanetError as `verify`.
    """
    container = open_container(as_place(path, "store"))
    store = PriorStore(container)
    found = []
    for split in _segments(store, container):
        views = store.all_groups(split)
        if not views:
            found.append(f"{split}: no view")
        for view in [view for view, is_sealed in views.items() if not is_sealed]:
            done, units = _progress(container, store, split, view)
            found.append(f"{split}/{view}: {done:,} of {units:,} units of {store.rows_per_unit} images")
    found += [f"{name}: no unit" for name in _without_group(container)]
    return found or ([] if store.splits else ["no split"])


def progress(path: StrPlace, split: str, view: str) -> tuple[int, int]:
    """The number of committed units of an unfinished view, and the number of all its units."""
    container = open_container(as_place(path, "store"))
    segments = PriorStore(container)
    found = [_progress(container, segments, name, view) for name in PriorStore.of(container).segments(split)]
    return sum(done for done, _ in found), sum(units for _, units in found)


def _progress(container: Container, store: PriorStore, segment: str, view: str) -> tuple[int, int]:
    units = units_of(segment, len(store.sample_ids(segment)), store.rows_per_unit)
    if store.all_groups(segment).get(view, False):
        return len(units), len(units)
    if not isinstance(container, ZarrFolder):
        return 0, len(units)
    there = container.files.entries(f"{COMMITS}/{segment}/{view}")
    return sum(marker_name(unit, view) in there for unit in units), len(units)


def _segments(store: PriorStore, container: Container) -> list[str]:
    """The groups with rows of their own. A split of a store that has grown may be an index alone."""
    return [name for name in store.splits if not _is_index(container, name) or store.all_views(name)]


def _is_index(container: Container, name: str) -> bool:
    try:
        return name in States.of(container).by_split and not has_rows(container, name)
    except DAMAGE as error:
        refuse_shortage(error, container.path)
        return False


def _indices(container: Container) -> Iterator[Damage]:
    """The states of splits that cannot be read. A build with the manifest writes the current one again."""
    remedy = "`orsanet-cache build` with the manifest writes it again"
    try:
        states = States.of(container)
        places = [(split, number) for split in states.by_split for number in states.numbers(split)]
    except DAMAGE as error:
        refuse_shortage(error, container.path)
        yield Damage("", SPLITS, None, f"{error}; {remedy}")
        return
    for split, number in places:
        try:
            states.read(container, split, number)
        except DAMAGE as error:
            refuse_shortage(error, container.path)
            yield Damage(split, f"row.{number}", None, f"{error}; {remedy}")


def _sealed(container: Container, sealed: SealedView, view: str, units: Sequence[Unit]) -> Iterator[_Check]:
    of_view = _View(container, f"{units[0].split}/{view}", sealed.crc32c)
    for unit in units:
        digests = {
            field: row.tobytes()
            for field, row in zip(sorted(sealed.fields), sealed.unit_sha256[unit.index], strict=True)
        }
        yield _Check(unit.split, view, unit, digests, of_view)


def _marked(container: Container, view: str, units: Sequence[Unit], count: int) -> Iterator[_Check]:
    markers = read_markers(container, view, units)
    of_view = _View(container, f"{units[0].split}/{view}", marked_checksums(markers, count))
    for unit, marker in markers.items():
        digests = {field: bytes.fromhex(shard["sha256"]) for field, shard in marker.shards.items()}
        yield _Check(unit.split, view, unit, digests, of_view)


def _without_metadata(container: Container) -> Iterator[Damage]:
    """Sealed views, recognised by their records, with a group whose metadata is missing.

    Readers do not find such views.
    """
    there = _groups_and_arrays(container)
    for view in sorted(node.removesuffix(f"/{RECORDS[1]}") for node in there if node.endswith(f"/{RECORDS[1]}")):
        split = view.partition("/")[0]
        for group in (split, view):
            if group not in there:
                yield Damage(split, view.partition("/")[2], None, f"{container.path}/{group}/{METADATA} is missing")


def _without_group(container: Container) -> list[str]:
    """Splits and views with arrays but no group: a build that was killed had just begun them."""
    there = _groups_and_arrays(container)
    levels = [node.split("/") for node in there]
    groups = {node[0] for node in levels if node[1:] == ["sample_id"]} | {
        "/".join(node[:2]) for node in levels if node[2:]
    }
    sealed = {"/".join(node[:depth]) for node in levels if node[2:] == [RECORDS[1]] for depth in (1, 2)}
    return sorted(groups - there - sealed)


def _groups_and_arrays(container: Container) -> set[str]:
    """The groups and arrays of a Zarr store, to the level of the fields, whose metadata exist; an HDF5 file loses none."""
    return container.files.folders(having=METADATA) if isinstance(container, ZarrFolder) else set()


def _damage(container: Container, check: _Check, deep: bool) -> list[Damage]:
    """At most one finding: the unit's first damaged field."""
    unit = check.unit
    for field, sha256 in check.sha256.items():
        try:
            layout, rows = check.of_view.layout(field), check.of_view.readers.of(field)
            if deep and unit_digest(rows, layout, unit.start, unit.stop) != sha256:
                raise ValueError("the values differ from the committed ones")
            if not deep:
                part, first = part_of(rows, unit.start, unit.stop)
                ends = np.array([first, first + unit.stop - unit.start - 1])
                part.read(ends, np.empty((2, *layout.shape[1:]), layout.dtype), np.arange(2))
        except DAMAGE as error:
            refuse_shortage(error, container.path)
            return [Damage(check.split, check.view, unit, f"{field}: {error}")]
    return []
