"""Finds where the host would wait for a device: it asks for a value, or for a shape that depends on values.

The computation runs on the CPU, where nobody waits, so that the backward pass and the optimiser are looked at too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class HostWaits(AssertionError):
    """The host would wait for the device."""


# What Python code may call: a value for the host, or a constant that is copied from the host, which waits too.
VALUES = {
    Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__,
    Tensor.__contains__, Tensor.__array__, torch.tensor, torch.as_tensor, torch.is_nonzero, torch.equal, Tensor.equal, torch.allclose,
}  # fmt: skip
aten = torch.ops.aten
# What operations come down to. On a CPU none of these is called by an operation that a GPU runs without them, as far as a step goes.
VALUE_DEPENDENT = {
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.nonzero_static, aten.masked_select, aten.bincount,
    aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.repeat_interleave, aten.histc,
}  # fmt: skip
MASKED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # with a boolean tensor


class _Called(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # By its name: torch's optimiser moves a tensor to the parameters' device, which is the CPU here.
        if func in VALUES or (func is Tensor.to and "cpu" in [arg for arg in args[1:] if isinstance(arg, str)]):
            raise HostWaits(f"{getattr(func, '__name__', func)}()")
        return func(*args, **(kwargs or {}))


class _Computed(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = func.overloadpacket
        if operation in VALUE_DEPENDENT or (operation in MASKED and _has_mask(args[1])):
            raise HostWaits(str(func))
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raises HostWaits where the host would wait for a device."""
    with _Called(), _Computed():
        yield
