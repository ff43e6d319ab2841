"""Damage is found, wherever it is."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5d
from hdf5_stores import FIELDS, VIEW, is_right_or_refused

from orsanet_cache import OrsanetError, PriorStore


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
