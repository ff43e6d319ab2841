"""A training state comes back to the last bit, or the one before does with a warning: after damage, kills at any point and full disks."""

import builtins
import errno
import io
import json
import os
import random
import re
import resource
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from orsanet_cache import OrsanetError
from orsanet_train.run.state import TrainingState, load_state, save_state

KILLS = 30
PATIENCE = 60.0  # seconds that no child needs; one that hangs fails its test
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
]  # fmt: skip
SHAPES = [(), (1,), (7,), (0,), (3, 0, 2), (2, 3, 1, 5)]

Content = dict[str, bytes]


def small(epoch: int = 0, step: int = 0, values: int = 6) -> TrainingState:
    """A state of a few hundred bytes, another at every position."""
    start = 1000.0 * epoch + step
    tensors = {
        "model/weight": torch.arange(values, dtype=torch.float32) + start,
        "optimizer/step": torch.tensor(step, dtype=torch.int64),
    }
    return TrainingState(epoch, step, [{"epoch": 1, "loss": start / 3}], [start / 7, 0.1], tensors)


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def everything(state: TrainingState | None) -> object:
    """All of a state that can be compared to the last bit."""
    assert state is not None
    numbers = json.dumps([state.epoch, state.step, state.history, state.metrics])
    return numbers, {name: bits(tensor) for name, tensor in state.tensors.items()}


def content(folder: Path) -> Content:
    """Every file below a folder, whatever its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(OrsanetError) as caught:
        action()
    return str(caught.value)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with the states (1, 5) and (1, 10)."""
    for step in (5, 10):
        save_state(tmp_path / "checkpoints", small(1, step))
    return tmp_path / "checkpoints"


# What comes back


