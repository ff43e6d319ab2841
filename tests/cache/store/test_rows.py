"""The direct reader gives what zarr-python gives, finds every damage, and leaves alone what it does not understand."""

import math
import multiprocessing
import os
import pickle
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from orsanet_cache.store import rows as rows_module
from orsanet_cache.store.rows import CHECKSUM_BYTES, DamagedRecordError, ShardedRows, row_checksums

ROWS_PER_SHARD = 8


def write(
    folder: Path, values: NDArray[Any], compressors: tuple[Any, ...] = (Crc32cCodec(),), per_shard: int = ROWS_PER_SHARD
) -> Path:
    """An array as a store has it, and its values, written whole."""
    array = zarr.create_array(
        folder, shape=values.shape, dtype=values.dtype, chunks=(1, *values.shape[1:]),
        shards=(per_shard, *values.shape[1:]), compressors=compressors,
        chunk_key_encoding={"name": "default", "separator": "."}, config={"write_empty_chunks": True},
    )  # fmt: skip
    array[:] = values
    return folder


def values_of(count: int, row: tuple[int, ...], dtype: str, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 200, (count, *row)).astype(dtype)


def opened(folder: Path, values: NDArray[Any] | None = None) -> ShardedRows:
    """With `values` every row is held against the checksum it should have."""
    reader = ShardedRows.of(folder, None if values is None else row_checksums(values))
    assert reader is not None
    return reader


def read(reader: ShardedRows, rows: list[int]) -> NDArray[Any]:
    out = np.full((len(rows), *reader.shape[1:]), 77, reader.dtype)
    reader.read(np.array(rows, np.int64), out, np.arange(len(rows)))
    return out


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 30), row=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(["uint8", "float16", "float32", "int64"]), zstd=st.booleans(), data=st.data(),
)  # fmt: skip
def test_rows_in_any_order_are_the_values(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    row: tuple[int, ...],
    dtype: str,
    zstd: bool,
    data: st.DataObject,
) -> None:
    values = values_of(count, row, dtype)
    folder = write(tmp_path_factory.mktemp("rows") / "a", values, (*([ZstdCodec()] if zstd else []), Crc32cCodec()))
    reader = opened(folder)
    for _ in range(2):  # checked, then unchecked
        rows = data.draw(st.lists(st.integers(0, count - 1), max_size=40))
        assert np.array_equal(read(reader, rows), values[rows])


@pytest.mark.parametrize(
    "field",
    ["image", "segmentation_map", "segmentation_entropy", "segmentation_features", "landmark_features", "landmarks"],
)
def test_every_field_of_a_store_is_read_directly(world, field: str) -> None:
    folder = world.store / "train" / "hflip" / field
    expected = np.asarray(zarr.open_array(folder, mode="r")[:])
    assert np.array_equal(read(opened(folder), [3, 0, 13, 3]), expected[[3, 0, 13, 3]])


@pytest.mark.parametrize("zstd", [False, True])
def test_a_flipped_bit_anywhere_in_a_shard_is_found_or_changes_no_value(tmp_path: Path, zstd: bool) -> None:
    values = values_of(ROWS_PER_SHARD, (4,), "uint8")
    folder = write(tmp_path / "a", values, (*([ZstdCodec()] if zstd else []), Crc32cCodec()))
    (shard,) = folder.glob("c.*")
    content = shard.read_bytes()
    harmless = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        shard.write_bytes(damaged)
        try:
            assert np.array_equal(read(opened(folder, values), list(range(ROWS_PER_SHARD))), values)
            harmless += 1
        except DamagedRecordError:
            pass
    # The records' own checksums, which are zarr-python's to verify; and a flag or two that zstd does not read.
    assert harmless <= ROWS_PER_SHARD * (CHECKSUM_BYTES + 2)
    shard.write_bytes(content)
    assert np.array_equal(read(opened(folder, values), list(range(ROWS_PER_SHARD))), values)


