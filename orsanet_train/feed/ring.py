"""A ring of host buffers that one background thread fills while the device works on what was in them.

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
    """Host memory for one batch, used again and again; pinned where a GPU copies from it."""

    def __init__(
        self, layouts: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], rows: int, device: torch.device
    ) -> None:
        on_gpu = device.type == "cuda"
        buffers = {name: torch.from_numpy(np.empty((rows, *shape), dtype)) for name, (shape, dtype) in layouts.items()}
        self.device = device
        self.buffers = {name: buffer.pin_memory() if on_gpu else buffer for name, buffer in buffers.items()}
        self.copied = torch.cuda.Event() if on_gpu else None

    def to_fill(self, rows: int) -> dict[str, NDArray[Any]]:
        """The first rows of every buffer, as soon as the GPU has copied what was in them."""
        if self.copied is not None:
            self.copied.synchronize()
        return {name: buffer[:rows].numpy() for name, buffer in self.buffers.items()}

    def on_device(self, rows: int) -> dict[str, Tensor]:
        """Copies of the same rows on the device; on a GPU they are begun and not waited for."""
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
    """take(part, slot) of every part in order, after one background thread ran fill(part, slot): as far ahead as there are slots.

    A slot is filled again once `take` has returned. What `fill` raises is raised here. The thread has ended when the iterator has.
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
