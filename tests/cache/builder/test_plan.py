"""A plan is every unit that lacks a view, once, in exactly one share; what is committed is in none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from orsanet_cache import Manifest, Sample
from orsanet_cache.builder.plan import Plan, Work, count_waiting, plan_build, plan_placed
from orsanet_cache.store.schema import Field
from orsanet_cache.store.units import WHOLE, Share, Unit, UnitRecord
from orsanet_cache.writing.writer import StoreWriter

FIELDS = (Field("values", (2,), "uint8", ("x",)),)
COUNTS = {"train": 7, "test": 4}  # in units of 3: three and two
VIEWS = ("clean", "hflip", "mask")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Images that are not there: nobody reads those of units that were never computed."""
    names = [(f"{split}_{row}.png", split) for split, count in COUNTS.items() for row in range(count)]
    return Manifest("few", ("a", "b"), tmp_path, tuple(Sample(name, 0, split, frozenset()) for name, split in names))


@contextmanager
def opened(manifest: Manifest, share: Share = WHOLE) -> Iterator[StoreWriter]:
    with StoreWriter.open(manifest.root / "s.zarr", {}, FIELDS, share, rows_per_unit=3) as writer:
        yield writer


def planned(writer: StoreWriter, manifest: Manifest) -> Plan:
    return plan_build(writer, manifest, list(COUNTS), VIEWS, recompute=(), accept_changed=False)


def commit(writer: StoreWriter, unit: Unit, view: str) -> None:
    """Of images that could not be read, as they still cannot."""
    rows = unit.stop - unit.start
    writer.commit(unit, view, {"values": np.zeros((rows, 2), np.uint8)}, UnitRecord([""] * rows, {}))


def pairs(work: list[Work] | tuple[Work, ...]) -> list[tuple[Unit, str]]:
    return [(unit, view) for unit, views in work for view in views]


def test_a_new_store_lacks_every_unit_in_every_view(manifest: Manifest) -> None:
    with opened(manifest) as writer:
        plan = planned(writer, manifest)
        units = [unit for split in COUNTS for unit in writer.units(split)]
    assert plan.own == units
    assert plan.work == [Work(unit, VIEWS) for unit in units]
    assert plan.rows == sum(COUNTS.values()) * len(VIEWS)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_the_shares_work_is_the_whole_work_dealt_out(manifest: Manifest, count: int) -> None:
    dealt = []
    for index in range(1, count + 1):
        with opened(manifest, Share(index, count)) as writer:
            dealt += pairs(planned(writer, manifest).work)
    with opened(manifest) as writer:
        assert sorted(dealt) == sorted(pairs(planned(writer, manifest).work))


def test_placed_and_other_views_are_a_plan_cut_in_two(manifest: Manifest) -> None:
    with opened(manifest) as writer:
        plan = planned(writer, manifest)
    placed, others = plan.only(placed=True), plan.only(placed=False)
    assert placed.rows + others.rows == plan.rows
    assert sorted(pairs(placed.work) + pairs(others.work)) == sorted(pairs(plan.work))
    assert {view for _, view in pairs(placed.work)} == {"mask"}
    assert placed.views == dict.fromkeys(COUNTS, ("mask",))
    assert others.views == dict.fromkeys(COUNTS, ("clean", "hflip"))


def test_what_is_committed_is_planned_no_more(manifest: Manifest) -> None:
    with opened(manifest) as writer:
        first, *others = planned(writer, manifest).own
        commit(writer, first, "hflip")
        plan = planned(writer, manifest)
        assert plan.work == [Work(first, ("clean", "mask")), *(Work(unit, VIEWS) for unit in others)]
        assert count_waiting(writer, plan) == 5


def test_placed_views_are_planned_for_splits_whose_clean_view_is_sealed(manifest: Manifest) -> None:
    with opened(manifest) as writer:
        plan = planned(writer, manifest)
        assert plan_placed(writer, plan).views == {}
        for unit in writer.units("test"):
            commit(writer, unit, "clean")
        assert writer.seal("test", "clean", {}) == []
        placed = plan_placed(writer, plan)
        assert placed.views == {"test": ("mask",)}
        assert placed.work == [Work(unit, ("mask",)) for unit in writer.units("test")]
