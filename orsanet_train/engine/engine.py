"""How the steps of a run are executed: arithmetic, compilation, CUDA graphs, several processes.

The choice is made once and reported.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from orsanet_cache.errors import OrsanetError
from orsanet_train.config import RunConfig
from orsanet_train.engine.allocator import keep_freed_memory
from orsanet_train.engine.distributed import Ranks, data_parallel, synchronised
from orsanet_train.engine.graph import GraphedStep
from orsanet_train.engine.precision import choose_arithmetic
from orsanet_train.engine.step import Batch, TrainingStep, below
from orsanet_train.model.model import ExpressionModel


class Companion(Protocol):
    """A network that runs before the model in every step and is not trained (reference/network.py).

    Its state may still change.
    """

    def frozen_state(self) -> dict[str, Tensor]:
        """A copy of the part of its state that may change; empty if no part may."""

    def load_frozen_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `frozen_state`, in place."""

    def drifted_recipe(self) -> dict[str, object]:
        """The parts of a recipe that a store must have so that the model's weights fit it."""


class Engine(NamedTuple):
    """A training step in its chosen form of execution."""

    take: Callable[[Batch, int], None]  # take a step: a batch, and its number of images over all ranks
    step: TrainingStep
    reason: str
    companion: Companion | None

    def state(self) -> dict[str, Tensor]:
        """Everything that determines the next steps, besides configuration, epoch and sums.

        The names are those of checkpoints.
        """
        beside = {} if self.companion is None else self.companion.frozen_state()
        return self.step.state() | {f"frozen/{name}": tensor for name, tensor in beside.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.step.load(tensors)
        if self.companion is not None:
            self.companion.load_frozen_state(below("frozen/", tensors))


def build_engine(
    network: nn.Module,
    model: ExpressionModel,
    config: RunConfig,
    device: torch.device,
    ranks: Ranks,
    *,
    compiled: bool,
    companion: Companion | None = None,
) -> Engine:
    """Choose how to run the steps of a run.

    Args:
        network: called with a batch's inputs: `model`, or a module that runs `companion` before it;
            on the device.
        model: the trained part of `network`.
        config: the settings of the run.
        device: the model's device.
        ranks: the processes that share every batch.
        compiled: whether to compile the model with torch.compile.
        companion: see Companion; None: no such network.

    Raises OrsanetError if the device lacks what `config.precision` needs, or cannot run the
    compiled model.
    """
    arithmetic = choose_arithmetic(config, device)
    chosen = [arithmetic.reason]
    if device.type == "cpu":
        keep_freed_memory()
    if compiled:
        channels, _ = config.model.backbone or ((), ())
        if device.type == "cpu" and any(width % 16 for width in channels):
            raise OrsanetError(
                "--compile on a CPU needs model.backbone_channels in multiples of 16, as the published ones are: "
                "for others PyTorch's compiler writes beyond the end of its buffers (pytorch #196681)"
            )
        compile_parts(model)
        chosen.append("compiled")
    if ranks.world > 1:
        if compiled:
            raise OrsanetError("--compile does not support several processes yet: leave one of them out")
        synchronised(model)
        network = data_parallel(network)
        chosen.append(f"{ranks.world} processes")
    step = TrainingStep(network, model, config, arithmetic, device, ranks)
    # A graph cannot record a companion, which draws random numbers on the host, or the
    # communication among processes.
    if device.type == "cuda" and network is model:
        return Engine(GraphedStep(step), step, ", ".join([*chosen, "CUDA graphs"]), companion)
    return Engine(step, step, ", ".join(chosen), companion)


def compile_parts(model: ExpressionModel) -> None:
    """Compile the repeated parts of the model with torch.compile, one by one.

    Each kind of part is then compiled once, not in dozens of copies.
    """
    torch._dynamo.config.recompile_limit = 64  # one for every kind of unit and every size of batch
    for part in model.repeated_parts():
        part.compile(dynamic=False)
