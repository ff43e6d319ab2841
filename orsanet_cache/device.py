"""Which device to compute on."""

import torch

from orsanet_cache.errors import OrsanetError


def choose_device(name: str) -> torch.device:
    """'auto' is the GPU where there is one. Raises OrsanetError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OrsanetError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    return device
