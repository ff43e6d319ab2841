"""What is written here is what zarr-python writes, byte for byte, and each reads the other's."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from orsanet_cache import PriorStore
from orsanet_cache.store.rows import ShardedRows, encode_shard, shard_name
from orsanet_cache.store.zarr_folder import METADATA, LibraryRows, ZarrFolder
from orsanet_cache.writing.zarr_writer import array_document, group_document, small_content

DTYPES = ("uint8", "int8", "float16", "float32")


@st.composite
def values_of_rows(draw: st.DrawFn) -> NDArray[Any]:
    """[N, …] of any type of the schema; zeros, what is not a number and negative zeros among them."""
    row = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    shape = (draw(st.integers(1, 13)), *row)
    dtype = draw(st.sampled_from(DTYPES))
    if draw(st.booleans()):
        return draw(arrays.arrays(dtype, shape))
    bits = np.random.default_rng(draw(st.integers(0, 99))).integers(
        0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8
    )
    return bits.view(dtype).reshape(shape)


def axes(values: NDArray[Any]) -> tuple[str, ...]:
    return tuple(f"axis_{number}" for number in range(values.ndim))


def written_here(folder: Path, values: NDArray[Any], per_shard: int, compressed: bool) -> None:
    folder.mkdir()
    (folder / METADATA).write_bytes(
        array_document(values.shape, str(values.dtype), axes(values), per_shard, compressed)
    )
    for shard, start in enumerate(range(0, len(values), per_shard)):
        pieces = encode_shard(values[start : start + per_shard], per_shard, compressed)
        (folder / shard_name(shard, values.ndim)).write_bytes(b"".join(pieces))


def written_by_zarr(folder: Path, values: NDArray[Any], per_shard: int | None, compressed: bool) -> None:
    """The same metadata, which zarr-python made, and its own data."""
    folder.mkdir()
    (folder / METADATA).write_bytes(
        array_document(values.shape, str(values.dtype), axes(values), per_shard, compressed)
    )
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(folder, mode="r+")[...] = values


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(a: Any, b: NDArray[Any]) -> bool:
    """Bit for bit, what is not a number included."""
    return a.dtype == b.dtype and a.shape == b.shape and np.asarray(a).tobytes() == b.tobytes()


def read_here(rows: Any, values: NDArray[Any]) -> NDArray[Any]:
    out = np.full_like(values, 77)
    rows.read(np.arange(len(values)), out, np.arange(len(values)))
    return out


@settings(max_examples=60, deadline=None)
@given(values=values_of_rows(), per_shard=st.integers(1, 8), compressed=st.booleans())
def test_shards_are_zarrs_own_and_each_reads_the_others(
    tmp_path_factory: pytest.TempPathFactory, values: NDArray[Any], per_shard: int, compressed: bool
) -> None:
    folder = tmp_path_factory.mktemp("arrays")
    ours, zarrs = folder / "ours", folder / "zarrs"
    written_here(ours, values, per_shard, compressed)
    written_by_zarr(zarrs, values, per_shard, compressed)
    assert files(ours).keys() == files(zarrs).keys()
    whole = len(values) // per_shard  # in a last shard with room left, zarr-python writes rows beyond the end too
    for shard in range(whole):
        name = shard_name(shard, values.ndim)
        assert files(ours)[name] == files(zarrs)[name]
    for written in (ours, zarrs):
        assert same(zarr.open_array(written, mode="r")[...], values)
        direct = ShardedRows.of(written)
        assert direct is not None
        assert same(read_here(direct, values), values)
        assert same(read_here(LibraryRows(written, None), values), values)
        layout = ZarrFolder(folder).arrays("")[written.name]
        assert layout == (values.shape, values.dtype)


@settings(max_examples=60, deadline=None)
@given(values=values_of_rows())
def test_small_arrays_are_zarrs_own_and_each_reads_the_others(
    tmp_path_factory: pytest.TempPathFactory, values: NDArray[Any]
) -> None:
    folder = tmp_path_factory.mktemp("arrays")
    ours, zarrs = folder / "ours", folder / "zarrs"
    ours.mkdir()
    (ours / METADATA).write_bytes(array_document(values.shape, str(values.dtype), axes(values)))
    (ours / shard_name(0, values.ndim)).write_bytes(b"".join(small_content(values)))
    written_by_zarr(zarrs, values, None, False)
    assert files(ours) == files(zarrs)
    assert same(zarr.open_array(ours, mode="r")[...], values)
    for written in (ours, zarrs):
        assert same(ZarrFolder(folder).small(written.name), values)


@settings(max_examples=60, deadline=None)
@given(
    attributes=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**53), 2**53)
            | st.text(st.characters(exclude_categories=["Cs"])),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text("abc/é", max_size=3), inner, max_size=3)
            ),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_group_attributes_are_what_zarr_reads(
    tmp_path_factory: pytest.TempPathFactory, attributes: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("group")
    (folder / METADATA).write_bytes(group_document(attributes))
    assert dict(zarr.open_group(folder, mode="r").attrs) == attributes
    assert ZarrFolder(folder).attributes("") == attributes


def test_a_sealed_store_opens_whole_in_zarr_without_a_warning(world: Any) -> None:  # a warning fails every test
    members = dict(zarr.open_group(world.store, mode="r").members(max_depth=None))
    assert members.keys() == {
        str(path.parent.relative_to(world.store)) for path in world.store.rglob(METADATA) if path.parent != world.store
    }
    store = PriorStore.open(world.store)
    for split in store.splits:
        for view in store.views(split):
            for field in store.fields(split, view):
                array = members[f"{split}/{view}/{field}"]
                assert isinstance(array, zarr.Array)
                assert same(array[...], store.read(split, view, field, slice(None)))


def test_every_file_of_a_sealed_store_belongs_to_an_array_or_a_group(world: Any) -> None:
    for folder, _, names in os.walk(world.store):
        node = zarr.open(Path(folder), mode="r")
        others = sorted(set(names) - {METADATA})
        if isinstance(node, zarr.Group):
            assert others == []
        else:
            step = (node.shards or node.chunks)[0]
            assert others == sorted(shard_name(shard, node.ndim) for shard in range(-(-node.shape[0] // step)))


def test_a_group_has_only_what_has_metadata_and_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / METADATA).write_bytes(group_document({}))
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / METADATA).write_bytes(group_document({"name": name}))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "array").mkdir()
    (tmp_path / "array" / METADATA).write_bytes(array_document((3, 2), "uint8", ("a", "b")))
    container = ZarrFolder(tmp_path)
    assert container.groups("") == ("a", "b")
    assert container.arrays("") == {"array": ((3, 2), np.dtype("uint8"))}
    assert container.attributes("b") == {"name": "b"}
    with pytest.raises(ValueError, match="not a Zarr v3 group"):
        container.attributes("array")
    with pytest.raises(FileNotFoundError):
        container.attributes("foreign")


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 7])
def test_a_small_array_without_all_its_bytes_is_an_error(tmp_path: Path, cut: int) -> None:
    values = np.arange(6, dtype=np.uint8).reshape(3, 2)
    (tmp_path / "array").mkdir()
    (tmp_path / "array" / METADATA).write_bytes(array_document((3, 2), "uint8", ("a", "b")))
    whole = b"".join(small_content(values))
    (tmp_path / "array" / "c.0.0").write_bytes(whole[:cut] if cut < 7 else whole + b"\0")
    with pytest.raises(ValueError, match=r"does not fit its shape|has more than"):
        ZarrFolder(tmp_path).small("array")
