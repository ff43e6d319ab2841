"""Data sets as tables and as drawn files for the doctor, and what it finds in them."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from click.testing import CliRunner
from PIL import Image

from orsanet_cache.cli import main
from orsanet_cache.doctor.finding import Finding
from orsanet_cache.doctor.known import AFFECTNET, FERPLUS, OCCLU_FER, PUBLISHED_CAP, RAFDB, Known
from orsanet_cache.doctor.look import DataSet
from orsanet_cache.synthetic.picture import draw

PUBLIC = [RAFDB, AFFECTNET[7], AFFECTNET[8], OCCLU_FER, FERPLUS]
COUNTED = [known for known in PUBLIC if known.counts]


def name_of(known: Known) -> str:
    return known.name


def table(name: str, classes: Sequence[str], **columns: Any) -> DataSet:
    """A data set of good pictures, 224x224 and in colour, with the columns given; `label` at least."""
    size = len(columns["label"])
    numbers = np.arange(size).astype(str)
    defaults = {
        "image": np.char.add(np.char.add("images/", numbers), ".jpg"), "split": "train", "person": "", "problem": "",
        "sha256": numbers, "width": 224, "height": 224, "format": "JPEG", "quality": 90.0, "chroma": 40.0, "contrast": 45.0,
    }  # fmt: skip
    no_tags = pd.Series([frozenset[str]()] * size, dtype=object)
    pictures = pd.DataFrame({**defaults, "tags": no_tags, **columns}, index=range(size))
    return DataSet(name, tuple(classes), pictures, np.zeros((0, 32, 32), np.uint8))


def counted(name: str, classes: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> DataSet:
    """A data set with these numbers: split -> class -> pictures."""
    cells = [(split, label, size) for split, sizes in counts.items() for label, size in sizes.items()]
    splits, labels, sizes = zip(*cells, strict=True)
    return table(name, classes, label=np.repeat(labels, sizes), split=np.repeat(splits, sizes))


def published(known: Known, cap: int = PUBLISHED_CAP) -> dict[str, dict[str, int]]:
    """The numbers of the published runs."""
    return {
        split: {
            name: min(size, cap) if known in AFFECTNET.values() and split == "train" else size
            for name, size in sizes.items()
        }
        for split, sizes in known.counts.items()
    }


def topics(findings: Sequence[Finding], *severities: str) -> list[str]:
    return [finding.topic for finding in findings if not severities or finding.severity in severities]


def only(findings: Sequence[Finding], topic: str) -> Finding:
    found = [finding for finding in findings if finding.topic == topic]
    assert len(found) == 1, topics(findings)
    return found[0]


def named(finding: Finding) -> set[str]:
    return {image for place in finding.where for image in place.images}


def save(picture: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def mirror(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def doctor(*arguments: object, code: int = 0) -> tuple[str, str]:
    """(standard output, standard error) of the command, which ends with that exit code and not in a bug."""
    result = CliRunner().invoke(main, ["doctor", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def said(out: Path) -> dict[str, set[str]]:
    """topic -> every picture that the JSON file names."""
    findings = json.loads(out.read_text(encoding="ascii"))["findings"]
    return {finding["topic"]: {image for place in finding["where"] for image in place["images"]} for finding in findings}  # fmt: skip


def write_table(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("image", "label", "split")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return path


def face(seed: int) -> Image.Image:
    """Of another person for every seed."""
    return Image.open(io.BytesIO(draw(5, 4 * seed).jpeg)).convert("RGB")
