"""One training step: two passes of SAM, then Adam, in the chosen arithmetic.

The step never waits for the device.

    batch ─ pass at w ─ pass at w + e ─ finite? ─ Adam ─▶ weights        sums of the epoch stay on the device until they are read

After a loss or gradient that is not finite no step changes the weights any more, and the sums
report it.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam

from orsanet_train.config import RunConfig
from orsanet_train.engine.distributed import ONE, Ranks, local_loss_scale, summed
from orsanet_train.engine.losses import training_loss
from orsanet_train.engine.precision import Arithmetic
from orsanet_train.engine.sam import Pass, gradient_norm, sam_gradient


class Batch(Protocol):
    """A batch of any feed, and the argument of a step."""

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...  # of the network's forward

    @property
    def label(self) -> Tensor: ...  # int64 [B]

    @property
    def pictures(self) -> Tensor: ...  # uint8 [B, 112, 112, 3], the images of a model that reads them, for display

    @property
    def drop_path(self) -> Tensor: ...  # float32 [B, 2, *ModelConfig.drop_path_shape]


class Sums(NamedTuple):
    """Sums over an epoch's images so far, of all ranks."""

    images: float = 0
    loss: float = 0
    perturbed_loss: float = 0
    correct: float = 0
    steps: float = 0
    stopped: float = 0  # 1 after a loss or gradient that was not finite; its step and later ones are not counted
    perturbed_correct: float = 0  # last, so that sums from before it was kept are the first of these


STOPPED = Sums._fields.index("stopped")


class TrainingStep:
    """Trains a network; called with one batch after another.

    Args:
        network: called with a batch's inputs and its draws of drop-path.
        model: the module with the parameters: `network` itself, or the module that it wraps.
        config: learning rate, loss, rho and buffers of the second pass.
        arithmetic: of the passes.
        device: the model's device.
        ranks: the processes that share every batch.
    """

    def __init__(
        self,
        network: nn.Module,
        model: nn.Module,
        config: RunConfig,
        arithmetic: Arithmetic,
        device: torch.device,
        ranks: Ranks = ONE,
    ) -> None:
        self.network = network
        self.model = model
        self.config = config
        self.half = arithmetic.half
        self.device = device
        self.ranks = ranks
        self.parameters = dict(model.named_parameters())
        on_gpu = device.type == "cuda"
        self.optimizer = Adam(
            self.parameters.values(),
            # The CUDA kernel reads a float32; on a CPU the rate keeps its precision.
            lr=torch.tensor(config.learning_rate, dtype=torch.float32 if on_gpu else torch.float64, device=device),
            fused=True,  # equals the loop's arithmetic except for the last bit, in a quarter of the time
            capturable=on_gpu,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=arithmetic.loss_scaling)
        self.sums = torch.zeros(len(Sums._fields), dtype=torch.float64, device=device)
        self.stopped = torch.zeros((), device=device)
        self.overflow = torch.zeros((), device=device) if arithmetic.loss_scaling else None
        self.epoch = 0

    @property
    def learning_rate(self) -> float:
        """Learning rate of the current epoch."""
        return self.config.learning_rate * self.config.learning_rate_decay**self.epoch

    def begin_epoch(self, epoch: int, sums: Sums) -> None:
        """Set the learning rate and the loss of an epoch (counted from 0).

        `sums` are those of the epoch's finished part.
        """
        self.epoch = epoch
        self.optimizer.param_groups[0]["lr"].fill_(self.learning_rate)
        self.sums.copy_(torch.tensor(sums, dtype=torch.float64))

    def __call__(self, batch: Batch, total: int) -> None:
        """Take a step; `total` is the number of images in the batch over all ranks."""
        first, second = sam_gradient(
            list(self.parameters.values()),
            lambda index: self.backward_pass(index, batch, total),
            self.config.rho,
            self.overflow,
        )
        size = len(batch.label)
        correct, perturbed_correct = ((one.logits.argmax(dim=1) == batch.label).sum() for one in (first, second))
        seen = summed(
            torch.stack([first.loss * size, second.loss * size, correct, perturbed_correct]).double(), self.ranks
        )
        finite = seen.isfinite().all()
        if not self.scaler.is_enabled():
            finite = finite & gradient_norm([p.grad for p in self.parameters.values() if p.grad is not None]).isfinite()
        self.stopped.copy_(torch.maximum(self.stopped, ~finite))
        if self.scaler.is_enabled():  # it checks only the gradients, and skips the step if they are not finite
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.found_inf = self.stopped  # type: ignore[attr-defined]  # if it is 1, fused Adam changes nothing
            self.optimizer.step()
        more = torch.cat([seen.new_full((1,), total), seen[:3], seen.new_ones(1), seen.new_zeros(1), seen[3:]])
        self.sums += torch.where(self.stopped > 0, 0.0, more)
        self.sums[STOPPED] = self.stopped

    def backward_pass(self, index: int, batch: Batch, total: int) -> Pass:
        """Forward and backward pass 0 at w, 1 at w + e."""
        size = len(batch.label)
        keep = index == 1 and self.config.second_pass_buffers == "kept"
        kept = [buffer.clone() for buffer in self.model.buffers()] if keep else []
        # Every pass has its own context: autocast keeps its half-precision copies of the weights
        # until the context ends, and in a shared one the second pass would use the first pass's
        # copies.
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            logits = self.network(*batch.inputs, batch.drop_path[:, index]).logits
        if self.half is not None:
            logits = logits.float()
        # A rank without rows takes part in the collective operations too.
        loss = training_loss(logits, batch.label, self.config.loss, self.epoch) if size else logits.sum()
        scaled = self.scaler.scale(loss * local_loss_scale(size, total, self.ranks.world))
        if self.overflow is not None and (index == 1 or self.config.rho == 0):
            # Makes the gradient infinite if the step must not be taken: the scaler then skips it.
            scaled = scaled / (1 - torch.maximum(self.overflow, self.stopped))
        scaled.backward()
        for buffer, before in zip(self.model.buffers(), kept, strict=False):
            buffer.copy_(before)
        return Pass(loss.detach(), logits.detach())

    def state(self) -> dict[str, Tensor]:
        """Everything that determines the next steps, besides configuration, epoch and sums.

        The names are those of checkpoints.
        """
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer/{key}/{name}"] = value
        for key, number in self.scaler.state_dict().items():
            tensors[f"scaler/{key}"] = torch.tensor(number, dtype=torch.float64)
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.model.load_state_dict(below("model/", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        number = {name: index for index, name in enumerate(self.parameters)}
        for path, tensor in below("optimizer/", tensors).items():
            key, _, name = path.partition("/")
            state.setdefault(number[name], {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.load_scaler(tensors)

    def load_scaler(self, tensors: dict[str, Tensor]) -> None:
        """Load only the loss scale."""
        if self.scaler.is_enabled():
            saved = below("scaler/", tensors)
            self.scaler.load_state_dict(
                {key: type(now)(saved[key].item()) for key, now in self.scaler.state_dict().items()}
            )


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`; the prefix is removed from the names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
