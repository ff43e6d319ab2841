"""How the steps of a run are executed: arithmetic, compilation, CUDA graphs, several processes. Chosen once, and said."""

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
from orsanet_train.model.orsanet import ORSANet


class Companion(Protocol):
    """What runs before the model in every step without being trained, and may change all the same (reference/network.py)."""

    def frozen_state(self) -> dict[str, Tensor]:
        """What has changed of it, a copy; empty where nothing can."""

    def load_frozen_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `frozen_state`, in place."""

    def drifted_recipe(self) -> dict[str, object]:
        """Parts of a store's recipe: those that a store must have for the model's weights to fit it."""


class Engine(NamedTuple):
    """What trains."""

    take: Callable[[Batch, int], None]  # a step: a batch, and how many images it has over all ranks
    step: TrainingStep
    reason: str
    companion: Companion | None

    def state(self) -> dict[str, Tensor]:
        """All that decides the next steps besides configuration, epoch and sums: names as in checkpoints."""
        beside = {} if self.companion is None else self.companion.frozen_state()
        return self.step.state() | {f"frozen/{name}": tensor for name, tensor in beside.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.step.load(tensors)
        if self.companion is not None:
            self.companion.load_frozen_state(below("frozen/", tensors))


def build_engine(
    network: nn.Module,
    model: ORSANet,
    config: RunConfig,
    device: torch.device,
    ranks: Ranks,
    *,
    compiled: bool,
    companion: Companion | None = None,
) -> Engine:
    """`network` is called with a batch's inputs: `model`, or what runs `companion` before it; both are on the device.

    Raises OrsanetError where the device lacks what `config.precision` needs, or cannot run the compiled model.
    """
    arithmetic = choose_arithmetic(config, device)
    chosen = [arithmetic.reason]
    if device.type == "cpu":
        keep_freed_memory()
    if compiled:
        if device.type == "cpu" and any(channels % 16 for channels in config.model.backbone_channels):
            raise OrsanetError(
                "--compile on a CPU needs model.backbone_channels in multiples of 16, as the published ones are: "
                "for others PyTorch's compiler writes beyond the end of its buffers (pytorch #196681)"
            )
        compile_parts(model)
        chosen.append("compiled")
    if ranks.world > 1:
        if compiled:
            raise OrsanetError("--compile and several processes do not go together yet: leave one of them out")
        synchronised(model)
        network = data_parallel(network)
        chosen.append(f"{ranks.world} processes")
    step = TrainingStep(network, model, config, arithmetic, device, ranks)
    # A companion in the step draws random numbers on the host, several processes talk to each other: neither can be recorded.
    if device.type == "cuda" and network is model:
        return Engine(GraphedStep(step), step, ", ".join([*chosen, "CUDA graphs"]), companion)
    return Engine(step, step, ", ".join(chosen), companion)


def compile_parts(model: ORSANet) -> None:
    """torch.compile on what occurs many times, piece by piece: the compiler then sees each kind once, not dozens of copies."""
    torch._dynamo.config.recompile_limit = 64  # one for every kind of unit and every size of batch
    for part in (model.ir_back.input_layer, *model.ir_back.body, *model.pyramid_fuse.blocks):
        part.compile(dynamic=False)
