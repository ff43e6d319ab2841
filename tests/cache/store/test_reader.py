"""What the store gives back is what was written; what is not there is an error, never zeros."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.store.schema import MARK, decode_ids, encode_ids

NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)


@given(st.lists(NAME, min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_sample_ids_survive_their_encoding(names: list[str]) -> None:
    assert decode_ids(encode_ids(names)) == tuple(names)


def test_rows_come_back_in_the_order_asked_for_and_repeat(world) -> None:
    store = world.open_store()
    whole = store.read("train", "clean", "landmark_features", slice(None))
    rows = np.array([5, 0, 13, 5])
    assert np.array_equal(store.read("train", "clean", "landmark_features", rows), whole[rows])


def test_row_order_is_the_manifests(world) -> None:
    manifest, store = world.load_manifest(), world.open_store()
    for split in manifest.splits:
        assert store.sample_ids(split) == tuple(sample.image for sample in manifest.split(split))


def test_a_store_opens_in_plain_zarr(world) -> None:
    group = zarr.open_group(world.store, mode="r")
    assert group["train/clean/segmentation_features"].shape == (14, 128, 7, 7)
    members = dict(group.members(max_depth=None))
    assert {"train", "valid", "test", "train/sample_id", "test/hflip/landmarks"} <= set(members)


def test_a_missing_shard_is_an_error_not_zeros(world, tmp_path: Path) -> None:
    copy = tmp_path / "store.zarr"
    shutil.copytree(world.store, copy)
    shard = copy / "train" / "clean" / "image" / "c.0.0.0.0"
    shard.unlink()
    with pytest.raises(OrsanetError, match=r"train/clean/image is damaged.*c.0.0.0.0"):
        PriorStore.open(copy).read("train", "clean", "image", np.array([0]))


@pytest.mark.parametrize("field", ["image", "segmentation_map", "segmentation_features"])
def test_a_flipped_bit_is_an_error_not_another_picture(world, tmp_path: Path, field: str) -> None:
    copy = tmp_path / "store.zarr"
    shutil.copytree(world.store, copy)
    (shard,) = (copy / "test" / "clean" / field).glob("c.*")
    content = bytearray(shard.read_bytes())
    content[100] ^= 4  # inside row 0
    shard.write_bytes(content)
    with pytest.raises(OrsanetError, match=f"test/clean/{field}.*damaged"):
        PriorStore.open(copy).read("test", "clean", field, np.array([0]))


def test_what_is_not_there_is_named(world, tmp_path: Path) -> None:
    store = world.open_store()
    with pytest.raises(OrsanetError, match=r"no split 'dev'; it has test, train, valid"):
        store.accepted("dev", "clean")
    with pytest.raises(OrsanetError, match=r"no view 'erase-10'.*--views erase-10"):
        store.accepted("test", "erase-10")
    with pytest.raises(OrsanetError, match=r"no field 'depth'"):
        store.read("test", "clean", "depth", slice(None))
    with pytest.raises(OrsanetError, match="orsanet-cache build"):
        PriorStore.open(tmp_path / "nothing")
    with pytest.raises(OrsanetError, match="not a store"):
        PriorStore.open(world.folder / "images")


def test_a_foreign_group_and_another_schema_are_refused(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "foreign.zarr")
    with pytest.raises(OrsanetError, match="not written by orsanet-cache"):
        PriorStore.open(tmp_path / "foreign.zarr")
    zarr.create_group(tmp_path / "future.zarr", attributes={MARK: {"schema": 99, "recipe": {}}})
    with pytest.raises(OrsanetError, match="schema 99"):
        PriorStore.open(tmp_path / "future.zarr")


def test_a_store_can_be_moved(world, tmp_path: Path) -> None:
    shutil.copytree(world.store, tmp_path / "elsewhere")
    a = PriorStore.open(tmp_path / "elsewhere").read("valid", "hflip", "landmarks", slice(None))
    assert np.array_equal(a, world.open_store().read("valid", "hflip", "landmarks", slice(None)))


@pytest.mark.parametrize("lost", ["flipped", "deleted"])
def test_damaged_sample_ids_are_named(world, tmp_path: Path, lost: str) -> None:
    copy = tmp_path / "store.zarr"
    shutil.copytree(world.store, copy)
    (chunk,) = (copy / "test" / "sample_id").glob("c.*")
    if lost == "deleted":
        chunk.unlink()
    else:
        chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    with pytest.raises(OrsanetError, match="is damaged"):
        PriorStore.open(copy).accepted("test", "clean")


def test_damaged_metadata_is_named(world, tmp_path: Path) -> None:
    copy = tmp_path / "store.zarr"
    shutil.copytree(world.store, copy)
    (copy / "test" / "clean" / "zarr.json").write_text("{")
    with pytest.raises(OrsanetError, match="test is damaged"):
        PriorStore.open(copy).views("test")
    with pytest.raises(OrsanetError, match="no split 'train/clean'"):
        PriorStore.open(copy).views("train/clean")
