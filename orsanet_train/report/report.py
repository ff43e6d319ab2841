"""Evaluated runs -> what a report says: report.json, and with pictures (album.py) the page and report.md (page.py).

    RUN/evaluation-<checkpoint>, metrics.csv, config.toml ─┐
    store: priors' quality ────────────────────────────────┴─▶ RunReport ─┐
    several runs ─ compare.py ─▶ paired differences ──────────────────────┴─▶ Report

Nothing is computed by the model here; every number follows from the evaluation folder, so the three files cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.inspection.quality import prior_quality
from orsanet_cache.paths import StrPath, as_path, as_paths
from orsanet_cache.store.reader import PriorStore, recipe_differences
from orsanet_train.config import RunConfig, load_config
from orsanet_train.evaluation.compare import Comparison, compare, paired, run_names, seed_folders
from orsanet_train.evaluation.evaluate import NOT_A_TEST
from orsanet_train.evaluation.metrics import Estimate, GroupReport, group_report
from orsanet_train.evaluation.predictions import (
    Evaluation,
    Group,
    labels_of,
    probability_columns,
    read_evaluation,
    right,
)
from orsanet_train.report.paper import published
from orsanet_train.run.folder import read_json

QUALITY = (
    "image", "label", "predicted", "score", "segmentation_entropy", "part_plausibility", "landmark_agreement", "flip_disagreement"
)  # fmt: skip
WORST = 12  # images of the worst priors to name
LAST_SHARE, LAST_AT_LEAST = 8, 5  # the mean of the last eighth of the epochs, 50 of the published 400; but of five


@dataclass(frozen=True)
class Choice:
    """What one way of choosing a checkpoint would report, on the split that chooses."""

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
    occluded: (
        float | None
    )  # share of them with the tag `occluded`: covered faces have bad priors; None: no image has it
    accuracy: Estimate


@dataclass(frozen=True)
class Beside:
    """A number of the paper and ours for the same images."""

    what: str
    group: str
    published: float
    images: int  # that the paper's number is of
    ours: GroupReport | None  # None: not evaluated here


@dataclass(frozen=True)
class RunReport:
    """One run with one checkpoint."""

    name: str
    stamp: str  # the selection protocol, short: it stands above everything
    protocol: str
    warnings: tuple[str, ...]
    weights: str  # file name
    weights_sha256: str
    manifest: str  # of the images evaluated
    trained_on: str  # the manifest of the training
    store: str  # its folder's name
    seals: dict[str, str]  # of what was evaluated, by "split/view"
    groups: tuple[GroupReport, ...]
    detailed: GroupReport  # the group that tables per class and pictures are of
    choices: tuple[Choice, ...]
    robustness: tuple[Drop, ...]
    quartiles: tuple[Quartile, ...]
    worst: tuple[
        dict[str, Any], ...
    ]  # images of the worst priors: image, label, predicted, score and the measures behind it
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
    """What pictures of a run are made from."""

    run: Path
    evaluation: Evaluation
    store: PriorStore
    group: Group  # the detailed one
    rows: NDArray[np.int64]  # of the evaluation's table that belong to it
    quality: pd.DataFrame  # of the same, row by row, with the columns QUALITY
    history: pd.DataFrame | None  # metrics.csv, where the run has one
    report: RunReport


@dataclass(frozen=True)
class Report:
    """Some runs, and how they compare with the first."""

    runs: tuple[RunReport, ...]
    comparison: Comparison | None

    def as_json(self) -> dict[str, Any]:
        comparison = None if self.comparison is None else _plain(self.comparison.as_json())
        return {"runs": [run.as_json() for run in self.runs], "comparison": comparison}


def make_report(
    runs: Sequence[StrPath], checkpoint: str = "best", split: str | None = None, store: StrPath | None = None
) -> tuple[Report, list[Source]]:
    """The report of run folders, or of folders of seeds (whose first seed is shown in detail).

    `split` is the one to show in detail (None: `test`, else the first evaluated); `store` is where the store is now, if it was moved.
    Raises OrsanetError for a run without an evaluation, and where the store does not hold what was evaluated.
    """
    runs, store = as_paths(runs, "runs"), None if store is None else as_path(store, "store")
    seeds = [seed_folders(run) for run in runs]
    comparison = compare(runs, checkpoint) if len(runs) > 1 or seeds[0] else None
    sources = []
    for name, run, of_run in zip(run_names(runs), runs, seeds, strict=True):
        if of_run:
            shown = min(of_run)
            name, run = f"{name}, seed {shown} (one of {len(of_run)} seeds)", of_run[shown]
        sources.append(_source(name, run, checkpoint, split, store))
    return Report(tuple(source.report for source in sources), comparison), sources


def _source(name: str, run: Path, checkpoint: str, split: str | None, store: Path | None) -> Source:
    evaluation = read_evaluation(run, checkpoint)
    group = _detailed_group(evaluation, split, run)
    opened = _evaluated_store(evaluation, group, store)
    rows = np.flatnonzero(group.of(evaluation.table))
    table = evaluation.table.iloc[rows]
    quality = prior_quality(opened, group.split, group.view, store_rows(opened, group.split, table)).reset_index(
        drop=True
    )
    quality[["label", "predicted"]] = table[["label", "predicted"]].to_numpy()
    config = load_config(str(run / "config.toml"))
    detailed = evaluation.group(str(group))
    assert detailed is not None  # _detailed_group took it from there
    history = _history(run / "metrics.csv")
    report = RunReport(
        name=name,
        stamp=_stamp(evaluation, detailed, history),
        protocol=evaluation.protocol,
        warnings=tuple(_warnings(evaluation, detailed)),
        weights=evaluation.weights,
        weights_sha256=evaluation.checkpoint.tensors_sha256,
        manifest=evaluation.manifest,
        trained_on=evaluation.checkpoint.data_set,
        store=Path(evaluation.store).name,
        seals=evaluation.seals,
        groups=evaluation.groups,
        detailed=detailed,
        choices=tuple(_choices(history, evaluation.checkpoint.selection_split)) if history is not None else (),
        robustness=tuple(robustness(evaluation, group.split)),
        quartiles=tuple(_quartiles(evaluation, rows, quality["score"].to_numpy())),
        worst=tuple(quality.nsmallest(WORST, "score")[list(QUALITY)].to_dict("records")),  # type: ignore[arg-type]
        beside=tuple(
            Beside(row.what, row.group, row.accuracy, row.images, evaluation.group(row.group))
            for row in published(evaluation.manifest, evaluation.classes)
        ),
        config=config,
        recipe=evaluation.checkpoint.store_recipe,
        data=read_json(run / "run.json"),
    )
    return Source(run, evaluation, opened, group, rows, quality, history, report)


def _history(path: Path) -> pd.DataFrame | None:
    """metrics.csv; None for a run that has none."""
    if not path.exists():
        return None
    try:
        history = pd.read_csv(path)
        history["selection_accuracy"].astype(float).iloc[-1]
    except (ValueError, KeyError, IndexError) as error:
        raise OrsanetError(
            f"{path}: damaged ({error}); take it from a copy, or delete it to report without it"
        ) from error
    return history


def _detailed_group(evaluation: Evaluation, split: str | None, run: Path) -> Group:
    plain = [group for report in evaluation.groups if (group := Group.parse(report.name)).tag is None]
    splits = list(dict.fromkeys(group.split for group in plain if group.view == "clean"))
    if not splits:
        raise OrsanetError(f"{run}: no whole split was evaluated; run `orsanet-train evaluate {run} --splits test …`")
    if split is not None and split not in splits:
        raise OrsanetError(f"{run}: split '{split}' was not evaluated; there is {', '.join(splits)}")
    return Group(split or ("test" if "test" in splits else splits[0]), None, "clean")


def _evaluated_store(evaluation: Evaluation, group: Group, moved: Path | None) -> PriorStore:
    """The store that holds what was evaluated, by its seal."""
    path = Path(evaluation.store) if moved is None else moved
    if moved is None and not path.exists():
        raise OrsanetError(f"{path}: the store that was evaluated is not there any more; say with --store where it is")
    store = PriorStore.open(path)
    if differences := list(recipe_differences(evaluation.checkpoint.store_recipe, store.recipe)):
        raise OrsanetError(f"{store.path}: not the store that was evaluated:\n{listed(differences)}")
    if store.sealed(group.split, group.view).seal != evaluation.seals[f"{group.split}/{group.view}"]:
        raise OrsanetError(
            f"{store.path}: split '{group.split}' does not hold what was evaluated (its seal is another); name the store with --store, or "
            f"run `orsanet-train evaluate` again"
        )
    return store


def store_rows(store: PriorStore, split: str, table: pd.DataFrame) -> NDArray[np.int64]:
    """Where the images of a predictions table are in the store. Raises OrsanetError for one that is not there."""
    rows = pd.Index(store.sample_ids(split)).get_indexer(pd.Index(table["image"]))
    if (rows < 0).any():
        absent = table["image"][rows < 0].tolist()
        raise OrsanetError(
            f"{store.path}: split '{split}' lacks {len(absent)} image(s) that were evaluated:\n{listed(absent)}"
        )
    return rows.astype(np.int64)


def _stamp(evaluation: Evaluation, detailed: GroupReport, history: pd.DataFrame | None) -> str:
    chosen = evaluation.checkpoint
    trained = chosen.epoch if history is None else len(history)
    if chosen.selection == "last":
        return f"last of {chosen.epoch} epochs"
    stamp = f"best of {trained} epochs on '{chosen.selection_split}'"
    if chosen.selection == "published":
        stamp = f"published checkpoint, best epoch on '{chosen.selection_split}'"
    return f"{stamp}, as published: optimistic" if detailed.chose_checkpoint else stamp


def _warnings(evaluation: Evaluation, detailed: GroupReport) -> list[str]:
    if not detailed.chose_checkpoint:
        return list(evaluation.notes)
    return [f"the checkpoint was chosen on '{detailed.name}', so the numbers below flatter it", *evaluation.notes]


def _choices(history: pd.DataFrame, split: str) -> list[Choice]:
    accuracy = history["selection_accuracy"]
    best, last = int(accuracy.argmax()), len(accuracy) - 1
    count = min(len(accuracy), max(LAST_AT_LEAST, len(accuracy) // LAST_SHARE))
    tail = accuracy.iloc[-count:]
    deviation = float(tail.std()) if count > 1 else None
    return [
        Choice("last epoch", str(last + 1), float(accuracy.iloc[last]), None),
        Choice(f"best epoch on '{split}'", str(best + 1), float(accuracy.iloc[best]), None),
        Choice(f"mean of the last {count} epochs", f"{last + 2 - count}–{last + 1}", float(tail.mean()), deviation),
    ]


def robustness(evaluation: Evaluation, split: str) -> list[Drop]:
    """Every evaluated view of a split against its clean view, over the images that both have."""
    table = evaluation.table
    clean = table[Group(split, None, "clean").of(table)].set_index("image")
    drops = []
    for report in evaluation.groups:
        group = Group.parse(report.name)
        if group.split != split or group.tag is not None or group.view in NOT_A_TEST or clean.empty:
            continue
        occluded = table[group.of(table)].set_index("image")
        images = occluded.index.intersection(clean.index, sort=False)
        pair = paired(report.name, right(clean.loc[images]), right(occluded.loc[images]))
        drops.append(Drop(report.name, group.view, len(images), pair.first, pair.second, pair.difference, pair.p_value))
    return drops


def _quartiles(evaluation: Evaluation, rows: NDArray[np.int64], score: NDArray[np.float64]) -> list[Quartile]:
    """From the worst priors to the best."""
    if len(rows) < 4:
        return []
    table = evaluation.table.iloc[rows]
    labels = labels_of(table, evaluation.classes)
    probabilities = table[probability_columns(evaluation.classes)].to_numpy()
    occluded = table["tags"].str.split(";").map(lambda tags: "occluded" in tags).to_numpy(bool)
    quartiles = []
    for number, part in enumerate(np.array_split(np.argsort(score, kind="stable"), 4), 1):
        name = {1: "1 (worst priors)", 4: "4 (best priors)"}.get(number, str(number))
        accuracy = group_report(name, labels[part], probabilities[part], evaluation.classes).accuracy
        share = float(occluded[part].mean()) if occluded.any() else None
        quartiles.append(Quartile(name, len(part), float(score[part].min()), float(score[part].max()), share, accuracy))
    return quartiles


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries; what is no number, because it was not measured or is beyond measure, as null."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return None if isinstance(value, float) and not np.isfinite(value) else value
