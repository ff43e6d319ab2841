"""The contents of a report as plain data, and their JSON."""

from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orsanet_cache.store.reader import PriorStore
from orsanet_train.config import RunConfig
from orsanet_train.evaluation.baselines import COMMONEST
from orsanet_train.evaluation.compare import Comparison
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.metrics import FEW_IMAGES, GroupReport, baseline_meanings, baseline_names
from orsanet_train.evaluation.predictions import Evaluation
from orsanet_train.evaluation.statistics import Estimate, decimals


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
    """A published number, and ours for the same images."""

    model: str
    group: str
    published: float
    images: int | None  # of the published number; None: not stated
    source: str
    remark: str
    ours: GroupReport | None  # None: not evaluated here


@dataclass(frozen=True)
class FrozenNetwork:
    """A network behind the priors."""

    part: str  # segmenter or landmarks
    network: str
    demo: bool  # one of the demo's, which have seen drawn faces only
    file: str | None  # name of the weights file of the build; None: not recorded
    weights_sha256: str  # of its tensors


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
    networks: tuple[FrozenNetwork, ...]
    trained_with: tuple[str, ...]  # versions of the packages that trained it, in their order; empty: not recorded
    evaluated: str | None  # ISO date and time; None: not recorded
    evaluated_with: str | None
    training_classes: dict[str, int] | None  # training images of each class; None: not recorded
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

    @property
    def shown(self) -> list[GroupReport]:
        """The groups to show at once: splits, views, and tags with enough images."""
        return [group for group in self.groups if not _is_small(group)]

    @property
    def folded(self) -> list[GroupReport]:
        """The tags with fewer images than FEW_IMAGES."""
        return [group for group in self.groups if _is_small(group)]

    @property
    def choice_digits(self) -> int:
        """Decimals of the accuracies on the selection split, in per cent; two if its size is not known."""
        split = self.config.selection_split
        found = next((group for group in self.groups if group.name == split), None)
        return 2 if found is None else decimals(found.accuracy, found.images)

    @property
    def baselines(self) -> list[str]:
        """Names of the baselines to show beside the accuracies."""
        return baseline_names(self.groups) or [COMMONEST]

    @property
    def meanings(self) -> list[str]:
        """What each baseline predicts."""
        return baseline_meanings(self.groups)

    def as_json(self) -> dict[str, Any]:
        config = self.config.model_dump(mode="json")
        groups = [_plain(group.as_json()) for group in self.groups]
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
    date: str  # ISO date on which it was made
    version: str  # of this package

    def as_json(self) -> dict[str, Any]:
        comparison = None if self.comparison is None else _plain(self.comparison.as_json())
        runs = [run.as_json() for run in self.runs]
        return {"runs": runs, "comparison": comparison, "date": self.date, "version": self.version}


def _is_small(group: GroupReport) -> bool:
    return Group.parse(group.name).tag is not None and group.images < FEW_IMAGES


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries; floats that are not finite (e.g. not measured) as None."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return None if isinstance(value, float) and not np.isfinite(value) else value
