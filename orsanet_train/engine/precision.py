"""The arithmetic of a training step.

The module defines what `precision = "exact" | "parity" | "fast"` means on a device. Evaluation is
float32 in all three (TF32 where `parity` and `fast` have it).
"""

from typing import Literal, NamedTuple

import torch

from orsanet_cache.device import allow_tf32, has_bfloat16
from orsanet_cache.errors import OrsanetError
from orsanet_train.config import RunConfig

Precision = Literal["exact", "parity", "fast"]
NO_BFLOAT16 = "this processor has no bfloat16 arithmetic and would be slower with it"


class Arithmetic(NamedTuple):
    """How to compute on a device."""

    half: torch.dtype | None  # of the step's convolutions and products; None: float32
    loss_scaling: bool  # float16 needs it: its smallest number is 6e-8
    reason: str


def choose_arithmetic(config: RunConfig, device: torch.device) -> Arithmetic:
    """Choose the arithmetic and set torch's switches for it.

    Raises OrsanetError if the device lacks what `fast` needs.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        allow_tf32(config.precision != "exact")
        torch.backends.cudnn.deterministic = config.precision == "exact"
        torch.backends.cudnn.benchmark = config.precision != "exact"  # chooses the fastest algorithm, which varies
    if config.precision == "exact" or (config.precision == "parity" and not on_gpu):
        return Arithmetic(None, False, "float32")
    if config.precision == "parity":
        return Arithmetic(None, False, "float32 with TF32 products")
    if on_gpu:
        return Arithmetic(torch.float16, True, "float16 with loss scaling; the rest float32 with TF32 products")
    if not has_bfloat16():
        raise OrsanetError(f'precision = "fast": {NO_BFLOAT16}; use --set precision=exact')
    return Arithmetic(torch.bfloat16, False, "bfloat16; the rest float32")


def possible_precisions(device: torch.device) -> tuple[Precision, ...]:
    """The modes that this device has and that differ there."""
    if device.type == "cuda":
        return "exact", "parity", "fast"
    return ("exact", "fast") if has_bfloat16() else ("exact",)
