"""Too few open files and too little memory are told as that: nothing is called damaged, rejected or missing because of them."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import safetensors.numpy
from command_lines import in_process
from few_files import answers, at_most
from hdf5_stores import FIELDS
from small_store import everything

from orsanet_cache import FaceDetector, OrsanetError, PriorStore, convert, read_image
from orsanet_cache.cli import main
from orsanet_cache.console import CommandGroup
from orsanet_cache.errors import ShortageError, shortage
from orsanet_cache.frozen.loading import read_weights
from orsanet_cache.store.seal import damaged_units
from orsanet_cache.store.units import Unit, UnitRecord
from orsanet_cache.store.verify import unfinished, verify
from orsanet_cache.store.zarr_folder import ZarrFolder
from orsanet_cache.writing.writer import StoreWriter

VIEWS = {"train": ["clean"]}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store as Zarr and as HDF5, and one that is not finished."""
    folder = tmp_path_factory.mktemp("few")
    rng = np.random.default_rng(0)
    for name in ("store", "begun"):
        with StoreWriter.open(folder / f"{name}.zarr", {"feature_dtype": "float16"}, FIELDS, rows_per_unit=2) as writer:
            writer.add_split("train", ["a.png", "b.png", "c.png"])
            writer.add_view("train", "clean")
            for unit in writer.units("train"):
                count = unit.stop - unit.start
                arrays = {f.name: rng.integers(0, 9, (count, *f.shape)).astype(f.dtype) for f in FIELDS}
                writer.commit(unit, "clean", arrays, UnitRecord(["ab" * 32] * count, {}))
            if name == "store":
                assert writer.seal("train", "clean", {}) == []
    convert(folder / "store.zarr", folder / "store.h5")
    return folder


@pytest.mark.parametrize(
    "ask",
    [
        lambda stores: everything(stores / "store.zarr", VIEWS),
        lambda stores: everything(stores / "store.h5", VIEWS),
        lambda stores: verify(stores / "store.zarr", deep=True),
        lambda stores: verify(stores / "store.h5"),
        lambda stores: (verify(stores / "begun.zarr", deep=True), unfinished(stores / "begun.zarr")),
    ],
)
def test_a_store_is_read_or_the_files_are_too_few(stores: Path, ask: Callable[[Path], Any]) -> None:
    said = answers(lambda: ask(stores))
    assert said
    assert all("too many open files" in text and "`ulimit -n" in text and "damaged" not in text for text in said)


def test_a_finding_is_no_less_a_finding(stores: Path, tmp_path: Path) -> None:
    """With enough files for it, what is damaged is still called damaged."""
    shutil.copytree(stores / "store.zarr", tmp_path / "store.zarr")
    (tmp_path / "store.zarr/train/clean/landmarks/c.0.0.0").write_bytes(b"")
    found = []
    said = answers(lambda: found.append(verify(tmp_path / "store.zarr")))
    assert said
    assert all([(one.unit is not None and one.unit.index) for one in damage] == [0] for _, damage in found)


def test_committed_units_stay_committed(stores: Path, tmp_path: Path) -> None:
    """What is taken for not committed is computed again."""
    shutil.copytree(stores / "begun.zarr", tmp_path / "begun.zarr")
    with StoreWriter.open(tmp_path / "begun.zarr", {"feature_dtype": "float16"}, FIELDS) as writer:
        writer.add_split("train", ["a.png", "b.png", "c.png"])
        unit, found = Unit("train", 0, 0, 2), []
        assert answers(lambda: writer.marker(unit, "clean"))
        assert answers(lambda: writer.missing("train", "clean"))
        with at_most(1), pytest.raises(ShortageError):
            writer.seal("train", "clean", {})
        markers = {
            unit: marker for unit in writer.units("train") if (marker := writer.marker(unit, "clean")) is not None
        }
        assert answers(lambda: found.append(damaged_units(ZarrFolder(writer.path), "clean", markers)))
        assert found == [set()] * len(found)
        assert writer.missing("train", "clean") == []
        assert writer.seal("train", "clean", {}) == []
    assert PriorStore.open(tmp_path / "begun.zarr").sealed("train", "clean").seal


def test_a_picture_is_not_rejected_and_weights_are_not_damaged(world, tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, tmp_path / "weights.safetensors")
    for ask in (
        lambda: read_image(world.folder / "images" / "train_0.png"),
        lambda: read_weights(tmp_path / "weights.safetensors"),
        FaceDetector,
    ):
        assert answers(ask)


@pytest.mark.parametrize("arguments", [("verify", "store.zarr"), ("verify", "store.h5"), ("info", "store.zarr")])
def test_the_commands_say_it_in_one_sentence(stores: Path, arguments: tuple[str, str]) -> None:
    command, name = arguments
    assert in_process(main, command, stores / name).returncode == 0
    with at_most(0):
        ended = in_process(main, command, stores / name)
    assert ended.returncode == 1
    assert "too many open files" in ended.stderr
    assert "damaged" not in ended.stderr


def test_a_copy_that_lacks_files_is_not_told_to_free_space(stores: Path, tmp_path: Path) -> None:
    with at_most(4):
        ended = in_process(main, "convert", stores / "store.zarr", tmp_path / "copy.h5")
    assert (ended.returncode, "too many open files" in ended.stderr, "space" in ended.stderr) == (1, True, False)
    assert in_process(main, "convert", stores / "store.zarr", tmp_path / "copy.h5").returncode == 0


def failing(error: Callable[[], object]) -> click.Group:
    @click.group(cls=CommandGroup)
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        error()

    return group


def from_another(error: Exception) -> None:
    try:
        raise error
    except Exception as cause:
        raise ValueError("a library's own") from cause


def torch_says() -> None:
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    )


@pytest.mark.parametrize(
    "error",
    [
        lambda: np.empty(2**62, np.uint8),
        torch_says,
        lambda: from_another(MemoryError()),
        lambda: from_another(OSError(12, "no")),
    ],
)
def test_too_little_memory_is_a_sentence(error: Callable[[], object]) -> None:
    ended = in_process(failing(error), "fail")
    assert ended.returncode == 1
    assert "too little memory" in ended.stderr


def test_other_errors_are_none() -> None:
    for error in (
        ValueError("damaged"),
        OSError(5, "Input/output error"),
        FileNotFoundError(2, "out of memory.png"),
        OSError("out of memory"),
    ):
        assert shortage(error) is None
    with pytest.raises(KeyError):
        in_process(failing(lambda: {}["a"]), "fail")
    assert not issubclass(ShortageError, OrsanetError)  # which some code goes on after


@pytest.mark.timeout(10)
def test_a_circle_of_causes_has_an_end() -> None:
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert shortage(first) is None
    second.__context__, second.__cause__ = OSError(errno.EMFILE, "Too many open files"), None
    assert shortage(first) is not None
