"""The windowed order: the same draws, each shard in one window of an epoch; a cache that is too small is refused with the way out."""

import numpy as np
import pytest

from orsanet_cache import OrsanetError
from orsanet_train.config import RunConfig
from orsanet_train.feed.plan import epoch_plan
from orsanet_train.feed.residence import check_cache
from orsanet_train.report.report import _windowed

UNITS = np.arange(1000) // 10  # a hundred units of ten samples
LABELS = np.sort(np.arange(1000) % 7)  # sorted by class, as most lists are


def visits(order: np.ndarray, window_units: int) -> list[set[int]]:
    """The units of each window, found from the order alone: a window ends where a unit is read for the last time."""
    units = UNITS[order]
    last = {unit: place for place, unit in enumerate(units.tolist())}
    windows, begun, end = [], set(), -1
    for place, unit in enumerate(units.tolist()):
        if place > end and len(begun) >= window_units:
            windows.append(begun)
            begun = set()
        begun.add(unit)
        end = max(end, last[unit])
    return [*windows, begun]


@pytest.mark.parametrize("sampling", ["balanced", "shuffled"])
@pytest.mark.parametrize("window_units", [1, 8, 100, 1000])
def test_a_window_is_read_to_its_end_before_the_next_one(sampling: str, window_units: int) -> None:
    config = RunConfig(sampling=sampling, order="windowed", window_units=window_units)
    plan = epoch_plan(LABELS, config, 3, UNITS)
    everywhere = epoch_plan(LABELS, config.model_copy(update={"order": "global"}), 3)
    assert sorted(plan.order) == sorted(everywhere.order)  # the same draws
    windows = visits(plan.order, window_units)
    assert max(map(len, windows)) <= window_units or window_units == 1
    seen = [unit for window in windows for unit in window]
    assert len(seen) == len(set(seen))  # a shard is in one window: it is fetched once
    for name in ("flipped", "erased", "drop_path"):
        assert np.array_equal(getattr(plan, name)[:], getattr(everywhere, name)[:])


def test_windows_are_drawn_anew_and_repeatable() -> None:
    config = RunConfig(order="windowed", window_units=8)
    orders = [epoch_plan(LABELS, config, epoch, UNITS).order for epoch in (0, 1, 0)]
    assert np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[1])
    other = epoch_plan(LABELS, RunConfig(order="windowed", window_units=8, seed=1), 0, UNITS).order
    assert not np.array_equal(orders[0], other)


def test_a_window_mixes_its_units() -> None:
    order = epoch_plan(LABELS, RunConfig(sampling="shuffled", order="windowed", window_units=50), 0, UNITS).order
    for start in range(0, 1000, 100):  # each batch of a hundred has many units
        assert len(set(UNITS[order[start : start + 100]].tolist())) > 25


def test_the_order_needs_units() -> None:
    with pytest.raises(TypeError, match="needs the unit of each sample"):
        epoch_plan(LABELS, RunConfig(order="windowed"), 0)


def test_a_cache_that_is_too_small_is_refused_with_the_way_out() -> None:
    gigabyte = 10**9
    check_cache(RunConfig(), np.inf, 0, 0, 100)
    check_cache(RunConfig(), 11 * gigabyte, 10 * gigabyte, gigabyte, 100)
    with pytest.raises(
        OrsanetError, match=r"--cache-size 11.000GB or more, or read them in windows with --set order=windowed"
    ):
        check_cache(RunConfig(), 10 * gigabyte, 10 * gigabyte, gigabyte, 100)
    windowed = RunConfig(order="windowed", window_units=10)
    check_cache(windowed, 3 * gigabyte, 10 * gigabyte, gigabyte, 100)
    with pytest.raises(
        OrsanetError, match=r"less than 3 windows of 10 units; give window_units=6 with --set, or a larger"
    ):
        check_cache(windowed, 2 * gigabyte, 10 * gigabyte, gigabyte, 100)
    with pytest.raises(OrsanetError, match=r"give a larger --cache-size"):
        check_cache(windowed, gigabyte // 100, 10 * gigabyte, gigabyte, 100)


def test_the_report_states_the_order() -> None:
    assert _windowed(RunConfig()) == []
    assert "in windows of 64 of the store's units (order = windowed)" in _windowed(RunConfig(order="windowed"))[0]
