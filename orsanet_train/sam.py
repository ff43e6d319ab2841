"""Sharpness-aware minimisation (Foret et al., 2021) around any optimiser.

e = rho g / |g|,  g the gradient at w;  then one optimiser step at w with the gradient taken at w + e
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer


class Step(NamedTuple):
    """What a step saw, detached; nothing waits for the device."""

    loss: Tensor  # at w
    perturbed_loss: Tensor  # at w + e; the same as `loss` with rho = 0
    output: Tensor  # at w, the second value of the forward function


def sam_step(optimizer: Optimizer, forward: Callable[[], tuple[Tensor, Tensor]], rho: float) -> Step:
    """One step. `forward` runs the model and returns (scalar loss, output); it is called twice, with rho = 0 once.

    Whatever else a forward pass moves (batch statistics, spectral vectors) moves in both, as published.
    """
    optimizer.zero_grad(set_to_none=True)
    loss, output = forward()
    loss.backward()
    if rho == 0:
        optimizer.step()
        return Step(loss.detach(), loss.detach(), output.detach())

    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients: list[Tensor] = [p.grad for p in parameters]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    with torch.no_grad():
        originals = [p.clone() for p in parameters]
        torch._foreach_add_(parameters, torch._foreach_mul(gradients, rho / (norm + 1e-12)))

    optimizer.zero_grad(set_to_none=True)
    perturbed_loss, _ = forward()
    perturbed_loss.backward()
    with torch.no_grad():
        torch._foreach_copy_(parameters, originals)  # exactly w again; subtracting e would leave rounding behind
    optimizer.step()
    return Step(loss.detach(), perturbed_loss.detach(), output.detach())
