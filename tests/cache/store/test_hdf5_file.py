"""An HDF5 store never gives a wrong value: not damaged, not laid out by another program, not made to deceive."""

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z
from hypothesis import given, settings
from hypothesis import strategies as st

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.store.convert import convert
from orsanet_cache.store.hdf5_file import ChunkedRows, Hdf5File, LibraryRows
from orsanet_cache.store.hdf5_writer import new_hdf5_file
from orsanet_cache.store.schema import schema
from orsanet_cache.store.units import UnitRecord
from orsanet_cache.store.writer import StoreWriter

FIELDS = schema(segmentation_channels=6, landmark_channels=4, feature_dtype="float16")
COUNT = 12
VIEW = "train/clean"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted store. Treat it as read-only."""
    folder = tmp_path_factory.mktemp("hdf5")
    rng = np.random.default_rng(0)
    with StoreWriter.open(folder / "store.zarr", {"feature_dtype": "float16"}, FIELDS, rows_per_unit=8) as to:
        to.add_split("train", [f"{row}.png" for row in range(COUNT)])
        for view in ("clean", "hflip"):
            to.add_view("train", view)
            for unit in to.units("train"):
                shape = (unit.stop - unit.start,)
                arrays = {
                    field.name: rng.integers(0, 19, shape + field.shape).astype(field.dtype)  # so that maps do deflate
                    for field in FIELDS
                }
                to.commit(unit, view, arrays, UnitRecord(["ab" * 32] * len(arrays["image"]), {}))
            assert to.seal("train", view, {"device": "cpu"}) == []
    return convert(folder / "store.zarr", folder / "store.h5").path


@pytest.fixture(scope="module")
def expected(store: Path) -> dict[str, np.ndarray]:
    """Values by field, of the Zarr store."""
    opened = PriorStore.open(store.with_name("store.zarr"))
    return {field.name: opened.read("train", "clean", field.name, slice(None)) for field in FIELDS}


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A store to be damaged."""
    return Path(shutil.copy(store, tmp_path / "copy.h5"))


def is_right_or_refused(path: Path, expected: dict[str, np.ndarray]) -> bool:
    """Read every row of every field one by one: is each the original or an OrsanetError? Says whether any was an error."""
    refused = False
    try:
        opened = PriorStore.open(path)
        opened.sealed("train", "clean")
    except OrsanetError:
        return True
    for field, values in expected.items():
        for row in [*range(COUNT), *range(COUNT)]:  # checked, then perhaps unchecked
            try:
                found = opened.read("train", "clean", field, np.array([row]))
            except OrsanetError:
                refused = True
            else:
                assert np.array_equal(found[0], values[row]), (field, row)
    return refused


# What the container says


def test_it_lists_views_as_groups_and_fields_as_arrays_as_zarr_does(store: Path) -> None:
    hdf5, zarr = Hdf5File(store), PriorStore.open(store.with_name("store.zarr"))._container
    assert hdf5.groups("") == zarr.groups("") == ("train",)
    assert hdf5.groups("train") == zarr.groups("train") == ("clean", "hflip")
    assert hdf5.arrays(VIEW) == zarr.arrays(VIEW)
    assert hdf5.arrays("train") == zarr.arrays("train")
    for group in ("", "train", VIEW):
        assert hdf5.attributes(group) == zarr.attributes(group)
    for array in ("train/sample_id", f"{VIEW}/image_sha256", f"{VIEW}/unit_sha256"):
        assert np.array_equal(hdf5.small(array), zarr.small(array))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


