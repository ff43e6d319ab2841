"""Which device to compute on."""

import torch

from orsanet_cache.errors import OrsanetError


def choose_device(name: str) -> torch.device:
    """'auto' is the GPU where there is one. Raises OrsanetError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("only cpu and cuda are")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OrsanetError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    # fp32 means fp32: PyTorch's default lets convolutions on a GPU round their inputs to TF32.
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    return device
