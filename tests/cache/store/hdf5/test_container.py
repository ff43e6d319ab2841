"""What the container says: views, fields, attributes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hdf5_stores import VIEW
from hypothesis import given, settings
from hypothesis import strategies as st

from orsanet_cache import PriorStore
from orsanet_cache.store.hdf5_file import Hdf5File
from orsanet_cache.writing.hdf5_writer import new_hdf5_file


def test_it_lists_views_as_groups_and_fields_as_arrays_as_zarr_does(store: Path) -> None:
    hdf5, zarr = Hdf5File(store), PriorStore.open(store.with_name("store.zarr"))._container
    assert hdf5.groups("") == zarr.groups("") == ("train",)
    assert hdf5.groups("train") == zarr.groups("train") == ("clean", "hflip")
    assert hdf5.arrays(VIEW) == zarr.arrays(VIEW)
    assert hdf5.arrays("train") == zarr.arrays("train")
    for group in ("", "train", VIEW):
        assert hdf5.attributes(group) == zarr.attributes(group)
    for array in ("train/sample_id", f"{VIEW}/image_sha256", f"{VIEW}/unit_sha256"):
        assert np.array_equal(hdf5.small(array), zarr.small(array))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


@settings(max_examples=40, deadline=None)
@given(value=JSON)
def test_any_json_value_comes_back_from_an_attribute(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("attributes") / "a.h5"
    with new_hdf5_file(path) as file:
        file.group("a/b", {"value": value, "text": "text"})
    assert Hdf5File(path).attributes("a/b") == {"value": value, "text": "text"}


def test_an_attribute_may_be_large(tmp_path: Path) -> None:
    value = {f"images/{row}.png": "cannot be read" for row in range(5000)}
    assert len(json.dumps(value)) > 150_000
    with new_hdf5_file(tmp_path / "a.h5") as file:
        file.group("a", {"rejected": value})
    assert Hdf5File(tmp_path / "a.h5").attributes("a") == {"rejected": value}


def test_a_name_that_is_taken_is_not_written_over(store: Path) -> None:
    before = store.read_bytes()
    with pytest.raises(FileExistsError), new_hdf5_file(store):
        pass
    assert store.read_bytes() == before
