"""A store converted to HDF5 and back is the same store, for us and for every other program, and is whole or not there."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray
import zarr

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.builder.build import build
from orsanet_cache.store.schema import Field, schema
from orsanet_cache.store.units import UnitRecord
from orsanet_cache.writing.convert import LOCK, SUFFIX, convert
from orsanet_cache.writing.writer import StoreWriter

ROWS_PER_UNIT = 8
COUNTS = {"train": 20, "test": 5}
VIEWS = ("clean", "hflip")
REASON = (
    "cannot be read: " + "é" * 100_000
)  # 200 KB, as many rejected images may need; HDF5 keeps above 64 KB in another place
FIELDS = schema(segmentation_channels=6, landmark_channels=4, feature_dtype="float16")


def values_of(field: Field, count: int, rng: np.random.Generator) -> np.ndarray:
    if field.dtype == "uint8":
        return rng.integers(0, 256, (count, *field.shape), dtype=np.uint8)  # maps too: noise that does not deflate
    return rng.standard_normal((count, *field.shape)).astype(field.dtype)


def write_store(folder: Path, sealed: bool = True) -> Path:
    """A store of random values; its last view is not finished unless `sealed`."""
    rng = np.random.default_rng(0)
    with StoreWriter.open(folder, {"feature_dtype": "float16", "name": "ü"}, FIELDS, rows_per_unit=ROWS_PER_UNIT) as to:
        for split, count in COUNTS.items():
            to.add_split(split, [f"images/{split}_é{row}.png" for row in range(count)])
            for view in VIEWS:
                to.add_view(split, view)
                for unit in to.units(split):
                    rows = unit.stop - unit.start
                    rejected = {f"images/{split}_é0.png": REASON} if unit.index == 0 else {}
                    arrays = {field.name: values_of(field, rows, rng) for field in FIELDS}
                    to.commit(unit, view, arrays, UnitRecord(["ab" * 32] * rows, rejected))
                if sealed or (split, view) != ("test", "hflip"):
                    assert to.seal(split, view, {"device": "cpu"}) == []
    return folder


@pytest.fixture(scope="module")
def zarr_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("zarr") / "store.zarr")


@pytest.fixture(scope="module")
def hdf5_store(zarr_store: Path) -> Path:
    return convert(zarr_store, zarr_store.parent / "store.h5").path


def digests(folder: Path) -> dict[str, str]:
    """File -> SHA-256."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if SUFFIX in path.name)


def assert_equal_stores(one: PriorStore, other: PriorStore, seed: int = 0) -> None:
    """Every field of every view, in a random order with rows twice, checked reads and then unchecked ones."""
    assert one.splits == other.splits
    assert one.recipe == other.recipe
    for split in one.splits:
        assert one.sample_ids(split) == other.sample_ids(split)
        assert one.views(split) == other.views(split)
        for view in one.views(split):
            assert one.sealed(split, view).seal == other.sealed(split, view).seal
            assert one.rejected(split, view) == other.rejected(split, view)
            assert one.provenance(split, view) == other.provenance(split, view)
            assert one.fields(split, view) == other.fields(split, view)
            count = len(one.sample_ids(split))
            for field in one.fields(split, view):
                for order in np.random.default_rng(seed).integers(0, count, (3, 2 * count)):
                    expected = one.read(split, view, field, order)
                    assert np.array_equal(other.read(split, view, field, order), expected)


def test_a_converted_store_reads_the_same(zarr_store: Path, hdf5_store: Path) -> None:
    assert hdf5_store.is_file()
    assert_equal_stores(PriorStore.open(zarr_store), PriorStore.open(hdf5_store))


def test_there_and_back_gives_the_same_files_byte_for_byte(zarr_store: Path, hdf5_store: Path, tmp_path: Path) -> None:
    back = convert(hdf5_store, tmp_path / "back.zarr").path
    assert digests(back) == digests(zarr_store)


def test_nothing_but_the_target_is_left(zarr_store: Path, hdf5_store: Path) -> None:
    assert leftovers(hdf5_store.parent) == []


@pytest.mark.parametrize("feature_dtype", ["int8", "float32"])
def test_a_built_store_of_any_feature_type_is_converted_there_and_back(
    world: Any, tmp_path: Path, feature_dtype: str
) -> None:
    device = torch.device("cpu")
    store = tmp_path / "store.zarr"
    manifest, priors = world.load_manifest(), world.priors
    build(manifest, store, priors, ["clean"], device=device, splits=["valid"], feature_dtype=feature_dtype)
    converted = convert(store, tmp_path / "store.h5")
    assert ("segmentation_features_scale" in converted.fields("valid", "clean")) == (feature_dtype == "int8")
    assert_equal_stores(PriorStore.open(store), converted)
    assert digests(convert(converted.path, tmp_path / "back.zarr").path) == digests(store)


