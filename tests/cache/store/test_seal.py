"""Markers and sealed records say the same, and what was not committed does not read back."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.store.schema import Field
from orsanet_cache.store.seal import damaged_units, fold, hex_digests, unfold
from orsanet_cache.store.units import Marker, Unit, UnitRecord
from orsanet_cache.store.zarr_folder import ZarrFolder
from orsanet_cache.writing.writer import StoreWriter

FIELDS = (Field("wide", (3, 5), "float32", ("y", "x"), compressed=True), Field("narrow", (2,), "uint8", ("x",)))
COUNT, ROWS_PER_UNIT = 7, 3
IDS = tuple(f"images/{row}.png" for row in range(COUNT))
UNREADABLE = 4


@pytest.fixture
def writer(tmp_path: Path):
    """A view of three units, all committed, not sealed; one row's image could not be read."""
    rng = np.random.default_rng(0)
    with StoreWriter.open(tmp_path / "s.zarr", {}, FIELDS, rows_per_unit=ROWS_PER_UNIT) as writer:
        writer.add_split("train", IDS)
        writer.add_view("train", "clean")
        for unit in writer.units("train"):
            rows = range(unit.start, unit.stop)
            arrays = {f.name: rng.integers(0, 200, (len(rows), *f.shape)).astype(f.dtype) for f in FIELDS}
            digests = ["" if row == UNREADABLE else f"{row + 1:064x}" for row in rows]
            rejected = {IDS[UNREADABLE]: "cannot be read"} if UNREADABLE in rows else {}
            writer.commit(unit, "clean", arrays, UnitRecord(digests, rejected))
        yield writer


def markers_of(writer: StoreWriter) -> dict[Unit, Marker]:
    found = {unit: writer.marker(unit, "clean") for unit in writer.units("train")}
    return {unit: marker for unit, marker in found.items() if marker is not None}


def sizes(marker: Marker) -> dict[str, int]:
    return {field: shard["bytes"] for field, shard in marker.shards.items()}


def test_unfold_is_the_inverse_of_fold(writer: StoreWriter) -> None:
    markers = markers_of(writer)
    assert len(markers) == 3
    sealed = fold(ZarrFolder(writer.path), "train", "clean", list(markers.values()), {"device": "cpu"})
    for unit, marker in markers.items():
        assert unfold(sealed, unit, IDS[unit.rows], sizes(marker)) == marker


def test_what_is_folded_is_what_a_reader_of_the_sealed_view_finds(writer: StoreWriter) -> None:
    folded = fold(ZarrFolder(writer.path), "train", "clean", list(markers_of(writer).values()), {"device": "cpu"})
    assert writer.seal("train", "clean", {"device": "cpu"}) == []
    read = PriorStore.open(writer.path).sealed("train", "clean")
    assert (read.seal, read.provenance, read.rejected) == (folded.seal, folded.provenance, folded.rejected)
    assert read.fields == folded.fields
    assert np.array_equal(read.image_sha256, folded.image_sha256)
    assert np.array_equal(read.unit_sha256, folded.unit_sha256)
    assert all(np.array_equal(read.crc32c[field.name], folded.crc32c[field.name]) for field in FIELDS)


def test_a_lost_shard_is_left_out_of_an_unfolded_marker(writer: StoreWriter) -> None:
    unit, marker = next(iter(markers_of(writer).items()))
    sealed = fold(ZarrFolder(writer.path), "train", "clean", list(markers_of(writer).values()), {})
    without = unfold(sealed, unit, IDS[unit.rows], {"wide": sizes(marker)["wide"]})
    assert without.record == marker.record
    assert without.shards == {"wide": marker.shards["wide"]}


def test_an_image_that_could_not_be_read_has_no_digest() -> None:
    assert hex_digests(np.array([[0] * 32, [1] * 32], np.uint8)) == ["", "01" * 32]


def test_exactly_the_damaged_units_are_named(writer: StoreWriter) -> None:
    markers, container = markers_of(writer), ZarrFolder(writer.path)
    assert damaged_units(container, "clean", markers) == set()
    unit = list(markers)[1]
    shard = next((writer.path / "train" / "clean" / "narrow").glob(f"c.{unit.index}.*"))
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    assert damaged_units(container, "clean", markers) == {unit}


def test_without_the_arrays_metadata_every_unit_is_damaged(writer: StoreWriter) -> None:
    markers = markers_of(writer)
    (writer.path / "train" / "clean" / "wide" / "zarr.json").write_text("{")
    assert damaged_units(ZarrFolder(writer.path), "clean", markers) == set(markers)


def test_a_marker_counts_for_its_own_unit_and_view_only(writer: StoreWriter) -> None:
    first, second, _ = units = writer.units("train")
    markers = writer.path / ".commits" / "train"
    writer.add_view("train", "hflip")
    shutil.rmtree(writer.path / "train" / "hflip")
    shutil.copytree(writer.path / "train" / "clean", writer.path / "train" / "hflip")
    shutil.copytree(markers / "clean", markers / "hflip")
    assert [writer.marker(unit, "hflip") for unit in units] == [None] * 3
    shutil.copy(markers / "clean" / f"{first.index:06d}.json", markers / "clean" / f"{second.index:06d}.json")
    assert writer.missing("train", "clean") == [second]


def test_a_unit_of_other_pictures_than_another_view_is_not_committed(writer: StoreWriter) -> None:
    """Whether the other view is sealed or not; a picture that could not be read is another one too."""
    unit = writer.units("train")[1]
    arrays = {f.name: np.zeros((unit.stop - unit.start, *f.shape), f.dtype) for f in FIELDS}
    right = markers_of(writer)[unit].record
    writer.add_view("train", "hflip")
    for sealed in (False, True):
        if sealed:
            assert writer.seal("train", "clean", {}) == []
        for digests in (
            [f"{99:064x}", *right.image_sha256[1:]],
            [right.image_sha256[0], f"{5:064x}", right.image_sha256[2]],
        ):
            with pytest.raises(
                OrsanetError, match=r"1 image\(s\) changed while the store was built.*\n.*images/[34].png"
            ):
                writer.commit(unit, "hflip", arrays, UnitRecord(digests, {}))
            assert writer.marker(unit, "hflip") is None
    writer.commit(unit, "hflip", arrays, right)
    assert writer.marker(unit, "hflip") is not None
