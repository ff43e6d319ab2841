"""From a download folder to an evaluated model: every layout's own labels arrive in the predictions, whatever it calls its files.

The trees are as the data sets are downloaded, with drawn faces for pictures.
"""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

import orsanet_cache.cli
import orsanet_train.cli
from orsanet_cache.synthetic.picture import draw

SEVEN = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
EIGHT = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
FOLDERS = {
    "AN": "anger", "CO": "contempt", "DI": "disgust", "FE": "fear", "HA": "happiness", "NE": "neutral", "SA": "sadness", "SU": "surprise",
}  # fmt: skip
VOTED = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
OWN = ("happiness", "anger", "neutral")
TINY = (
    "epochs=1", "batch_size=4", "rho=0.0", "loss.warmup_epochs=1", "model.depth=1", "model.width=32", "model.multi_scale=false",
    "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]",
)  # fmt: skip

Place = Callable[[str], None]  # puts the next face at a path below the root
Labels = dict[tuple[str, str], str]  # (split, path below the root) -> class


def rafdb(root: Path, place: Place) -> Labels:
    lines, labels = [], {}
    for split, count in {"train": 7, "test": 7}.items():
        for number in range(count):
            name = f"{split}_{number + 1:05d}"
            place(f"Image/aligned/{name}_aligned.jpg")
            lines.append(f"{name}.jpg {number % 7 + 1}")
            labels[split, f"Image/aligned/{name}_aligned.jpg"] = SEVEN[number % 7]
    write(root / "EmoLabel/list_patition_label.txt", lines)
    return labels


def affectnet_lists(root: Path, place: Place) -> Labels:
    labels = {}
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    for split, name, count in (("train", "training", 8), ("valid", "validation", 8)):
        lines = [header]
        for number in range(count):
            picture = f"{number % 3}/{name}{number:04d}.jpg"
            place(f"Manually_Annotated_Images/{picture}")
            lines.append(f"{picture},10,10,140,140,1.0;2.0,{number % 8},0.1,0.2")
            # The manifest's root is the folder of the crops, which keeps the list's paths.
            labels[split, picture] = EIGHT[number % 8]
        write(root / f"Manually_Annotated_file_lists/{name}.csv", lines)
    return labels


def affectnet_release(root: Path, place: Place) -> Labels:
    labels = {}
    for split, folder, count in (("train", "train_set", 7), ("valid", "val_set", 7)):
        (root / folder / "annotations").mkdir(parents=True)
        for number in range(count):
            place(f"{folder}/images/{number}.jpg")
            np.save(root / folder / "annotations" / f"{number}_exp.npy", np.array(str(number % 7)))
            labels[split, f"{folder}/images/{number}.jpg"] = EIGHT[number % 7]
    return labels


def occlu_fer(_root: Path, place: Place) -> Labels:
    labels = {}
    for split, count in {"train": 1, "valid": 1}.items():
        for folder, name in FOLDERS.items():
            for number in range(count):
                place(f"{split}/{folder}/{number}.jpg")
                labels[split, f"{split}/{folder}/{number}.jpg"] = name
    return labels


def ferplus(root: Path, place: Place) -> Labels:
    lines, labels, number = [f"Usage,Image name,{','.join(VOTED)},unknown,NF"], {}, 0
    for split, usage, folder, count in (
        ("train", "Training", "FER2013Train", 8), ("valid", "PublicTest", "FER2013Valid", 8), ("test", "PrivateTest", "FER2013Test", 8),
    ):  # fmt: skip
        for index in range(count):
            name = f"fer{number:07d}.png"
            place(f"{folder}/{name}")
            votes = [7 if label == index % 8 else 0 for label in range(8)]
            lines.append(",".join(map(str, (usage, name, *votes, 2, 1))))
            labels[split, f"{folder}/{name}"] = VOTED[index % 8]
            number += 1
    write(root / "fer2013new.csv", lines)
    return labels


def folders(_root: Path, place: Place) -> Labels:
    labels = {}
    for split, count in {"train": 2, "valid": 2, "test": 2}.items():
        for name in OWN:
            for number in range(count):
                place(f"{split}/{name}/{number}.jpg")
                labels[split, f"{split}/{name}/{number}.jpg"] = name
    return labels


