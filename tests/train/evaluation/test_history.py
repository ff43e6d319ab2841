"""metrics.csv is read back as it was written, or called damaged with its name."""

import os
from pathlib import Path

import pandas as pd
import pytest

from orsanet_cache import OrsanetError
from orsanet_train.evaluation.history import COLUMNS, best_epoch, class_counts, read_history, read_versions

WHOLE = pd.DataFrame({name: [1, 2] if name == "epoch" else [0.5, 0.25] for name in COLUMNS})


def test_a_history_reads_back(tmp_path: Path) -> None:
    assert read_history(tmp_path) is None
    WHOLE.to_csv(tmp_path / "metrics.csv", index=False)
    pd.testing.assert_frame_equal(read_history(tmp_path)[WHOLE.columns], WHOLE)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"epoch,loss\n1,2\n", WHOLE.iloc[:0].to_csv(index=False).encode(), WHOLE.to_csv(index=False).encode() + b"3,",
        WHOLE.to_csv(index=False).replace("0.25", "inf").encode(), WHOLE.to_csv(index=False).replace("0.25", "good").encode(),
        b"\xff\xfe\0", b'"' * 1000, b"\0" * 1000, WHOLE.to_csv(index=False).encode() + b"1,2,3,4,5,6,7,8,9\n",
    ],
)  # fmt: skip
def test_a_damaged_history_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(OrsanetError, match=r"metrics\.csv: damaged \(.*; restore it from a copy, or delete it"):
        read_history(tmp_path)


def test_a_pipe_and_a_giant_are_no_history(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(OrsanetError, match="not a regular file"):
        read_history(tmp_path)
    (tmp_path / "metrics.csv").unlink()
    with (tmp_path / "metrics.csv").open("wb") as file:
        file.truncate(2**41)
    with pytest.raises(OrsanetError, match="more than the"):
        read_history(tmp_path)


def test_the_best_epoch_is_the_first_with_the_highest_accuracy() -> None:
    assert best_epoch(pd.DataFrame({"epoch": [1, 2, 3, 4], "selection_accuracy": [0.5, 0.75, 0.75, 0.25]})) == 2


def test_class_counts_are_those_of_the_run_or_not_recorded(tmp_path: Path) -> None:
    classes = ["fear", "anger"]
    file = tmp_path / "run.json"
    file.write_text('{"training_class_counts": {"fear": 3, "anger": 0}}')
    assert class_counts(tmp_path, classes) == {"fear": 3, "anger": 0}
    file.write_text("{}")
    assert class_counts(tmp_path, classes) is None
    for damaged in ("[3, 0]", '{"fear": 3}', '{"fear": 3, "anger": "0"}', '{"anger": 3, "fear": 0}'):
        file.write_text(f'{{"training_class_counts": {damaged}}}')
        with pytest.raises(OrsanetError, match=r"run\.json: damaged \(training_class_counts\)"):
            class_counts(tmp_path, classes)


def test_versions_are_those_of_the_run_or_not_recorded(tmp_path: Path) -> None:
    assert read_versions(tmp_path) == []
    (tmp_path / "versions.json").write_text('[{"from_epoch": 1, "versions": {"torch": "2"}}]')
    assert read_versions(tmp_path) == [{"from_epoch": 1, "versions": {"torch": "2"}}]
