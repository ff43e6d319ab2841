"""The folder of an evaluation: its contents, writing and reading.

    evaluation.json    the checkpoint, how it was chosen, the data, and the metrics of every group (metrics.py)
    predictions.csv    one row per image and view: split, view, image, tags, label, predicted, and p_<class> per class;
                       names that a spreadsheet would compute are marked (cells.py)
    features.npy       float32 [rows of predictions.csv, D]: the input of the model's head

Reports, comparisons and pictures are made from this folder, so the model runs only once.
"""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from orsanet_cache.data.cells import marked, unmarked
from orsanet_cache.data.manifest import Sample
from orsanet_cache.errors import OrsanetError, refuse_shortage, validation_findings
from orsanet_cache.outputs import Kind, output_folder, read_steadily
from orsanet_cache.paths import StrPath, StrPlace, as_path, as_place
from orsanet_cache.reading import MAX_JSON_BYTES, array_of, below, json_of, read_limited
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.metrics import GroupReport
from orsanet_train.model.checkpoint import Identity, how_chosen, read_identity
from orsanet_train.model.fetched import local_runs

EVALUATION, PREDICTIONS, FEATURES = "evaluation.json", "predictions.csv", "features.npy"
MAX_BYTES = 4 * 1024**3  # of predictions.csv and of features.npy
FINDINGS = 3  # of a damaged evaluation.json, to name
NAMES = ("split", "view", "image", "tags", "label", "predicted")
FOLDER = Kind(
    "an evaluation",
    {
        EVALUATION: rb'\{\s*"checkpoint": \{\s*"file": ',
        PREDICTIONS: rb'"split","view","image","tags","label","predicted"',
        FEATURES: rb"\x93NUMPY",
    },
    marks=(EVALUATION, PREDICTIONS),
)


