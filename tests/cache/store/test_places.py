"""A sealed view counts at its own place only, and only beside views of the same pictures."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_lines import in_process
from hdf5_stores import FIELDS

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.cli import main
from orsanet_cache.store.recipe import as_json
from orsanet_cache.store.units import UnitRecord
from orsanet_cache.store.verify import verify
from orsanet_cache.writing.convert import convert
from orsanet_cache.writing.writer import StoreWriter

SPLITS, VIEWS, COUNT = ("train", "valid"), ("clean", "hflip"), 3


def write_store(path: Path, picture: int = 1, seed: int = 0) -> Path:
    """Two splits of three rows in two views; the values are of `seed`, and one picture's digest is of `picture`."""
    rng = np.random.default_rng(seed)
    with StoreWriter.open(path, {"feature_dtype": "float16"}, FIELDS, rows_per_unit=2) as writer:
        for split in SPLITS:
            writer.add_split(split, [f"{split}/{row}.png" for row in range(COUNT)])
            for view in VIEWS:
                writer.add_view(split, view)
                for unit in writer.units(split):
                    rows = range(unit.start, unit.stop)
                    arrays = {f.name: rng.integers(0, 9, (len(rows), *f.shape)).astype(f.dtype) for f in FIELDS}
                    digests = [f"{picture if row == 2 else 7:064x}" for row in rows]
                    writer.commit(unit, view, arrays, UnitRecord(digests, {}))
                assert writer.seal(split, view, {}) == []
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("places") / "store.zarr")


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "store.zarr"))


def swap(store: Path, one: str, other: str) -> None:
    os.rename(store / one, store / "aside")
    os.rename(store / other, store / one)
    os.rename(store / "aside", store / other)


def copy(store: Path, one: str, other: str) -> None:
    shutil.rmtree(store / other)
    shutil.copytree(store / one, store / other)


def link(store: Path, one: str, other: str) -> None:
    shutil.rmtree(store / other)
    (store / other).symlink_to(store / one)


EXCHANGES = [  # what is done, with what, the view that is then read, the view that lies there
    (swap, "train/clean", "train/hflip", "train/clean", "train/hflip"),
    (swap, "train", "valid", "valid/hflip", "train/hflip"),
    (swap, "train/clean", "valid/clean", "valid/clean", "train/clean"),
    (copy, "train/hflip", "train/clean", "train/clean", "train/hflip"),
    (copy, "train", "valid", "valid/clean", "train/clean"),
    (link, "train/hflip", "train/clean", "train/clean", "train/hflip"),
]


@pytest.mark.parametrize(("change", "one", "other", "place", "lies"), EXCHANGES)
def test_a_view_at_the_place_of_another_is_refused_by_name(
    store: Path, change: Callable[[Path, str, str], None], one: str, other: str, place: str, lies: str
) -> None:
    change(store, one, other)
    split, view = place.split("/")
    for ask in (
        lambda: PriorStore.open(store).read(split, view, "landmarks", np.array([0])),
        lambda: PriorStore.open(store).accepted(split, view),
    ):
        with pytest.raises(OrsanetError, match=rf"{place}: it is recorded as {lies}, so it is not at its place"):
            ask()
    with pytest.raises(OrsanetError, match="it is recorded as"):
        convert(store, store.with_name("copy.h5"))
    for deep in (False, True):
        assert (place, True) in {(f"{one.split}/{one.view}", lies in one.what) for one in verify(store, deep)[1]}
    ended = in_process(main, "verify", store)
    assert ended.returncode == 1
    assert f"{place}: it is recorded as {lies}" in ended.stderr


@pytest.mark.parametrize("name", ["zarr.json", "unit_sha256", "image_sha256", "crc32c"])
def test_records_of_another_view_are_refused(store: Path, name: str) -> None:
    source, target = store / "train/hflip" / name, store / "train/clean" / name
    shutil.rmtree(target, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    if name == "image_sha256":  # of the same pictures: the same bytes
        assert verify(store)[1] == []
        return
    with pytest.raises(OrsanetError, match="train/clean"):
        PriorStore.open(store).sealed("train", "clean")
    assert [(one.split, one.view) for one in verify(store)[1]] == [("train", "clean")]


def test_a_linked_or_exchanged_group_of_an_hdf5_file_is_refused_by_name(sound: Path, tmp_path: Path) -> None:
    def linked(file: h5py.File) -> None:
        del file["train/clean"]
        file["train/clean"] = file["train/hflip"]

    def exchanged(file: h5py.File) -> None:
        for source, target in (("train", "aside"), ("valid", "train"), ("aside", "valid")):
            file.move(source, target)

    for change, lies in ((linked, "train/hflip"), (exchanged, "valid/clean")):
        path = convert(sound, tmp_path / f"{change.__name__}.h5").path
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(OrsanetError, match=f"train/clean: it is recorded as {lies}"):
            PriorStore.open(path).read("train", "clean", "landmarks", np.array([0]))
        assert ("train", "clean") in [(one.split, one.view) for one in verify(path)[1]]
        with pytest.raises(OrsanetError, match="it is recorded as"):
            convert(path, tmp_path / "back.zarr")


def test_a_view_of_other_pictures_is_found_where_both_are_read(store: Path, tmp_path: Path) -> None:
    """A view of another store at the same place, of the same recipe and the same names."""
    other = write_store(tmp_path / "other.zarr", picture=2)
    shutil.rmtree(store / "train/hflip")
    shutil.copytree(other / "train/hflip", store / "train/hflip")
    opened = PriorStore.open(store)
    opened.sealed("train", "clean")
    with pytest.raises(
        OrsanetError,
        match=r"train/hflip and train/clean were computed from different files of 1 image.*\n.*train/2.png",
    ):
        opened.read("train", "hflip", "landmarks", np.array([0]))
    (damage,) = verify(store)[1]
    assert str(damage).startswith("train/hflip: ")
    assert "train/2.png" in str(damage)


def test_a_store_of_the_schema_before_is_refused_by_name(store: Path) -> None:
    path = store / "zarr.json"
    document = json.loads(path.read_bytes())
    mark = document["attributes"]["orsanet_store"]
    content = {"schema": 3, "recipe": mark["recipe"], "rows_per_unit": mark["rows_per_unit"]}
    document["attributes"]["orsanet_store"] = content | {
        "sha256": hashlib.sha256(as_json(content).encode()).hexdigest()
    }
    path.write_text(json.dumps(document))
    for ask in (lambda: PriorStore.open(store), lambda: verify(store), lambda: convert(store, store.with_name("a.h5"))):
        with pytest.raises(
            OrsanetError, match=r"store schema 3, this version reads 4 and 5; build it again .* another folder"
        ):
            ask()
