"""A small model's training steps on random batches, and the reference loop that they are held against."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from orsanet_train.config import RunConfig, load_config
from orsanet_train.engine.distributed import ONE
from orsanet_train.engine.engine import Engine, build_engine
from orsanet_train.engine.losses import training_loss
from orsanet_train.engine.precision import Arithmetic
from orsanet_train.engine.step import Sums, TrainingStep
from orsanet_train.feed.feed import PriorBatch
from orsanet_train.model.model import Expression, build_model
from orsanet_train.model.orsanet import ORSANet

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CLASSES, CHANNELS = 5, 8
EPOCHS = ([4, 4, 4, 4, 4, 4, 2], [4, 4, 4, 4, 4, 4, 2], [4, 4, 4, 4, 4, 4])  # sizes of batches: 20 steps
SETTINGS = (
    "precision=exact", "batch_size=4", "learning_rate=1e-3", "learning_rate_decay=0.8", "rho=0.05", "loss.warmup_epochs=1",
    "model.depth=2", "model.width=32", "model.backbone_channels=[4,8,16]", "model.backbone_units=[1,1,1]",
)  # fmt: skip

FLOAT32 = Arithmetic(None, False, "float32")
BFLOAT16 = Arithmetic(torch.bfloat16, False, "bfloat16")
FLOAT16 = Arithmetic(torch.float16, True, "float16")
ARITHMETICS = [pytest.param(arithmetic, id=arithmetic.reason) for arithmetic in (FLOAT32, BFLOAT16, FLOAT16)]
HALVES = ARITHMETICS[1:]
SCALE = 2.0**10  # of float16's loss where a test wants no step to be skipped

# Largest relative difference of a loss from the exact one over the 20 steps, in which the losses fall from 6 to 2; each some three
# times what was measured. Adam's own loop and the fused one differ in the last bit of a weight (2e-7 of a loss); half precision rounds
# every product's operands to 8 bits (bfloat16: 4e-3) or 11 (float16: 4e-3, small gradients lose more of them). Compiled kernels sum in
# another order (5e-4): as far as this trajectory goes when every weight begins with another last bit, because Adam makes whole steps of
# the rounding that is the gradient of a bias before a normalisation.
FUSED_ROUNDING = 1e-6
TOLERANCE = {"bfloat16": 1.5e-2, "float16": 1.2e-2, "compiled": 1.5e-3}


def settings(*more: str) -> RunConfig:
    return load_config("rafdb", [*SETTINGS, *more])


def random_batch(config: RunConfig, size: int, seed: int) -> PriorBatch:
    generator = torch.Generator().manual_seed(seed)
    return PriorBatch(
        torch.randn(size, 3, 112, 112, generator=generator),
        torch.randn(size, CHANNELS, 7, 7, generator=generator),
        torch.randn(size, CHANNELS, 7, 7, generator=generator),
        torch.randint(CLASSES, (size,), generator=generator),
        torch.rand(size, 2, *config.model.drop_path_shape, generator=generator),
    )


def schedule(config: RunConfig) -> Iterator[tuple[int, PriorBatch]]:
    """Epoch and batch of 20 steps; the data comes again in every epoch, the draws do not."""
    for epoch, sizes in enumerate(EPOCHS):
        for index, size in enumerate(sizes):
            again, fresh = random_batch(config, size, index), random_batch(config, size, 100 * (epoch + 1) + index)
            yield epoch, PriorBatch(*again.inputs, again.label, fresh.drop_path)


def new_model(config: RunConfig, device: torch.device = CPU) -> ORSANet:
    torch.manual_seed(0)
    return build_model(config.model, CLASSES, CHANNELS, CHANNELS).train().to(device)


def new_step(config: RunConfig, arithmetic: Arithmetic = FLOAT32, network: nn.Module | None = None) -> TrainingStep:
    """Of a new model, or of another network, in its first epoch."""
    network = new_model(config) if network is None else network
    step = TrainingStep(network, network, config, arithmetic, CPU)
    step.load_scaler({f"scaler/{key}": torch.tensor(value) for key, value in scaler_state(step, SCALE).items()})
    step.begin_epoch(0, Sums())
    return step


def scaler_state(step: TrainingStep, scale: float) -> dict[str, float]:
    return {**step.scaler.state_dict(), "scale": scale} if step.scaler.is_enabled() else {}


def said(step: TrainingStep) -> Sums:
    return Sums(*step.sums.tolist())


class Trajectory(NamedTuple):
    losses: Tensor  # float64 [20, 2], of both passes
    state: dict[str, Tensor]  # of the model at the end


def trained(step: TrainingStep, take: Callable[[PriorBatch, int], None] | None = None) -> Trajectory:
    """20 steps."""
    losses = []
    for epoch, batch in schedule(step.config):
        step.begin_epoch(epoch, Sums())  # so that the sums are of one step
        size = len(batch.label)
        (take or step)(PriorBatch(*(tensor.to(step.device) for tensor in batch)), size)
        assert said(step).stopped == 0
        losses.append(step.sums[1:3] / size)
    state = {name: tensor.detach().cpu().clone() for name, tensor in step.model.state_dict().items()}
    return Trajectory(torch.stack(losses).cpu(), state)


def reference(config: RunConfig, *, fused: bool) -> Trajectory:
    """The published loop, a parameter at a time."""
    model = new_model(config)
    optimizer = Adam(model.parameters(), lr=config.learning_rate, fused=fused, foreach=False)
    losses = []
    for epoch, batch in schedule(config):
        optimizer.param_groups[0]["lr"] = config.learning_rate * config.learning_rate_decay**epoch

        def loss_of_pass(index: int, batch: PriorBatch = batch, epoch: int = epoch) -> Tensor:
            optimizer.zero_grad()
            logits = model(*batch.inputs, batch.drop_path[:, index]).logits
            loss = training_loss(logits, batch.label, config.loss, epoch)
            loss.backward()
            return loss.detach().double()

        first = loss_of_pass(0)
        before = {p: p.detach().clone() for p in model.parameters()}
        norm = torch.stack([p.grad.norm() for p in before]).norm()
        with torch.no_grad():
            for p in before:
                p.add_(p.grad * (config.rho / (norm + 1e-12)))
        second = loss_of_pass(1)
        with torch.no_grad():
            for p, weight in before.items():
                p.copy_(weight)
        optimizer.step()
        losses.append(torch.stack([first, second]))
    return Trajectory(torch.stack(losses), model.state_dict())


def furthest(one: Trajectory, other: Trajectory) -> float:
    """Largest relative difference of a loss."""
    return float(((one.losses - other.losses).abs() / other.losses).max())


def assert_same_tensors(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def new_engine(config: RunConfig, device: torch.device = CPU, *, compiled: bool = False) -> Engine:
    model = new_model(config, device)
    return build_engine(model, model, config, device, ONE, compiled=compiled)


class Linears(nn.Module):
    """All of its weights are what autocast makes half-precision copies of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(CHANNELS * 49, 16), nn.Linear(16, CLASSES)

    def forward(self, image: Tensor, segmentation: Tensor, landmark_features: Tensor, drop_path: Tensor) -> Expression:
        features = self.inner(landmark_features.flatten(1)).tanh()
        return Expression(self.outer(features), features)


def everything(step: TrainingStep) -> dict[str, Tensor]:
    """Weights and optimiser state."""
    names = (*(f"model/{name}" for name in step.parameters), "optimizer/")
    return {name: tensor.clone() for name, tensor in step.state().items() if name.startswith(names)}