@dataclass(frozen=True)
class Evaluation:
    """A checkpoint's predictions for some images, and their metrics."""

    checkpoint: Identity
    weights: str  # file name in the run folder
    manifest: str
    store: str  # absolute path
    seals: dict[
        str, str
    ]  # of the parts of the store that were read, by "split/view", of added fields "split/view.NAME"
    notes: tuple[str, ...]  # what was left out, what was trained on
    groups: tuple[GroupReport, ...]
    table: pd.DataFrame  # predictions.csv
    features: NDArray[np.float32]  # [rows of the table, D]
    date: str | None = None  # of the evaluation: ISO 8601, UTC. None: from before it was kept
    versions: dict[str, str] = field(default_factory=dict)  # of the packages that made it

    @property
    def classes(self) -> tuple[str, ...]:
        return self.checkpoint.classes

    def group(self, name: str) -> GroupReport | None:
        return next((report for report in self.groups if report.name == name), None)

    @property
    def optimistic(self) -> bool:
        """Whether the checkpoint was chosen on some of the images: their numbers are optimistic."""
        return any(report.chose_checkpoint for report in self.groups)

    @property
    def protocol(self) -> str:
        """How the checkpoint was chosen, as a sentence to print under every table."""
        marked = "; * chosen on these images, so their numbers are optimistic" if self.optimistic else ""
        return how_chosen(self.checkpoint) + marked

    def write(self, folder: StrPath) -> None:
        """Write the folder whole, in place of an earlier evaluation.

        Raises OrsanetError if the folder has anything else, or cannot be written.
        """
        with output_folder(as_path(folder, "folder"), FOLDER) as staged:
            self.write_files(staged)

    def write_files(self, folder: StrPath) -> None:
        """Write the files into an empty folder."""
        folder = as_path(folder, "folder")
        # All text is quoted, because readers end a row at an unquoted carriage return.
        written = self.table.assign(**{name: self.table[name].map(marked) for name in NAMES})
        written.to_csv(folder / PREDICTIONS, index=False, quoting=csv.QUOTE_NONNUMERIC)
        features = io.BytesIO()
        np.save(features, self.features)  # to a path it reports a full disk in other ways
        (folder / FEATURES).write_bytes(features.getvalue())
        content = {
            "checkpoint": {"file": self.weights, **self.checkpoint.model_dump(mode="json")},
            "protocol": self.protocol,
            "manifest": self.manifest,
            "store": self.store,
            "seals": self.seals,
            "date": self.date,
            "versions": self.versions,
            "sha256": {name: _sha256(folder / name) for name in (PREDICTIONS, FEATURES)},
            "notes": self.notes,
            "groups": [report.as_json() for report in self.groups],
        }
        (folder / EVALUATION).write_text(json.dumps(content, indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: StrPath) -> Self:
        """Read the folder. Raises OrsanetError if the evaluation is absent, damaged or changed."""
        folder = as_path(folder, "folder")
        if not (folder / EVALUATION).is_file():
            raise OrsanetError(
                f"{folder}: no evaluation found; make one with `orsanet-train evaluate RUN --store … --manifest …`"
            )
        try:
            content = _Content.model_validate(json_of(read_limited(folder / EVALUATION, MAX_JSON_BYTES)))
            weights = content.checkpoint.pop("file", None)
            if not isinstance(weights, str) or Path(weights).name != weights:
                raise ValueError("its checkpoint has no file name")
            identity = Identity.model_validate_json(json.dumps(content.checkpoint))
            # Only these two: a name in the file is no permission to open what it names.
            files = {name: read_limited(below(folder, name), MAX_BYTES) for name in (PREDICTIONS, FEATURES)}
            digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
            if changed := [name for name, digest in digests.items() if content.sha256.get(name) != digest]:
                raise ValueError(f"{', '.join(changed)} changed since the evaluation")
            if extra := content.sha256.keys() - files.keys():
                raise ValueError(f"it names files that no evaluation has: {', '.join(sorted(extra))}")
            table = _read_table(files[PREDICTIONS], identity.classes)
            groups = tuple(GroupReport.from_json(group) for group in content.groups)
            features = array_of(files[FEATURES])
            _check_whole(identity.classes, groups, table, features)
        except (OSError, ValueError, TypeError, OverflowError) as error:
            refuse_shortage(error, folder)
            raise OrsanetError(
                f"{folder}: not a complete evaluation ({_reason(error)}); run `orsanet-train evaluate` again"
            ) from error
        return cls(
            identity,
            weights,
            content.manifest,
            content.store,
            content.seals,
            content.notes,
            groups,
            table,
            features,
            content.date,
            content.versions,
        )


class _Content(BaseModel):
    """What is read of evaluation.json."""

    model_config = ConfigDict(frozen=True)

    checkpoint: dict[str, Any]
    manifest: str
    store: str
    seals: dict[str, str]
    date: str | None = None
    versions: dict[str, str] = {}
    sha256: dict[str, str]
    notes: tuple[str, ...]
    groups: list[Any]


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(validation_findings(error)[:FINDINGS])
    return " ".join(str(error).split())


def _check_whole(
    classes: tuple[str, ...], groups: Sequence[GroupReport], table: pd.DataFrame, features: NDArray[Any]
) -> None:
    """Raises ValueError unless the parts of an evaluation belong together."""
    if features.dtype != np.float32 or features.ndim != 2 or len(features) != len(table):
        raise ValueError(f"{FEATURES} is not float32 with a row for each of the {len(table):,} rows of {PREDICTIONS}")
    if not table["label"].isin(classes).all() or not table["predicted"].isin(classes).all():
        raise ValueError(f"{PREDICTIONS} has other classes than the checkpoint")
    if not np.isfinite(table[probability_columns(classes)].to_numpy()).all() or not np.isfinite(features).all():
        raise ValueError("a probability or feature is not finite")
    for report in groups:
        counts = report.confusion
        whole = len(counts) == len(classes) and all(len(row) == len(classes) and min(row) >= 0 for row in counts)
        if not whole or tuple(report.classes) != classes or sum(map(sum, counts)) != report.images:
            raise ValueError(f"the counts of group '{report.name}' are not those of its classes and images")
        if Group.parse(report.name).of(table).sum() != report.images or not report.images:
            raise ValueError(f"group '{report.name}' has other images in {PREDICTIONS}")


def read_evaluation(run: StrPlace, checkpoint: str = "best") -> Evaluation:
    """The evaluation of a run's `best` or `last` weights; the run may have a URL.

    Raises OrsanetError if it does not exist, or if the weights have changed since.
    """
    with local_runs([as_place(run, "run", "run")], checkpoint) as (here,):
        return _read_evaluation(here, checkpoint)


def _read_evaluation(run: Path, checkpoint: str) -> Evaluation:
    folder = run / f"evaluation-{checkpoint}"
    if not folder.exists():
        raise OrsanetError(
            f"{run}: its {checkpoint} checkpoint has not been evaluated; run `orsanet-train evaluate {run} --checkpoint {checkpoint} "
            f"--store … --manifest …`"
        )
    evaluation = read_steadily(folder, Evaluation.read)
    weights = run / evaluation.weights
    if weights.exists() and read_identity(weights).tensors_sha256 != evaluation.checkpoint.tensors_sha256:
        raise OrsanetError(
            f"{weights} has changed since it was evaluated; run `orsanet-train evaluate {run} --checkpoint {checkpoint} …` again"
        )
    return evaluation


def predictions_table(
    samples: tuple[Sample, ...], labels: NDArray[np.int64], probabilities: NDArray[np.float32], classes: tuple[str, ...],
    split: str, view: str,
) -> pd.DataFrame:  # fmt: skip
    """The table of predictions for N images in one view: one row per image.

    Args:
        samples: The N images.
        labels: [N] in 0 … K-1.
        probabilities: [N, K].
        classes: The names of the K classes in label order; the columns of the probabilities are
            named after them.
        split: The split of the images.
        view: The view of the images.
    """
    names = np.array(classes, dtype=object)
    described = {
        "split": split,
        "view": view,
        "image": [sample.image for sample in samples],
        "tags": [";".join(sorted(sample.tags)) for sample in samples],
        "label": names[labels],
        "predicted": names[probabilities.argmax(axis=1)],
    }
    shares = pd.DataFrame(probabilities, columns=probability_columns(classes))
    return pd.concat([pd.DataFrame(described, columns=NAMES), shares], axis=1)


def probability_columns(classes: tuple[str, ...]) -> list[str]:
    """Names of the probability columns of a predictions table, in label order."""
    return [f"p_{name}" for name in classes]


def labels_of(table: pd.DataFrame, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Label of every row, as an index into the classes."""
    return pd.Index(classes).get_indexer(pd.Index(table["label"])).astype(np.int64)


def right(table: pd.DataFrame) -> NDArray[np.bool_]:
    """bool [rows]: whether the prediction equals the label."""
    return (table["label"] == table["predicted"]).to_numpy()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_table(content: bytes, classes: tuple[str, ...]) -> pd.DataFrame:
    """Read predictions.csv. Names stay text, even "NA" and "1"."""
    columns = probability_columns(classes)
    dtypes: dict[str, Any] = {**dict.fromkeys(NAMES, str), **dict.fromkeys(columns, np.float32)}
    table = pd.read_csv(io.BytesIO(content), dtype=dtypes, keep_default_na=False)
    if list(table.columns) != [*NAMES, *columns]:
        raise ValueError(f"{PREDICTIONS} has other columns than an evaluation's table")
    return table.assign(**{name: table[name].map(unmarked) for name in NAMES})
