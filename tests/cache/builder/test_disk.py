"""A store that would not fit on the disk is refused before any work, by an estimate that is about right."""

from pathlib import Path

import pytest
import torch

from orsanet_cache import OrsanetError
from orsanet_cache.builder import disk
from orsanet_cache.builder.build import build
from orsanet_cache.builder.disk import bytes_needed
from orsanet_cache.store.schema import schema

CPU = torch.device("cpu")


def test_the_disk_estimate_is_what_the_store_needs(world) -> None:
    priors = world.load_priors()
    fields = schema(priors.segmenter.feature_channels, priors.landmark_network.feature_channels, "float16")
    estimate = bytes_needed(2 * len(world.load_manifest().samples), fields)
    shards = sum(path.stat().st_size for path in world.store.rglob("c.*"))
    # The maps' share is a guess between 1/40 (faces) and 1/2 (noise) of a fifth of the record; the rest is exact.
    assert 0.9 <= estimate / shards <= 1.25


def test_too_little_disk_is_refused_before_any_work(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "FREE_SPACE_MARGIN", 1e12)  # the real disk, judged as if a terabyte-fold were needed
    with pytest.raises(OrsanetError, match=r"needs about .* GB more, .* GB are free"):
        build(world.load_manifest(), tmp_path / "store.zarr", world.load_priors(), ["clean"], device=CPU)
    assert not (tmp_path / "store.zarr").exists()
