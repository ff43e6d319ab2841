"""Where a split's data is kept in training: in the store, in host memory, or on the device."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from orsanet_cache.errors import OrsanetError
from orsanet_cache.progress import as_bytes

Resident = Literal["auto", "device", "host", "stream"]
AUTO_SHARE = 0.5  # of a GPU's free memory that the data may take with "auto"; the model is loaded later


class Residence(NamedTuple):
    """Where a feed's data is kept."""

    mode: Literal["device", "host", "stream"]
    reason: str


def choose_residence(resident: Resident, needed: int, device: torch.device) -> Residence:
    """Where to keep `needed` bytes.

    Raises OrsanetError if `resident` requests a memory with less free space.
    """
    size = as_bytes(needed)
    if resident == "auto" and device.type != "cuda":
        return Residence("stream", f"{size} streamed from the store; on a CPU the page cache keeps what fits in memory")
    home = torch.device("cpu") if resident == "host" else device
    free = free_memory(home)
    found = f"{as_bytes(free)} free on {home}"
    if resident == "auto":
        if needed <= AUTO_SHARE * free:
            return Residence("device", f"{size} resident on {device}; at most half of the {found}")
        return Residence("stream", f"{size} streamed from the store; more than half of the {found}")
    if resident == "stream":
        return Residence("stream", f"{size} streamed from the store, as requested")
    if needed > free:
        raise OrsanetError(
            f"--resident {resident}: the data takes {size}, with {found}; use --resident stream, which needs memory for a few batches only"
        )
    return Residence(resident, f"{size} resident on {home}, as requested")


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated there; on a CPU the page cache counts as free."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for later use
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except FileNotFoundError:
        found = None
    if found is None:  # not Linux: an upper bound
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(found[1]) * 1024


@contextmanager
def memory_advice() -> Iterator[None]:
    """Turn an out-of-memory error into an OrsanetError that lists options that need less memory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OrsanetError(_ADVICE.format(str(error).splitlines()[0] if str(error) else "no memory left")) from error
    except RuntimeError as error:
        # torch's messages about host memory, and about a GPU's memory outside torch's pool (pinned
        # memory, a context, a graph).
        if not re.search("can't allocate memory|CUDA error: out of memory", str(error)):
            raise
        raise OrsanetError(_ADVICE.format(str(error).splitlines()[0])) from error


_ADVICE = (
    "out of memory ({}). These options need less, in the order of their cost: --resident stream (the data stays in its files), "
    "--set precision=fast (half the activations), a smaller --set batch_size=N (changes the training: fewer images per gradient)"
)
