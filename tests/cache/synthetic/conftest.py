"""Faces that several tests look at; drawn once."""

import pytest

from orsanet_cache.synthetic.picture import SyntheticFace, draw

SEED = 20


@pytest.fixture(scope="session")
def faces() -> list[SyntheticFace]:
    """Pictures as they come, of all splits, free and occluded."""
    return [draw(SEED, index) for index in range(200)]