# Other programs


def test_plain_h5py_reads_the_values_the_dimensions_and_the_attributes(zarr_store: Path, hdf5_store: Path) -> None:
    store = PriorStore.open(zarr_store)
    with h5py.File(hdf5_store, "r") as file:
        assert json.loads(file.attrs["orsanet_store"])["recipe"] == store.recipe
        for split in COUNTS:
            for view in VIEWS:
                group = file[split][view]
                assert json.loads(group.attrs["seal"]) == store.sealed(split, view).seal
                assert json.loads(group.attrs["rejected"]) == store.rejected(split, view)
                for field in FIELDS:
                    assert np.array_equal(group[field.name][:], store.read(split, view, field.name, slice(None)))
                    assert [axis.label for axis in group[field.name].dims] == ["sample", *field.axes]
                    assert group[field.name].fletcher32
                    assert group[field.name].compression == ("gzip" if field.compressed else None)


def test_h5dump_reads_the_whole_file(zarr_store: Path, hdf5_store: Path, tmp_path: Path) -> None:
    program = shutil.which("h5dump")
    if program is None:
        pytest.skip("needs h5dump, of the Debian package hdf5-tools")
    store = PriorStore.open(zarr_store)
    for field in FIELDS:
        raw = tmp_path / "values"
        command = [program, "--binary=FILE", f"--output={raw}", f"--dataset=/train/clean/{field.name}", str(hdf5_store)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
        assert raw.read_bytes() == store.read("train", "clean", field.name, slice(None)).tobytes()
    attributes = subprocess.run([program, "--onlyattr", str(hdf5_store)], capture_output=True, check=True)
    assert attributes.stderr == b""
    assert store.sealed("test", "hflip").seal.encode() in attributes.stdout


def test_plain_zarr_and_xarray_open_what_was_converted_back(hdf5_store: Path, tmp_path: Path) -> None:
    folder = convert(hdf5_store, tmp_path / "back.zarr").path
    store = PriorStore.open(hdf5_store)
    members = dict(zarr.open_group(folder, mode="r").members(max_depth=None))
    data = xarray.open_zarr(folder, group="train/clean", consolidated=False)
    for split in COUNTS:
        for view in VIEWS:
            for field in FIELDS:
                array = members[f"{split}/{view}/{field.name}"]
                assert isinstance(array, zarr.Array)
                assert np.array_equal(array[:], store.read(split, view, field.name, slice(None)))
    for field in FIELDS:
        assert data[field.name].dims == ("sample", *field.axes)
        assert np.array_equal(data[field.name].values, store.read("train", "clean", field.name, slice(None)))


# Refusals


def test_an_unfinished_store_is_refused_and_says_which_view(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store.zarr", sealed=False)
    with pytest.raises(OrsanetError, match=r"(?s)not finished.*orsanet-cache build.*\n  test/hflip$"):
        convert(store, tmp_path / "store.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store.zarr"]


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_a_target_that_exists_is_refused_and_not_touched(zarr_store: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    make: dict[str, Callable[[], object]] = {
        "file": target.touch,
        "folder": target.mkdir,
        "dangling link": lambda: target.symlink_to("nowhere"),
    }
    make[kind]()
    before = target.lstat()
    with pytest.raises(OrsanetError, match="already exists"):
        convert(zarr_store, target)
    assert target.lstat() == before
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link to a folder of ours"])
def test_what_does_not_look_like_ours_is_never_deleted(zarr_store: Path, tmp_path: Path, kind: str) -> None:
    target, other = tmp_path / "store.h5", tmp_path / ("store.h5" + SUFFIX)
    if kind == "file":
        other.write_text("a user's own")
    elif kind == "folder":
        other.mkdir()
        (other / "thesis.tex").write_text("a user's own")
    else:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / LOCK).touch()
        (tmp_path / "elsewhere" / "thesis.tex").write_text("a user's own")
        other.symlink_to("elsewhere")
    before = digests(tmp_path)
    with pytest.raises(OrsanetError, match="not from an unfinished conversion"):
        convert(zarr_store, target)
    assert digests(tmp_path) == before


def test_values_that_are_not_what_was_sealed_are_not_copied(zarr_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.zarr"
    shutil.copytree(zarr_store, store)
    field = store / "train" / "clean" / "image"
    (field / "c.0.0.0.0").write_bytes((field / "c.1.0.0.0").read_bytes())  # whole, with checksums that are right
    with pytest.raises(OrsanetError, match=r"train/clean/image is damaged.*row 0.*verify"):
        convert(store, tmp_path / "store.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store.zarr"]


def test_a_damaged_source_is_named_and_leaves_no_target(hdf5_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.h5"
    content = bytearray(hdf5_store.read_bytes())
    with h5py.File(hdf5_store, "r") as file:
        content[file["train/clean/image"].id.get_chunk_info(3).byte_offset + 100] ^= 1
    store.write_bytes(content)
    with pytest.raises(OrsanetError, match=r"train/clean/image is damaged.*row 3.*verify"):
        convert(store, tmp_path / "back.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store.h5"]


# A disk that is full, processes that end

CONVERT = """
import signal, sys
from pathlib import Path
from orsanet_cache import OrsanetError
from orsanet_cache.writing.convert import convert
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
except OrsanetError as error:
    print(error)
    sys.exit(3)
except KeyboardInterrupt:
    sys.exit(4)
"""


def start(source: Path, target: Path, most_bytes: int | None = None) -> "subprocess.Popen[str]":
    """A process that converts, and perhaps may not write files longer than that."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    # Under such a limit Python would leave bytecode that is cut off (cpython#126606).
    command = [sys.executable, "-B", "-c", CONVERT, source, target]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=limit)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.999])
def test_a_full_disk_while_hdf5_is_written_ends_in_one_sentence(
    zarr_store: Path, hdf5_store: Path, tmp_path: Path, share: float
) -> None:
    most_bytes = int(share * hdf5_store.stat().st_size)
    process = start(zarr_store, tmp_path / "store.h5", most_bytes)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors  # not killed by a signal, which is how HDF5 ends on a full disk
    assert "cannot be written (File too large)" in output
    assert output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("most_bytes", [0, 1000, 50_000])
def test_a_full_disk_while_zarr_is_written_ends_in_one_sentence(
    hdf5_store: Path, tmp_path: Path, most_bytes: int
) -> None:
    process = start(hdf5_store, tmp_path / "store.zarr", most_bytes)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "cannot be written (File too large)" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("to", ["store.h5", "back.zarr"])
def test_a_disk_that_refuses_leaves_no_target(
    zarr_store: Path, hdf5_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, to: str
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(
        OrsanetError, match=r"cannot be written.*No space left on device.*the incomplete copy was deleted"
    ):
        convert(zarr_store if to.endswith("h5") else hdf5_store, tmp_path / to)
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_said_before_anything_is_written(
    zarr_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(OrsanetError, match=r"needs about 0\.01 GB, 0\.00 GB are free"):
        convert(zarr_store, tmp_path / "store.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["store.h5", "back.zarr"])
def test_a_killed_conversion_leaves_no_target_and_the_next_one_succeeds(
    zarr_store: Path, hdf5_store: Path, tmp_path: Path, to: str
) -> None:
    source, target = (zarr_store if to.endswith("h5") else hdf5_store), tmp_path / to
    staged = tmp_path / (to + SUFFIX) / "store"
    for _ in range(3):
        process = start(source, target)
        while not staged.exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert not target.exists()
        assert leftovers(tmp_path) == [to + SUFFIX]
    assert_equal_stores(PriorStore.open(source), convert(source, target))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("milliseconds", [0, 10, 30, 60])
def test_an_interrupted_conversion_cleans_up(zarr_store: Path, tmp_path: Path, milliseconds: int) -> None:
    target = tmp_path / "store.h5"
    process = start(zarr_store, target)
    while not (tmp_path / ("store.h5" + SUFFIX) / "store").exists():
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(milliseconds / 1000)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 4
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_on_the_same_target_leaves_the_first_alone(zarr_store: Path, tmp_path: Path) -> None:
    target = tmp_path / "store.h5"
    first = start(zarr_store, target)
    while not (tmp_path / ("store.h5" + SUFFIX) / "store").exists():
        assert first.poll() is None
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(OrsanetError, match="another process is writing"):
            convert(zarr_store, target)
    finally:
        first.send_signal(signal.SIGCONT)
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert_equal_stores(PriorStore.open(zarr_store), PriorStore.open(target))
