"""metrics.csv is read back as it was written, or called damaged with its name."""

import os
from pathlib import Path

import pandas as pd
import pytest

from orsanet_cache import OrsanetError
from orsanet_train.evaluation.history import COLUMNS, read_history

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
