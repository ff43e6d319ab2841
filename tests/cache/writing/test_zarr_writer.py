"""What is there as it should be is left alone; what is damaged is written again. test_zarr_folder.py has the bytes."""

from pathlib import Path

import numpy as np
import pytest

from orsanet_cache.places.folder import FolderOutput
from orsanet_cache.store.schema import Field
from orsanet_cache.store.zarr_folder import METADATA, ZarrFolder
from orsanet_cache.writing.zarr_writer import ZarrWriter

FIELD = Field("values", (2, 3), "float32", ("y", "x"), compressed=True)
COUNT, ROWS_PER_UNIT = 5, 2
VALUES = np.arange(COUNT * 6, dtype=np.float32).reshape(COUNT, 2, 3)
SMALL, AXES = np.arange(6, dtype=np.uint8).reshape(3, 2), ("a", "b")


@pytest.fixture
def writer(tmp_path: Path) -> ZarrWriter:
    """A folder with a group, a small array and a field of three units."""
    writer = ZarrWriter(FolderOutput(tmp_path / "store", tmp_path / "temporary"), ROWS_PER_UNIT)
    writer.group("view", {"of": "clean"})
    writer.small("view/small", SMALL, AXES)
    writer.rows(
        "view", FIELD, COUNT, (VALUES[start : start + ROWS_PER_UNIT] for start in range(0, COUNT, ROWS_PER_UNIT))
    )
    return writer


def documents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every zarr.json: which file it is, and what it says."""
    return {path: (path.stat().st_ino, path.read_bytes()) for path in folder.rglob(METADATA)}


def test_what_is_written_reads_back(writer: ZarrWriter) -> None:
    folder = ZarrFolder(writer.to.path)
    assert folder.attributes("view") == {"of": "clean"}
    assert np.array_equal(folder.small("view/small"), SMALL)
    read = np.empty_like(VALUES)
    folder.rows("view/values", None).read(np.arange(COUNT), read, np.arange(COUNT))
    assert np.array_equal(read, VALUES)
    assert not writer.to.temporary.exists()


def test_metadata_that_is_as_it_should_be_is_left_alone(writer: ZarrWriter) -> None:
    before = documents(writer.to.path)
    assert len(before) == 3
    writer.group("view", {"of": "clean"})
    writer.small("view/small", SMALL, AXES)
    writer.field("view", FIELD, COUNT)
    assert documents(writer.to.path) == before


@pytest.mark.parametrize("damaged", [b"", b"{", b"{}"])
def test_metadata_that_is_damaged_is_written_again(writer: ZarrWriter, damaged: bytes) -> None:
    before = {path: content for path, (_, content) in documents(writer.to.path).items()}
    for path in before:
        path.write_bytes(damaged)
    writer.group("view", {"of": "clean"})
    writer.small("view/small", SMALL, AXES)
    writer.field("view", FIELD, COUNT)
    assert {path: content for path, (_, content) in documents(writer.to.path).items()} == before


def test_a_small_array_is_mended_only_where_it_has_these_values(writer: ZarrWriter) -> None:
    document = writer.to.path / "view" / "small" / METADATA
    whole = document.read_bytes()
    document.unlink()
    writer.repair_small("view/small", SMALL + 1, AXES)
    assert not document.exists()
    writer.repair_small("view/small", SMALL, AXES)
    assert document.read_bytes() == whole
