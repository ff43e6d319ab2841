"""The device to compute on, its arithmetic, and this process's part of the work."""

import os
import platform
import re
from pathlib import Path

import torch
import torch.distributed

from orsanet_cache.errors import OrsanetError


def choose_device(name: str) -> torch.device:
    """The device of that name: 'auto', 'cpu', 'cuda' or 'cuda:N'.

    'auto' is a GPU if PyTorch finds one, otherwise the CPU. Under torchrun each process gets its
    own GPU. Raises OrsanetError for a device that is not available.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("only cpu and cuda are supported")
        torch.empty(0, device=device)
        if device.type == "cuda":
            # Streams, events and graphs that name no device belong to the current one.
            device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise OrsanetError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    allow_tf32(False)  # by default PyTorch lets fp32 convolutions on a GPU round their inputs to TF32
    return device


def as_device(given: torch.device | str) -> torch.device:
    """`given` as a device, resolved by `choose_device`.

    Raises TypeError for any other type, and OrsanetError as `choose_device`.
    """
    if not isinstance(given, str | torch.device):
        raise TypeError(f"device: expected 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device, not {given!r}")
    return choose_device(str(given))


def allow_tf32(allowed: bool) -> None:
    """Allow or forbid that float32 convolutions and products on a GPU round their inputs to TF32.

    This has no effect on a CPU.
    """
    # The newer `fp32_precision` is not used: after it these two switches are inconsistent, and
    # torch.export stops half way and leaves oneDNN switched off.
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def has_bfloat16() -> bool:
    """Whether this processor has bfloat16 arithmetic; otherwise torch emulates it, which is slower than float32."""
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def processor_name() -> str:
    """The processor's model as the operating system names it, or at least its architecture."""
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def torchrun_part() -> tuple[int, int]:
    """This process's part and the number of parts, counted from 1.

    They are torchrun's rank and world size, and 1 of 1 without torchrun.
    """
    if not torch.distributed.is_torchelastic_launched():
        return 1, 1
    return int(os.environ["RANK"]) + 1, int(os.environ["WORLD_SIZE"])
