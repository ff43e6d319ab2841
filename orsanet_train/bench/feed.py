"""The rate at which a feed gives the batches of an epoch, wherever the data is kept.

    device, host   loaded once; then batches from memory
    stream         from the store: first read with checksums, then again

Nothing takes a step meanwhile: this is the most that a step can get.
"""

import time
from typing import NamedTuple

import torch

from orsanet_cache.store.reader import PriorStore
from orsanet_train.config import RunConfig
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.residence import Resident
from orsanet_train.feed.split import LabelledSplit


class FeedSpeed(NamedTuple):
    """One way to keep the data."""

    mode: Resident
    load_seconds: float  # before the first batch; 0 if streamed
    images_per_second: float  # of the first epoch
    again: float  # images per second of the second epoch


def bench_feed(
    config: RunConfig, store: PriorStore, split: LabelledSplit, device: torch.device, mode: Resident, seconds: float
) -> FeedSpeed:
    """Take the batches of two epochs, each until it or its share of the time ends.

    Args:
        config: The model, the augmentation and the batch size.
        store: The store.
        split: A split of the store, with the views that the augmentation needs.
        device: The batches' device.
        mode: Where the data is kept.
        seconds: The longest time for both epochs together.
    """
    began = time.perf_counter()
    feed = Feed(store, split, config.model, device, mode)
    loaded = time.perf_counter() - began
    first, again = (_images_per_second(feed, config, epoch, seconds / 2) for epoch in range(2))
    return FeedSpeed(mode, loaded if mode != "stream" else 0.0, first, again)


def _images_per_second(feed: Feed, config: RunConfig, epoch: int, seconds: float) -> float:
    images, began = 0, time.perf_counter()
    for batch in feed.epoch(config, epoch):
        images += len(batch.label)
        if time.perf_counter() - began > seconds:
            break
    if feed.device.type == "cuda":
        torch.cuda.synchronize(feed.device)
    return images / (time.perf_counter() - began)
