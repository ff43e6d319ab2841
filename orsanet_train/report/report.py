"""Evaluated runs -> the contents of a report, which page.py writes with the pictures of album.py.

    RUN/evaluation-<checkpoint>, metrics.csv, config.toml ─┐
    store: priors' quality ────────────────────────────────┴─▶ RunReport ─┐
    several runs ─ compare.py ─▶ paired differences ──────────────────────┴─▶ Report

The model does not run here. Every number follows from the evaluation folder, so report.html,
report.md and report.json cannot disagree.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orsanet_cache.data.manifest import meant_split
from orsanet_cache.data.views import CLEAN
from orsanet_cache.durable import read_json
from orsanet_cache.errors import OrsanetError, did_you_mean, listed
from orsanet_cache.inspection.fonts import legend, notice
from orsanet_cache.inspection.quality import prior_quality
from orsanet_cache.paths import Place, StrPath, StrPlace, as_paths, as_place
from orsanet_cache.store.reader import PriorStore, WrongStateError
from orsanet_cache.store.recipe import recipe_differences
from orsanet_train.config import RunConfig, load_config
from orsanet_train.evaluation.compare import compare, is_outside, run_names, seed_folders
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.history import class_counts, read_history, read_versions
from orsanet_train.evaluation.predictions import Evaluation, read_evaluation
from orsanet_train.report.contents import Beside, Report, RunReport, Source
from orsanet_train.report.paper import published, remark_of
from orsanet_train.report.sections import (
    choices,
    networks,
    packages_text,
    quartiles,
    robustness,
    stamp,
    warnings,
)

QUALITY = (
    "image", "label", "predicted", "score", "segmentation_entropy", "part_plausibility", "landmark_agreement", "flip_disagreement"
)  # fmt: skip
WORST = 12  # images with the worst priors to name


def make_report(
    runs: Sequence[StrPath], checkpoint: str = "best", split: str | None = None, store: StrPlace | None = None
) -> tuple[Report, list[Source]]:
    """The report of run folders, or of folders of seeds (whose first seed is shown in detail).

    Files of predictions among `runs`, after the first one, are compared with it (`compare`).

    `split` is shown in detail; None: `test` if it was evaluated, otherwise the first evaluated
    split. `store` is the store's present path; None: its path at evaluation. Raises OrsanetError
    for a run without an evaluation, and if the store is not the evaluated one.
    """
    runs, store = as_paths(runs, "runs"), None if store is None else as_place(store, "store")
    seeds = [seed_folders(run) for run in runs]
    comparison = compare(runs, checkpoint) if len(runs) > 1 or seeds[0] else None
    sources = []
    for name, run, of_run in zip(run_names(runs), runs, seeds, strict=True):
        if is_outside(run):  # predictions alone: they are in the comparison
            continue
        if of_run:
            shown = min(of_run)
            name, run = f"{name}, seed {shown} (one of {len(of_run)} seeds)", of_run[shown]
        sources.append(_source(name, run, checkpoint, split, store))
    today = datetime.now(UTC).date().isoformat()
    return Report(tuple(source.report for source in sources), comparison, today, version("orsanet")), sources


def _source(name: str, run: Path, checkpoint: str, split: str | None, store: Place | None) -> Source:
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
    assert detailed is not None  # _detailed_group chose it from the evaluation
    history = read_history(run)
    worst = quality.nsmallest(WORST, "score")
    files = [str(image).rpartition("/")[-1] for image in worst["image"]]
    note = notice([legend([*evaluation.classes, detailed.name]), legend(files, first=1)])
    report = RunReport(
        name=name,
        stamp=stamp(evaluation, detailed, history),
        protocol=evaluation.protocol,
        warnings=(*warnings(evaluation, detailed), *_windowed(config), *([note] if note else [])),
        weights=evaluation.weights,
        weights_sha256=evaluation.checkpoint.tensors_sha256,
        manifest=evaluation.manifest,
        trained_on=evaluation.checkpoint.data_set,
        store=Path(evaluation.store).name,
        seals=evaluation.seals,
        networks=tuple(networks(evaluation.checkpoint, opened.provenance(group.split, group.view))),
        trained_with=tuple(packages_text(entry["versions"]) for entry in read_versions(run)),
        evaluated=evaluation.date,
        evaluated_with=packages_text(evaluation.versions) or None,
        training_classes=class_counts(run, evaluation.classes),
        groups=evaluation.groups,
        detailed=detailed,
        choices=tuple(choices(history, evaluation.checkpoint.selection_split)) if history is not None else (),
        robustness=tuple(robustness(evaluation, group.split)),
        quartiles=tuple(quartiles(evaluation, rows, quality["score"].to_numpy())),
        worst=tuple(worst[list(QUALITY)].to_dict("records")),  # type: ignore[arg-type]
        beside=tuple(
            Beside(
                row.model, row.group, row.accuracy, row.images, row.source, remark_of(row), evaluation.group(row.group)
            )
            for row in published(evaluation.manifest, evaluation.classes)
        ),
        config=config,
        recipe=evaluation.checkpoint.store_recipe,
        data=read_json(run / "run.json"),
    )
    return Source(run, evaluation, opened, group, rows, quality, history, report)


def _windowed(config: RunConfig) -> list[str]:
    """A sentence on the order of training, unless it was the usual one."""
    if config.order == "global":
        return []
    return [
        f"an epoch's images were read in windows of {config.window_units} of the store's units (order = windowed): "
        f"batches are less mixed than in the usual order"
    ]


def _detailed_group(evaluation: Evaluation, split: str | None, run: Path) -> Group:
    plain = [group for report in evaluation.groups if (group := Group.parse(report.name)).tag is None]
    splits = list(dict.fromkeys(group.split for group in plain if group.view == CLEAN))
    if not splits:
        raise OrsanetError(f"{run}: no whole split was evaluated; run `orsanet-train evaluate {run} --splits test …`")
    split = None if split is None else meant_split(split, splits)
    if split is not None and split not in splits:
        raise OrsanetError(
            f"{run}: split '{split}' was not evaluated; choose one of {', '.join(splits)}{did_you_mean(split, splits)}"
        )
    return Group(split or ("test" if "test" in splits else splits[0]), None, CLEAN)


def _evaluated_store(evaluation: Evaluation, group: Group, moved: Place | None) -> PriorStore:
    """Open the evaluated store. Raises OrsanetError if its recipe or seal differs."""
    path = as_place(evaluation.store, "store") if moved is None else moved
    if moved is None and isinstance(path, Path) and not path.exists():
        raise OrsanetError(
            f"{path}: the store that was evaluated does not exist any more; give its new path with --store"
        )
    store = PriorStore.open(path)
    if differences := list(recipe_differences(evaluation.checkpoint.store_recipe, store.recipe)):
        raise OrsanetError(f"{store.path}: not the store that was evaluated:\n{listed(differences)}")
    place = f"{group.split}/{group.view}"
    added = {name: seal for name, seal in evaluation.seals.items() if name.startswith(f"{place}.")}
    try:
        return store.at({place: evaluation.seals.get(place, ""), **added})  # it may have grown since
    except WrongStateError as error:
        raise OrsanetError(
            f"{store.path}: split '{group.split}' is not the one that was evaluated (its seal differs); name the evaluated store with --store, or "
            f"run `orsanet-train evaluate` again"
        ) from error


def store_rows(store: PriorStore, split: str, table: pd.DataFrame) -> NDArray[np.int64]:
    """The store's rows of the images of a predictions table.

    Raises OrsanetError if the store lacks any of these images.
    """
    rows = pd.Index(store.sample_ids(split)).get_indexer(pd.Index(table["image"]))
    if (rows < 0).any():
        absent = table["image"][rows < 0].tolist()
        raise OrsanetError(
            f"{store.path}: split '{split}' lacks {len(absent)} image(s) that were evaluated:\n{listed(absent)}"
        )
    return rows.astype(np.int64)
