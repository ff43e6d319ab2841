"""The thread that reads ahead, and its buffers."""

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feeds import MODES, assert_same_batches, drawn, joined_feed
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from orsanet_cache import Manifest, OrsanetError, PriorStore
from orsanet_train.config import AugmentationConfig, RunConfig
from orsanet_train.feed.feed import PriorBatch
from orsanet_train.feed.residence import Resident
from orsanet_train.feed.ring import RING, ahead_in_ring


class Watched(PriorStore):
    """A store that notes who reads which field and into what. The arrays are kept, so that no address is used twice by chance."""

    def read(
        self, split: str, view: str, field: str, rows: Any, out: Any = None, positions: Any = None
    ) -> NDArray[Any]:
        self.noted = [*getattr(self, "noted", []), (threading.current_thread(), field, out)]
        return super().read(split, view, field, rows, out, positions)


def others() -> set[threading.Thread]:
    return set(threading.enumerate()) - {threading.main_thread()}


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    before = others()
    yield
    assert others() == before


def image_reads(store: Watched) -> list[NDArray[Any]]:
    return [out for _, field, out in getattr(store, "noted", []) if field == "image"]


@pytest.fixture
def watched(world: Any) -> Watched:
    return Watched.open(world.store)


def test_one_thread_reads_and_it_is_not_the_consumers(
    watched: Watched, manifest: Manifest, no_thread_is_left: None
) -> None:
    before, feed = others(), joined_feed(watched, manifest, "stream")
    assert others() == before
    for _ in feed.epoch(RunConfig(batch_size=1), 0):
        assert len(others() - before) == 1
    assert len({thread for thread, _, _ in watched.noted}) == 1
    assert watched.noted[0][0] is not threading.main_thread()


@pytest.mark.parametrize("mode", ["host", "device"])
def test_only_gathering_in_host_memory_needs_a_thread(
    mode: Resident, store: PriorStore, manifest: Manifest, no_thread_is_left: None
) -> None:
    feed = joined_feed(store, manifest, mode)
    before = others()
    for _ in feed.epoch(RunConfig(batch_size=4), 0):
        assert len(others() - before) == (mode == "host")


def test_an_epoch_reads_into_the_buffers_of_the_ring_and_no_other(watched: Watched, manifest: Manifest) -> None:
    """Without flips a batch is read in one piece, from the beginning of its buffer."""
    config = RunConfig(batch_size=1, augmentation=AugmentationConfig(hflip=0.0))
    list(joined_feed(watched, manifest, "stream").epoch(config, 0))
    reads = image_reads(watched)
    assert len(reads) == 14
    assert len({out.ctypes.data for out in reads}) == RING == 3


def test_the_reader_is_never_further_ahead_than_the_ring(
    watched: Watched, manifest: Manifest, no_thread_is_left: None
) -> None:
    """A consumer that takes its time with a batch finds all buffers full, and the rest unread."""
    config = RunConfig(batch_size=1)
    batches = joined_feed(watched, manifest, "stream").epoch(config, 0)
    for taken in range(1, 4):
        next(batches)
        deadline = time.monotonic() + 30
        while len(image_reads(watched)) < taken + RING and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # for a reader that does not stop there
        assert len(image_reads(watched)) == taken + RING


class Stop(Exception):
    """Raised by a consumer in the middle of an epoch."""


def leave_by_break(batches: Iterator[PriorBatch]) -> None:
    for _ in batches:
        break


def leave_by_error(batches: Iterator[PriorBatch]) -> None:
    for _ in batches:
        raise Stop


def leave_by_ctrl_c(batches: Iterator[PriorBatch]) -> None:
    for _ in batches:
        raise KeyboardInterrupt


def leave_unused(batches: Iterator[PriorBatch]) -> None:
    pass


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_error, leave_by_ctrl_c, leave_unused])
@pytest.mark.parametrize("mode", MODES)
def test_leaving_an_epoch_early_ends_its_thread_and_the_reading(
    mode: Resident, leave: Callable[[Iterator[PriorBatch]], None], watched: Watched, manifest: Manifest
) -> None:
    feed, before = joined_feed(watched, manifest, mode), others()
    expected = drawn(feed)
    watched.noted = []
    with suppress(Stop, KeyboardInterrupt):
        leave(feed.epoch(RunConfig(batch_size=1), 0))
    assert others() == before
    assert len(image_reads(watched)) <= 1 + RING
    assert_same_batches(drawn(feed), expected)


def flip_a_bit(store: Path, view: str, field: str, row: int) -> Path:
    """Damage a row of the train split; rows of uncompressed fields lie in order, each with four bytes of checksum."""
    (shard,) = (store / "train" / view / field).glob("c.*")
    row_bytes = np.prod(PriorStore.open(store).fields("train", view)[field].shape[1:])
    row_bytes *= PriorStore.open(store).fields("train", view)[field].dtype.itemsize
    content = bytearray(shard.read_bytes())
    content[row * (int(row_bytes) + 4) + 5] ^= 16
    shard.write_bytes(content)
    return shard


def test_damage_is_raised_where_its_batch_would_have_been(
    world: Any, manifest: Manifest, tmp_path: Path, no_thread_is_left: None
) -> None:
    copy = tmp_path / "store.zarr"
    shutil.copytree(world.store, copy)
    shard = flip_a_bit(copy, "hflip", "landmark_features", 9)
    batches = joined_feed(PriorStore.open(copy), manifest, "stream").in_order(4, "hflip")
    assert_same_batches(
        [next(batches), next(batches)],
        list(joined_feed(world.open_store(), manifest, "stream").in_order(4, "hflip"))[:2],
    )
    with pytest.raises(OrsanetError, match=f"{re.escape(str(shard.parent))}: row 9 is damaged"):
        next(batches)


@pytest.mark.parametrize("mode", ["host", "device"])
def test_loading_finds_damage_in_any_row(mode: Resident, world: Any, manifest: Manifest, tmp_path: Path) -> None:
    copy = tmp_path / "store.zarr"
    shutil.copytree(world.store, copy)
    shard = flip_a_bit(copy, "hflip", "image", 13)
    with pytest.raises(OrsanetError, match=f"{re.escape(str(shard.parent))}: row 13 is damaged"):
        joined_feed(PriorStore.open(copy), manifest, mode)


@given(parts=st.integers(0, 12), slots=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_ring_gives_every_part_once_in_order_and_fills_no_slot_that_is_in_use(parts: int, slots: int) -> None:
    buffers: list[list[int]] = [[] for _ in range(slots)]

    def fill(part: int, slot: list[int]) -> None:
        assert slot == []
        slot.append(part)

    def take(part: int, slot: list[int]) -> int:
        assert slot == [part]
        return slot.pop()

    assert list(ahead_in_ring(range(parts), buffers, fill, take)) == list(range(parts))
    assert buffers == [[]] * slots