@settings(max_examples=40, deadline=None)
@given(value=JSON)
def test_any_json_value_comes_back_from_an_attribute(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("attributes") / "a.h5"
    with new_hdf5_file(path) as file:
        file.group("a/b", {"value": value, "text": "text"})
    assert Hdf5File(path).attributes("a/b") == {"value": value, "text": "text"}


def test_an_attribute_may_be_large(tmp_path: Path) -> None:
    value = {f"images/{row}.png": "cannot be read" for row in range(5000)}
    assert len(json.dumps(value)) > 150_000
    with new_hdf5_file(tmp_path / "a.h5") as file:
        file.group("a", {"rejected": value})
    assert Hdf5File(tmp_path / "a.h5").attributes("a") == {"rejected": value}


def test_a_name_that_is_taken_is_not_written_over(store: Path) -> None:
    before = store.read_bytes()
    with pytest.raises(FileExistsError), new_hdf5_file(store):
        pass
    assert store.read_bytes() == before


# Rows


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


# Damage


def chunks_of(path: Path, array: str) -> list[tuple[int, int]]:
    """Offset and length of its chunks in the file."""
    found: list[h5d.StoreInfo] = []
    with h5py.File(path, "r") as file:
        file[array].id.chunk_iter(found.append)
    return [(chunk.byte_offset, chunk.size) for chunk in found]


def flip(path: Path, places: list[int]) -> None:
    content = bytearray(path.read_bytes())
    for place in places:
        content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def test_no_flipped_bit_in_a_fields_data_is_silently_wrong(
    store: Path, copy: Path, expected: dict[str, np.ndarray]
) -> None:
    rng = np.random.default_rng(1)
    ranges = [chunk for field in expected for chunk in chunks_of(store, f"{VIEW}/{field}")]
    for index in rng.choice(len(ranges), 40, replace=False):
        offset, length = ranges[index]
        place = 8 * offset + int(rng.integers(8 * (length - 4)))  # all but the Fletcher-32, which is not ours to check
        flip(copy, [place])
        assert is_right_or_refused(copy, expected)
        flip(copy, [place])


def test_h5py_finds_a_flipped_bit_by_itself(copy: Path) -> None:
    for field in FIELDS:
        offset, length = chunks_of(copy, f"{VIEW}/{field.name}")[4]
        flip(copy, [8 * (offset + length // 2)])
        with h5py.File(copy, "r") as file:
            file[VIEW][field.name][3]
            with pytest.raises(OSError, match=r"error detected by fletcher32|filter returned failure|data error"):
                file[VIEW][field.name][4]


def test_no_flipped_bit_anywhere_is_silently_wrong_or_ends_the_process(
    copy: Path, expected: dict[str, np.ndarray]
) -> None:
    used = [place for field in expected for place in chunks_of(copy, f"{VIEW}/{field}")]
    used += [place for field in expected for place in chunks_of(copy, f"train/hflip/{field}")]
    free = np.ones(copy.stat().st_size, np.bool_)
    for offset, length in used:
        free[offset : offset + length] = False
    metadata = np.flatnonzero(free)  # and attributes, small arrays, checksums
    rng = np.random.default_rng(2)
    refused = 0
    for byte in rng.choice(metadata, 120, replace=False).tolist():
        flip(copy, [8 * byte + 3])
        refused += is_right_or_refused(copy, expected)
        flip(copy, [8 * byte + 3])
    assert refused > 5  # much of it belongs to the other view, or to nothing


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(copy: Path, share: float) -> None:
    os.truncate(copy, int(share * copy.stat().st_size))
    with pytest.raises(OrsanetError):
        PriorStore.open(copy).read("train", "clean", "image", np.array([0]))


def test_a_missing_row_is_an_error_and_no_zeros(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        values = file[VIEW]["landmarks"][:]
        del file[VIEW]["landmarks"]
        dataset = file[VIEW].create_dataset("landmarks", values.shape, "f4", chunks=(1, 68, 2), fletcher32=True)
        dataset[1:] = values[1:]
    opened = PriorStore.open(copy)
    assert np.array_equal(opened.read("train", "clean", "landmarks", np.array([1]))[0], values[1])
    with pytest.raises(OrsanetError, match="row 0 is damaged"):
        opened.read("train", "clean", "landmarks", np.array([0]))


# Files made to deceive


def external_field(file: h5py.File, other: Path) -> None:
    del file[VIEW]["image"]
    file[VIEW]["image"] = h5py.ExternalLink(other, f"{VIEW}/image")


def external_view(file: h5py.File, other: Path) -> None:
    del file["train/clean"]
    file["train/clean"] = h5py.ExternalLink(other, "train/clean")


def external_split(file: h5py.File, other: Path) -> None:
    del file["train"]
    file["train"] = h5py.ExternalLink(other, "train")


def external_sample_id(file: h5py.File, other: Path) -> None:
    del file["train/sample_id"]
    file["train/sample_id"] = h5py.ExternalLink(other, "train/sample_id")


def external_checksums(file: h5py.File, other: Path) -> None:
    del file[VIEW]["crc32c"]
    file[VIEW]["crc32c"] = h5py.ExternalLink(other, f"{VIEW}/crc32c")


def soft_link_behind_an_external_one(file: h5py.File, other: Path) -> None:
    file["outside"] = h5py.ExternalLink(other, "/")
    del file[VIEW]["image"]
    file[VIEW]["image"] = h5py.SoftLink(f"/outside/{VIEW}/image")


def soft_link_to_itself(file: h5py.File, other: Path) -> None:
    del file[VIEW]["image"]
    file[VIEW]["image"] = h5py.SoftLink(f"/{VIEW}/image")


def external_storage(file: h5py.File, other: Path) -> None:
    shape = file[VIEW]["image"].shape
    raw = other.with_suffix(".raw")
    raw.write_bytes(file[VIEW]["image"][:].tobytes())
    del file[VIEW]["image"]
    file[VIEW].create_dataset("image", shape, "u1", external=[(raw, 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, other: Path) -> None:
    shape = file[VIEW]["image"].shape
    layout = h5py.VirtualLayout(shape, "u1")
    layout[...] = h5py.VirtualSource(other, f"{VIEW}/image", shape)
    del file[VIEW]["image"]
    file[VIEW].create_virtual_dataset("image", layout)


def virtual_sample_id(file: h5py.File, other: Path) -> None:
    shape = file["train/sample_id"].shape
    layout = h5py.VirtualLayout(shape, "u1")
    layout[...] = h5py.VirtualSource(other, "train/sample_id", shape)
    del file["train/sample_id"]
    file["train"].create_virtual_dataset("sample_id", layout)


def absurd_sample_count(file: h5py.File, other: Path) -> None:
    for name in [f"{VIEW}/{field.name}" for field in FIELDS]:
        row = file[name].shape[1:]
        del file[name]
        file.create_dataset(name, (2**40, *row), "u1", chunks=(1, *row))
    del file["train/sample_id"]
    file.create_dataset("train/sample_id", (2**40, 8), "u1", chunks=(1, 8))


def absurd_row(file: h5py.File, other: Path) -> None:
    del file[VIEW]["image"]
    file[VIEW].create_dataset("image", (COUNT, 2**20, 2**20), "u1", chunks=(1, 2**15, 2**15))


def absurd_records(file: h5py.File, other: Path) -> None:
    del file[VIEW]["unit_sha256"]
    file[VIEW].create_dataset("unit_sha256", (2**20, 2**10, 32), "u1", compression="gzip")


def records_never_written(file: h5py.File, other: Path) -> None:
    del file[VIEW]["unit_sha256"]
    file[VIEW].create_dataset("unit_sha256", (2**25, 1, 32), "u1")


def sample_ids_that_inflate(file: h5py.File, other: Path) -> None:
    del file["train/sample_id"]
    file["train"].create_dataset("sample_id", data=np.zeros((COUNT, 2**22), np.uint8), compression="gzip")


def rows_that_inflate(file: h5py.File, other: Path) -> None:
    """A chunk that claims 37 kB and inflates to 4 GB, in a layout that is left to h5py."""
    shape = file[VIEW]["image"].shape
    del file[VIEW]["image"]
    dataset = file[VIEW].create_dataset("image", shape, "u1", chunks=(1, *shape[1:]), compression="gzip")
    deflater = zlib.compressobj(wbits=-15)
    zeros = deflater.compress(bytes(2**24)) + deflater.flush(zlib.Z_FULL_FLUSH)
    dataset.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(b"")[:2] + 256 * zeros)


def records_that_inflate(file: h5py.File, other: Path) -> None:
    """The same where we inflate, within what a record's length may be."""
    shape = file[VIEW]["segmentation_map"].shape
    del file[VIEW]["segmentation_map"]
    options: dict[str, Any] = {"chunks": (1, *shape[1:]), "compression": "gzip", "fletcher32": True}
    dataset = file[VIEW].create_dataset("segmentation_map", shape, "u1", **options)
    dataset.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(90_000 * 1000)) + b"1234")


def chunk_of_many_rows(file: h5py.File, other: Path) -> None:
    """300 MB to be read for one row; a hole in the file."""
    shape = file[VIEW]["image"].shape
    del file[VIEW]["image"]
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk((8000, *shape[1:]))
    properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    properties.set_shuffle()
    space = h5s.create_simple(shape, (h5s.UNLIMITED, *shape[1:]))
    h5d.create(file[VIEW].id, b"image", h5t.STD_U8LE, space, properties)


def unknown_filter(file: h5py.File, other: Path) -> None:
    shape = file[VIEW]["image"].shape
    del file[VIEW]["image"]
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk((1, *shape[1:]))
    properties.set_filter(32765, h5z.FLAG_OPTIONAL, (1, 2))
    h5d.create(file[VIEW].id, b"image", h5t.STD_U8LE, h5s.create_simple(shape), properties)


def another_type(dtype: Any) -> Callable[[h5py.File, Path], None]:
    def change(file: h5py.File, other: Path) -> None:
        del file[VIEW]["landmarks"]
        file[VIEW].create_dataset("landmarks", (COUNT, 68, 2), dtype, chunks=(1, 68, 2), fletcher32=False)

    return change


def scalar_field(file: h5py.File, other: Path) -> None:
    del file[VIEW]["landmarks"]
    file[VIEW]["landmarks"] = np.float32(1)


def empty_field(file: h5py.File, other: Path) -> None:
    del file[VIEW]["landmarks"]
    file[VIEW]["landmarks"] = h5py.Empty("f4")


def field_that_is_a_group(file: h5py.File, other: Path) -> None:
    del file[VIEW]["landmarks"]
    file[VIEW].create_group("landmarks")


def view_inside_itself(file: h5py.File, other: Path) -> None:
    del file["train/clean"]
    file["train/clean"] = file["train"]


def attribute_that_is_an_array(file: h5py.File, other: Path) -> None:
    file[VIEW].attrs["rejected"] = np.zeros(100)


def attribute_of_any_length(file: h5py.File, other: Path) -> None:
    file[VIEW].attrs["seal"] = "a variable-length string"


def attribute_that_is_no_json(file: h5py.File, other: Path) -> None:
    file[VIEW].attrs["rejected"] = np.bytes_(b"{")


def without_checksums(file: h5py.File, other: Path) -> None:
    del file[VIEW]["crc32c"]


def too_few_checksums(file: h5py.File, other: Path) -> None:
    del file[VIEW]["crc32c/image"]
    file[VIEW]["crc32c/image"] = np.zeros(3, np.uint32)


HOSTILE: list[Callable[[h5py.File, Path], None]] = [
    external_field, external_view, external_split, external_sample_id, external_checksums, soft_link_behind_an_external_one,
    soft_link_to_itself, external_storage, virtual, virtual_sample_id, absurd_sample_count, absurd_row, absurd_records, records_never_written,
    sample_ids_that_inflate, rows_that_inflate, records_that_inflate, chunk_of_many_rows, unknown_filter, scalar_field,
    empty_field, field_that_is_a_group, view_inside_itself, attribute_that_is_an_array, attribute_of_any_length,
    attribute_that_is_no_json, without_checksums, too_few_checksums,
]  # fmt: skip
TYPES = {
    "text": h5py.string_dtype(),
    "compound": np.dtype([("x", "f4"), ("y", "f4")]),
    "reference": h5py.ref_dtype,
    "enum": h5py.enum_dtype({"no": 0, "yes": 1}),
    "opaque": np.dtype("V4"),
    "big-endian": np.dtype(">f4"),
    "complex": np.dtype("c8"),
    "double": np.dtype("f8"),
}

READ = """
import re, sys
from pathlib import Path
import numpy as np
from orsanet_cache import OrsanetError, PriorStore
import orsanet_cache.store.hdf5_file

def peak():  # getrusage would say the peak of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
refused = 0
for field in sys.argv[2:]:
    try:
        PriorStore.open(Path(sys.argv[1])).read("train", "clean", field, np.array([0]))
    except OrsanetError as error:
        refused += 1
        print(error)
print(peak() - before, "KiB more")
sys.exit(0 if refused else 1)
"""


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_file_is_one_sentence_and_costs_no_memory(store: Path, copy: Path, make: Any) -> None:
    with h5py.File(copy, "r+") as file:
        make(file, Path(shutil.copy(store, copy.with_name("other.h5"))))
    fields = ["image", "segmentation_map", "landmarks"]
    run = subprocess.run([sys.executable, "-c", READ, copy, *fields], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    used = int(run.stdout.splitlines()[-1].split()[0])
    assert used < 50 * 1024  # a row is 50 KB; h5py takes some megabytes


@pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
def test_a_field_of_another_type_is_refused(copy: Path, dtype: Any) -> None:
    with h5py.File(copy, "r+") as file:
        another_type(dtype)(file, copy)
    with pytest.raises(OrsanetError, match="train/clean is damaged"):
        PriorStore.open(copy).read("train", "clean", "landmarks", np.array([0]))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "store.h5")
    with pytest.raises(OrsanetError, match="not a store"):
        PriorStore.open(tmp_path / "store.h5")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" * 100, b"PK\3\4" * 100])
def test_any_other_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.h5").write_bytes(content)
    with pytest.raises(OrsanetError, match="not a store"):
        PriorStore.open(tmp_path / "store.h5")


def test_an_hdf5_file_of_another_program_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = np.arange(3)
    with pytest.raises(OrsanetError, match="not written by orsanet-cache"):
        PriorStore.open(tmp_path / "other.h5")