@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_of_every_type_come_back_to_the_last_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Random bits: infinities, subnormal numbers and the many kinds of NaN are among them."""
    generator = torch.Generator().manual_seed(0)
    tensors = {"bool": torch.randint(0, 2, shape, generator=generator).bool()}
    for dtype in DTYPES:
        raw = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=generator)
        tensors[f"random/{dtype}"] = raw.view(dtype).reshape(shape)
        tensors[f"ones/{dtype}"] = torch.full_like(raw, 255).view(dtype).reshape(shape)
    state = TrainingState(3, 120, [], [], tensors)
    save_state(tmp_path, state)
    loaded = load_state(tmp_path)
    assert everything(loaded) == everything(state)
    assert loaded is not None
    assert {tensor.device.type for tensor in loaded.tensors.values()} == {"cpu"}


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    rng = random.Random(0)
    drawn = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(3000)]
    values = [value for value in drawn if abs(value) < float("inf")]  # no NaN either
    values += [0.0, -0.0, 0.1, 2 / 3, 5e-324, sys.float_info.max, -sys.float_info.min, 1e22, 2.0**53 + 1]
    history = [{"epoch": float(i), "loss": value} for i, value in enumerate(values)]
    save_state(tmp_path, TrainingState(0, 0, history, values, {}))
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert len(values) > 2900
    assert struct.pack(f"{len(values)}d", *loaded.metrics) == struct.pack(f"{len(values)}d", *values)
    assert [list(row.items()) for row in loaded.history] == [list(row.items()) for row in history]
    assert struct.pack(f"{len(values)}d", *(row["loss"] for row in loaded.history)) == struct.pack(
        f"{len(values)}d", *values
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["history", "metrics"])
def test_a_number_that_is_not_finite_is_refused_and_nothing_changes(two: Path, number: float, where: str) -> None:
    before = content(two)
    history, metrics = ([{"loss": number}], [1.0]) if where == "history" else ([{"loss": 1.0}], [number])
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_state(two, TrainingState(2, 0, history, metrics, {}))
    assert content(two) == before
    assert len(names(two)) == 2


@pytest.mark.parametrize(
    ("tensor", "error", "what"),
    [
        (torch.zeros(2, dtype=torch.complex64), ValueError, "'model/odd' is torch.complex64"),
        (torch.zeros(2, device="meta"), RuntimeError, "meta tensor"),
        (torch.eye(2).to_sparse(), RuntimeError, "[sS]parse"),
    ],
)
def test_a_tensor_that_is_not_plain_numbers_is_refused_and_nothing_changes(
    two: Path, tensor: Tensor, error: type[Exception], what: str
) -> None:
    before = content(two)
    with pytest.raises(error, match=what):
        save_state(two, TrainingState(2, 0, [], [], {"model/odd": tensor}))
    assert content(two) == before
    assert len(names(two)) == 2


def test_tensors_that_share_memory_or_have_gaps_come_back_as_their_values(tmp_path: Path) -> None:
    flat = torch.arange(24.0)
    parameter = torch.nn.Parameter(flat.clone())
    tensors = {
        "whole": flat, "again": flat, "part": flat[3:11], "overlapping": flat[5:20], "strided": flat[::3],
        "transposed": flat.view(4, 6).t(), "expanded": flat[:1].expand(5), "reversed": flat.flip(0),
        "channels_last": flat.view(1, 2, 3, 4).to(memory_format=torch.channels_last), "parameter": parameter,
    }  # fmt: skip
    save_state(tmp_path, TrainingState(0, 1, [], [], tensors))
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert {name: bits(tensor) for name, tensor in loaded.tensors.items()} == {
        name: bits(tensor) for name, tensor in tensors.items()
    }
    assert torch.equal(flat, torch.arange(24.0))  # untouched
    loaded.tensors["whole"].zero_()
    assert torch.equal(loaded.tensors["again"], flat)


def test_loaded_tensors_have_memory_of_their_own_aligned_as_a_new_one(tmp_path: Path) -> None:
    """So that every kernel does with them what it does with the tensors of a run that was not interrupted."""
    tensors = {f"t{size}": torch.rand(size) for size in range(1, 20)} | {"b": torch.ones(3, dtype=torch.bool)}
    save_state(tmp_path, TrainingState(0, 0, [], [], tensors))
    loaded = load_state(tmp_path)
    assert loaded is not None
    for tensor in loaded.tensors.values():
        assert tensor.data_ptr() % 64 == 0
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    before = content(tmp_path)
    for tensor in loaded.tensors.values():
        tensor.zero_()
    assert content(tmp_path) == before


def test_the_safetensors_library_reads_the_same_tensors(two: Path) -> None:
    odd = {
        "a": torch.tensor(True),
        "b": torch.rand(3).half(),
        "c": torch.rand(5),
        "d": torch.empty(0, 2),
        "ü/“": torch.rand(1),
    }
    save_state(two, TrainingState(2, 0, [], [], odd))
    read = safetensors.torch.load_file(two / "00000002-000000" / "tensors.safetensors")
    assert {name: bits(tensor) for name, tensor in read.items()} == {name: bits(tensor) for name, tensor in odd.items()}


def test_every_tensor_lies_in_the_file_at_a_multiple_of_its_items_size(tmp_path: Path) -> None:
    """Readers that map the file, as older safetensors releases do, need that."""
    for length in range(1, 9):  # of a name, and so of what comes before the tensors
        dtypes = enumerate([torch.bool, *DTYPES[::-1]])
        tensors = {f"{i:x}" + "x" * length * (i == 0): torch.zeros(3, dtype=dtype) for i, dtype in dtypes}
        save_state(tmp_path, TrainingState(0, 0, [], [], tensors))
        data = (tmp_path / "00000000-000000" / "tensors.safetensors").read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        assert header.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert (start + header[name]["data_offsets"][0]) % tensor.itemsize == 0


def test_whom_the_umask_lets_read_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_state(tmp_path / "checkpoints", small())
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "checkpoints").rglob("*")}
    assert modes == {"00000000-000000": 0o750, "tensors.safetensors": 0o640, "state.json": 0o640}


def test_without_states_there_is_none_and_nothing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_state(tmp_path / "absent") is None
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".00000000-000001.tmp").mkdir()
    assert load_state(tmp_path) is None
    assert names(tmp_path) == [".00000000-000001.tmp", "notes.txt"]
    assert capsys.readouterr().err == ""


# Which states there are


def test_the_newest_two_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    """Newest by position: names do not sort that way beyond six digits."""
    positions = [(0, 0), (0, 7), (0, 999_999), (0, 1_000_000), (1, 0), (12, 3)]
    for done, (epoch, step) in enumerate(positions, 1):
        save_state(tmp_path, small(epoch, step))
        assert everything(load_state(tmp_path)) == everything(small(epoch, step))
        assert names(tmp_path) == sorted(f"{e:08d}-{s:06d}" for e, s in positions[max(0, done - 2) : done])


def test_what_a_kill_left_goes_with_the_next_save_and_nothing_else_does(two: Path) -> None:
    for name in (".00000001-000011.tmp", ".00000001-000005.replaced.tmp"):
        (two / name).mkdir()
        (two / name / "tensors.safetensors").write_bytes(b"half of it")
    elsewhere = two.parent / "elsewhere"
    shutil.copytree(two / "00000001-000005", elsewhere)
    (two / ".00000001-000012.tmp").symlink_to(elsewhere, target_is_directory=True)
    mine = ["notes.txt", ".mine.tmp", "00000001-000005 (copy)", "1-2", ".00000001-000005"]
    for name in mine:
        (two / name).mkdir()
        (two / name / "thesis").write_text("years of work")
    save_state(two, small(1, 15))
    assert names(two) == sorted([*mine, "00000001-000010", "00000001-000015"])
    assert all((two / name / "thesis").read_text() == "years of work" for name in mine)
    assert len(content(elsewhere)) == 2


def test_what_a_kill_left_is_gone_before_anything_is_written(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it could be what fills the disk, for ever."""
    stale = two / ".00000001-000011.tmp"
    stale.mkdir()
    ordinary, there = builtins.open, []

    def watching(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if mode == "wb":
            there.append(stale.exists())
        return ordinary(file, mode, *rest, **named)

    monkeypatch.setattr(builtins, "open", watching)
    save_state(two, small(1, 15))
    assert there == [False, False]


def test_the_same_position_saved_again_replaces_it_and_keeps_the_one_before(two: Path) -> None:
    for values in (7, 8, 9):
        save_state(two, small(1, 10, values))
        assert names(two) == ["00000001-000005", "00000001-000010"]
        assert everything(load_state(two)) == everything(small(1, 10, values))


def test_a_state_that_stepped_aside_and_was_never_replaced_is_loaded_and_then_goes(two: Path) -> None:
    os.rename(two / "00000001-000010", two / "00000001-000010.replaced")
    assert everything(load_state(two)) == everything(small(1, 10))
    shutil.copytree(two / "00000001-000010.replaced", two / "00000001-000010")
    save_state(two, small(1, 10, 9))
    assert names(two) == ["00000001-000005", "00000001-000010"]
    assert everything(load_state(two)) == everything(small(1, 10, 9))
    os.rename(two / "00000001-000010", two / "00000001-000010.replaced")
    save_state(two, small(1, 15))
    assert names(two) == ["00000001-000010.replaced", "00000001-000015"]


def test_a_run_that_went_back_keeps_what_it_went_back_to_and_not_the_damaged(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (two / "00000001-000010" / "state.json").write_bytes(b"")
    assert everything(load_state(two)) == everything(small(1, 5))
    save_state(two, small(1, 8))
    assert names(two) == ["00000001-000005", "00000001-000008"]
    capsys.readouterr()
    assert everything(load_state(two)) == everything(small(1, 8))
    assert capsys.readouterr().err == ""


# Damage


def falls_back(folder: Path, capsys: pytest.CaptureFixture[str], expected: TrainingState, *damaged: str) -> None:
    """The expected state is loaded, with one line of warning for each damaged one, newest first."""
    capsys.readouterr()
    assert everything(load_state(folder)) == everything(expected)
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == len(damaged)
    for line, name in zip(lines, damaged, strict=True):
        assert line.startswith(f"warning: {folder / name}: damaged (")
        assert line.endswith(f"); going on from the one before, {expected.epoch:08d}-{expected.step:06d}")


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_any_byte_that_changed_is_noticed(two: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    path = two / "00000001-000010" / file
    original = path.read_bytes()
    rng = random.Random(0)
    for place in range(len(original)):
        damaged = bytearray(original)
        damaged[place] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        falls_back(two, capsys, small(1, 5), "00000001-000010")
    path.write_bytes(original)
    falls_back(two, capsys, small(1, 10))


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_any_byte_that_is_missing_or_too_many_is_noticed(
    two: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    path = two / "00000001-000010" / file
    original = path.read_bytes()
    for length in range(len(original)):
        path.write_bytes(original[:length])
        falls_back(two, capsys, small(1, 5), "00000001-000010")
    for other in (original + b"\0", original + b"\n", original[1:], original + original, bytes(len(original))):
        path.write_bytes(other)
        falls_back(two, capsys, small(1, 5), "00000001-000010")


@pytest.mark.parametrize(
    "text",
    [
        b"null", b"[]", b"{}", b"3", b'"state"', b"\xff\xfe", b"[" * 200_000, b"1" * 10_000, b"NaN", b'{"crc32c": 1}',
        b'{"crc32c": {"tensors.safetensors": 1}}', b'{"crc32c": {"tensors.safetensors": null}, "epoch": []}',
        b'{"epoch": 1, "step": 10, "history": [], "metrics": [NaN], "crc32c": {"tensors.safetensors": 1}}',
        b'{"epoch": 1, "step": 10, "history": [], "metrics": [], "more": 1, "crc32c": {"tensors.safetensors": 1}}',
    ],
)  # fmt: skip
def test_garbage_for_a_document_is_damage(two: Path, capsys: pytest.CaptureFixture[str], text: bytes) -> None:
    (two / "00000001-000010" / "state.json").write_bytes(text)
    falls_back(two, capsys, small(1, 5), "00000001-000010")


def lose(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(path: Path) -> None:
    lose(path)
    path.mkdir()


def become_a_file(path: Path) -> None:
    lose(path)
    path.write_bytes(b"file")


def become_the_older_one(path: Path) -> None:
    older = path.parent.parent / "00000001-000005" if path.suffix else path.with_name("00000001-000005")
    lose(path)
    if path.suffix:
        shutil.copy(older / path.name, path)
    else:
        shutil.copytree(older, path)


@pytest.mark.parametrize("what", ["", "tensors.safetensors", "state.json"])
@pytest.mark.parametrize("happen", [lose, empty, become_a_file, become_the_older_one])
def test_a_part_that_is_lost_or_something_else_is_damage(
    two: Path, capsys: pytest.CaptureFixture[str], what: str, happen: Callable[[Path], None]
) -> None:
    happen(two / "00000001-000010" / what)
    is_gone = happen is lose and not what  # then nobody can tell that there was one
    falls_back(two, capsys, small(1, 5), *([] if is_gone else ["00000001-000010"]))


def test_a_damaged_state_that_is_trained_again_is_replaced(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for happen in (empty, become_a_file):
        happen(two / "00000001-000010")
        save_state(two, small(1, 10))
        assert names(two) == ["00000001-000005", "00000001-000010"]
        falls_back(two, capsys, small(1, 10))


def test_every_damaged_state_on_the_way_is_named(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("00000001-000020", "00000002-000000"):
        shutil.copytree(two / "00000001-000010", two / name)
    falls_back(two, capsys, small(1, 10), "00000002-000000", "00000001-000020")


def test_where_all_are_damaged_the_error_names_them_all(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (two / "00000001-000005" / "tensors.safetensors").unlink()
    (two / "00000001-000010" / "state.json").write_bytes(b"{}")
    said = refused(lambda: load_state(two))
    assert said.startswith(f"{two}: no training state is whole; start again in another folder:\n")
    assert said.index(f"{two / '00000001-000010'}: damaged (") < said.index(f"{two / '00000001-000005'}: damaged (")
    assert capsys.readouterr().err == ""


def test_a_file_where_the_folder_should_be_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    for action in (
        lambda: load_state(tmp_path / "checkpoints"),
        lambda: save_state(tmp_path / "checkpoints", small()),
    ):
        assert str(tmp_path / "checkpoints") in refused(action)
    assert (tmp_path / "checkpoints").read_text() == "a file"


# Disks that fail


GROWING = ("open", "write", "fsync", "mkdir")  # what a full disk refuses; names can be taken away


class Disk:
    """Logs the calls of the operating system that change a disk, and makes call number `at` fail: once, or as a disk that stays full."""

    def __init__(self, at: int, error: BaseException | None, lasting: bool) -> None:
        self.log: list[tuple[str, str]] = []
        self.at, self.error, self.lasting = at, error, lasting

    def step(self, operation: str, path: str) -> None:
        self.log.append((operation, path))
        stays_full = self.lasting and len(self.log) > self.at and operation in GROWING
        if self.error is not None and (len(self.log) == self.at or stays_full):
            raise self.error


@contextmanager
def on_disk(
    at: int = 0, error: BaseException | None = None, lasting: bool = False, short: random.Random | None = None
) -> Iterator[Disk]:
    """Until the block ends. `short`: writes take as many bytes as they like."""
    disk = Disk(at, error, lasting)
    ordinary_open, ordinary_fsync = builtins.open, os.fsync

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            disk.step("write", os.fspath(self.name))
            return super().write(data if short is None else data[: short.randint(1, len(data))])

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if mode == "wb" and buffering == 0:
            disk.step("open", os.fspath(file))
            return File(file, "wb")
        return ordinary_open(file, mode, buffering, *rest, **named)

    def fsync(descriptor: int) -> None:
        disk.step("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        ordinary_fsync(descriptor)

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(path: Any, *rest: Any, **named: Any) -> Any:
            disk.step(name, os.fspath(path))
            return call(path, *rest, **named)

        return counting

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", opened)
        patch.setattr(os, "fsync", fsync)
        for name in ("mkdir", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, counted(name, getattr(os, name)))
        yield disk


def test_all_is_on_the_disk_before_the_name_and_the_older_go_after_it(two: Path) -> None:
    with on_disk() as disk:
        save_state(two, small(1, 15))
    temporary, final = two / ".00000001-000015.tmp", two / "00000001-000015"
    named = disk.log.index(("rename", str(temporary)))
    for path in (temporary / "tensors.safetensors", temporary / "state.json", temporary):
        synced = disk.log.index(("fsync", str(path)))
        assert synced < named
        assert ("write", str(path)) not in disk.log[synced:]
    after = disk.log[named + 1 :]
    assert after[0] == ("fsync", str(two))
    assert after[1] == ("rename", str(two / "00000001-000005"))
    assert not any(operation in ("unlink", "rmdir") for operation, path in disk.log[:named])
    assert final.is_dir()


def test_short_writes_make_the_same_files(two: Path, tmp_path: Path) -> None:
    state = small(1, 15, values=3000)
    save_state(two, state)
    with on_disk(short=random.Random(0)) as disk:
        save_state(tmp_path / "other", state)
    assert sum(operation == "write" for operation, _ in disk.log) > 10
    written = {name: data for name, data in content(two).items() if name.startswith("00000001-000015")}
    assert content(tmp_path / "other") == written


@pytest.mark.parametrize(
    ("number", "lasting"), [(errno.ENOSPC, True), (errno.ENOSPC, False), (errno.EIO, False), (errno.EDQUOT, True)]
)
@pytest.mark.parametrize("again", [False, True])
def test_whatever_call_fails_the_states_before_are_whole_and_the_user_is_told(
    two: Path, tmp_path: Path, number: int, lasting: bool, again: bool
) -> None:
    """At every call there is."""
    new = small(1, 10 if again else 15, 9)
    with on_disk() as disk:
        shutil.copytree(two, tmp_path / "count")
        disk.log.clear()
        save_state(tmp_path / "count", new)
    calls = disk.log
    assert len(calls) > 12
    failed = 0
    for at, (operation, _) in enumerate(calls, 1):
        if lasting and operation not in GROWING:
            continue
        folder = tmp_path / f"at-{at}"
        shutil.copytree(two, folder)
        error = OSError(number, os.strerror(number))
        with on_disk(at, error, lasting):
            said = refused(lambda: save_state(folder, new))  # noqa: B023
        failed += 1
        assert str(folder) in said
        assert os.strerror(number) in said
        assert ("make room there" in said) == (number != errno.EIO)
        assert said.endswith("then go on with --resume")
        if "cannot be saved" in said:
            assert not any(name.endswith(".tmp") for name in names(folder)), calls[at - 1]
        loaded = everything(load_state(folder))
        assert loaded in (everything(small(1, 10)), everything(new)), calls[at - 1]
        assert "cannot be saved" in said or loaded == everything(new)
        save_state(folder, new)  # and when the disk is well again, all is as if it had always been
        assert content(folder) == content(tmp_path / "count")
    assert failed >= 8


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_a_stop_while_saving_leaves_the_states_before_and_no_temporary(two: Path, stop: BaseException) -> None:
    before = content(two)
    for at in range(1, 9):
        with on_disk(at, stop), pytest.raises(type(stop)):
            save_state(two, small(1, 15))
        assert content(two) == before, at
        assert names(two) == ["00000001-000005", "00000001-000010"]


def test_a_file_that_may_not_grow_leaves_the_states_before_whole(two: Path) -> None:
    """The operating system's own refusal, of short writes and then of any."""
    state, before = small(1, 15, values=5000), content(two)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 1, 100, 4096, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            said = refused(lambda: save_state(two, state))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert said == (
            f"{two / '00000001-000015'}: the training state cannot be saved (File too large); make room there, then go on with --resume"
        )
        assert content(two) == before
        assert len(names(two)) == 2
    save_state(two, state)
    assert everything(load_state(two)) == everything(state)


FULL = """
import sys, torch
from pathlib import Path
from orsanet_cache import OrsanetError
from orsanet_train.run.state import TrainingState, load_state, save_state
folder = Path(sys.argv[1])
def state(step, megabytes):
    return TrainingState(0, step, [], [], {"model/weight": torch.full((megabytes * 250_000,), float(step))})
for step in (1, 2):
    save_state(folder, state(step, 1))
for step in (3, 4):
    try:
        save_state(folder, state(step, 5))
    except OrsanetError as error:
        print(error)
    print(*sorted(path.name for path in folder.iterdir()), load_state(folder).step)
save_state(folder, state(5, 1))
print(*sorted(path.name for path in folder.iterdir()), load_state(folder).step)
"""


def test_a_disk_that_is_really_full_leaves_the_last_state_intact(tmp_path: Path) -> None:
    """A small one in memory, mounted for one process alone."""
    mounting = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=6m none "$0" && exec "$@"', str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*mounting, "true"], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    program = [sys.executable, "-c", FULL, str(tmp_path / "run" / "checkpoints")]
    done = subprocess.run([*mounting, *program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr == ""
    first, kept, second, still, last = done.stdout.splitlines()
    for said, step in ((first, 3), (second, 4)):
        assert f"00000000-00000{step}: the training state cannot be saved (No space left on device); make room" in said
    assert kept == still == "00000000-000001 00000000-000002 2"
    assert last == "00000000-000002 00000000-000005 5"


# Kills

# Each line on stdin starts a fork that saves state after state, going on from what it finds. A state says in every value of 3 MB which
# fork made it. With a number, the fork kills itself before that call of the operating system that changes the disk; a write is cut in half.
SAVING = """
import builtins, io, json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from orsanet_train.run.state import TrainingState, load_state, save_state

def made(step, fork, size):
    return TrainingState(0, step, [{"epoch": 1, "loss": step / 7}], [step, fork], {"model/w": torch.full((size,), fork * 1000 + step)})

def kill_at(number):
    count = 0
    def due():
        nonlocal count
        count += 1
        return count == number
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    def wrapped(call):
        def calling(*arguments, **named):
            if due():
                die()
            return call(*arguments, **named)
        return calling
    class File(io.FileIO):
        def write(self, data):
            if due():
                super().write(data[: len(data) // 2])
                die()
            return super().write(data)
    opening = builtins.open
    def opened(file, mode="r", buffering=-1, *rest, **named):
        if mode == "wb" and buffering == 0:
            if due():
                die()
            return File(file, "wb")
        return opening(file, mode, buffering, *rest, **named)
    builtins.open = opened
    for name in ("fsync", "mkdir", "rename", "unlink", "rmdir"):
        setattr(os, name, wrapped(getattr(os, name)))

for line in sys.stdin:
    order = json.loads(line)
    folder, fork = Path(order["folder"]), order["fork"]
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    code = 70
    try:
        state = load_state(folder)
        note = os.open(order["notes"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        first = 1 if state is None else state.step  # the position that is there is saved again
        if order["at"]:
            kill_at(order["at"])
        for step in range(first, first + order["saves"]):
            os.write(note, f"began {step} {fork}\\n".encode())
            save_state(folder, made(step, fork, order["size"]))
            os.write(note, f"finished {step} {fork}\\n".encode())
        code = 0
    finally:
        os._exit(code)
"""


class Savers:
    """Starts forks of one process that has loaded torch."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self._process = subprocess.Popen(
            [sys.executable, "-c", SAVING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, folder: Path, fork: int, *, saves: int, size: int, at: int = 0) -> int:
        order = {"folder": str(folder), "fork": fork, "notes": str(self.notes), "saves": saves, "size": size, "at": at}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> int:
        """Wait for the fork's end: its exit status."""
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def finished(self) -> tuple[int, int]:
        """The last finished save of any fork: step and fork; zeros without."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        done = [line.split()[1:] for line in lines if line.startswith("finished")]
        return (int(done[-1][0]), int(done[-1][1])) if done else (0, 0)

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def savers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Savers]:
    made = Savers(tmp_path_factory.mktemp("savers"))
    yield made
    made.close()


def whole_or_nothing(folder: Path, savers: Savers, capsys: pytest.CaptureFixture[str]) -> bool:
    """Is there a state? If so it was saved whole, and is the last finished one or the one that was then under way."""
    capsys.readouterr()
    state, (step, fork) = load_state(folder), savers.finished()
    assert capsys.readouterr().err == ""  # a kill damages nothing that has a state's name
    if state is None:
        assert step == 0
        return False
    saved_step, saved_fork = state.metrics
    assert saved_step == state.step
    assert (state.step, saved_fork) >= (step, fork) or state.step > step
    assert f"began {state.step} {int(saved_fork)}\n" in savers.notes.read_text()
    assert state.history == [{"epoch": 1, "loss": state.step / 7}]
    assert torch.all(state.tensors["model/w"] == saved_fork * 1000 + state.step)
    return True


def test_killed_at_random_moments_a_run_always_finds_a_whole_state_and_no_old_one(
    tmp_path: Path, savers: Savers, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rng, left = tmp_path / "checkpoints", random.Random(0), 0
    savers.notes.unlink(missing_ok=True)
    for fork in range(1, KILLS + 1):
        before = savers.finished()
        pid = savers.start(folder, fork, saves=10_000, size=750_000)
        until = time.monotonic() + PATIENCE
        while savers.finished() == before:  # every fork gets somewhere
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.06))
        os.kill(pid, 9)
        assert savers.end() == -9
        left += any(name.endswith(".tmp") for name in names(folder))
        assert whole_or_nothing(folder, savers, capsys)
    assert left > 0  # some were hit while they were saving
    state = load_state(folder)
    assert state is not None
    save_state(folder, TrainingState(0, state.step + 1, [], [], {}))
    assert names(folder) == [f"00000000-{state.step:06d}", f"00000000-{state.step + 1:06d}"]


def test_killed_before_any_call_that_changes_the_disk_a_run_finds_a_whole_state_and_no_old_one(
    tmp_path: Path, savers: Savers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two saves, of which the first replaces the state that is there; and of a run's first two."""
    for begun in (True, False):
        start = tmp_path / f"begun-{begun}"
        start.mkdir()
        savers.notes.unlink(missing_ok=True)
        if begun:
            savers.start(start, 1, saves=3, size=1000)
            assert savers.end() == 0
        notes = savers.notes.read_text() if begun else ""
        at, status, found = 0, -9, 0
        while status == -9:
            at += 1
            folder = tmp_path / f"{begun}-{at}"
            shutil.copytree(start, folder)
            savers.notes.write_text(notes)
            savers.start(folder, 2, saves=2, size=1000, at=at)
            status = savers.end()
            found += whole_or_nothing(folder, savers, capsys)
            shutil.rmtree(folder)
        assert status == 0
        assert at > 20  # there are that many calls, or more where older ones go
        assert found == at if begun else 0 < found < at


def test_positions_are_names_that_sort_as_they_follow_each_other() -> None:
    assert small(3, 120).name == "00000003-000120"
    assert re.fullmatch(r"\d{8}-\d{6}", small(99_999_999, 999_999).name)
