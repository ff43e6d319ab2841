"""Predictions of another program: a right file gives what the run gives that it was made from, and each mistake is named."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orsanet_cache import OrsanetError
from orsanet_train.config import load_config
from orsanet_train.evaluation.compare import compare
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.evaluation.predictions import PREDICTIONS
from orsanet_train.report.report import make_report
from orsanet_train.run.train import train

TINY = (
    "epochs=1", "batch_size=7", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two evaluated runs."""
    folder = tmp_path_factory.mktemp("outside")
    for name, seed in (("first", 0), ("second", 1)):
        train(load_config("small", [*TINY, f"seed={seed}"]), world.manifest, world.store, folder / name, device="cpu")
        evaluate(folder / name, world.manifest, world.store, groups=["test", "test:occluded", "valid"], device="cpu")
    return folder / "first", folder / "second"


@pytest.fixture
def table(runs: tuple[Path, Path]) -> pd.DataFrame:
    """Predictions of the second run."""
    return pd.read_csv(runs[1] / "evaluation-best" / PREDICTIONS)


def written(table: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "theirs.csv"
    table.to_csv(path, index=False)
    return path


def refusal(runs: tuple[Path, Path], table: pd.DataFrame, tmp_path: Path) -> str:
    with pytest.raises(OrsanetError) as caught:
        compare([runs[0], written(table, tmp_path)])
    return str(caught.value)


SHARES = ["p_anger", "p_happiness", "p_neutral"]


@pytest.mark.parametrize(
    "columns", [["split", "view", "image", "predicted", *SHARES], ["image", "predicted"], ["image", *SHARES]]
)
def test_a_right_file_gives_the_tests_of_the_run_it_was_made_from(
    runs: tuple[Path, Path], table: pd.DataFrame, columns: list[str], tmp_path: Path
) -> None:
    theirs, ours = compare([runs[0], written(table[columns], tmp_path)]), compare(runs)
    assert [each.group for each in theirs.differences] == ["test", "test:occluded", "valid"]
    for found, expected in zip(theirs.differences, ours.differences, strict=True):
        assert found.pairs == expected.pairs
    accuracies = {one.group: one.mean for one in theirs.accuracies if one.run == "theirs.csv"}
    assert accuracies == {one.group: one.mean for one in ours.accuracies if one.run == "second"}
    assert "how it was trained and chosen is not known" in theirs.protocols[1]


def test_file_names_are_enough_and_groups_without_an_image_are_left_out(
    runs: tuple[Path, Path], table: pd.DataFrame, tmp_path: Path
) -> None:
    test = table[table["split"] == "test"]
    short = test.assign(image=test["image"].str.rpartition("/")[2])[["image", "predicted"]]
    comparison = compare([runs[0], written(short, tmp_path)])
    assert [each.group for each in comparison.differences] == ["test", "test:occluded"]
    assert "theirs.csv was not evaluated on valid: left out" in comparison.notes


def test_a_missing_image_is_named(runs: tuple[Path, Path], table: pd.DataFrame, tmp_path: Path) -> None:
    gone = table.loc[table["split"] == "test", "image"].iloc[2]
    said = refusal(runs, table[table["image"] != gone], tmp_path)
    assert "lacks 1 of the 6 images of 'test'" in said
    assert said.endswith(gone)


def test_classes_in_another_order_are_noted_and_taken_by_name(
    runs: tuple[Path, Path], table: pd.DataFrame, tmp_path: Path
) -> None:
    turned = table[["image", *SHARES[::-1]]]
    comparison = compare([runs[0], written(turned, tmp_path)])
    assert any("classes in another order (p_neutral, p_happiness, p_anger)" in note for note in comparison.notes)
    assert comparison.differences[0].pairs == compare(runs).differences[0].pairs


def test_columns_under_the_names_of_other_classes_are_named(
    runs: tuple[Path, Path], table: pd.DataFrame, tmp_path: Path
) -> None:
    wrong = table[["image", "predicted", *SHARES]].rename(
        columns=dict(zip(SHARES, [*SHARES[1:], SHARES[0]], strict=True))
    )
    said = refusal(runs, wrong, tmp_path)
    assert "predicted is not the class with the largest probability in" in said
    assert "may have the names of other classes" in said


def test_percentages_and_other_sums_are_named(runs: tuple[Path, Path], table: pd.DataFrame, tmp_path: Path) -> None:
    percent = table.assign(**{name: 100 * table[name] for name in SHARES})
    assert "has percentages, which sum to 100; divide them by 100" in refusal(runs, percent, tmp_path)
    halved = table.assign(p_anger=np.where(table.index == 1, 0.9, table["p_anger"]))
    assert f"1 row(s) do not have probabilities of 0 … 1 that sum to 1, {table['image'][1]}" in refusal(
        runs, halved, tmp_path
    )
    words = table.assign(p_anger="much")
    assert "do not have probabilities of 0 … 1" in refusal(runs, words, tmp_path)


def test_other_classes_columns_rows_and_images_are_named(
    runs: tuple[Path, Path], table: pd.DataFrame, tmp_path: Path
) -> None:
    plain = table[["image", "predicted"]]
    assert "predicts 'angr', which is none of the classes anger, happiness, neutral; did you mean 'anger'?" in refusal(
        runs, plain.assign(predicted="angr"), tmp_path
    )
    assert "has neither a column predicted nor one for every class: p_anger" in refusal(
        runs, plain[["image"]], tmp_path
    )
    assert "lacks the column p_neutral" in refusal(runs, table[["image", *SHARES[:2]]], tmp_path)
    assert "has the column p_joy" in refusal(runs, table[["image", *SHARES]].assign(p_joy=0), tmp_path)
    assert "more than one row for images/" in refusal(runs, pd.concat([plain, plain[:1]]), tmp_path)
    assert "none of its images is one of the evaluated ones, such as images/" in refusal(
        runs, plain.assign(image=[f"other/{n}.png" for n in range(len(plain))]), tmp_path
    )
    assert "no table of predictions: it needs a column image" in refusal(runs, table[["predicted"]], tmp_path)
    with pytest.raises(OrsanetError, match=r"theirs\.csv: name an evaluated run first"):
        compare([written(plain, tmp_path), runs[0]])


def test_a_report_compares_it_with_the_run(runs: tuple[Path, Path], table: pd.DataFrame, tmp_path: Path) -> None:
    report, sources = make_report([runs[0], written(table[["image", "predicted"]], tmp_path)])
    assert [run.name for run in report.runs] == ["first"]
    assert len(sources) == 1
    assert report.comparison is not None
    assert report.comparison.runs == ("first", "theirs.csv")
