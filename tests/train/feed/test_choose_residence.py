"""Whether the data fits."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from feeds import (
    CPU,
    MODES,
    joined_feed,
)

from orsanet_cache import Manifest, OrsanetError, PriorStore
from orsanet_train.config import ModelConfig
from orsanet_train.feed.feed import Feed, join
from orsanet_train.feed.residence import Resident, choose_residence, free_memory


def test_on_a_cpu_auto_is_to_stream() -> None:
    """However little it is."""
    residence = choose_residence("auto", 10**6, CPU)
    assert residence.mode == "stream"
    assert "1.00MB streamed from the store" in residence.reason
    assert "page cache" in residence.reason


@pytest.mark.parametrize("mode", MODES)
def test_what_fits_is_kept_where_it_is_asked_for(mode: Resident) -> None:
    residence = choose_residence(mode, 10**6, CPU)
    assert residence.mode == mode
    assert "1.00MB" in residence.reason
    assert "as asked for" in residence.reason


@pytest.mark.parametrize("mode", ["host", "device"])
def test_more_than_the_memory_is_refused_at_once_with_both_sizes_and_the_alternative(
    mode: Resident, store: PriorStore, manifest: Manifest
) -> None:
    """A hundred million samples, all of them the same row."""
    few = join(manifest, store, "train", ["clean", "hflip"])
    many = replace(few, rows=np.broadcast_to(few.rows[:1], 10**8))
    with pytest.raises(OrsanetError) as caught:
        Feed(store, many, ModelConfig(), CPU, mode)
    row_bytes = 112 * 112 * 3 + (128 + 512) * 7 * 7 * 2
    for part in (f"--resident {mode}", f"{2 * row_bytes / 1e4:.1f}TB", "free on cpu", "--resident stream"):
        assert part in str(caught.value)
    assert Feed(store, many, ModelConfig(), CPU, "stream").residence.mode == "stream"


def test_free_memory_is_a_part_of_the_machines() -> None:
    assert 0 < free_memory(CPU) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
def test_auto_is_resident_on_a_gpu_up_to_half_of_its_free_memory(store: PriorStore, manifest: Manifest) -> None:
    cuda = torch.device("cuda", 0)
    assert joined_feed(store, manifest, "auto", device=cuda).residence.mode == "device"
    assert choose_residence("auto", int(0.6 * free_memory(cuda)), cuda).mode == "stream"
    with pytest.raises(OrsanetError, match=r"--resident device: .* free on cuda:0; use --resident stream"):
        choose_residence("device", 2 * free_memory(cuda), cuda)
