"""Verification that a store is unchanged since it was built.

It lists damaged units, so that only those are computed again.

    seal ─ over recipe, sample ids, image digests and unit digests ─▶ unit digest ─ over a unit's values in one field ─▶ the values

Without `deep`, the first and last row of every unit are read in every field, which finds files that
are missing, cut short or exchanged. With `deep`, all rows are read. A view that is not at its place,
or that was computed from other image files than another view, is found in any case. A view that is
not finished is no damage; `unfinished` names it.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.paths import StrPlace, as_place
from orsanet_cache.progress import tracked
from orsanet_cache.store.committed import marked_checksums, read_markers
from orsanet_cache.store.container import DAMAGE, Container, open_container
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.rows import Checksums
from orsanet_cache.store.seal import RECORDS, SealedView, unit_digest
from orsanet_cache.store.units import COMMITS, WHOLE, Share, Unit, marker_path, units_of
from orsanet_cache.store.zarr_folder import METADATA, ZarrFolder


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
    crc32c: dict[str, Checksums]  # of the view's rows, by field


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
    for split in store.splits:
        count = len(store.sample_ids(split))
        units = units_of(split, count, store.rows_per_unit)
        for view, sealed in store.all_views(split).items():
            try:
                checks += (
                    _sealed(store.sealed(split, view), view, units)
                    if sealed
                    else _marked(container, view, units, count)
                )
            except OrsanetError as error:
                damage.append(Damage(split, view, None, str(error.__cause__ or error)))
    damage += _without_metadata(container)
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
    for split in store.splits:
        views = store.all_views(split)
        if not views:
            found.append(f"{split}: no view")
        for view in [view for view, is_sealed in views.items() if not is_sealed]:
            done, units = _progress(container, split, view)
            found.append(f"{split}/{view}: {done:,} of {units:,} units of {store.rows_per_unit} images")
    found += [f"{name}: no unit" for name in _without_group(container)]
    return found or ([] if store.splits else ["no split"])


def progress(path: StrPlace, split: str, view: str) -> tuple[int, int]:
    """The number of committed units of an unfinished view, and the number of all its units."""
    return _progress(open_container(as_place(path, "store")), split, view)


def _progress(container: Container, split: str, view: str) -> tuple[int, int]:
    store = PriorStore(container)
    units = units_of(split, len(store.sample_ids(split)), store.rows_per_unit)
    if not isinstance(container, ZarrFolder):
        return 0, len(units)
    there = container.files.entries(f"{COMMITS}/{split}/{view}")
    return sum(marker_path(Path(), unit, view).as_posix() in there for unit in units), len(units)


def _sealed(sealed: SealedView, view: str, units: Sequence[Unit]) -> Iterator[_Check]:
    for unit in units:
        digests = {
            field: row.tobytes()
            for field, row in zip(sorted(sealed.fields), sealed.unit_sha256[unit.index], strict=True)
        }
        yield _Check(unit.split, view, unit, digests, sealed.crc32c)


def _marked(container: Container, view: str, units: Sequence[Unit], count: int) -> Iterator[_Check]:
    markers = read_markers(container, view, units)
    crc32c = marked_checksums(markers, count)
    for unit, marker in markers.items():
        yield _Check(
            unit.split,
            view,
            unit,
            {field: bytes.fromhex(shard["sha256"]) for field, shard in marker.shards.items()},
            crc32c,
        )


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
    unit, name = check.unit, f"{check.split}/{check.view}"
    for field, sha256 in check.sha256.items():
        try:
            layout = container.arrays(name)[field]
            rows = container.rows(f"{name}/{field}", check.crc32c[field])
            if deep and unit_digest(rows, layout, unit.start, unit.stop) != sha256:
                raise ValueError("the values differ from the committed ones")
            if not deep:
                ends = np.array([unit.start, unit.stop - 1])
                rows.read(ends, np.empty((2, *layout.shape[1:]), layout.dtype), np.arange(2))
        except DAMAGE as error:
            refuse_shortage(error, container.path)
            return [Damage(check.split, check.view, unit, f"{field}: {error}")]
    return []
