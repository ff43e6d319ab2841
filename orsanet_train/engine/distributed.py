"""Training on several processes under torchrun.

The same global batch gives the same losses and weights as one process.

    global batch ─ rows of this rank ─ forward (batch norm: statistics of all ranks) ─ loss x its scale ─ backward ─ mean over ranks

The mean is DistributedDataParallel's. Batch statistics of the ranks' n_r values per channel are merged without cancellation (Chan et
al., 1983); with x^ = (x - mean) / sigma and < > the mean over the global batch,

    mean = sum_r s_r mean_r     var = sum_r s_r (var_r + (mean_r - mean)^2)     s_r = n_r / sum n     sigma = sqrt(var + eps)
    dx = weight / sigma (dy - <dy> - x^ <dy x^>)

Every rank must run the same forward and backward passes, even if its part of a batch is empty:
communication among the ranks is matched by its order only.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from orsanet_cache.errors import OrsanetError
from orsanet_train.engine.torch_versions import all_gather_single

Answer = TypeVar("Answer")


class Ranks(NamedTuple):
    """The number of this process, counted from 0, and the number of processes."""

    rank: int
    world: int

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def rows(self, start: int, stop: int) -> slice:
        """This rank's positions of a global batch's [start, stop).

        They are contiguous, in the ranks' order, with the sizes of numpy.array_split.
        """
        each, more = divmod(stop - start, self.world)
        first = start + self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))


ONE = Ranks(0, 1)


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, each with its own `device`.

    Without torchrun this is the only process. NCCL transfers tensors on a GPU, gloo those on the
    host. Raises OrsanetError if processes would share a GPU.
    """
    if not dist.is_torchelastic_launched():
        yield ONE
        return
    if device.type == "cuda":
        _check_gpus(device)
        torch.cuda.set_device(device)  # of streams and graphs that are made without naming a device
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    yield Ranks(dist.get_rank(), dist.get_world_size())
    # Not in a `finally`: leaving may wait for the other processes, and they for this one. A process
    # that fails ends, and torchrun ends the others.
    dist.destroy_process_group()


def _check_gpus(device: torch.device) -> None:
    own, processes, gpus = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if processes > 1 and device.index != own:
        raise OrsanetError(
            f"--device {device}: under torchrun process {own} of this machine computes on cuda:{own}; leave --device at auto"
        )
    if processes > gpus:
        raise OrsanetError(
            f"torchrun started {processes} processes on a machine with {gpus} GPU(s); "
            f"start one for each (--nproc-per-node {max(gpus, 1)}), or pass --device cpu"
        )


def any_rank(flag: bool, ranks: Ranks) -> bool:
    """Whether any rank's flag is set; the result is the same on all ranks.

    The hosts exchange the flags without waiting for a GPU.
    """
    if ranks.world == 1:
        return flag
    answer = torch.tensor(flag, dtype=torch.uint8)
    dist.all_reduce(answer, dist.ReduceOp.MAX)
    return bool(answer)


def from_main(answer: Callable[[], Answer], ranks: Ranks) -> Answer:
    """What `answer` returns on the main rank, on all ranks; the other ranks do not call it.

    So they need not see the main rank's files. The value is pickled. An OrsanetError of the call is
    raised on all ranks.
    """
    if ranks.world == 1:
        return answer()
    raised: OrsanetError | None = None
    sent: list[Any] = [None, None]  # the value, and the message of an error
    if ranks.main:
        try:
            sent[0] = answer()
        except OrsanetError as error:
            raised, sent[1] = error, str(error)
    dist.broadcast_object_list(sent, device=torch.device("cpu"))
    if sent[1] is not None:
        raise raised or OrsanetError(sent[1])
    return sent[0]


