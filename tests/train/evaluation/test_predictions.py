"""An evaluation's folder reads back as it was written, whole or not at all."""

import csv
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orsanet_cache import OrsanetError, Sample
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.metrics import group_report
from orsanet_train.evaluation.predictions import Evaluation, labels_of, predictions_table, probability_columns
from orsanet_train.model.checkpoint import Identity
from orsanet_train.model_config import ORSANetConfig

CLASSES = ("anger", "happiness", "neutral")


@pytest.fixture
def evaluation() -> Evaluation:
    """Six images of split `test`, every second of which is occluded, predicted at random."""
    identity = Identity(
        classes=CLASSES, model=ORSANetConfig(), segmentation_channels=8, landmark_channels=8, store_recipe={"precision": "fp32"},
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
    odd = evaluation.table.assign(image=names, tags=names)
    replace(evaluation, table=odd, groups=evaluation.groups[:1]).write(tmp_path)
    read = Evaluation.read(tmp_path).table
    for column in ("image", "tags"):
        assert read[column].tolist() == names
    with (tmp_path / "predictions.csv").open(newline="") as file:
        cells = [cell for row in csv.DictReader(file) for cell in (row["image"], row["tags"])]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_an_evaluation_that_was_edited_is_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path)
    path = tmp_path / "predictions.csv"
    path.write_text(path.read_text().replace("images/test_0.png", "images/test_9.png"))
    with pytest.raises(OrsanetError, match=r"predictions\.csv changed since"):
        Evaluation.read(tmp_path)


# --- a folder from somebody else ---


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """What is said of the evaluation after a change of evaluation.json that leaves the digests right."""
    path = folder / "evaluation.json"
    content = json.loads(path.read_text())
    for name in ("predictions.csv", "features.npy"):
        content["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(
        OrsanetError, match=r"not a complete evaluation \(.*run `orsanet-train evaluate` again"
    ) as refused:
        Evaluation.read(folder)
    return str(refused.value)


@pytest.mark.parametrize("name", ["../outside.csv", "pipe", "/dev/stdin", "/etc/hostname"])
def test_nothing_that_an_evaluation_names_is_opened(evaluation: Evaluation, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "evaluation"
    evaluation.write(folder)
    os.mkfifo(folder / "pipe")
    os.mkfifo(tmp_path / "outside.csv")  # whoever opens it waits
    assert "files that no evaluation has" in edited(folder, lambda content: content["sha256"].update({name: "0"}))
    (folder / "pipe").unlink()
    evaluation.write(folder)
    os.mkfifo(folder / "pipe")
    if "/" in name:
        assert "no file name" in edited(folder, lambda content: content["checkpoint"].update(file=name))


@pytest.mark.parametrize("file", ["evaluation.json", "predictions.csv", "features.npy"])
@pytest.mark.parametrize("target", ["/dev/zero", "../outside"])
def test_a_file_of_the_folder_that_is_elsewhere_is_not_opened(
    evaluation: Evaluation, tmp_path: Path, file: str, target: str
) -> None:
    evaluation.write(tmp_path / "evaluation")
    os.mkfifo(tmp_path / "outside")
    (tmp_path / "evaluation" / file).unlink()
    (tmp_path / "evaluation" / file).symlink_to(target)
    with pytest.raises(OrsanetError, match="orsanet-train evaluate"):
        Evaluation.read(tmp_path / "evaluation")


@pytest.mark.parametrize("text", ["[" * 100_000, "", "[]", "null", '{"checkpoint": ' * 300 + "1" + "}" * 300, "NaN"])
def test_an_evaluation_that_is_no_evaluation_is_refused(evaluation: Evaluation, tmp_path: Path, text: str) -> None:
    evaluation.write(tmp_path)
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(OrsanetError, match=r"not a complete evaluation \(.*run `orsanet-train evaluate` again"):
        Evaluation.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("groups"),
        lambda content: content.update(store=7),
        lambda content: content.update(sha256=[]),
        lambda content: content["checkpoint"].pop("file"),
        lambda content: content["checkpoint"].update(landmark_channels=10**15),
        lambda content: content["groups"][0].update(images=10**400),
        lambda content: content["groups"][0].update(name="valid"),
        lambda content: content["groups"][0].update(confusion=[[6]]),
        lambda content: content["groups"][0].update(confusion=[[], [], []]),
        lambda content: content["groups"][0]["classes"].pop("anger"),
        lambda content: content["groups"][0].update(accuracy={"value": "high", "low": None, "high": None}),
    ],
)
def test_an_evaluation_whose_parts_do_not_fit_is_refused(
    evaluation: Evaluation, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    evaluation.write(tmp_path)
    edited(tmp_path, change)


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(6, 5)", "(4294967296, 4294967296)", "(24,)"])
def test_features_that_announce_another_size_are_refused(evaluation: Evaluation, tmp_path: Path, shape: str) -> None:
    evaluation.write(tmp_path)
    start = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    header = b"\x93NUMPY\x01\x00" + len(start).to_bytes(2, "little") + start
    (tmp_path / "features.npy").write_bytes(header + b"\0" * 96)
    edited(tmp_path, lambda content: None)


@pytest.mark.parametrize("table", ["", "\n", "split,view\n", '"' * 100, "\0" * 100])
def test_a_table_that_is_none_is_refused(evaluation: Evaluation, tmp_path: Path, table: str) -> None:
    evaluation.write(tmp_path)
    (tmp_path / "predictions.csv").write_text(table)
    edited(tmp_path, lambda content: None)


def test_an_evaluation_from_before_the_counts_of_known_images_is_read(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path)
    path = tmp_path / "evaluation.json"
    content = json.loads(path.read_text())
    for group in content["groups"]:
        del group["chose_images"], group["trained_images"]
    path.write_text(json.dumps(content))
    assert [group.trained_images for group in Evaluation.read(tmp_path).groups] == [None, None]


def test_an_evaluation_from_before_dates_versions_and_baselines_is_read(evaluation: Evaluation, tmp_path: Path) -> None:
    made = replace(evaluation, date="2026-01-31T12:00:00+00:00", versions={"orsanet": "0.1.0"})
    made.write(tmp_path)
    assert (Evaluation.read(tmp_path).date, Evaluation.read(tmp_path).versions) == (made.date, made.versions)
    path = tmp_path / "evaluation.json"
    content = json.loads(path.read_text())
    del content["date"], content["versions"]
    for group in content["groups"]:
        del group["baselines"]
    path.write_text(json.dumps(content))
    read = Evaluation.read(tmp_path)
    assert (read.date, read.versions, [group.baselines for group in read.groups]) == (None, {}, [None, None])
