"""Rows are read straight from the file, or by h5py where its layout is another."""

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t
from hdf5_stores import COUNT, FIELDS, VIEW

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.store.hdf5_file import ChunkedRows, Hdf5File, LibraryRows


def test_every_field_is_read_straight_from_the_file(store: Path) -> None:
    for field in FIELDS:
        assert isinstance(Hdf5File(store).rows(f"{VIEW}/{field.name}", None), ChunkedRows)


def rewrite(path: Path, field: str, **layout: Any) -> None:
    """Lay a field out in another way, as h5repack may."""
    with h5py.File(path, "r+") as file:
        values = file[VIEW][field][:]
        del file[VIEW][field]
        file[VIEW].create_dataset(field, data=values, **layout)


OTHER_LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "three rows a chunk": {"chunks": (3, 68, 2)},
    "half a row a chunk": {"chunks": (1, 34, 2)},
    "without a checksum": {"chunks": (1, 68, 2)},
    "shuffled and deflated": {"chunks": (4, 68, 2), "shuffle": True, "compression": "gzip", "fletcher32": True},
    "may grow": {"chunks": (1, 68, 2), "maxshape": (None, 68, 2)},
}


@pytest.mark.parametrize("layout", OTHER_LAYOUTS.values(), ids=OTHER_LAYOUTS)
def test_other_layouts_are_read_by_h5py_and_are_equal(
    copy: Path, expected: dict[str, np.ndarray], layout: dict[str, Any]
) -> None:
    rewrite(copy, "landmarks", **layout)
    assert isinstance(Hdf5File(copy).rows(f"{VIEW}/landmarks", None), LibraryRows)
    rows = np.array([5, 0, 11, 5])
    assert np.array_equal(PriorStore.open(copy).read("train", "clean", "landmarks", rows), expected["landmarks"][rows])


@pytest.mark.parametrize("name", ["contiguous", "without a checksum", "three rows a chunk"])
def test_damage_in_other_layouts_is_found_too(copy: Path, expected: dict[str, np.ndarray], name: str) -> None:
    rewrite(copy, "landmarks", **OTHER_LAYOUTS[name])
    row = bytearray(expected["landmarks"][2].tobytes())
    damaged = bytearray(row)
    damaged[9] ^= 4
    content = copy.read_bytes()
    assert row in content
    copy.write_bytes(content.replace(row, damaged))  # also where HDF5 has left what it replaced
    opened = PriorStore.open(copy)
    with pytest.raises(OrsanetError, match=r"row 2 is damaged \(wrong checksum\)"):
        opened.read("train", "clean", "landmarks", np.array([2]))


def test_bytes_that_are_no_plain_numbers_are_left_to_h5py(copy: Path, expected: dict[str, np.ndarray]) -> None:
    five_bits = h5t.STD_U8LE.copy()
    five_bits.set_precision(5)
    five_bits.set_offset(3)
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk((1, *expected["image"].shape[1:]))
    properties.set_fletcher32()
    with h5py.File(copy, "r+") as file:
        del file[VIEW]["image"]
        space = h5s.create_simple(expected["image"].shape)
        h5py.Dataset(h5d.create(file[VIEW].id, b"image", five_bits, space, properties))[...] = expected["image"]
    found = PriorStore.open(copy).read("train", "clean", "image", slice(None))
    assert np.array_equal(found, expected["image"])


def test_a_file_with_a_user_block_is_read(store: Path, tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    shifted = tmp_path / "shifted.h5"
    shifted.write_bytes(b"#" * 512 + store.read_bytes())
    for field, values in expected.items():
        assert np.array_equal(PriorStore.open(shifted).read("train", "clean", field, slice(None)), values)


def test_a_pickled_store_is_small_and_reads_the_same(store: Path, expected: dict[str, np.ndarray]) -> None:
    opened = PriorStore.open(store)
    rows = Hdf5File(store).rows(f"{VIEW}/image", None)
    out = np.empty_like(expected["image"])
    opened.read("train", "clean", "image", slice(None), out)
    rows.read(np.arange(COUNT), out, np.arange(COUNT))
    for one in (opened, rows, LibraryRows(store, f"{VIEW}/image", None)):
        assert len(pickle.dumps(one)) < 1000 + len(str(store)) * 3
    again = pickle.loads(pickle.dumps(opened))
    assert np.array_equal(again.read("train", "clean", "image", slice(None)), expected["image"])
    out[:] = 0
    pickle.loads(pickle.dumps(rows)).read(np.arange(COUNT), out, np.arange(COUNT))
    assert np.array_equal(out, expected["image"])


def test_a_file_that_plain_h5py_has_open_is_read(store: Path, expected: dict[str, np.ndarray]) -> None:
    with h5py.File(store, "r") as file:
        assert np.array_equal(PriorStore.open(store).read("train", "clean", "image", slice(None)), expected["image"])
        assert np.array_equal(file[f"{VIEW}/image"][:], expected["image"])


def test_a_forked_process_reads_the_same_and_so_does_its_parent(store: Path, expected: dict[str, np.ndarray]) -> None:
    opened = PriorStore.open(store)
    opened.read("train", "clean", "image", np.array([3]))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def child() -> None:
        queue.put({field: opened.read("train", "clean", field, slice(None)) for field in expected})

    process = context.Process(target=child)
    process.start()
    found = queue.get()
    process.join()
    for field, values in expected.items():
        assert np.array_equal(found[field], values)
        assert np.array_equal(opened.read("train", "clean", field, slice(None)), values)
