"""Stores that somebody made to harm, or by mistake."""

import json
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from damages import KINDS
from numcodecs import zstd
from small_store import Small, answer, everything

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.store.seal import view_seal
from orsanet_cache.store.zarr_folder import ZarrFolder
from orsanet_cache.writing.zarr_writer import small_content

MANY = 10**18
SHAPES = [
    f"[{MANY}, %s]", f"[{MANY}, 0]", f"[{10**30}, %s]", f"[-{MANY}, %s]", "[-1, %s]", "[0, %s]", "[0]", "[]", "[6.5, %s]",
    '["6", %s]', '"6"', "6", "null", "{}", "[null, %s]", "[[6], %s]", "[[[[]]]]", "[1e999, %s]", "[NaN, %s]", "[true, %s]",
    "[" + "[" * 100_000, "[6, 1" + ", 1" * 100 + "]", f"[6, {MANY}]", f"[6, {2**62}, 4]",
]  # fmt: skip


def replaced(document: bytes, where: str, text: str) -> bytes:
    """A zarr.json in which the lists at a key are another text; %s stands for all but their first number."""
    metadata = json.loads(document)
    place = metadata
    *path, key = where.split("/")
    for step in path:
        place = place[int(step) if step.isdecimal() else step]
    rest = ", ".join(str(size) for size in place[key][1:])
    place[key] = "HERE"
    return json.dumps(metadata).replace('"HERE"', text.replace("%s", rest)).encode()


