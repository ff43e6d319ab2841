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
from orsanet_train.config import RunConfig

Resident = Literal["auto", "device", "host", "stream"]
WINDOWS = (
    3  # of shards that a cache holds: one is read, the next one is fetched, and one is of other ranks or left over
)
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


def check_cache(config: RunConfig, cache_bytes: float, training: int, selection: int, units: int) -> None:
    """Check that a run reads a store at a URL without fetching its shards again and again.

    Args:
        config: the order of an epoch's draws.
        cache_bytes: bytes that copies of shards may take.
        training: bytes of the shards that an epoch reads, 0 for a store on this machine.
        selection: bytes of the shards that the selection reads.
        units: number of units of the training split.

    Raises OrsanetError if they do not fit, and are not read in windows that do.
    """
    needed = training + selection
    if needed <= cache_bytes:
        return
    has = f"this run reads {as_bytes(needed)} of shards, and the cache may have {as_bytes(int(cache_bytes))}"
    if config.order == "global":
        raise OrsanetError(
            f"{has}: in the global order nearly every step would fetch shards again; give --cache with --cache-size "
            f"{needed / 1e9:.3f}GB or more, or read them in windows with --set order=windowed"
        )
    of_unit = training / units
    if WINDOWS * config.window_units * of_unit > cache_bytes:
        most = int(cache_bytes / WINDOWS / of_unit)
        advice = f"window_units={most} with --set, or a larger --cache-size" if most else "a larger --cache-size"
        raise OrsanetError(f"{has}, less than {WINDOWS} windows of {config.window_units} units; give {advice}")


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
