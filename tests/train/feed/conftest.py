"""The small world's manifest and store, others made of them, and a store in which not every image can be used."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orsanet_cache import Manifest, PriorStore, load_manifest
from orsanet_cache.store.schema import schema
from orsanet_cache.store.units import UnitRecord
from orsanet_cache.writing.writer import StoreWriter

Lines = list[str]


@pytest.fixture
def manifest(world: Any) -> Manifest:
    return world.load_manifest()


@pytest.fixture
def store(world: Any) -> PriorStore:
    return world.open_store()


@pytest.fixture(scope="session")
def rewrite_manifest() -> Callable[[Path, Path, Callable[[Lines], Lines]], Manifest]:
    return _rewrite_manifest


@pytest.fixture(scope="session")
def write_store() -> Callable[[Path, Manifest, Mapping[str, Sequence[str]]], Path]:
    return _write_store


@pytest.fixture
def reordered(world: Any, tmp_path: Path) -> Manifest:
    """The manifest with its CSV rows in another order than the store's."""
    order = np.random.default_rng(0).permutation(26)
    return _rewrite_manifest(world.manifest, tmp_path, lambda lines: [lines[index] for index in order])


@dataclass(frozen=True)
class Damaged:
    """A store of five images, with the clean view only and with both: image 1 was not readable, image 3 has no priors in hflip."""

    manifest: Manifest
    clean: Path
    both: Path


def _write_store(path: Path, manifest: Manifest, rejected: Mapping[str, Sequence[str]]) -> Path:
    """A store of the manifest's images with arbitrary values: view -> the images rejected in it."""
    fields = schema(8, 512, "float16")
    rng = np.random.default_rng(0)
    with StoreWriter.open(path, {}, fields) as writer:
        for split in manifest.splits:
            writer.add_split(split, [sample.image for sample in manifest.split(split)])
            for view, images in rejected.items():
                writer.add_view(split, view)
                for unit in writer.units(split):
                    count = unit.stop - unit.start
                    arrays = {
                        field.name: rng.integers(0, 99, (count, *field.shape)).astype(field.dtype) for field in fields
                    }
                    record = UnitRecord(["00" * 32] * count, dict.fromkeys(images, "no image"))
                    writer.commit(unit, view, arrays, record)
                writer.seal(split, view, {})
    return path


@pytest.fixture(scope="module")
def damaged(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    folder = tmp_path_factory.mktemp("damaged")

    def first_five(lines: list[str]) -> list[str]:
        return lines[:5]

    manifest = _rewrite_manifest(world.manifest, folder, first_five)
    one, three = "images/train_1.png", "images/train_3.png"
    clean = _write_store(folder / "clean.zarr", manifest, {"clean": [one]})
    both = _write_store(folder / "both.zarr", manifest, {"clean": [one], "hflip": [one, three]})
    return Damaged(manifest, clean, both)


def _rewrite_manifest(source: Path, folder: Path, change: Callable[[Lines], Lines]) -> Manifest:
    """The manifest with other CSV lines (without the header); the images stay where they are and are not looked at."""
    shutil.copy(source, folder)
    header, *lines = (source.parent / "samples.csv").read_text(encoding="utf-8").splitlines()
    (folder / "samples.csv").write_text("\n".join([header, *change(lines)]) + "\n", encoding="utf-8")
    return load_manifest(folder / source.name, check_files=False)
