"""The computed sections of a report, from an evaluation and the run's metrics.csv."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orsanet_cache.data.views import CLEAN
from orsanet_cache.frozen.shipped import NetworkName
from orsanet_cache.weights.networks import NAMES
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.metrics import GroupReport, group_report, not_beaten
from orsanet_train.evaluation.predictions import Evaluation, labels_of, probability_columns, right
from orsanet_train.evaluation.statistics import paired
from orsanet_train.model.checkpoint import Identity, chosen_in_short
from orsanet_train.model.frozen import is_demo
from orsanet_train.report.contents import Choice, Drop, FrozenNetwork, Quartile

LAST_SHARE, LAST_AT_LEAST = 8, 5  # mean of the last eighth of the epochs (50 of the published 400), but of five or more


def stamp(evaluation: Evaluation, detailed: GroupReport, history: pd.DataFrame | None) -> str:
    """How the checkpoint was chosen, in short, for the top of the report."""
    epochs = None if history is None else len(history)
    return chosen_in_short(evaluation.checkpoint, epochs, optimistic=detailed.all_chose_checkpoint)


def warnings(evaluation: Evaluation, detailed: GroupReport) -> list[str]:
    """The warnings to show before the numbers."""
    optimistic = f"the checkpoint was chosen on '{detailed.name}', so the numbers below are optimistic"
    return [
        *_drawn_only(evaluation.checkpoint),
        *(
            [optimistic] if detailed.all_chose_checkpoint else []
        ),  # if some of its images did, the notes have their number
        *evaluation.notes,
        *not_beaten(evaluation.groups),
    ]


def _drawn_only(checkpoint: Identity) -> list[str]:
    parts: tuple[NetworkName, ...] = ("segmenter", "landmarks")
    demo = [NAMES[part] for part in parts if is_demo(part, checkpoint)]
    if not demo:
        return []
    return [
        f"the priors are those of the demo's {' and '.join(demo)}, which have seen drawn faces only: with photographs the numbers below "
        "describe the program, not the method"
    ]


def networks(checkpoint: Identity, provenance: Mapping[str, Any]) -> list[FrozenNetwork]:
    """The networks behind the priors; `provenance` is that of the evaluated view in the store."""
    parts: tuple[NetworkName, ...] = ("segmenter", "landmarks")
    found = []
    for part in parts:
        file = provenance.get(f"{part}_file")
        name = Path(file).name if isinstance(file, str) else None
        digest = checkpoint.store_recipe[part]["weights_sha256"]
        found.append(FrozenNetwork(part, NAMES[part], is_demo(part, checkpoint), name, digest))
    return found


def packages_text(versions: Mapping[str, str]) -> str:
    """Packages with their versions, this one first."""
    return ", ".join(f"{name} {versions[name]}" for name in sorted(versions, key=lambda name: name != "orsanet"))


def choices(history: pd.DataFrame, split: str) -> list[Choice]:
    """The accuracies that the ways of choosing a checkpoint would report.

    They are computed from the accuracy per epoch on the selection split, `split`.
    """
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
    """Every evaluated view of a split against its clean view, over the images of both."""
    table = evaluation.table
    clean = table[Group(split, None, CLEAN).of(table)].set_index("image")
    drops = []
    for report in evaluation.groups:
        group = Group.parse(report.name)
        if group.split != split or group.tag is not None or not group.is_occluded or clean.empty:
            continue
        occluded = table[group.of(table)].set_index("image")
        images = occluded.index.intersection(clean.index, sort=False)
        pair = paired(report.name, right(clean.loc[images]), right(occluded.loc[images]))
        drops.append(Drop(report.name, group.view, len(images), pair.first, pair.second, pair.difference, pair.p_value))
    return drops


def quartiles(evaluation: Evaluation, rows: NDArray[np.int64], score: NDArray[np.float64]) -> list[Quartile]:
    """Accuracy of each quarter of `rows` of the evaluation's table, by `score`, the worst first.

    `score` [rows] is the quality of the priors, 1 the best. Empty for fewer than four rows.
    """
    if len(rows) < 4:
        return []
    table = evaluation.table.iloc[rows]
    labels = labels_of(table, evaluation.classes)
    probabilities = table[probability_columns(evaluation.classes)].to_numpy()
    occluded = table["tags"].str.split(";").map(lambda tags: "occluded" in tags).to_numpy(bool)
    parts = []
    for number, part in enumerate(np.array_split(np.argsort(score, kind="stable"), 4), 1):
        name = {1: "1 (worst priors)", 4: "4 (best priors)"}.get(number, str(number))
        accuracy = group_report(name, labels[part], probabilities[part], evaluation.classes).accuracy
        share = float(occluded[part].mean()) if occluded.any() else None
        parts.append(Quartile(name, len(part), float(score[part].min()), float(score[part].max()), share, accuracy))
    return parts
