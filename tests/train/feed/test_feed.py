"""The feed: a batch is what the plan says.

Wherever the data is kept: streamed or resident, the batches are the same to the bit.
"""

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from orsanet_cache import Manifest, OrsanetError, PriorStore
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.store.container import open_container
from orsanet_cache.writing.convert import convert
from orsanet_train.config import AugmentationConfig, RunConfig
from orsanet_train.feed.feed import Feed, PriorBatch
from orsanet_train.feed.plan import epoch_plan
from orsanet_train.feed.residence import Resident, choose_residence, free_memory
from orsanet_train.feed.ring import RING, ahead_in_ring
from orsanet_train.feed.split import join
from orsanet_train.model_config import ORSANetConfig

CPU = torch.device("cpu")


# --- batches ---


def expected_image(store: PriorStore, split: str, view: str, row: int, rectangle: NDArray[np.int64]) -> Tensor:
    """One image by itself: normalised, then erased on the 224-pixel grid, of which it holds the even pixels."""
    image = imagenet_normalised(unit_range(torch.from_numpy(store.read(split, view, "image", np.array([row])))))[0]
    top, left, height, width = rectangle.tolist()
    for y in range(112):
        for x in range(112):
            if top <= 2 * y < top + height and left <= 2 * x < left + width:
                image[:, y, x] = 0
    return image


@pytest.mark.parametrize("sampling", ["balanced", "shuffled"])
@pytest.mark.parametrize("prior", ["features", "map"])
def test_an_epochs_batches_hold_exactly_the_rows_views_and_rectangles_of_the_plan(
    sampling: str, prior: str, reordered: Manifest, store: PriorStore
) -> None:
    config = RunConfig.model_validate({"sampling": sampling, "batch_size": 4, "seed": 2})
    joined = join(reordered, store, "train", ["clean", "hflip"])
    feed = Feed(store, joined, ORSANetConfig.model_validate({"segmentation_prior": prior}), CPU)
    batches = list(feed.epoch(config, 5))
    assert [len(batch.label) for batch in batches] == [4, 4, 4, 2]

    plan = epoch_plan(joined.labels, config, 5)
    assert 0 < plan.flipped.sum() < 14
    assert 0 < (plan.erased[:, 2] > 0).sum() < 14
    whole = PriorBatch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    for position, (index, flipped, rectangle, draws) in enumerate(
        zip(plan.order, plan.flipped, plan.erased, plan.drop_path[:], strict=True)
    ):
        np.testing.assert_array_equal(whole.drop_path[position], draws)
        sample = reordered.split("train")[index]
        view, row = "hflip" if flipped else "clean", store.sample_ids("train").index(sample.image)
        field = "segmentation_features" if prior == "features" else "segmentation_map"
        segmentation, landmark_features = (
            torch.from_numpy(store.read("train", view, name, np.array([row]))[0])
            for name in (field, "landmark_features")
        )
        assert torch.equal(whole.inputs[0][position], expected_image(store, "train", view, row, rectangle))
        assert torch.equal(whole.inputs[1][position].to(segmentation.dtype), segmentation)
        assert torch.equal(whole.inputs[2][position], landmark_features.float())
        assert whole.label[position] == sample.label


@pytest.mark.parametrize(
    ("prior", "dtype", "shape"),
    [
        ("features", torch.float32, (14, 128, 7, 7)),
        ("map", torch.uint8, (14, 224, 224)),
        ("none", torch.float32, (14, 3, 112, 112)),  # the image in its place, which the model ignores
    ],
)
def test_a_batch_has_the_types_and_shapes_that_the_model_takes(
    prior: str, dtype: torch.dtype, shape: tuple[int, ...], manifest: Manifest, store: PriorStore
) -> None:
    joined = join(manifest, store, "train", ["clean"])
    (batch,) = Feed(store, joined, ORSANetConfig.model_validate({"segmentation_prior": prior}), CPU).in_order(20)
    assert (batch.inputs[1].dtype, tuple(batch.inputs[1].shape)) == (dtype, shape)
    assert (batch.inputs[0].dtype, tuple(batch.inputs[0].shape)) == (torch.float32, (14, 3, 112, 112))
    assert (batch.inputs[2].dtype, tuple(batch.inputs[2].shape)) == (torch.float32, (14, 512, 7, 7))
    assert (batch.label.dtype, tuple(batch.label.shape)) == (torch.int64, (14,))