class Layout(NamedTuple):
    """A data set as it is downloaded, and the options that turn it into a manifest and a model."""

    command: str
    tree: Callable[[Path, Place], Labels]
    options: tuple[str, ...]
    classes: tuple[str, ...]  # in label order
    preset: str
    evaluated: tuple[str, ...]  # splits


LAYOUTS = {
    "rafdb": Layout("rafdb", rafdb, (), SEVEN, "rafdb", ("test",)),
    "affectnet-2017": Layout(
        "affectnet", affectnet_lists, ("--classes", "8", "--crops", "crops"), EIGHT, "affectnet8", ("valid",)
    ),
    "affectnet-2021": Layout("affectnet", affectnet_release, ("--classes", "7"), EIGHT[:7], "affectnet7", ("valid",)),
    "occlu-fer": Layout("occlu-fer", occlu_fer, (), tuple(FOLDERS.values()), "occlu-fer", ("valid",)),
    "ferplus": Layout("ferplus", ferplus, (), VOTED, "small", ("valid", "test")),
    "folders": Layout("folders", folders, ("--classes", ",".join(OWN)), OWN, "small", ("valid", "test")),
}


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="module")
def faces() -> list[bytes]:
    """JPEG files of different people, one each."""
    return [draw(seed=5, index=4 * number).jpeg for number in range(32)]


def placing(root: Path, faces: list[bytes]) -> Place:
    drawn: Iterator[bytes] = iter(faces)

    def place(path: str) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(next(drawn))

    return place


def done(program: str, *arguments: object) -> str:
    """What a command says that ends well."""
    main = {"orsanet-cache": orsanet_cache.cli.main, "orsanet-train": orsanet_train.cli.main}[program]
    result = CliRunner().invoke(main, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", LAYOUTS)
def test_from_the_download_to_the_evaluation_every_picture_keeps_its_label(
    name: str, world, faces: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = LAYOUTS[name]
    monkeypatch.chdir(tmp_path)  # commands as a user types them, in the folder of the data
    labels = layout.tree(Path("download"), placing(Path("download"), faces))

    done("orsanet-cache", "manifest", layout.command, "download", *layout.options, "--out", "data.toml")
    found = done("orsanet-cache", "doctor", "data.toml")
    assert "error" not in found.lower()
    done(
        "orsanet-cache", "build", "data.toml", "--out", "store.zarr", "--segmenter", world.segmenter, "--landmarks", world.landmarks,
        "--device", "cpu",
    )  # fmt: skip
    settings = [part for setting in TINY for part in ("--set", setting)]
    done(
        "orsanet-train", "run", "--store", "store.zarr", "--manifest", "data.toml", "--preset", layout.preset, *settings, "--out", "run",
        "--device", "cpu",
    )  # fmt: skip
    done("orsanet-train", "evaluate", "run", "--store", "store.zarr", "--manifest", "data.toml", "--device", "cpu")

    predictions = pd.read_csv("run/evaluation-best/predictions.csv")
    said = {(row.split, row.image): row.label for row in predictions.itertuples()}
    assert said == {place: label for place, label in labels.items() if place[0] in layout.evaluated}
    assert set(said.values()) == set(layout.classes)
    columns = [column.removeprefix("p_") for column in predictions.columns if column.startswith("p_")]
    assert columns == list(layout.classes)


def test_the_validation_set_that_lacks_one_picture_is_named(
    faces: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = tmp_path / "face.jpg"
    Image.open(io.BytesIO(faces[0])).resize((56, 56)).save(picture)  # thousands are read
    for folder, count in (("train_set", 4_000), ("val_set", 3_999)):
        (tmp_path / "download" / folder / "images").mkdir(parents=True)
        (tmp_path / "download" / folder / "annotations").mkdir()
        for number in range(count):
            (tmp_path / "download" / folder / "images" / f"{number}.jpg").hardlink_to(picture)
            np.save(tmp_path / "download" / folder / "annotations" / f"{number}_exp.npy", np.array(number % 8))
    printed = done("orsanet-cache", "manifest", "affectnet", "download", "--classes", "8", "--out", "affectnet8.toml")
    assert re.search(r"valid +total +3,999 +published +4,000 +-1", printed)
    looked = CliRunner().invoke(orsanet_cache.cli.main, ["doctor", "affectnet8.toml"])
    assert looked.exit_code == 1  # all pictures are the same here
    assert (
        "valid has 3,999 pictures and the published runs 4,000: AffectNet's release of 2021 lacks one" in looked.output
    )
