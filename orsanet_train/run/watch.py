"""The display of a run in progress: a bar per epoch, and metrics for TensorBoard.

The device's sums are copied to the host now and then, and read once they have arrived, without
waiting for the device.
"""

import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from orsanet_cache.progress import Progress
from orsanet_train.engine.step import Sums

GLANCE_SECONDS = 0.5

Item = TypeVar("Item")


class Watch:
    """The progress of one epoch: images done, img/s, time left, loss, accuracy.

    Args:
        sums: the step's sums (see Sums), on the device.
        images: the images of the epoch.
        done: the number of them that is done at the start.
        title: the name of the epoch.
    """

    def __init__(self, sums: Tensor, images: int, done: int, title: str) -> None:
        self.sums = sums
        self.copy = torch.empty_like(sums, device="cpu", pin_memory=sums.is_cuda)
        self.arrived = torch.cuda.Event() if sums.is_cuda else None
        self.due = 0.0
        self.under_way = False
        self.progress = Progress(images, title, "img", initial=done, leave=False)

    def glance(self) -> Sums | None:
        """The newest sums that have arrived, if any have since the last call."""
        now = time.monotonic()
        if not self.under_way and now >= self.due:
            self.copy.copy_(self.sums, non_blocking=True)
            if self.arrived is not None:
                self.arrived.record()
            self.under_way, self.due = True, now + GLANCE_SECONDS
        if not self.under_way or (self.arrived is not None and not self.arrived.query()):
            return None
        self.under_way = False
        return self._show(Sums(*self.copy.tolist()))

    def last(self) -> Sums:
        """The current sums; updates the progress and waits for the device."""
        sums = self._show(Sums(*self.sums.tolist()))
        self.progress.refresh()
        return sums

    def _show(self, sums: Sums) -> Sums:
        if sums.images:
            self.progress.set_postfix(
                loss=f"{sums.loss / sums.images:.3f}", accuracy=f"{sums.correct / sums.images:.1%}"
            )
        self.progress.update(int(sums.images) - self.progress.done)
        return sums

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.close()


class Waited(Generic[Item]):
    """An iterator that measures how long its user waits for it."""

    def __init__(self, items: Iterator[Item]) -> None:
        self.items = items
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        began = time.perf_counter()
        try:
            return next(self.items)
        finally:
            self.seconds += time.perf_counter() - began


def tensorboard_installed() -> bool:
    return find_spec("tensorboard") is not None


NO_TENSORBOARD = "no events for TensorBoard (not installed; in the clone of the project: pip install '.[plots]')"


def write_events(folder: Path, history: list[dict[str, float]], *, restart: bool) -> None:
    """Append the newest epoch of `history` for TensorBoard.

    With `restart` all epochs are written, and events that were logged beyond them are hidden.
    """
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=1 if restart else None) as writer:
        for row in history if restart else history[-1:]:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(row["epoch"]))
