"""Builds that need not wait for the disk, and networks that need not think twice."""

import os
from typing import Any

import pytest
from small_store import Remembering


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power: thousands of waits for the disk would prove nothing. test_durable.py has their order."""
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture(scope="module")
def priors(world: Any) -> Remembering:
    """The small world's networks, for stores that are compared with each other rather than with what the networks say."""
    remembering = Remembering(world.priors)
    remembering.said |= world.priors.said
    return remembering
