"""A ring of host buffers, which one background thread fills ahead of the device.

part ─ thread: fill ─▶ slot ─ take ─▶ batch; the slot goes back
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RING = 3  # buffers: one that the device copies from, one that is full, one that is being filled

Planned = TypeVar("Planned")
Space = TypeVar("Space")
Made = TypeVar("Made")


class Slot:
    """Host memory for one batch, which is reused; pinned if a GPU copies from it."""

    def __init__(
        self, layouts: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], rows: int, device: torch.device
    ) -> None:
        on_gpu = device.type == "cuda"
        buffers = {name: torch.from_numpy(np.empty((rows, *shape), dtype)) for name, (shape, dtype) in layouts.items()}
        self.device = device
        self.buffers = {name: buffer.pin_memory() if on_gpu else buffer for name, buffer in buffers.items()}
        self.copied = torch.cuda.Event() if on_gpu else None

    def to_fill(self, rows: int) -> dict[str, NDArray[Any]]:
        """The first rows of every buffer, once the GPU has copied their previous contents."""
        if self.copied is not None:
            with torch.cuda.device(self.device):  # a new thread's device is cuda:0, where waiting would make a context
                self.copied.synchronize()
        return {name: buffer[:rows].numpy() for name, buffer in self.buffers.items()}

    def on_device(self, rows: int) -> dict[str, Tensor]:
        """Copies of the same rows on the device; on a GPU without waiting for the copies."""
        tensors = {
            name: buffer[:rows].to(self.device, non_blocking=True, copy=True) for name, buffer in self.buffers.items()
        }
        if self.copied is not None:
            self.copied.record(torch.cuda.current_stream(self.device))
        return tensors


def ahead_in_ring(
    parts: Iterable[Planned],
    slots: Iterable[Space],
    fill: Callable[[Planned, Space], None],
    take: Callable[[Planned, Space], Made],
) -> Iterator[Made]:
    """Yield take(part, slot) for every part in order.

    One background thread runs fill(part, slot) before, as many parts ahead as there are slots. A
    slot is filled again once `take` has returned. Exceptions of `fill` are raised here. The thread
    ends with the iterator.
    """
    waiting = iter(parts)
    thread = ThreadPoolExecutor(1, "feed")
    try:
        under_way: deque[tuple[Future[None], Planned, Space]] = deque(
            (thread.submit(fill, part, slot), part, slot) for slot, part in zip(slots, waiting, strict=False)
        )
        while under_way:
            filled, part, slot = under_way.popleft()
            filled.result()
            made = take(part, slot)
            for following in islice(waiting, 1):
                under_way.append((thread.submit(fill, following, slot), following, slot))
            yield made
    finally:
        thread.shutdown(cancel_futures=True)
