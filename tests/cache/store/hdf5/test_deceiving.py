"""Files made to deceive are one sentence and cost nothing."""

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from forks import ForkServer
from h5py import h5d, h5p, h5s, h5t, h5z
from hdf5_stores import COUNT, FIELDS, VIEW

from orsanet_cache import OrsanetError, PriorStore


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
READER = str(Path(__file__).with_name("reading_child.py"))
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


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_file_is_one_sentence_and_costs_no_memory(
    programs: ForkServer, store: Path, copy: Path, make: Any
) -> None:
    with h5py.File(copy, "r+") as file:
        make(file, Path(shutil.copy(store, copy.with_name("other.h5"))))
    fields = ["image", "segmentation_map", "landmarks"]
    run = programs.run(READER, copy, *fields)
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
