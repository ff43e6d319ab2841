"""Every public data set's folder becomes a manifest with its labels, splits and tags, and every wrong folder ends in one sentence.

The trees imitate the downloads: their names, lists and label numbers, with a few tiny pictures. Counts and list lines are the published ones.
"""

from pathlib import Path

import numpy as np
import pytest
from data_set_trees import (
    AFFECTNET_EXPRESSIONS,
    FERPLUS_HEADER,
    FERPLUS_ROWS,
    RAF_TEST,
    RAF_TRAIN,
    draw,
    hashed,
    write_lines,
)
from PIL import Image

from orsanet_cache.layouts import affectnet_lists


@pytest.fixture
def raf(tmp_path: Path) -> Path:
    """RAF-DB's folder `basic`: every label twice in train, once in test."""
    root = tmp_path / "basic"
    entries = [(f"train_{i:05d}", (i - 1) % 7 + 1) for i in range(1, RAF_TRAIN + 1)]
    entries += [(f"test_{i:04d}", i) for i in range(1, RAF_TEST + 1)]
    write_lines(root / "EmoLabel/list_patition_label.txt", (f"{name}.jpg {label}" for name, label in entries))
    for name, _ in entries:
        draw(root / "Image/aligned" / f"{name}_aligned.jpg", (100, 100))
    return root


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """AffectNet's first release: three training pictures of each class and four without one; one of each class to validate."""
    root = tmp_path / "AffectNet"
    header = ",".join(affectnet_lists.COLUMNS)

    def row(index: int, expression: int) -> str:
        name = f"{index % 3}/{hashed(index)}.jpg"
        draw(root / "Manually_Annotated_Images" / name)
        return f"{name},4,5,12,12,1.0;2.0;3.0;4.0,{expression},-0.5,0.25"

    folder = root / "Manually_Annotated_file_lists"
    training = [row(index, expression) for index, expression in enumerate(AFFECTNET_EXPRESSIONS)]
    validation = [row(100 + expression, expression) for expression in range(8)]
    write_lines(folder / "training.csv", [header, *training])
    write_lines(folder / "validation.csv", validation)  # circulates without a header
    return root


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """AffectNet's later release, with annotations as text and as numbers."""
    root = tmp_path / "AffectNet2021"

    def add(folder: str, number: int, expression: int) -> None:
        draw(root / folder / "images" / f"{number}.jpg", (224, 224))
        annotations = root / folder / "annotations"
        annotations.mkdir(parents=True, exist_ok=True)
        np.save(annotations / f"{number}_exp.npy", np.array(str(expression) if number % 2 else expression))
        np.save(annotations / f"{number}_aro.npy", np.array(0.5))

    for number, expression in enumerate(AFFECTNET_EXPRESSIONS):
        add("train_set", number, expression)
    for expression in range(8):
        add("val_set", expression, expression)  # its numbers begin again
    return root


@pytest.fixture
def photographs(lists: Path) -> Path:
    """The first release with a face of one colour, and everything else of another, in every picture."""
    for path in (lists / "Manually_Annotated_Images").rglob("*.jpg"):
        photograph = Image.new("RGB", (90, 70), (20, 20, 160))
        photograph.paste((200, 150, 120), (30, 24, 30 + 32, 24 + 40))
        photograph.save(path, quality=100, subsampling=0)
    for table in (lists / "Manually_Annotated_file_lists").iterdir():
        table.write_text(table.read_text().replace(",4,5,12,12,", ",30,24,32,40,"))
    return lists


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    for split, count in {"train": 3, "valid": 1, "test": 2}.items():
        for name in ("anger", "happiness", "neutral"):
            for number in range(1, count + 1):
                draw(root / split / name / f"{split}-{name}-{number}.png")
    return root


@pytest.fixture
def occlu(tmp_path: Path) -> Path:
    root = tmp_path / "Occlu-FER"
    for split, count in {"train": 2, "valid": 1}.items():
        for folder in ("AN", "CO", "DI", "FE", "HA", "NE", "SA", "SU"):
            for number in range(count):
                draw(root / split / folder / f"{folder}{number}.jpg")
    return root


@pytest.fixture
def fer(tmp_path: Path) -> Path:
    root = tmp_path / "FERPlus"
    write_lines(root / "fer2013new.csv", [FERPLUS_HEADER, *FERPLUS_ROWS])
    folder = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
    for row in FERPLUS_ROWS:
        usage, name = row.split(",")[:2]
        if name:
            draw(root / "data" / folder[usage] / name, (48, 48))
    return root