def test_a_sound_row_in_the_place_of_another_is_found(tmp_path: Path) -> None:
    values = values_of(2 * ROWS_PER_SHARD, (4,), "uint8")
    folder = write(tmp_path / "a", values)
    first, second = sorted(folder.glob("c.*"))
    first.write_bytes(second.read_bytes())
    with pytest.raises(DamagedRecordError, match="row 3 is damaged"):
        read(opened(folder, values), [3])


def test_a_shard_cut_off_anywhere_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", values_of(ROWS_PER_SHARD, (4,), "uint8"))
    (shard,) = folder.glob("c.*")
    content = shard.read_bytes()
    for length in range(len(content)):
        shard.write_bytes(content[:length])
        with pytest.raises(DamagedRecordError):
            read(opened(folder), list(range(ROWS_PER_SHARD)))
    shard.unlink()
    with pytest.raises(FileNotFoundError):
        read(opened(folder), [0])


def test_a_damaged_index_is_found_at_every_read_and_the_file_closed(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", values_of(ROWS_PER_SHARD, (4,), "uint8"))
    (shard,) = folder.glob("c.*")
    content = bytearray(shard.read_bytes())
    whole = bytes(content)
    content[-10] ^= 1
    shard.write_bytes(content)
    reader = opened(folder)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(DamagedRecordError, match="index"):
            read(reader, [0])
    assert len(os.listdir("/proc/self/fd")) == before
    index = np.frombuffer(whole[-ROWS_PER_SHARD * 16 - 4 : -4], "<u8").copy()
    index[0] = 2**63 + 5  # an offset no file has, under a right checksum
    forged = index.tobytes()
    shard.write_bytes(whole[: -ROWS_PER_SHARD * 16 - 4] + forged + google_crc32c.value(forged).to_bytes(4, "little"))
    with pytest.raises(DamagedRecordError, match="points outside the file"):
        read(opened(folder), [0])


def test_a_row_that_was_never_written_is_no_row_of_zeros(tmp_path: Path) -> None:
    values = values_of(ROWS_PER_SHARD, (4,), "uint8")
    values[3] = 0
    for name, compressors in (("plain", (Crc32cCodec(),)), ("zstd", (ZstdCodec(), Crc32cCodec()))):
        array = zarr.create_array(
            tmp_path / name, shape=values.shape, dtype="uint8", chunks=(1, 4), shards=(ROWS_PER_SHARD, 4),
            compressors=compressors, chunk_key_encoding={"name": "default", "separator": "."},
            config={"write_empty_chunks": False},
        )  # fmt: skip
        array[:] = values
        assert np.array_equal(read(opened(tmp_path / name), [2, 4]), values[[2, 4]])
        with pytest.raises(DamagedRecordError, match="row 3 is damaged"):
            read(opened(tmp_path / name), [3])


@pytest.mark.parametrize("rows", [[-1], [8], [0, 100]])
def test_a_row_outside_is_refused(tmp_path: Path, rows: list[int]) -> None:
    reader = opened(write(tmp_path / "a", values_of(ROWS_PER_SHARD, (4,), "uint8")))
    with pytest.raises(IndexError):
        read(reader, rows)


@pytest.mark.parametrize(
    "out", [np.empty((2, 4), "int8"), np.empty((2, 5), "uint8"), np.empty((2, 8), "uint8")[:, ::2]]
)
def test_a_buffer_that_does_not_fit_is_refused(tmp_path: Path, out: NDArray[Any]) -> None:
    reader = opened(write(tmp_path / "a", values_of(ROWS_PER_SHARD, (4,), "uint8")))
    with pytest.raises(ValueError, match="out must be"):
        reader.read(np.array([0, 1]), out, np.array([0, 1]))


def test_rows_go_to_the_positions_asked_for_and_nowhere_else(tmp_path: Path) -> None:
    values = values_of(ROWS_PER_SHARD, (4,), "uint8")
    reader = opened(write(tmp_path / "a", values), values)
    for _ in range(2):  # checked, then unchecked
        out = np.full((5, 4), 255, np.uint8)
        reader.read(np.array([7, 2, 2]), out, np.array([4, 0, 3]))
        assert np.array_equal(out[[4, 0, 3]], values[[7, 2, 2]])
        assert (out[[1, 2]] == 255).all()
    with pytest.raises(IndexError, match="position 0 or 5 of 5"):
        reader.read(np.array([1, 2]), out, np.array([0, 5]))


def test_other_layouts_are_left_to_zarr(tmp_path: Path) -> None:
    values = values_of(16, (4,), "uint8")
    write(tmp_path / "blosc", values, (BloscCodec(), Crc32cCodec()))
    write(tmp_path / "unchecked", values, ())
    zarr.create_array(tmp_path / "unsharded", shape=(16, 4), dtype="uint8", chunks=(1, 4))[:] = values
    zarr.create_array(tmp_path / "two rows", shape=(16, 4), dtype="uint8", chunks=(2, 4), shards=(8, 4))[:] = values
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "zarr.json").write_text('{"codecs": 3')
    for name in ("blosc", "unchecked", "unsharded", "two rows", "damaged", "not there"):
        assert ShardedRows.of(tmp_path / name) is None, name