@pytest.mark.parametrize("view", ["clean", "hflip"])
@pytest.mark.parametrize("batch_size", [1, 4, 14, 20])
def test_in_order_is_every_sample_once_in_the_manifests_order_unaugmented(
    view: str, batch_size: int, reordered: Manifest, store: PriorStore
) -> None:
    joined = join(reordered, store, "train", ["clean", "hflip"])
    batches = list(Feed(store, joined, ORSANetConfig(), CPU).in_order(batch_size, view))
    assert max(len(batch.label) for batch in batches) <= batch_size
    samples, ids = reordered.split("train"), store.sample_ids("train")
    stored = store.read("train", view, "image", np.array([ids.index(sample.image) for sample in samples]))
    expected = imagenet_normalised(unit_range(torch.from_numpy(stored)))
    assert torch.equal(torch.cat([batch.inputs[0] for batch in batches]), expected)
    assert torch.cat([batch.label for batch in batches]).tolist() == [sample.label for sample in samples]


def test_a_batch_of_an_erased_view_holds_that_views_rows_in_every_field(world: Any, tmp_path: Path) -> None:
    """And of no other view: the picture and what the frozen networks said of it belong together."""
    shutil.copytree(world.store, tmp_path / "store.zarr")
    manifest = world.load_manifest()
    build(manifest, tmp_path / "store.zarr", world.priors, ["erase-30"], device=CPU, splits=["test"])
    store = PriorStore.open(tmp_path / "store.zarr")
    joined = join(manifest, store, "test", ["erase-30"])
    batches = list(Feed(store, joined, ORSANetConfig(), CPU).in_order(4, "erase-30"))
    whole = PriorBatch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    for view, same in (("erase-30", True), ("clean", False)):
        image, segmentation, landmark_features = (
            torch.from_numpy(store.read("test", view, name, joined.rows))
            for name in ("image", "segmentation_features", "landmark_features")
        )
        assert torch.equal(whole.inputs[0], imagenet_normalised(unit_range(image))) == same
        assert torch.equal(whole.inputs[1], segmentation.float()) == same
        assert torch.equal(whole.inputs[2], landmark_features.float()) == same


