"""An evaluation's folder reads back as it was written, whole or not at all."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orsanet_cache import OrsanetError, Sample
from orsanet_train.config import ModelConfig
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.metrics import group_report
from orsanet_train.evaluation.predictions import Evaluation, labels_of, predictions_table, probability_columns
from orsanet_train.model.checkpoint import Identity

CLASSES = ("anger", "happiness", "neutral")


@pytest.fixture
def evaluation() -> Evaluation:
    """Six images of split `test`, every second of which is occluded, predicted at random."""
    identity = Identity(
        classes=CLASSES, model=ModelConfig(), segmentation_channels=8, landmark_channels=8, store_recipe={"precision": "fp32"},
        ir50_sha256=None, epoch=2, data_set="small", train_split="train", selection="best", selection_split="valid",
        selection_accuracy=2 / 3,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    tags = [frozenset({"occluded"}) if index % 2 else frozenset() for index in range(6)]
    samples = tuple(Sample(f"images/test_{index}.png", index % 3, "test", tags[index]) for index in range(6))
    probabilities = rng.dirichlet(np.ones(3), 6).astype(np.float32)
    table = predictions_table(samples, np.arange(6) % 3, probabilities, CLASSES, "test", "clean")
    reports = []
    for name in ("test", "test:occluded"):
        of_group = table[Group.parse(name).of(table)]
        shares = of_group[probability_columns(CLASSES)].to_numpy()
        reports.append(group_report(name, labels_of(of_group, CLASSES), shares, CLASSES))
    features = rng.normal(size=(6, 4)).astype(np.float32)
    return Evaluation(
        identity,
        "best.safetensors",
        "small",
        "/a/store",
        {"test/clean": "00ff"},
        ("a note",),
        tuple(reports),
        table,
        features,
    )


def test_an_evaluation_reads_back_as_it_was_written(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path)
    read = Evaluation.read(tmp_path)
    pd.testing.assert_frame_equal(read.table, evaluation.table, check_exact=True)
    assert np.array_equal(read.features, evaluation.features)
    assert read.groups == evaluation.groups
    assert (read.checkpoint, read.weights, read.manifest, read.store, read.notes, read.protocol) == (
        evaluation.checkpoint, evaluation.weights, evaluation.manifest, evaluation.store, evaluation.notes, evaluation.protocol,
    )  # fmt: skip


@pytest.mark.parametrize("file", ["evaluation.json", "predictions.csv", "features.npy"])
def test_half_an_evaluation_is_refused(evaluation: Evaluation, tmp_path: Path, file: str) -> None:
    evaluation.write(tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(OrsanetError, match="run `orsanet-train evaluate` again"):
        Evaluation.read(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(OrsanetError, match="orsanet-train evaluate"):
        Evaluation.read(tmp_path)


@pytest.mark.parametrize(
    "names",
    [["NA", "1", "1.0", "a\rb", 'a,"b', "two\nlines"], ["=1+1", "+1", "-1", "@a", "\ta", "'=1"], ["'", "''", "'-'", "\r=", "'a", "="]],
)  # fmt: skip
def test_names_that_look_like_something_else_come_back_as_text(
    evaluation: Evaluation, tmp_path: Path, names: list[str]
) -> None:
    odd = evaluation.table.assign(image=names, tags=names, predicted=names)
    replace(evaluation, table=odd).write(tmp_path)
    read = Evaluation.read(tmp_path).table
    for column in ("image", "tags", "predicted"):
        assert read[column].tolist() == names
    with (tmp_path / "predictions.csv").open(newline="") as file:
        cells = [cell for row in csv.DictReader(file) for cell in (row["image"], row["tags"], row["predicted"])]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_an_evaluation_that_was_edited_is_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path)
    path = tmp_path / "predictions.csv"
    path.write_text(path.read_text().replace("images/test_0.png", "images/test_9.png"))
    with pytest.raises(OrsanetError, match=r"predictions\.csv changed since"):
        Evaluation.read(tmp_path)
