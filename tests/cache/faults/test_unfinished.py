"""Files of an unfinished store that are damaged."""

import random
import shutil
from pathlib import Path

import pytest
from damages import damages, put
from small_store import Small, answer, content


def test_what_a_kill_leaves_is_completed_to_the_same_store(small: Small, begun: Path, tmp_path: Path) -> None:
    names = {str(path.relative_to(begun)) for path in begun.rglob("*")}
    assert {
        ".commits/train/clean/000000.json", ".commits/parts/1of1.lock", ".commits/parts/1of1/landmarks.shard",
        "train/clean/image/c.1.0.0.0",
    } <= names  # fmt: skip
    shutil.copytree(begun, tmp_path / "store.zarr")
    small.build(tmp_path / "store.zarr")
    assert content(tmp_path / "store.zarr") == content(small.store)


BEGUN_KINDS = {
    "marker": ".commits/train/clean/000000.json",
    "lock": ".commits/parts/1of1.lock",
    "temporary": ".commits/parts/1of1/landmarks.shard",
    "temporary of a beginning": ".commits/begun-elsewhere-1",
    "shard": "train/clean/landmark_features/c.0.0.0.0",
    "shard without a marker": "train/clean/image/c.1.0.0.0",
    "compressed shard": "train/clean/segmentation_map/c.0.0.0",
    "sample ids": "train/sample_id/c.0.0",
    "sample id metadata": "train/sample_id/zarr.json",
    "field metadata": "train/clean/image/zarr.json",
    "split metadata": "train/zarr.json",
    "view metadata": "train/clean/zarr.json",
    "root metadata": "zarr.json",
}


@pytest.mark.parametrize("kind", BEGUN_KINDS)
def test_a_damaged_file_of_an_unfinished_store_is_mended_or_named(
    small: Small, begun: Path, tmp_path: Path, in_time: None, kind: str
) -> None:
    wanted = content(small.store)
    original = (begun / BEGUN_KINDS[kind]).read_bytes()
    for what, data in damages(original, random.Random(kind), flips=6):
        if data == original:
            continue  # an empty lock file, emptied
        out = tmp_path / "store.zarr"
        shutil.copytree(begun, out)
        put(out / BEGUN_KINDS[kind], data)
        _, said = answer(lambda: small.build(out))  # noqa: B023
        assert str(out) in said if said else content(out) == wanted, what
        shutil.rmtree(out)


METADATA_FLIPS = [  # text -> what one or two flipped bits make of it: still JSON, and still what an array or a group may say
    ("zarr.json", b'"rows_per_unit": 4', b'"rows_per_unit": 5'),
    ("zarr.json", b'"rows_per_unit": 4', b'"rows_per_unit": 0'),
    ("zarr.json", b'"rows_per_unit"', b'"rows_per_unat"'),
    ("zarr.json", b'"recipe"', b'"recipa"'),
    ("train/zarr.json", b'"group"', b'"groep"'),
    ("train/clean/zarr.json", b'"group"', b'"groep"'),
    ("train/clean/image/zarr.json", b'"image_y"', b'"image_q"'),
    ("train/clean/image/zarr.json", b'"fill_value": 0', b'"fill_value": 1'),
    ("train/sample_id/zarr.json", b'"byte"', b'"bite"'),
]


@pytest.mark.parametrize(("name", "text", "other"), METADATA_FLIPS)
def test_metadata_of_an_unfinished_store_that_says_something_else_is_mended_or_named(
    small: Small, begun: Path, tmp_path: Path, in_time: None, name: str, text: bytes, other: bytes
) -> None:
    out = tmp_path / "store.zarr"
    shutil.copytree(begun, out)
    before = (out / name).read_bytes()
    assert before.count(text) == 1
    (out / name).write_bytes(before.replace(text, other))
    _, said = answer(lambda: small.build(out))
    assert str(out) in said if said else content(out) == content(small.store)
