"""The published training step, as a reference for measurements.

The frozen networks run in training mode before both passes, SAM loops over the parameters, Adam has
the form that torch chooses, and the loss is read after every step. Everything is computed in
float32. On a GPU PyTorch's default lets convolutions round their inputs to TF32; the step sets no
switch.
"""

import torch
from torch import Tensor
from torch.optim import Adam

from orsanet_train.config import RunConfig
from orsanet_train.engine.losses import training_loss
from orsanet_train.reference.feed import OnlineBatch
from orsanet_train.reference.network import OnlineORSANet


class PublishedStep:
    """Called with a batch of pictures, like a TrainingStep with a batch of priors."""

    def __init__(self, network: OnlineORSANet, config: RunConfig) -> None:
        self.network = network
        self.config = config
        self.parameters = list(network.model.parameters())
        self.optimizer = Adam(self.parameters, lr=config.learning_rate)

    def __call__(self, batch: OnlineBatch, total: int) -> None:
        loss = self._backward(batch, 0)
        with torch.no_grad():
            scale = self.config.rho / (torch.stack([_gradient(p).norm() for p in self.parameters]).norm() + 1e-12)
            before = []
            for p in self.parameters:
                before.append(p.clone())
                p.add_(_gradient(p) * scale)
        self.optimizer.zero_grad()
        self._backward(batch, 1)
        with torch.no_grad():
            for p, weight in zip(self.parameters, before, strict=True):
                p.copy_(weight)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()

    def _backward(self, batch: OnlineBatch, index: int) -> Tensor:
        logits = self.network(*batch.inputs, batch.drop_path[:, index]).logits
        loss = training_loss(logits, batch.label, self.config.loss, self.config.loss.warmup_epochs)
        loss.backward()
        return loss.detach()


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # every parameter takes part
    return parameter.grad
