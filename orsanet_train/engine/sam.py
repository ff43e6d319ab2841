"""Sharpness-aware minimisation (Foret et al., 2021): the gradient for a step of any optimiser.

e = rho g / |g|,  g the gradient at w;  the step is taken at w with the gradient at w + e
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Pass(NamedTuple):
    """Results of a forward pass, detached; they stay on the device."""

    loss: Tensor  # scalar
    logits: Tensor  # [B, K]


def sam_gradient(
    parameters: Sequence[Tensor], backward: Callable[[int], Pass], rho: float, overflow: Tensor | None = None
) -> tuple[Pass, Pass]:
    """Compute the gradient at w + e into `.grad`; w is unchanged, bit for bit.

    Returns both passes; with rho = 0 the single pass, twice.

    `backward(i)` runs forward and backward pass i (0 at w, 1 at w + e). Other values that a forward
    pass changes (batch statistics, spectral vectors) change in both, as published. With loss
    scaling, `overflow` (float32 scalar) is set to 1 if the first gradient is not finite, and to 0
    otherwise; entries that are not finite then cause no perturbation.
    """
    _forget_gradients(parameters)
    first = backward(0)
    if rho == 0:
        return first, first
    moved = [p for p in parameters if p.grad is not None]
    gradients: list[Tensor] = [p.grad for p in moved]  # type: ignore[misc]  # not None
    if overflow is not None:
        overflow.copy_(~gradient_norm(gradients).isfinite())
        for gradient in gradients:
            gradient.nan_to_num_(0.0, 0.0, 0.0)
    weights = [p.data for p in moved]
    # The gradient's memory becomes w + e, and the parameter points there for one pass. w itself is
    # never written.
    torch._foreach_mul_(gradients, rho / (gradient_norm(gradients) + 1e-12))
    torch._foreach_add_(gradients, weights)
    _forget_gradients(parameters)
    try:
        for p, perturbed in zip(moved, gradients, strict=True):
            p.data = perturbed
        second = backward(1)
    finally:
        for p, weight in zip(moved, weights, strict=True):
            p.data = weight
    return first, second


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """Norm of all gradients together, a scalar."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def _forget_gradients(parameters: Sequence[Tensor]) -> None:
    for p in parameters:
        p.grad = None
