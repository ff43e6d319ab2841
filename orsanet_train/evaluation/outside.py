"""Predictions that another program made, for a comparison with runs.

    predictions.csv: image, and predicted (a class) or p_<class> for every class ─┐
    images, labels and classes of an evaluated run ───────────────────────────────┴─▶ groups, as of an evaluation

Columns split and view are optional: without them a row counts for its image in every split, in the
clean view. Images are matched by their path in the manifest, or by their file name where that is
unambiguous. The predictions.csv of an evaluation is such a file.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orsanet_cache.data.cells import unmarked
from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError, did_you_mean, listed, refuse_shortage
from orsanet_cache.reading import read_limited
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.metrics import GroupReport, group_report
from orsanet_train.evaluation.predictions import MAX_BYTES, Evaluation, labels_of, probability_columns

SUFFIX = ".csv"
SUM_ROUNDING = 0.02  # of the probabilities of an image: files have few digits
EXAMPLES = 5  # images to name


@dataclass(frozen=True)
class Outside:
    """Predictions of another program for the images of an evaluation. It stands beside Evaluation in a comparison."""

    classes: tuple[str, ...]
    groups: tuple[GroupReport, ...]
    table: pd.DataFrame  # split, view, image, tags, label, predicted
    notes: tuple[str, ...]

    def group(self, name: str) -> GroupReport | None:
        return next((report for report in self.groups if report.name == name), None)


def read_outside(path: Path, known: Evaluation) -> Outside:
    """Read a table of predictions for the images of `known`, whose labels and groups count.

    A group is left out if the file has none of its images. Raises OrsanetError for a file that is
    no such table; if it lacks some of a group's images; if a class is not one of `known`; and for
    probabilities that are percentages, do not sum to 1, or contradict the column `predicted`.
    """
    table, columns = _read(path)
    probabilities, notes = _probabilities(path, table, columns, known.classes)
    rows = _rows_of(path, table, known.table)
    groups, kept = [], np.zeros(len(rows), bool)
    for report in known.groups:
        of_group = Group.parse(report.name).of(known.table)
        wanted = rows[of_group]
        if (wanted < 0).all():
            continue
        if (wanted < 0).any():
            missing = known.table["image"].to_numpy()[of_group][wanted < 0].tolist()
            raise OrsanetError(
                f"{path}: lacks {len(missing):,} of the {len(wanted):,} images of '{report.name}'; a comparison needs all:\n"
                f"{listed(missing, EXAMPLES)}"
            )
        kept |= of_group
        labels = labels_of(known.table[of_group], known.classes)
        groups.append(group_report(report.name, labels, probabilities[wanted], known.classes))
    if not groups:
        raise OrsanetError(
            f"{path}: none of its images is one of the evaluated ones, such as {known.table['image'].iloc[0]}; "
            "its column image has the paths or the file names of the manifest"
        )
    notes += [f"'{report.name}': {report.label_warning}" for report in groups if report.label_warning]
    names = np.array(known.classes, dtype=object)
    described = known.table.loc[kept, ["split", "view", "image", "tags", "label"]].reset_index(drop=True)
    predicted = names[probabilities[rows[kept]].argmax(axis=1)]
    return Outside(known.classes, tuple(groups), described.assign(predicted=predicted), tuple(notes))


def _read(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The table as text, and its columns."""
    try:
        content = read_limited(path, MAX_BYTES).decode("utf-8-sig")
        table = pd.read_csv(io.StringIO(content), dtype=str, keep_default_na=False)
    except (OSError, ValueError, csv.Error) as error:  # ValueError: pandas' own, and not UTF-8
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: cannot be read as a table of predictions ({error})") from error
    columns = list(table.columns)
    if "image" not in columns or table.empty:
        raise OrsanetError(f"{path}: no table of predictions: it needs a column image, and a row for every image")
    return table.assign(image=table["image"].map(unmarked)), columns


def _probabilities(
    path: Path, table: pd.DataFrame, columns: Sequence[str], classes: tuple[str, ...]
) -> tuple[NDArray[np.float64], list[str]]:
    """Probabilities [rows, K] in label order; of predicted classes alone they are 0 and 1."""
    given, wanted = [name for name in columns if name.startswith("p_")], probability_columns(classes)
    if not given and "predicted" not in columns:
        raise OrsanetError(f"{path}: has neither a column predicted nor one for every class: {', '.join(wanted)}")
    predicted = None
    if "predicted" in columns:
        named = table["predicted"].map(unmarked)
        predicted = pd.Index(classes).get_indexer(pd.Index(named))
        if (predicted < 0).any():
            unknown = named[predicted < 0].iloc[0]
            raise OrsanetError(
                f"{path}: predicts '{unknown}', which is none of the classes {', '.join(classes)}{did_you_mean(unknown, classes)}"
            )
    if not given:
        return np.eye(len(classes))[predicted], []
    if set(given) != set(wanted):
        others = [name for name in given if name not in wanted] or [name for name in wanted if name not in given]
        what = "has" if others[0] in given else "lacks"
        raise OrsanetError(f"{path}: {what} the column {others[0]}; the classes are {', '.join(wanted)}")
    notes = []
    if given != wanted:
        notes.append(
            f"{path.name} has its classes in another order ({', '.join(given)}): they are taken by their names"
        )
    values = table[wanted].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    _check_shares(path, table, values)
    if predicted is not None:
        largest = values.max(axis=1)
        wrong = values[np.arange(len(values)), predicted] < largest
        if wrong.any():
            raise OrsanetError(
                f"{path}: predicted is not the class with the largest probability in {int(wrong.sum()):,} of {len(wrong):,} rows, "
                f"{table['image'][wrong].iloc[0]} for example; the columns {', '.join(given)} may have the names of other classes"
            )
    return values, notes


def _check_shares(path: Path, table: pd.DataFrame, values: NDArray[np.float64]) -> None:
    sums = values.sum(axis=1)
    if np.median(sums) > 50 and abs(np.median(sums) - 100) < 100 * SUM_ROUNDING:
        raise OrsanetError(f"{path}: has percentages, which sum to 100; divide them by 100")
    bad = ~((values >= 0).all(axis=1) & (abs(sums - 1) <= SUM_ROUNDING))
    if bad.any():
        raise OrsanetError(
            f"{path}: {int(bad.sum()):,} row(s) do not have probabilities of 0 … 1 that sum to 1, "
            f"{table['image'][bad].iloc[0]} for example (sum {sums[bad][0]:g})"
        )


def _rows_of(path: Path, table: pd.DataFrame, known: pd.DataFrame) -> NDArray[np.int64]:
    """The row of the file for every row of the known table; -1: it has none."""
    names = table["image"]
    if not names.isin(known["image"]).any():
        ours = known.drop_duplicates("image")["image"].map(_file_name)
        if ours.is_unique:  # then a file name means one image
            names = names.map(_file_name)
            known = known.assign(image=known["image"].map(_file_name))
    keys = {"image": names, "view": table.get("view", CLEAN)}
    if "split" in table:
        keys["split"] = table["split"].map(unmarked)
    index = pd.MultiIndex.from_frame(pd.DataFrame(keys))
    if index.has_duplicates:
        raise OrsanetError(f"{path}: has more than one row for {names[index.duplicated()].iloc[0]}")
    return index.get_indexer(pd.MultiIndex.from_frame(known[list(keys)])).astype(np.int64)


def _file_name(image: str) -> str:
    return image.replace("\\", "/").rpartition("/")[-1]
