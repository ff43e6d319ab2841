"""A run folder is resumed only with the same images, and its damaged files are named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orsanet_cache import OrsanetError
from orsanet_train.config import load_config
from orsanet_train.evaluation.history import CLASS_COUNTS
from orsanet_train.run.folder import IMAGE_FILES, SEALS, begin_folder, check_folder, record_versions

CONFIG = load_config("small")
DATA: dict[str, Any] = {"classes": ["a", "b"], "store": {"precision": "fp32"}, IMAGE_FILES: "00ff"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    begin_folder(tmp_path, CONFIG, DATA)
    record_versions(tmp_path, 1)
    return tmp_path


def resumed(folder: Path) -> None:
    """What is read of the folder when a run is resumed in its second epoch."""
    check_folder(folder, CONFIG, DATA, resume=True)
    record_versions(folder, 2)


def test_a_run_is_resumed_with_the_same_images(folder: Path) -> None:
    check_folder(folder, CONFIG, DATA, resume=True)
    with pytest.raises(OrsanetError, match=f'{IMAGE_FILES}: "00ff" before, "other" now'):
        check_folder(folder, CONFIG, {**DATA, IMAGE_FILES: "other"}, resume=True)


@pytest.mark.parametrize("added", [IMAGE_FILES, CLASS_COUNTS, SEALS])
def test_a_run_from_before_a_value_was_recorded_is_resumed(folder: Path, added: str) -> None:
    now = {**DATA, CLASS_COUNTS: {"anger": 3}, SEALS: {"train/clean": "00ff"}}
    (folder / "run.json").write_text(json.dumps({key: value for key, value in now.items() if key != added}))
    check_folder(folder, CONFIG, now, resume=True)


BROKEN = ["", "[" * 100_000, '{"store":' * 500 + "1" + "}" * 500, "null", "7", "[]", '{"classes": NaN}', "{", "\0"]


@pytest.mark.parametrize("text", BROKEN)
@pytest.mark.parametrize("file", ["run.json", "versions.json"])
def test_a_damaged_file_is_named_with_what_to_do(folder: Path, file: str, text: str) -> None:
    if (file, text) == ("versions.json", "[]"):
        text = '[{"from_epoch": 1}]'
    (folder / file).write_text(text)
    with pytest.raises(OrsanetError, match=rf"{file}: damaged \(.*; restore it from a copy"):
        resumed(folder)


@pytest.mark.parametrize("file", ["run.json", "versions.json", "config.toml", "metrics.csv"])
def test_a_pipe_in_a_run_folder_is_refused(folder: Path, file: str) -> None:
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    with pytest.raises(OrsanetError, match=f"{file}: .*not a regular file"):
        resumed(folder)


@pytest.mark.parametrize("text", ["", "\n", "epoch\n"])
def test_an_empty_history_is_named(folder: Path, text: str) -> None:
    (folder / "metrics.csv").write_text(text)
    with pytest.raises(OrsanetError, match=r"metrics\.csv: damaged \(.*; restore it from a copy, or delete it"):
        check_folder(folder, CONFIG, DATA, resume=True)
