"""Inside a training step the host never asks for a value: on a GPU it would wait for everything before, and no graph could record it.

Proven without a GPU, forward, backward, SAM, Adam and sums. Where a GPU is at hand, test_step.py asks PyTorch itself.
"""

from collections.abc import Callable

import pytest
import torch
from host_waits import HostWaits, no_waiting
from torch import Tensor, nn
from training_steps import ARITHMETICS, CHANNELS, CLASSES, FLOAT32, new_step, random_batch, said, settings

from orsanet_train.engine.precision import Arithmetic
from orsanet_train.engine.sam import Pass
from orsanet_train.engine.step import Batch, Sums, TrainingStep
from orsanet_train.model.model import Expression


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_in_a_step_the_host_never_waits(arithmetic: Arithmetic) -> None:
    """The second one: the first makes the optimiser's state and the loss scale."""
    config = settings("loss.warmup_epochs=0")
    step = new_step(config, arithmetic)
    step(random_batch(config, 4, 0), 4)
    batch = random_batch(config, 4, 1)
    with no_waiting():
        step(batch, 4)
    assert said(step).steps == 2


@pytest.mark.parametrize(
    "choice",
    ["loss.warmup_epochs=1", "loss.dare=paper", "loss.dare=none", "rho=0", "second_pass_buffers=kept", "model.tokens=spatial",
     "model.segmentation_prior=none", "model.multi_scale=false", "model.cross_interaction=false", "model.landmark_reintegration=false"],
)  # fmt: skip
def test_nor_with_any_named_choice(choice: str) -> None:
    """Maps are missing: one_hot asks for values on a CPU and not on a GPU (test_on_a_gpu.py)."""
    config = settings("loss.warmup_epochs=0", choice)
    step = new_step(config)
    step(random_batch(config, 4, 0), 4)
    batch = random_batch(config, 4, 1)
    with no_waiting():
        step(batch, 4)


class Asking(nn.Module):
    """A network that does something with its logits before it returns them."""

    def __init__(self, ask: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.ask = ask
        self.linear = nn.Linear(CHANNELS * 49, CLASSES)

    def forward(self, image: Tensor, segmentation: Tensor, landmark_features: Tensor, drop_path: Tensor) -> Expression:
        features = landmark_features.flatten(1)
        logits = self.linear(features)
        self.ask(logits)
        return Expression(logits, features)


def branch(logits: Tensor) -> None:
    if (logits > 1e9).any():
        logits.add_(1)


ASKED: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.argmax()),
    "a list": lambda x: x.detach().tolist(),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu"),
    "numpy": lambda x: x.detach().numpy(),
    "a branch": branch,
    "a chosen part": lambda x: x[x > 0],
    "a changed part": lambda x: x.detach().clone().index_put_((x > 0,), torch.zeros(())),
    "a shape": lambda x: torch.nonzero(x),
    "classes": lambda x: x.argmax(1).unique(),
    "a comparison": lambda x: torch.equal(x, x),
    "a number as an index": lambda x: [0, 1, 2, 3, 4][x[0].argmax()],
    "a constant": lambda x: x * torch.tensor(2.0),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_network_that_asks_for_a_value_is_found_out(asked: str) -> None:
    config = settings()
    step = new_step(config, FLOAT32, Asking(ASKED[asked]))
    with pytest.raises(HostWaits), no_waiting():
        step(random_batch(config, 4, 0), 4)


def test_a_network_that_does_not_is_not() -> None:
    config = settings()
    step = new_step(config, FLOAT32, Asking(lambda logits: logits.sum()))
    step(random_batch(config, 4, 0), 4)
    with no_waiting():
        step(random_batch(config, 4, 1), 4)


class Reading(TrainingStep):
    """The published loop reads the loss after every pass."""

    def backward_pass(self, index: int, batch: Batch, total: int) -> Pass:
        done = super().backward_pass(index, batch, total)
        done.loss.item()
        return done


def test_a_step_that_reads_its_loss_is_found_out() -> None:
    config = settings()
    network = Asking(lambda logits: None)
    step = Reading(network, network, config, FLOAT32, torch.device("cpu"))
    step.begin_epoch(0, Sums())
    with pytest.raises(HostWaits, match="item"), no_waiting():
        step(random_batch(config, 4, 0), 4)
