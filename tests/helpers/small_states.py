"""Training states of a few hundred bytes, and all that can be compared of them and of their folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orsanet_cache import OrsanetError
from orsanet_train.run.state import TrainingState

PATIENCE = 60.0  # seconds that no child needs; one that hangs fails its test


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
