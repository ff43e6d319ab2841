"""Where a split's data is while it is trained on: in the store's files, in host memory, or on the device."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from tqdm.auto import tqdm

from orsanet_cache.errors import OrsanetError

Resident = Literal["auto", "device", "host", "stream"]
AUTO_SHARE = 0.5  # of a GPU's free memory that the data may take unasked; the model has yet to come


class Residence(NamedTuple):
    """Where a feed's data is kept."""

    mode: Literal["device", "host", "stream"]
    reason: str


def choose_residence(resident: Resident, needed: int, device: torch.device) -> Residence:
    """Where to keep `needed` bytes. Raises OrsanetError where they are asked to be in memory and are more than is free there."""
    size = tqdm.format_sizeof(needed, "B")
    if resident == "auto" and device.type != "cuda":
        return Residence("stream", f"{size} streamed from the store; on a CPU the page cache keeps what fits in memory")
    home = torch.device("cpu") if resident == "host" else device
    free = free_memory(home)
    found = f"{tqdm.format_sizeof(free, 'B')} free on {home}"
    if resident == "auto":
        if needed <= AUTO_SHARE * free:
            return Residence("device", f"{size} resident on {device}; at most half of the {found}")
        return Residence("stream", f"{size} streamed from the store; more than half of the {found}")
    if resident == "stream":
        return Residence("stream", f"{size} streamed from the store, as asked for")
    if needed > free:
        raise OrsanetError(
            f"--resident {resident}: the data takes {size}, of {found}; use --resident stream, which needs no more than a few batches"
        )
    return Residence(resident, f"{size} resident on {home}, as asked for")


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated there; on a CPU the page cache counts as free."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for what comes next
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    if found is None:  # not Linux: at least what cannot fit at all
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(found[1]) * 1024


@contextmanager
def memory_advice() -> Iterator[None]:
    """Out of memory becomes an OrsanetError that says what takes less."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OrsanetError(_ADVICE.format(str(error).splitlines()[0] if str(error) else "no memory left")) from error
    except RuntimeError as error:
        # How torch says it of host memory, and of a GPU's outside its own pool (pinned memory, a context, a graph).
        if not re.search("can't allocate memory|CUDA error: out of memory", str(error)):
            raise
        raise OrsanetError(_ADVICE.format(str(error).splitlines()[0])) from error


_ADVICE = (
    "out of memory ({}). In the order of what it costs: --resident stream (the data stays in its files), --set precision=fast (half the "
    "activations), a smaller --set batch_size=N (another training: fewer images behind every gradient)"
)
