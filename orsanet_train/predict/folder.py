"""The output folder of predict: a row for every face, and a reason for every picture without one.

    predictions.csv     one row a face (`columns`); named .partial until all rows are written
    predictions.json    the same, with the run's identity and the settings of the face detection
    overlays/           pictures

Columns with the same meaning have the same names as in an evaluation's predictions.csv.
"""

import csv
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.cells import marked
from orsanet_cache.durable import sync_folder
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import entries, held
from orsanet_train.evaluation.predictions import probability_columns
from orsanet_train.predict.names import CSV, JSON, PARTIAL
from orsanet_train.predict.predictor import QUALITY
from orsanet_train.predict.seen import Box

WHERE = ("path", "frame", "time_s", "face", "x", "y", "w", "h", "detection_score", "predicted")


def columns(classes: tuple[str, ...]) -> list[str]:
    """The column names of predictions.csv."""
    return [*WHERE, *probability_columns(classes), *QUALITY, "overlay", "reason"]


@dataclass(frozen=True)
class Row:
    """A face, or a picture that has no face or could not be read."""

    path: Path
    frame: int | None
    time: float | None
    face: int | None = None  # counted from 1, from left to right
    box: Box | None = None
    probabilities: NDArray[np.float32] | None = None  # [K]
    quality: Mapping[str, float] = field(default_factory=dict)
    overlay: str = ""  # path below the folder
    reason: str = ""

    def predicted(self, classes: tuple[str, ...]) -> str | None:
        return None if self.probabilities is None else classes[int(self.probabilities.argmax())]


class PredictionFolder:
    """Writes the output folder, and holds it meanwhile.

    `add` flushes its rows to the file. Both files get their final names when the context ends
    without an exception; otherwise the rows so far remain in `partial`.
    """

    def __init__(self, path: Path, classes: tuple[str, ...], about: Mapping[str, Any]) -> None:
        self.path = path
        self.classes = classes
        self._about = about
        self._rows = 0

    @property
    def partial(self) -> Path:
        """The file with the rows so far."""
        return self.path / f"{CSV}{PARTIAL}"

    def __enter__(self) -> Self:
        check_new_folder(self.path)
        with ExitStack() as entered:
            entered.enter_context(held(self.path))
            check_new_folder(self.path)  # another command may just have written it
            self._csv: IO[str] = self.partial.open("x", encoding="utf-8", newline="")
            self._json: IO[str] = (self.path / f"{JSON}{PARTIAL}").open("x", encoding="utf-8")
            # All text is quoted, as in an evaluation's file; names that a spreadsheet would compute are marked.
            self._writer = csv.writer(self._csv, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            self._writer.writerow(columns(self.classes))
            head = json.dumps(self._about, indent=2)
            self._json.write(f'{head.removesuffix("}").rstrip()},\n  "predictions": [')
            self._held = entered.pop_all()
        return self

    def add(self, rows: list[Row]) -> None:
        for row in rows:
            self._writer.writerow(
                [marked(cell) if isinstance(cell, str) else cell for cell in _line(row, self.classes)]
            )
            self._json.write(f"{',' if self._rows else ''}\n    {json.dumps(_entry(row, self.classes))}")
            self._rows += 1
        self._csv.flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._held:
            self._end(kind)

    def _end(self, kind: type[BaseException] | None) -> None:
        if kind is None:
            self._json.write("\n  ]\n}\n")
        for file in (self._csv, self._json):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        json_partial = self.path / f"{JSON}{PARTIAL}"
        if kind is not None:
            json_partial.unlink()  # incomplete JSON; the rows have the same content
            return
        os.replace(self.partial, self.path / CSV)
        os.replace(json_partial, self.path / JSON)
        sync_folder(self.path)


def check_new_folder(path: Path) -> None:
    """Check that a folder is new or empty, without writing anything.

    Raises OrsanetError if it is not empty, or could not be created or written into.
    """
    there = next(folder for folder in (path, *path.absolute().parents) if os.path.exists(folder))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "cannot be written into" if there.is_dir() else "is not a folder"
        raise OrsanetError(f"{there}: {why}; choose another folder with --out")
    if there == path and entries(path):
        raise OrsanetError(f"{path} is not empty; choose a new folder with --out, or remove this one")


def shown(path: Path) -> str:
    """A path as text. Bytes that are not UTF-8, which a file name may contain, become \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _line(row: Row, classes: tuple[str, ...]) -> list[Any]:
    """A row of the table. Probabilities are exact float32; pixels and seconds are rounded."""
    box = row.box
    place = [None] * 4 if box is None else [round(value, 1) for value in (box.x, box.y, box.width, box.height)]
    return [
        shown(row.path), row.frame, None if row.time is None else round(row.time, 3), row.face,
        *place, None if box is None or box.score is None else round(box.score, 3), row.predicted(classes),
        *([None] * len(classes) if row.probabilities is None else row.probabilities),
        *(_rounded(row.quality.get(name)) for name in QUALITY), row.overlay, row.reason,
    ]  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _entry(row: Row, classes: tuple[str, ...]) -> dict[str, Any]:
    """The row for the JSON file: lists and objects, and None for missing values."""
    line = dict(zip(columns(classes), _line(row, classes), strict=True))
    probabilities = None
    if row.probabilities is not None:
        probabilities = dict(zip(classes, (float(str(value)) for value in row.probabilities), strict=True))
    return {
        **{name: line[name] for name in ("path", "frame", "time_s", "face")},
        "box": None if row.box is None else [line[name] for name in "xywh"],
        "detection_score": line["detection_score"],
        "predicted": line["predicted"],
        "probabilities": probabilities,
        "prior_quality": {name: line[name] for name in QUALITY} if row.quality else None,
        "overlay": row.overlay or None,
        "reason": row.reason or None,
    }
