"""A GPU on a machine without one: tensors on it have shapes and types and no values, and every copy to and from it is noted.

PyTorch's fake tensors refuse to tell a value, and to mix devices. A copy to the host gives zeros, so that what comes after it runs too.
The backward pass needs a real device.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from orsanet_cache.frozen import pixels

GPU = torch.device("cuda", 0)
aten = torch.ops.aten


class Copy(NamedTuple):
    """Of one tensor, between host and device."""

    to: str  # "device" or "host"
    shape: tuple[int, ...]
    dtype: torch.dtype
    waits: bool  # the host, for the copy: it is not asked to be asynchronous, or the memory is not pinned


class FakeGpu(TorchDispatchMode):
    """Notes copies and what is computed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Copy | str] = []  # a string is the name of an operation on the device
        self.pinned: set[int | None] = set()

    @property
    def copies(self) -> list[Copy]:
        return [entry for entry in self.log if isinstance(entry, Copy)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.lift_fresh.default:  # of torch.from_numpy: stays real, for numpy fills it again
            return args[0]
        if func.is_view and not isinstance(args[0], FakeTensor):  # a view of real memory is real too
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func in (aten.is_pinned.default, aten._pin_memory.default):
            memory = self._memory(args[0])
            if func is aten.is_pinned.default:
                return memory in self.pinned
            self.pinned.add(memory)
            return args[0]
        if func is aten._to_copy.default and "device" in kwargs:
            return self._copied(func, args, kwargs)
        if func is aten.copy_.default and _is_there(args[0]) != _is_there(args[1]):
            self._note(args[1], _is_there(args[0]), args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            return func(*args, **kwargs) if _is_there(args[0]) else args[0]
        made = func(*args, **kwargs)
        if isinstance(made, FakeTensor):
            self.log.append(str(func))
        return made

    def _copied(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensor, to_device = args[0], torch.device(kwargs["device"]).type == "cuda"
        if _is_there(tensor) == to_device:
            return func(*args, **kwargs)
        self._note(tensor, to_device, kwargs.get("non_blocking", False))
        if to_device:
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            return torch.zeros(tensor.shape, dtype=kwargs.get("dtype") or tensor.dtype)

    @staticmethod
    def _memory(tensor: torch.Tensor) -> int | None:
        """Its address; None: a fake tensor has none."""
        return None if isinstance(tensor, FakeTensor) else tensor.untyped_storage().data_ptr()

    def _note(self, tensor: torch.Tensor, to_device: bool, non_blocking: bool) -> None:
        waits = not (non_blocking and to_device and self._memory(tensor) in self.pinned)
        self.log.append(Copy("device" if to_device else "host", tuple(tensor.shape), tensor.dtype, waits))


def _is_there(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cuda"


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    pixels._statistics.cache_clear()  # constants on the device, which would outlive it
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), FakeGpu() as gpu:
            yield gpu
    finally:
        pixels._statistics.cache_clear()


@contextmanager
def half_precision() -> Iterator[None]:
    """Autocast to float16 on the GPU, which torch.autocast refuses where there is none."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.float16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


class Marked:
    """An event of a stream; notes when it is recorded and waited for."""

    log: "list[tuple[str, int]]"

    def record(self, stream: object = None) -> None:
        self.log.append(("recorded", id(self)))

    def synchronize(self) -> None:
        self.log.append(("waited for", id(self)))


def stand_in_for_the_driver(monkeypatch: pytest.MonkeyPatch) -> "list[tuple[str, int]]":
    """Torch's calls of the driver that a feed makes -> what becomes of its events, in order."""
    Marked.log = []
    monkeypatch.setattr(torch.cuda, "Event", Marked)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 0)
    return Marked.log
