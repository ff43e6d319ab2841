"""The small world's training split, its pictures decoded, and its frozen networks."""

import copy
from typing import Any

import pytest
import torch

from orsanet_cache import FrozenPriors, PriorStore
from orsanet_train.feed.split import LabelledSplit, join
from orsanet_train.reference.feed import OnlineFeed


@pytest.fixture
def store(world: Any) -> PriorStore:
    return world.open_store()


@pytest.fixture
def split(world: Any, store: PriorStore) -> LabelledSplit:
    return join(world.load_manifest(), store, "train", ["clean", "hflip"])


@pytest.fixture(scope="session")
def loaded(world: Any) -> FrozenPriors:
    return world.load_priors()


@pytest.fixture
def frozen(loaded: FrozenPriors) -> FrozenPriors:
    """The test's own, copied: to load them again takes twice as long."""
    return copy.deepcopy(loaded)


@pytest.fixture
def feed(world: Any, store: PriorStore, split: LabelledSplit) -> OnlineFeed:
    return OnlineFeed(world.folder, store, split, torch.device("cpu"))
