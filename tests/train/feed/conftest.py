"""The feed: labels find their rows by image path, an epoch is a pure function of seed and epoch, a batch is what the plan says.

Wherever the data is kept: streamed or resident, the batches are the same to the bit.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feeds import CPU, Damaged, rewrite_manifest, write_store

from orsanet_cache import Manifest, PriorStore
from orsanet_cache.builder.build import build


@pytest.fixture
def manifest(world: Any) -> Manifest:
    return world.load_manifest()


@pytest.fixture
def store(world: Any) -> PriorStore:
    return world.open_store()


@pytest.fixture
def reordered(world: Any, tmp_path: Path) -> Manifest:
    """The manifest with its CSV rows in another order than the store's."""
    order = np.random.default_rng(0).permutation(26)
    return rewrite_manifest(world.manifest, tmp_path, lambda lines: [lines[index] for index in order])


@pytest.fixture(scope="module")
def damaged(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    folder = tmp_path_factory.mktemp("damaged")

    def first_five(lines: list[str]) -> list[str]:
        return lines[:5]

    manifest = rewrite_manifest(world.manifest, folder, first_five)
    one, three = "images/train_1.png", "images/train_3.png"
    clean = write_store(folder / "clean.zarr", manifest, {"clean": [one]})
    both = write_store(folder / "both.zarr", manifest, {"clean": [one], "hflip": [one, three]})
    return Damaged(manifest, clean, both)


@pytest.fixture(scope="module", params=["float16", "float32", "int8"])
def kept_as(request: pytest.FixtureRequest, world: Any, tmp_path_factory: pytest.TempPathFactory) -> PriorStore:
    """A store per type that features are kept as."""
    if request.param == "float16":
        return world.open_store()
    out = tmp_path_factory.mktemp("kept_as") / "store.zarr"
    build(
        world.load_manifest(), out, world.load_priors(), ["clean", "hflip"],
        device=CPU, splits=["train"], feature_dtype=request.param,
    )  # fmt: skip
    return PriorStore.open(out)
