"""Out of memory ends in one sentence that names what takes less; every other error stays what it is."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from orsanet_cache import OrsanetError
from orsanet_train.feed.residence import memory_advice

OPTIONS = ("--resident stream", "--set precision=fast", "--set batch_size=N")


def check_advice(error: pytest.ExceptionInfo[OrsanetError], reason: str) -> None:
    said = str(error.value)
    assert said.startswith(f"out of memory ({reason}")
    assert "\n" not in said
    places = [said.index(option) for option in OPTIONS]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines"), "CUDA out of memory. Tried"),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be …"), "CUDA error: out of memory"),
        (MemoryError(), "no memory left"),
        (MemoryError("Unable to allocate 8 EiB"), "Unable to allocate 8 EiB"),
    ],
)  # fmt: skip
def test_out_of_memory_becomes_advice(error: Exception, reason: str) -> None:
    with pytest.raises(OrsanetError) as caught, memory_advice():
        raise error
    check_advice(caught, reason)
    assert caught.value.__cause__ is error


def test_more_than_the_host_has_becomes_advice() -> None:
    """2^60 bytes: no machine has them, and both libraries find out at once."""
    with pytest.raises(OrsanetError) as caught, memory_advice():
        torch.empty(2**60, dtype=torch.uint8)
    check_advice(caught, "[enforce fail at alloc_cpu.cpp")
    with pytest.raises(OrsanetError) as caught, memory_advice():
        np.empty(2**60, np.uint8)
    check_advice(caught, "Unable to allocate 1.00 EiB")


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), RuntimeError(), ValueError("memory"), OSError(2, "No such file")]
)
def test_any_other_error_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_advice():
        raise error
    assert caught.value is error


def test_without_an_error_nothing_happens() -> None:
    with memory_advice():
        done = True
    assert done


def test_a_run_that_may_not_have_the_memory_it_needs_says_what_takes_less(runner, tmp_path: Path) -> None:
    """A network of a gigabyte and more, in a process that may take 300 MB beyond what it has."""
    ended = runner.run(tmp_path / "run", "--set", "model.width=4096", memory=300_000_000)
    assert ended.code == 1, ended.err
    last = ended.err.splitlines()[-1]
    assert re.match(r"Error: out of memory \(.*DefaultCPUAllocator: can't allocate memory", last)
    assert all(option in last for option in OPTIONS)
    assert "Traceback" not in ended.err