def test_more_shards_than_may_be_open_are_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_OPEN_FILES", 2)
    values = values_of(40, (3,), "float16")
    reader = opened(write(tmp_path / "a", values, per_shard=4))
    before = len(os.listdir("/proc/self/fd"))
    order = np.random.default_rng(0).permutation(40).tolist()
    assert np.array_equal(read(reader, order), values[order])
    assert len(os.listdir("/proc/self/fd")) == before + 2
    del reader
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not rows_module.CAN_ADVISE, reason="this system has no posix_fadvise")
@pytest.mark.parametrize("zstd", [False, True])
def test_a_disk_that_answers_late_is_asked_for_all_rows_of_a_read_before_the_first(
    tmp_path: Path, zstd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = values_of(3 * ROWS_PER_SHARD, (7,), "uint8")
    reader = opened(write(tmp_path / "a", values, (*([ZstdCodec()] if zstd else []), Crc32cCodec())))
    calls: list[str] = []
    advise, preadv = os.posix_fadvise, os.preadv
    monkeypatch.setattr(os, "posix_fadvise", lambda *given: (calls.append("ask"), advise(*given))[1])
    monkeypatch.setattr(os, "preadv", lambda *given: (calls.append("read"), preadv(*given))[1])
    rows = [5, 0, 2 * ROWS_PER_SHARD, 1]
    monkeypatch.setattr(rows_module, "LATE", math.inf)
    assert np.array_equal(read(reader, rows), values[rows])
    assert calls == ["read"] * 4
    monkeypatch.setattr(rows_module, "LATE", 0)
    for _ in range(3):
        calls.clear()
        assert np.array_equal(read(reader, rows), values[rows])
    assert calls == ["ask"] * 4 + ["read"] * 4


def test_threads_share_a_reader(tmp_path: Path) -> None:
    values = values_of(64, (50,), "float32")
    reader = opened(write(tmp_path / "a", values))
    wrong: list[int] = []

    def work(seed: int) -> None:
        for order in np.random.default_rng(seed).integers(0, 64, (50, 20)).tolist():
            if not np.array_equal(read(reader, order), values[order]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _read_elsewhere(reader: ShardedRows, queue: "multiprocessing.Queue[NDArray[Any]]") -> None:
    queue.put(read(reader, [5, 1]))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_reader_travels_to_another_process(tmp_path: Path, method: str) -> None:
    values = values_of(16, (4,), "float16")
    reader = opened(write(tmp_path / "a", values))
    read(reader, [0])
    assert np.array_equal(read(pickle.loads(pickle.dumps(reader)), [5, 1]), values[[5, 1]])
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_read_elsewhere, args=(reader, queue))
    process.start()
    assert np.array_equal(queue.get(timeout=60), values[[5, 1]])
    process.join()


@pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning"
)  # Python 3.12 and later: that forks with threads are delicate
def test_a_forked_reader_works_though_the_parent_was_reading(tmp_path: Path) -> None:
    values = values_of(16, (4,), "float16")
    reader = opened(write(tmp_path / "a", values))
    read(reader, [0])
    with reader._lock:  # as if another thread were in the middle of a read
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(read(reader, [5, 1]), values[[5, 1]]) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(read(reader, [9]), values[[9]])


