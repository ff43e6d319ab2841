"""Files of a sealed store that are damaged."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damages import KINDS, damages, flipped, put
from small_store import Small, answer, everything

from orsanet_cache import PriorStore


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_an_error_or_makes_no_difference_never_other_data(
    small: Small, tmp_path: Path, in_time: None, kind: str
) -> None:
    store, names = small.copy(tmp_path), {"train": ["clean"]}
    wanted, path = everything(store, names), store / KINDS[kind]
    original = path.read_bytes()
    errors = 0
    for what, data in damages(original, random.Random(kind)):
        put(path, data)
        found, said = answer(lambda: everything(store, names))
        assert str(store) in said if said else found == wanted, what
        errors += bool(said)
        put(path, original)
    assert errors >= 10  # at least what is lost altogether
    assert everything(store, names) == wanted


@pytest.mark.parametrize("kind", ["shard", "compressed shard"])
def test_a_shard_damaged_anywhere_is_always_an_error(small: Small, tmp_path: Path, kind: str) -> None:
    store = small.copy(tmp_path)
    path = store / KINDS[kind]
    field, original = path.parent.name, path.read_bytes()
    for what, data in damages(original, random.Random(kind)):
        put(path, data)
        _, said = answer(lambda: PriorStore.open(store).read("train", "clean", field, slice(None)))
        assert f"train/clean/{field} is damaged" in said, what
        assert "orsanet-cache verify" in said, what
        put(path, original)


def test_each_question_alone_is_answered_or_refused_over_damaged_metadata(small: Small, tmp_path: Path) -> None:
    store = small.copy(tmp_path)
    questions: dict[str, Callable[[PriorStore], Any]] = {
        "recipe": lambda opened: opened.recipe,
        "rows_per_unit": lambda opened: opened.rows_per_unit,
        "splits": lambda opened: opened.splits,
        "all_views": lambda opened: opened.all_views("train"),
        "sample_ids": lambda opened: opened.sample_ids("train"),
        "accepted": lambda opened: opened.accepted("train", "clean"),
        "provenance": lambda opened: opened.provenance("train", "clean"),
        "nbytes": lambda opened: opened.nbytes(),
    }
    chance = random.Random(4)
    for name in ("zarr.json", "train/zarr.json", "train/sample_id/zarr.json", "train/clean/zarr.json"):
        path = store / name
        original = path.read_bytes()
        keys = [
            key.encode() for key in ("recipe", "schema", "rows_per_unit", "provenance", "seal", "rejected", "shape")
        ]
        other = [original.replace(b'"%s"' % key, b'"other"') for key in keys if b'"%s"' % key in original]
        for data in [*other, *(flipped(original, chance) for _ in range(60))]:
            path.write_bytes(data)
            for ask in questions.values():
                answer(lambda: ask(PriorStore.open(store)))  # noqa: B023
        path.write_bytes(original)