def test_an_epoch_can_be_drawn_again_without_the_ones_before(manifest: Manifest, store: PriorStore, world: Any) -> None:
    joined = join(manifest, store, "train", ["clean", "hflip"])
    feed = Feed(store, joined, ORSANetConfig(), CPU)
    config = RunConfig(batch_size=5)
    for epoch in range(2):
        earlier = list(feed.epoch(config, epoch))
    fresh_store = world.open_store()
    fresh = Feed(
        fresh_store, join(world.load_manifest(), fresh_store, "train", ["clean", "hflip"]), ORSANetConfig(), CPU
    )
    for one, other in zip(earlier, fresh.epoch(config, 1), strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_without_flips_the_flipped_view_is_not_needed(damaged: Any) -> None:
    store = PriorStore.open(damaged.clean)
    joined = join(damaged.manifest, store, "train", ["clean"])
    config = RunConfig(batch_size=3, augmentation=AugmentationConfig(hflip=0.0))
    batches = list(Feed(store, joined, ORSANetConfig(), CPU).epoch(config, 0))
    assert [len(batch.label) for batch in batches] == [3, 1]


# --- where the data is kept ---

MODES: tuple[Resident, ...] = ("stream", "host", "device")  # on a CPU the device's memory is the host's
PRIORS = ("features", "map")


@pytest.fixture(scope="module", params=["float16", "float32", "int8"])
def kept_as(request: pytest.FixtureRequest, world: Any, tmp_path_factory: pytest.TempPathFactory) -> PriorStore:
    """A store per type that features are kept as."""
    if request.param == "float16":
        return world.open_store()
    out = tmp_path_factory.mktemp("kept_as") / "store.zarr"
    build(
        world.load_manifest(), out, world.priors, ["clean", "hflip"],
        device=CPU, splits=["train"], feature_dtype=request.param,
    )  # fmt: skip
    return PriorStore.open(out)


def joined_feed(
    store: PriorStore, manifest: Manifest, resident: Resident, prior: str = "features", device: torch.device = CPU
) -> Feed:
    joined = join(manifest, store, "train", ["clean", "hflip"])
    return Feed(store, joined, ORSANetConfig.model_validate({"segmentation_prior": prior}), device, resident)


def drawn(feed: Feed) -> list[PriorBatch]:
    """An epoch with a short last batch, and both views in order, all kept until the last is drawn."""
    return [*feed.epoch(RunConfig(batch_size=4), 2), *feed.in_order(5), *feed.in_order(14, "hflip")]


def assert_same_batches(batches: Sequence[PriorBatch], others: Sequence[PriorBatch]) -> None:
    for batch, other in zip(batches, others, strict=True):
        for one, two in zip(batch, other, strict=True):
            assert one.dtype == two.dtype
            assert one.device == two.device
            assert one.stride() == two.stride()  # or a convolution may round otherwise
            assert torch.equal(one, two)


@pytest.mark.parametrize("prior", PRIORS)
def test_streamed_and_resident_batches_are_the_same_to_the_bit(
    prior: str, kept_as: PriorStore, reordered: Manifest
) -> None:
    stream, host, device = (drawn(joined_feed(kept_as, reordered, mode, prior)) for mode in MODES)
    assert [len(batch.label) for batch in stream] == [4, 4, 4, 2, 5, 5, 4, 14]
    assert_same_batches(stream, host)
    assert_same_batches(stream, device)


@pytest.mark.parametrize("mode", MODES)
def test_features_are_float32_whatever_they_are_kept_as(
    mode: Resident, kept_as: PriorStore, manifest: Manifest
) -> None:
    """int8 is multiplied by its sample's and channel's scale."""
    feed = joined_feed(kept_as, manifest, mode)
    for view in ("clean", "hflip"):
        (batch,) = feed.in_order(14, view)
        for name, values in (
            ("segmentation_features", batch.inputs[1]),
            ("landmark_features", batch.inputs[2]),
        ):
            expected = kept_as.read("train", view, name, feed.split.rows).astype(np.float32)
            if f"{name}_scale" in kept_as.fields("train", view):
                expected *= kept_as.read("train", view, f"{name}_scale", feed.split.rows)[:, :, None, None]
            assert values.dtype == torch.float32
            assert np.array_equal(values.numpy(), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prior", PRIORS)
def test_what_is_done_to_a_batch_reaches_no_other(
    mode: Resident, prior: str, kept_as: PriorStore, manifest: Manifest
) -> None:
    feed = joined_feed(kept_as, manifest, mode, prior)
    expected = drawn(feed)
    for batch in feed.epoch(RunConfig(batch_size=4), 2):
        for tensor in batch:
            tensor.fill_(7)
    assert_same_batches(drawn(feed), expected)


@pytest.mark.parametrize("mode", MODES)
def test_epochs_of_one_feed_may_be_drawn_side_by_side(mode: Resident, store: PriorStore, manifest: Manifest) -> None:
    feed, config = joined_feed(store, manifest, mode), RunConfig(batch_size=3)
    pairs = list(zip(feed.epoch(config, 0), feed.epoch(config, 1), strict=True))
    for epoch, batches in enumerate(zip(*pairs, strict=True)):
        assert_same_batches(batches, list(joined_feed(store, manifest, mode).epoch(config, epoch)))


@pytest.mark.parametrize("mode", ["host", "device"])
def test_resident_data_needs_the_store_no_more(mode: Resident, world: Any, manifest: Manifest, tmp_path: Path) -> None:
    shutil.copytree(world.store, tmp_path / "store.zarr")
    feed = joined_feed(PriorStore.open(tmp_path / "store.zarr"), manifest, mode)
    expected = drawn(joined_feed(world.open_store(), manifest, "stream"))
    shutil.rmtree(tmp_path / "store.zarr")
    assert_same_batches(drawn(feed), expected)


@pytest.mark.parametrize("mode", MODES)
def test_rejected_images_have_no_place_in_any_batch(mode: Resident, damaged: Any) -> None:
    store = PriorStore.open(damaged.both)
    joined = join(damaged.manifest, store, "train", ["clean", "hflip"])
    (batch,) = Feed(store, joined, ORSANetConfig(), CPU, mode).in_order(9, "hflip")
    expected = torch.from_numpy(store.read("train", "hflip", "landmark_features", np.array([0, 2, 4]))).float()
    assert torch.equal(batch.inputs[2], expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_split_without_usable_images_has_no_batches(
    mode: Resident, world: Any, tmp_path: Path, rewrite_manifest: Any, write_store: Any
) -> None:
    manifest = rewrite_manifest(world.manifest, tmp_path, lambda lines: lines[:2])
    images = [sample.image for sample in manifest.split("train")]
    store = PriorStore.open(write_store(tmp_path / "store.zarr", manifest, {"clean": images}))
    assert list(Feed(store, join(manifest, store, "train", ["clean"]), ORSANetConfig(), CPU, mode).in_order(4)) == []


# --- whether the data fits ---


def test_on_a_cpu_auto_is_to_stream() -> None:
    """However little it is."""
    residence = choose_residence("auto", 10**6, CPU)
    assert residence.mode == "stream"
    assert "1.00MB streamed from the store" in residence.reason
    assert "page cache" in residence.reason


@pytest.mark.parametrize("mode", MODES)
def test_what_fits_is_kept_where_it_is_asked_for(mode: Resident) -> None:
    residence = choose_residence(mode, 10**6, CPU)
    assert residence.mode == mode
    assert "1.00MB" in residence.reason
    assert "as requested" in residence.reason


@pytest.mark.parametrize("mode", ["host", "device"])
def test_more_than_the_memory_is_refused_at_once_with_both_sizes_and_the_alternative(
    mode: Resident, store: PriorStore, manifest: Manifest
) -> None:
    """A hundred million samples, all of them the same row."""
    few = join(manifest, store, "train", ["clean", "hflip"])
    many = replace(few, rows=np.broadcast_to(few.rows[:1], 10**8))
    with pytest.raises(OrsanetError) as caught:
        Feed(store, many, ORSANetConfig(), CPU, mode)
    row_bytes = 112 * 112 * 3 + (128 + 512) * 7 * 7 * 2
    for part in (f"--resident {mode}", f"{2 * row_bytes / 1e4:.1f}TB", "free on cpu", "--resident stream"):
        assert part in str(caught.value)
    assert Feed(store, many, ORSANetConfig(), CPU, "stream").residence.mode == "stream"


def test_free_memory_is_a_part_of_the_machines() -> None:
    assert 0 < free_memory(CPU) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# --- the thread and its buffers ---


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
    return Watched(open_container(world.store))


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


# --- on a GPU ---


@pytest.mark.cuda
@pytest.mark.parametrize("prior", PRIORS)
def test_on_a_gpu_all_modes_give_the_same_batches(prior: str, kept_as: PriorStore, reordered: Manifest) -> None:
    """Forty epochs into one ring: a buffer that is filled before it was copied would show."""
    cuda = torch.device("cuda", 0)
    stream, host, device = (joined_feed(kept_as, reordered, mode, prior, cuda) for mode in MODES)
    for epoch in range(40):
        config = RunConfig(batch_size=1 + epoch % 5)
        expected = list(device.epoch(config, epoch))
        assert {tensor.device for batch in expected for tensor in batch} == {cuda}
        assert_same_batches(list(stream.epoch(config, epoch)), expected)
        assert_same_batches(list(host.epoch(config, epoch)), expected)


@pytest.mark.cuda
def test_on_a_gpu_stored_values_arrive_unchanged(kept_as: PriorStore, manifest: Manifest) -> None:
    """Pictures and features that no arithmetic touches, and the label."""
    cuda, on_cpu = torch.device("cuda", 0), joined_feed(kept_as, manifest, "stream")
    for here, there in zip(drawn(joined_feed(kept_as, manifest, "stream", device=cuda)), drawn(on_cpu), strict=True):
        assert torch.equal(here.inputs[1].cpu(), there.inputs[1])
        assert torch.equal(here.inputs[2].cpu(), there.inputs[2])
        assert torch.equal(here.label.cpu(), there.label)


@pytest.mark.cuda
def test_auto_is_resident_on_a_gpu_up_to_half_of_its_free_memory(store: PriorStore, manifest: Manifest) -> None:
    cuda = torch.device("cuda", 0)
    assert joined_feed(store, manifest, "auto", device=cuda).residence.mode == "device"
    assert choose_residence("auto", int(0.6 * free_memory(cuda)), cuda).mode == "stream"
    with pytest.raises(OrsanetError, match=r"--resident device: .* free on cuda:0; use --resident stream"):
        choose_residence("device", 2 * free_memory(cuda), cuda)


# --- files that change meanwhile ---


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_a_pass_over_files_that_changed_ends_with_their_rows(
    form: str, world: Any, manifest: Manifest, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(world.store, tmp_path / "store.zarr"))
    store = PriorStore.open(copy) if form == "zarr" else convert(copy, tmp_path / "store.h5")
    feed, kept = joined_feed(store, manifest, "stream"), joined_feed(store, manifest, "host")
    config, time_passes = RunConfig(batch_size=4), 0.05  # longer than a tick of the file system's clock
    before = list(feed.epoch(config, 0))
    time.sleep(time_passes)
    batches = feed.epoch(config, 0)
    next(batches)
    if form == "zarr":
        shutil.copy(copy / "train/hflip/landmark_features/c.0.0.0.0", copy / "train/clean/landmark_features")
    else:
        with h5py.File(store.path, "r+") as file:
            file["train/clean/landmark_features"][3] = 0
    with pytest.raises(OrsanetError, match=r"train/\w+/\w+ is damaged"):
        list(batches)
    with pytest.raises(OrsanetError, match=r"rows 0 to 13: .* has changed since it was first read"):
        feed.check_unchanged()
    assert_same_batches(list(kept.epoch(config, 0)), before)  # every row was verified when it was loaded
