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
from orsanet_cache.paths import StrPath, as_path
from orsanet_cache.progress import tracked
from orsanet_cache.store.committed import marked_checksums, read_markers
from orsanet_cache.store.container import DAMAGE, Container, open_container
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.rows import Checksums
from orsanet_cache.store.seal import RECORDS, SealedView, unit_digest
from orsanet_cache.store.units import WHOLE, Share, Unit, marker_path, units_of
from orsanet_cache.store.zarr_folder import METADATA


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


def verify(path: StrPath, deep: bool = False, sample: Share = WHOLE) -> tuple[int, list[Damage]]:
    """Check every unit of a store -> number of units read, and the damage found.

    With `sample` i/n, every n-th unit from the i-th is checked.

    Units of unfinished views are compared with their markers; that a view is not finished is no
    damage; `unfinished` lists it. Raises OrsanetError if `path` is not a store, or if a split's
    metadata is damaged.
    """
    path = as_path(path, "store")
    store, container = PriorStore.open(path), open_container(path)
    damage: list[Damage] = []
    checks: list[_Check] = []
    for split in store.splits:
        count = len(store.sample_ids(split))
        units = units_of(split, count, store.rows_per_unit)
        for view, sealed in store.all_views(split).items():
            try:
                checks += (
                    _sealed(store.sealed(split, view), view, units) if sealed else _marked(path, view, units, count)
                )
            except OrsanetError as error:
                damage.append(Damage(split, view, None, str(error.__cause__ or error)))
    damage += _without_metadata(path)
    checks = [check for position, check in enumerate(checks) if sample.has(position)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda check: _damage(container, check, deep), checks)
        for result in tracked(results, len(checks), "verify", "unit"):
            damage += result
    return len(checks), damage


def unfinished(path: StrPath) -> list[str]:
    """What a build has begun and not finished, one description per view, or per split without a view.

    The list is empty for a store whose views are all sealed. Raises OrsanetError as `verify`.
    """
    path = as_path(path, "store")
    store = PriorStore.open(path)
    found = []
    for split in store.splits:
        views = store.all_views(split)
        if not views:
            found.append(f"{split}: no view")
        for view in [view for view, is_sealed in views.items() if not is_sealed]:
            done, units = progress(path, split, view)
            found.append(f"{split}/{view}: {done:,} of {units:,} units of {store.rows_per_unit} images")
    found += [f"{name}: no unit" for name in _without_group(path)]
    return found or ([] if store.splits else ["no split"])


def progress(path: Path, split: str, view: str) -> tuple[int, int]:
    """The number of committed units of an unfinished view, and the number of all its units."""
    store = PriorStore.open(path)
    units = units_of(split, len(store.sample_ids(split)), store.rows_per_unit)
    return sum(marker_path(path, unit, view).exists() for unit in units), len(units)


def _sealed(sealed: SealedView, view: str, units: Sequence[Unit]) -> Iterator[_Check]:
    for unit in units:
        digests = {
            field: row.tobytes()
            for field, row in zip(sorted(sealed.fields), sealed.unit_sha256[unit.index], strict=True)
        }
        yield _Check(unit.split, view, unit, digests, sealed.crc32c)


def _marked(path: Path, view: str, units: Sequence[Unit], count: int) -> Iterator[_Check]:
    markers = read_markers(path, view, units)
    crc32c = marked_checksums(markers, count)
    for unit, marker in markers.items():
        yield _Check(
            unit.split,
            view,
            unit,
            {field: bytes.fromhex(shard["sha256"]) for field, shard in marker.shards.items()},
            crc32c,
        )


def _without_metadata(path: Path) -> Iterator[Damage]:
    """Sealed views, recognised by their records, with a group whose metadata is missing.

    Readers do not find such views.
    """
    for records in sorted(path.glob(f"*/*/{RECORDS[1]}/{METADATA}")):
        view = records.parent.parent
        for group in (view.parent, view):
            if not (group / METADATA).exists():
                yield Damage(view.parent.name, view.name, None, f"{group / METADATA} is missing")


def _without_group(path: Path) -> list[str]:
    """Splits and views with arrays but no group: a build that was killed had just begun them."""
    arrays = [*path.glob(f"*/sample_id/{METADATA}"), *path.glob(f"*/*/*/{METADATA}")]
    groups = {array.parent.parent for array in arrays}
    begun = (group for group in groups if not (group / METADATA).exists() and not any(group.rglob(RECORDS[1])))
    return sorted(group.relative_to(path).as_posix() for group in begun)


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
