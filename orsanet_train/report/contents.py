"""The contents of a report as plain data, and their JSON."""

from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orsanet_cache.store.reader import PriorStore
from orsanet_train.config import RunConfig
from orsanet_train.evaluation.compare import Comparison
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.metrics import GroupReport
from orsanet_train.evaluation.predictions import Evaluation
from orsanet_train.evaluation.statistics import Estimate


@dataclass(frozen=True)
class Choice:
    """The accuracy on the selection split that one way of choosing a checkpoint would report."""

    protocol: str
    epoch: str
    accuracy: float
    deviation: float | None  # over epochs


@dataclass(frozen=True)
class Drop:
    """An occluded view against the clean one, image by image."""

    group: str
    view: str
    images: int
    clean: float  # accuracy of the same images
    occluded: float
    difference: Estimate  # occluded − clean
    p_value: float  # exact McNemar


@dataclass(frozen=True)
class Quartile:
    """Images whose priors are about equally good."""

    name: str
    images: int
    low: float  # scores from … to
    high: float
    occluded: float | None  # share with the tag `occluded`, whose priors are bad; None: no image has it
    accuracy: Estimate


@dataclass(frozen=True)
class Beside:
    """A number of the paper, and ours for the same images."""

    what: str
    group: str
    published: float
    images: int  # of the paper's number
    ours: GroupReport | None  # None: not evaluated here


@dataclass(frozen=True)
class RunReport:
    """One run with one checkpoint."""

    name: str
    stamp: str  # the selection protocol in short, for the top of the report
    protocol: str
    warnings: tuple[str, ...]
    weights: str  # file name
    weights_sha256: str
    manifest: str  # of the images evaluated
    trained_on: str  # the manifest of the training
    store: str  # its folder's name
    seals: dict[str, str]  # of the evaluated parts of the store, by "split/view"
    groups: tuple[GroupReport, ...]
    detailed: GroupReport  # the group of the tables per class and of the pictures
    choices: tuple[Choice, ...]
    robustness: tuple[Drop, ...]
    quartiles: tuple[Quartile, ...]
    worst: tuple[
        dict[str, Any], ...
    ]  # images with the worst priors: image, label, predicted, score and the measures behind it
    beside: tuple[Beside, ...]
    config: RunConfig
    recipe: dict[str, Any]
    data: dict[str, Any]  # run.json: digests of the images and start weights

    def as_json(self) -> dict[str, Any]:
        config = self.config.model_dump(mode="json")
        groups = [group.as_json() for group in self.groups]
        return {
            **{
                name: _plain(value)
                for name, value in vars(self).items()
                if name not in ("groups", "detailed", "config")
            },
            "detailed": self.detailed.name,
            "groups": groups,
            "config": config,
        }


@dataclass(frozen=True)
class Source:
    """The data for the pictures of a run."""

    run: Path
    evaluation: Evaluation
    store: PriorStore
    group: Group  # the detailed one
    rows: NDArray[np.int64]  # the group's rows in the evaluation's table
    quality: pd.DataFrame  # one row for each of these rows, with the columns QUALITY of report.py
    history: pd.DataFrame | None  # metrics.csv; None: the run has none
    report: RunReport


@dataclass(frozen=True)
class Report:
    """One or more runs, and their comparison with the first."""

    runs: tuple[RunReport, ...]
    comparison: Comparison | None

    def as_json(self) -> dict[str, Any]:
        comparison = None if self.comparison is None else _plain(self.comparison.as_json())
        return {"runs": [run.as_json() for run in self.runs], "comparison": comparison}


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries; floats that are not finite (e.g. not measured) as None."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return None if isinstance(value, float) and not np.isfinite(value) else value
