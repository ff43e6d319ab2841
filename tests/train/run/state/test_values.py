"""Tensors and numbers come back from a state to the last bit."""

import json
import os
import random
import stat
import struct
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_states import bits, content, everything, names, small
from torch import Tensor

from orsanet_train.run.state import TrainingState, load_state, save_state

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
]  # fmt: skip
SHAPES = [(), (1,), (7,), (0,), (3, 0, 2), (2, 3, 1, 5)]


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
