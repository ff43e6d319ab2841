"""A PriorDataset gives the rows that the store has, in whichever process; the feed beside it gives the batches of a training."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.writing.convert import convert
from orsanet_train.config import load_config
from orsanet_train.feed.dataset import PriorDataset, prior_feed
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.split import training_split

CPU = torch.device("cpu")
NAMES = {
    "image", "segmentation_map", "segmentation_entropy", "segmentation_features", "landmark_features", "landmarks", "label"
}  # fmt: skip


def expected(store: PriorStore, split: str, view: str, rows: slice) -> dict[str, Tensor]:
    read = {name: torch.from_numpy(store.read(split, view, name, rows)) for name in NAMES - {"label"}}
    read["image"] = imagenet_normalised(unit_range(read["image"]))
    return {name: values.float() if values.is_floating_point() else values for name, values in read.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(values, other[name]) for name, values in one.items())


def test_an_item_is_the_stores_row_by_name_with_its_label(world) -> None:
    dataset = PriorDataset(str(world.store), str(world.manifest), "train")
    rows = expected(world.open_store(), "train", "clean", slice(None))
    assert len(dataset) == len(dataset.samples) == 14
    for n, item in enumerate(dataset):  # ends by itself
        assert item.keys() == NAMES
        assert equal(item, {**{name: values[n] for name, values in rows.items()}, "label": item["label"]})
        assert item["label"].dtype == torch.int64
        assert int(item["label"]) == dataset.samples[n].label == n % 3
    assert item["image"].dtype == item["segmentation_features"].dtype == torch.float32
    assert equal(dataset[-1], dataset[13])
    with pytest.raises(IndexError, match="item 14 of 14"):
        dataset[14]


def test_the_rows_of_a_second_view_follow(world) -> None:
    dataset = PriorDataset(world.open_store(), world.load_manifest(), "train", ("clean", "hflip"))
    assert len(dataset) == 28
    flipped = expected(world.open_store(), "train", "hflip", slice(3, 4))
    one, both = dataset[17], dataset.__getitems__([17, 3])
    assert all(torch.equal(one[name], flipped[name][0]) for name in flipped)
    assert equal(both[0], one)
    assert equal(both[1], dataset[3])


def test_fields_can_be_chosen(world) -> None:
    dataset = PriorDataset(world.store, world.manifest, "test", fields=["landmarks"])
    assert dataset[0].keys() == {"landmarks", "label"}
    with pytest.raises(OrsanetError, match=r"no field 'landmark'; it has image, "):
        PriorDataset(world.store, world.manifest, "test", fields=["landmark"])


@pytest.mark.parametrize(("how", "form"), [("fork", "zarr"), ("spawn", "zarr"), ("fork", "h5")])
def test_workers_give_the_rows_that_the_store_has(world, tmp_path: Path, how: str, form: str) -> None:
    store = world.store if form == "zarr" else convert(world.store, tmp_path / "store.h5").path
    dataset = PriorDataset(store, world.manifest, "train", fields=["image", "segmentation_features", "landmarks"])
    dataset[0]  # files that the parent has open are no use to a fork
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=how)
    batches = list(loader)
    assert [len(batch["label"]) for batch in batches] == [4, 4, 4, 2]
    rows = expected(world.open_store(), "train", "clean", slice(None))
    for name in ("image", "segmentation_features", "landmarks"):
        assert torch.equal(torch.cat([batch[name] for batch in batches]), rows[name])
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [n % 3 for n in range(14)]


@pytest.fixture(scope="module")
def rounded(world, tmp_path_factory: pytest.TempPathFactory) -> PriorStore:
    path = tmp_path_factory.mktemp("int8") / "store.zarr"
    build(world.load_manifest(), path, world.priors, ["clean"], splits=["test"], device=CPU, feature_dtype="int8")
    return PriorStore.open(path)


def test_an_item_has_what_a_batch_of_the_feed_has(world, rounded: PriorStore) -> None:
    dataset = PriorDataset(rounded, world.manifest, "test")
    assert dataset[0].keys() == NAMES  # scales are multiplied in
    feed = prior_feed(rounded, str(world.manifest), "test", load_config("small"), device="cpu")
    (batch,) = feed.in_order(64)
    items = dataset.__getitems__(range(len(dataset)))
    for ours, theirs in (
        ("image", batch.inputs[0]), ("segmentation_features", batch.inputs[1]),
        ("landmark_features", batch.inputs[2]), ("label", batch.label),
    ):  # fmt: skip
        assert torch.equal(torch.stack([item[ours] for item in items]), theirs)


def test_the_feed_gives_the_batches_of_a_training(world) -> None:
    config = load_config("small", ["batch_size=5", "seed=3"])
    ours = prior_feed(world.store, world.manifest, "train", config, device="cpu")
    store = world.open_store()
    theirs = Feed(store, training_split(config, world.load_manifest(), store), config.model, CPU)
    for one, other in zip(ours.epoch(config, 1), theirs.epoch(config, 1), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_not_there_or_not_meant_is_named(world) -> None:
    with pytest.raises(OrsanetError, match=r"has no view 'mask'; it has clean, hflip"):
        PriorDataset(world.store, world.manifest, "test", ["clean", "mask"])
    with pytest.raises(OrsanetError, match="name at least one"):
        PriorDataset(world.store, world.manifest, "test", [])
    with pytest.raises(TypeError, match=r"views: expected a list of names, not str 'clean'"):
        PriorDataset(world.store, world.manifest, "test", "clean")
    with pytest.raises(TypeError, match=r"store: expected a path \(str or os.PathLike\), not int 3"):
        PriorDataset(3, world.manifest, "test")  # type: ignore[arg-type]
    assert np.shape(PriorDataset(world.store, world.manifest, "test").classes) == (3,)


def test_files_that_changed_are_noticed_once_every_item_was_read(world, tmp_path: Path) -> None:
    store = Path(shutil.copytree(world.store, tmp_path / "store.zarr"))
    data = PriorDataset(store, world.manifest, "test", fields=["landmarks"])
    for index in range(len(data)):
        data[index]
    time.sleep(0.05)  # longer than a tick of the file system's clock
    shutil.copy(store / "test/hflip/landmarks/c.0.0.0", store / "test/clean/landmarks")
    with pytest.raises(OrsanetError, match=r"test/clean/landmarks.*rows 0 to 5: .* has changed"):
        list(map(data.__getitem__, range(len(data))))
