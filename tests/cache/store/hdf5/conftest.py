"""An HDF5 store never gives a wrong value: not damaged, not laid out by another program, not made to deceive."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hdf5_stores import COUNT, FIELDS

from orsanet_cache import PriorStore
from orsanet_cache.store.units import UnitRecord
from orsanet_cache.writing.convert import convert
from orsanet_cache.writing.writer import StoreWriter


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted store. Treat it as read-only."""
    folder = tmp_path_factory.mktemp("hdf5")
    rng = np.random.default_rng(0)
    with StoreWriter.open(folder / "store.zarr", {"feature_dtype": "float16"}, FIELDS, rows_per_unit=8) as to:
        to.add_split("train", [f"{row}.png" for row in range(COUNT)])
        for view in ("clean", "hflip"):
            to.add_view("train", view)
            for unit in to.units("train"):
                shape = (unit.stop - unit.start,)
                arrays = {
                    field.name: rng.integers(0, 19, shape + field.shape).astype(field.dtype)  # so that maps do deflate
                    for field in FIELDS
                }
                to.commit(unit, view, arrays, UnitRecord(["ab" * 32] * len(arrays["image"]), {}))
            assert to.seal("train", view, {"device": "cpu"}) == []
    return convert(folder / "store.zarr", folder / "store.h5").path


@pytest.fixture(scope="session")
def expected(store: Path) -> dict[str, np.ndarray]:
    """Values by field, of the Zarr store."""
    opened = PriorStore.open(store.with_name("store.zarr"))
    return {field.name: opened.read("train", "clean", field.name, slice(None)) for field in FIELDS}


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A store to be damaged."""
    return Path(shutil.copy(store, tmp_path / "copy.h5"))
