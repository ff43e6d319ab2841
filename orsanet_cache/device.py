"""Which device to compute on, and which part of the work is this process's."""

import os

import torch
import torch.distributed

from orsanet_cache.errors import OrsanetError


def choose_device(name: str) -> torch.device:
    """'auto' is the GPU where there is one, under torchrun each process its own. Raises OrsanetError for a device that is not there."""
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("only cpu and cuda are")
        torch.empty(0, device=device)
        if device.type == "cuda":
            # Streams, events and graphs that name no device belong to the current one.
            device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise OrsanetError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    allow_tf32(False)  # fp32 means fp32: PyTorch's default lets convolutions on a GPU round their inputs to TF32
    return device


def as_device(given: torch.device | str) -> torch.device:
    """A device, or the one that a text names (`choose_device`). Raises TypeError for anything else."""
    if isinstance(given, torch.device):
        return given
    if not isinstance(given, str):
        raise TypeError(f"device: expected 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device, not {given!r}")
    return choose_device(given)


def allow_tf32(allowed: bool) -> None:
    """May float32 convolutions and products on a GPU round their inputs to TF32? On a CPU this changes nothing."""
    # Not the newer `fp32_precision`: after it these two disagree with themselves, and torch.export stops half way with oneDNN switched off.
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def torchrun_part() -> tuple[int, int]:
    """This process's part and the number of parts, counted from 1: torchrun's rank and world size; without torchrun 1 of 1."""
    if not torch.distributed.is_torchelastic_launched():
        return 1, 1
    return int(os.environ["RANK"]) + 1, int(os.environ["WORLD_SIZE"])