def tensors_from_main(own: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """The main rank's tensors on all ranks, each in its own memory on the CPU; `own` of other ranks is not used."""
    if ranks.world == 1:
        return dict(own)
    forms = from_main(lambda: [(name, tensor.dtype, tensor.shape) for name, tensor in own.items()], ranks)
    received = {}
    for name, dtype, shape in forms:
        received[name] = own[name] if ranks.main else torch.empty(shape, dtype=dtype)
        if received[name].nbytes:
            dist.broadcast(received[name].reshape(-1).view(torch.uint8), 0)  # bytes: gloo lacks some types
    return received


def summed(values: Tensor, ranks: Ranks) -> Tensor:
    """Sum over the ranks of tensors of one shape, on their device.

    The result has the same bits on all ranks and carries no gradient.
    """
    if ranks.world == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def local_loss_scale(local: int, total: int, world: int) -> float:
    """Factor of a rank's mean loss over its `local` rows.

    With it DistributedDataParallel's mean over ranks is the mean over all `total` rows. It is 0 for
    a rank without rows, whose mean loss would be NaN: such a rank takes the sum of the logits,
    which also has a gradient.
    """
    return world * local / total


def data_parallel(network: nn.Module) -> nn.Module:
    """Wrap `network` so that gradients become the mean over ranks.

    All weights and buffers become rank 0's. The batch norms of `network` must be `synchronised`
    before. A gradient keeps its own memory when the next pass makes another, as SAM requires.
    """
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_hook(partial(_laid_out, parameter))
    parallel = DistributedDataParallel(network, gradient_as_bucket_view=False)
    # Every rank computes the same buffers. The argument of the same meaning has different names in
    # different versions of PyTorch.
    parallel.broadcast_buffers = False
    return parallel


def _laid_out(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the strides of its parameter.

    DistributedDataParallel warns of any other ones, also of a dimension of size 1, whose stride means
    nothing: a rank's batch of one row has such a gradient for a class token.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with the statistics of all ranks' rows in training; made by `synchronised`.

    x [B, C, H, W], on any device; B may differ between ranks and be 0. The statistics and their
    gradient are computed in float32 if x has a shorter type. All ranks together need more than one
    value per channel. This is not checked, because the check would wait for the GPU.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y, mean, var, count = _GlobalNorm.apply(x, self.weight, self.bias, self.eps)
        # As in nn.BatchNorm2d: without it, training leaves the buffers unchanged.
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
                unbiased = var * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        return y


class _GlobalNorm(torch.autograd.Function):
    """x [B, C, H, W], weight [C], bias [C] -> y as x, and the statistics of all ranks.

    The statistics are mean [C], var [C] (biased) and count [] of the values per channel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        own = values.new_zeros(2 * channels + 1)  # mean, var, count
        if len(x):
            var, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
            torch.cat([mean, var, own.new_full((1,), x.numel() // channels)], out=own)
        every = own.new_empty(dist.get_world_size() * len(own))
        all_gather_single(every, own)
        means, variances, counts = every.view(-1, len(own)).split([channels, channels, 1], dim=1)
        count = counts.sum()
        share = counts / count
        mean = (share * means).sum(dim=0)
        var = (share * (variances + (means - mean).square())).sum(dim=0)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, var, count)
        ctx.set_materialize_grads(False)
        y = torch.nn.functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)  # with these statistics
        return y, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: None) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inverse_sigma, count = ctx.saved_tensors
        mean, inverse_sigma, scale = (row[:, None, None] for row in (mean, inverse_sigma, weight * inverse_sigma))
        normalised = (x.to(mean.dtype) - mean) * inverse_sigma
        dy = dy.to(mean.dtype)
        own = torch.stack([dy.sum(dim=(0, 2, 3)), (dy * normalised).sum(dim=(0, 2, 3))])
        sums = own.clone()
        dist.all_reduce(sums)
        along_bias, along_weight = (sums / count)[..., None, None]
        dx = scale * (dy - along_bias - normalised * along_weight)
        # Of this rank only: DistributedDataParallel adds up the parameters' gradients.
        return dx.to(x.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None


def synchronised(model: nn.Module) -> nn.Module:
    """Turn every nn.BatchNorm2d of `model` into a GlobalBatchNorm2d with the same tensors.

    Returns `model`. Raises TypeError for any other kind of batch norm, whose statistics would
    silently be one rank's.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        usual = module.affine and module.track_running_stats and module.momentum is not None
        if type(module) not in (nn.BatchNorm2d, GlobalBatchNorm2d) or not usual:
            raise TypeError(f"'{name}' is {module}: only nn.BatchNorm2d with its usual settings has a global form")
        module.__class__ = GlobalBatchNorm2d  # a new module would need new names, hooks and modes
    return model
