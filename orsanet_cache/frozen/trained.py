"""What the trainings of the demo's networks share: a state that is whole, and weights that tell how they were trained.

every few steps: everything that determines the next steps ─▶ NAME.state.pt ─▶ the same command goes on
at the end: floating-point tensors as fp16, the training's settings in the header ─▶ NAME.safetensors
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.frozen.shipped import TRAINING_KEY, trained_how
from orsanet_cache.reading import check_regular


class Part(Protocol):
    """A network, an optimiser or a schedule."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def save_state(path: Path, described: Mapping[str, Any], parts: Mapping[str, Part], step: int) -> None:
    """Write the state after `step` steps of the training that `described` describes."""
    content = io.BytesIO()  # torch.save to a path reports a full disk as a RuntimeError
    states = {key: part.state_dict() for key, part in parts.items()}
    torch.save({"described": dict(described), "step": step, **states}, content)
    write_whole(path, lambda temporary: temporary.write_bytes(content.getvalue()))


def restore_state(path: Path, described: Mapping[str, Any], parts: Mapping[str, Part]) -> int:
    """Load a saved state into the parts. Returns the steps already done, 0 without a state.

    Raises OrsanetError for a damaged state and for one of another training.
    """
    if not path.exists():
        return 0
    try:
        check_regular(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly every type on damaged bytes
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: damaged ({type(error).__name__}); remove it to train from the start") from error
    if state["described"] != described:
        raise OrsanetError(f"{path}: a training with other settings; choose another --out, or remove it")
    for key, part in parts.items():
        part.load_state_dict(state[key])
    return int(state["step"])


def check_weights(path: Path, command: str) -> None:
    """Raises OrsanetError for weights that `command` did not write, which must not be replaced."""
    try:
        if path.exists():
            trained_how(path)
    except OrsanetError as error:
        raise OrsanetError(
            f"{path}: was not written by `{command}`, so it was not replaced; choose another --out, or move it away"
        ) from error


def write_weights(
    path: Path, tensors: Mapping[str, Tensor], described: Mapping[str, Any], header: Mapping[str, str], command: str
) -> None:
    """Write a weights file: floating-point tensors as fp16, the training's settings in the header."""
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous() for name, tensor in tensors.items()
    }
    content = safetensors.torch.save(halves, metadata={TRAINING_KEY: json.dumps(described), **header})
    check_weights(path, command)
    write_whole(path, lambda temporary: temporary.write_bytes(content))