@contextmanager
def little_memory() -> Iterator[None]:
    """Sixteen times what the whole store has: nothing may be allocated because a file says so."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 16 * 700_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("array", "where"),
    [
        ("train/sample_id", "shape"),
        ("train/clean/image_sha256", "shape"),
        ("train/clean/unit_sha256", "shape"),
        ("train/clean/image", "shape"),
        ("train/clean/landmarks", "shape"),
        ("train/clean/image", "chunk_grid/configuration/chunk_shape"),
        ("train/clean/segmentation_map", "chunk_grid/configuration/chunk_shape"),
        ("train/clean/image", "codecs/0/configuration/chunk_shape"),
        ("train/sample_id", "chunk_grid/configuration/chunk_shape"),
    ],
)
def test_an_absurd_shape_is_an_error_that_costs_nothing(
    small: Small, tmp_path: Path, in_time: None, array: str, where: str
) -> None:
    store, names = small.copy(tmp_path), {"train": ["clean"]}
    wanted, path = everything(store, names), store / array / "zarr.json"
    original = path.read_bytes()
    for text in SHAPES:
        path.write_bytes(replaced(original, where, text))
        with little_memory():
            found, said = answer(lambda: everything(store, names))
        assert said or found == wanted, text


def reseal(store: Path) -> None:
    """As somebody would who knows how."""
    container = ZarrFolder(store)
    arrays = container.arrays("train/clean")
    records = {name: container.small(f"train/clean/{name}") for name in ("image_sha256", "unit_sha256")}
    fields = {name: layout for name, layout in arrays.items() if name not in records}
    path = store / "train" / "clean" / "zarr.json"
    document = json.loads(path.read_bytes())
    root = container.attributes("")["orsanet_store"]
    rejected = document["attributes"]["rejected"]
    place = document["attributes"]["place"]
    document["attributes"]["seal"] = view_seal(
        root, place, container.small("train/sample_id"), fields, rejected, **records
    )
    path.write_text(json.dumps(document))


def test_a_seal_does_not_make_an_absurd_number_of_samples_cost_anything(
    small: Small, tmp_path: Path, in_time: None
) -> None:
    store = small.copy(tmp_path)
    (store / "train" / "sample_id" / "c.0.0").write_bytes(b"".join(small_content(np.empty((0,), np.uint8))))
    for path in (store / "train").rglob("zarr.json"):
        document = json.loads(path.read_bytes())
        if "shape" in document and not path.parent.name.endswith("sha256"):
            document["shape"] = [MANY, *document["shape"][1:]] if path.parent.name != "sample_id" else [MANY, 0]
            path.write_text(json.dumps(document))
    with suppress(ValueError):  # it cannot even be sealed
        reseal(store)
    opened = PriorStore.open(store)
    for ask in (
        lambda: opened.sample_ids("train"),
        lambda: opened.accepted("train", "clean"),
        lambda: opened.read("train", "clean", "image", np.array([0])),
    ):
        with little_memory(), pytest.raises(OrsanetError):
            ask()


CODECS = [
    ("codecs/0/name", '"no_such_codec"'), ("codecs/0/name", '"numcodecs.pickle"'), ("codecs/0", "7"), ("codecs", "[]"),
    ("codecs/0/configuration/codecs/0/name", '"no_such_codec"'), ("codecs/0/configuration/codecs/1/name", '"no_such_codec"'),
    ("codecs/0/configuration/codecs/1", '"crc32c"'), ("codecs/0/configuration/codecs", "null"),
    ("codecs/0/configuration/index_codecs/0/name", '"no_such_codec"'), ("codecs/0/configuration/index_codecs", "[]"),
    ("codecs/0/configuration/index_location", '"start"'), ("codecs/0/configuration/index_location", "[]"),
    ("codecs/0/configuration", "{}"), ("chunk_key_encoding/name", '"no_such_encoding"'), ("chunk_grid/name", '"no_such_grid"'),
    ("chunk_key_encoding", '"default"'), ("storage_transformers", '[{"name": "no_such_transformer"}]'),
    ("data_type", '"no_such_type"'), ("data_type", '"object"'), ("data_type", '"(2,3f4"'), ("data_type", '"S1000000000"'),
    ("data_type", "null"), ("data_type", '{"name": "numpy.datetime64"}'), ("data_type", '[["a", "<f4"]]'),
    ("data_type", '"uint8, uint8"'), ("data_type", '"U"'), ("zarr_format", "2"), ("zarr_format", "99"), ("node_type", "[]"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "text"), CODECS)
@pytest.mark.parametrize("field", ["image", "segmentation_map", "landmark_features"])
def test_an_unknown_codec_or_type_is_an_error(
    small: Small, tmp_path: Path, in_time: None, field: str, where: str, text: str
) -> None:
    store, names = small.copy(tmp_path), {"train": ["clean"]}
    path = store / "train" / "clean" / field / "zarr.json"
    metadata = json.loads(path.read_bytes())
    place = metadata
    *steps, key = (int(step) if step.isdecimal() else step for step in where.split("/"))
    for step in steps:
        place = place[step]
    place[key] = json.loads(text)
    path.write_text(json.dumps(metadata))
    wanted = everything(small.store, names)
    with little_memory():
        found, said = answer(lambda: everything(store, names))
    assert "train/clean" in said if said else found == wanted


def test_a_record_that_unpacks_to_gigabytes_is_an_error_that_costs_nothing(
    small: Small, tmp_path: Path, in_time: None
) -> None:
    store = small.copy(tmp_path)
    path = store / KINDS["compressed shard"]
    bomb = bytes(zstd.compress(bytes(256 * 1024**2), 3))
    record = bomb + google_crc32c.value(bomb).to_bytes(4, "little")
    assert len(record) < 2 * 224 * 224
    index = np.frombuffer(path.read_bytes()[-4 * 16 - 4 : -4], "<u8").reshape(4, 2).copy()
    index[0] = 0, len(record)
    encoded = index.tobytes()
    path.write_bytes(record + encoded + google_crc32c.value(encoded).to_bytes(4, "little"))
    with little_memory(), pytest.raises(OrsanetError, match=r"segmentation_map.*damaged"):
        PriorStore.open(store).read("train", "clean", "segmentation_map", np.array([0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_an_error(
    small: Small, tmp_path: Path, in_time: None, kind: str
) -> None:
    store, names = small.copy(tmp_path), {"train": ["clean"]}
    path = store / KINDS[kind]
    path.unlink()
    path.mkdir()
    with pytest.raises(OrsanetError, match=str(store)):
        everything(store, names)
    path.rmdir()
    path.symlink_to(path.name)
    with pytest.raises(OrsanetError, match=str(store)):
        everything(store, names)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OrsanetError, match=str(store)):
        everything(store, names)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_a_terabyte_is_an_error_that_costs_nothing(
    small: Small, tmp_path: Path, in_time: None, kind: str
) -> None:
    store = small.copy(tmp_path)
    os.truncate(store / KINDS[kind], 2**40)  # all but its beginning is a hole
    with little_memory(), pytest.raises(OrsanetError, match=str(store)):
        everything(store, {"train": ["clean"]})