def test_a_file_put_in_the_place_of_another_is_verified_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_OPEN_FILES", 0)  # as if a thousand others had been read in between
    values = values_of(2 * ROWS_PER_SHARD, (4,), "uint8")
    folder = write(tmp_path / "a", values)
    reader = opened(folder, values)
    assert np.array_equal(read(reader, [3, 3]), values[[3, 3]])
    first, second = sorted(folder.glob("c.*"))
    os.replace(second, first)
    with pytest.raises(DamagedRecordError, match="row 3 is damaged"):
        read(reader, [3])


def read_whole(tmp_path: Path) -> tuple[ShardedRows, Path, Path, NDArray[Any]]:
    """A reader that has read all rows, and its two shards of 8 rows each."""
    values = values_of(2 * ROWS_PER_SHARD, (4,), "uint8")
    folder = write(tmp_path / "a", values)
    reader = opened(folder, values)
    read(reader, list(range(len(values))))
    reader.check_unchanged()
    first, second = sorted(folder.glob("c.*"))
    time.sleep(0.05)  # longer than a tick of the file system's clock
    return reader, first, second, values


@pytest.mark.parametrize("how", ["overwritten", "touched", "replaced by its copy", "cut", "grown"])
def test_a_file_that_changed_under_a_reader_is_refused_with_its_rows(tmp_path: Path, how: str) -> None:
    reader, first, second, _ = read_whole(tmp_path)
    content = second.read_bytes()
    if how == "overwritten":
        second.write_bytes(first.read_bytes())
    elif how == "touched":
        os.utime(second)
    elif how == "replaced by its copy":
        shutil.copy2(second, tmp_path / "copy")
        os.replace(tmp_path / "copy", second)
    else:
        second.write_bytes(content[:-1] if how == "cut" else content + b"\0")
    with pytest.raises(DamagedRecordError, match=rf"rows 8 to 15: {second} has changed since it was first read"):
        reader.check_unchanged()


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    reader, first, _, _ = read_whole(tmp_path)
    first.unlink()
    with pytest.raises(FileNotFoundError, match=str(first)):
        reader.check_unchanged()


def test_a_change_whose_time_was_set_back_is_found_in_the_rows(tmp_path: Path) -> None:
    reader, first, second, _ = read_whole(tmp_path)
    before = second.stat()
    second.write_bytes(first.read_bytes())
    os.utime(second, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedRecordError, match="row 8 is damaged"):
        reader.check_unchanged()


def test_another_name_or_other_permissions_change_nothing(tmp_path: Path) -> None:
    reader, first, second, values = read_whole(tmp_path)
    os.link(first, tmp_path / "backup")
    second.chmod(0o600)
    reader.check_unchanged()
    reader.check_unchanged()
    assert np.array_equal(read(reader, [15, 0]), values[[15, 0]])


def test_a_read_costs_no_stat_and_a_check_one_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, _, _, values = read_whole(tmp_path)
    calls = []
    for name in ("stat", "fstat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, real=real: (calls.append(given), real(*given))[1])
    assert np.array_equal(read(reader, [3, 12]), values[[3, 12]])
    assert not calls
    reader.check_unchanged()
    assert len(calls) == 2
