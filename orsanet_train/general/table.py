"""The table of an experiment: every loss over its seeds, and its paired difference from cross-entropy.

OUT/<loss>/seed-<n>/metrics.csv ─▶ one row per finished run ─▶ dare.csv, dare.md, curves.png
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from orsanet_cache.durable import read_json, write_all
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import check_file, lock_file
from orsanet_cache.streams import printable
from orsanet_train.drawing import plots
from orsanet_train.evaluation.compare import seed_folders
from orsanet_train.evaluation.history import HISTORY
from orsanet_train.evaluation.tables import difference_text, markdown_table, spread_text
from orsanet_train.general.arms import CROSS_ENTROPY, Arm
from orsanet_train.general.measures import TITLES
from orsanet_train.general.training import RESULT, RUN

RUNS, TABLE, CURVES = "dare.csv", "dare.md", "curves.png"
_BEGINS = {RUNS: rb"loss,weight,form,seed,", TABLE: rb"\| loss \| seeds \|", CURVES: rb"\x89PNG"}

# last: the last epoch, which no result has chosen. best: the epoch with the highest first measure on the test samples.
Epoch = Literal["last", "best"]


def check_tables(out: Path) -> None:
    """Raises OrsanetError if the table's files in `out` are others."""
    for name, pattern in _BEGINS.items():
        check_file(out / name, pattern, "a table of `orsanet-train dare`")


def runs_of(out: Path) -> Iterator[tuple[Arm, int, Path]]:
    """Loss, seed and folder of every run that has begun. Raises OrsanetError for a run of another command."""
    for folder in sorted(out.glob("*/")):
        for seed, run in seed_folders(folder).items():
            if (run / RUN).is_file():
                content = read_json(run / RUN)
                if not {"weight", "form"} <= content.keys():
                    raise OrsanetError(f"{run}: no run of `orsanet-train dare`; choose another --out")
                yield Arm(float(content["weight"]), content["form"]), seed, run


def collect(out: Path, epoch: Epoch = "last") -> tuple[pd.DataFrame, dict[Arm, list[pd.DataFrame]]]:
    """A row per finished run, and the finished runs' rows per tested epoch.

    Columns: loss, weight, form, seed, epoch, then the measures as shares.
    """
    rows, histories = [], dict[Arm, list[pd.DataFrame]]()
    for arm, seed, run in runs_of(out):
        if not (run / RESULT).is_file():
            continue
        history, measures = pd.read_csv(run / HISTORY), read_json(run / RUN)["measures"]
        at = history.iloc[-1] if epoch == "last" else history.loc[history[measures[0]].idxmax()]
        histories.setdefault(arm, []).append(history)
        rows.append(
            {
                "loss": str(arm),
                "weight": arm.weight,
                "form": arm.form,
                "seed": seed,
                "epoch": int(at["epoch"]),
                **at[measures],
            }
        )
    return pd.DataFrame(rows), histories


def summary(runs: pd.DataFrame, measures: Sequence[str], data: Sequence[str], epoch: Epoch) -> str:
    """The table as Markdown, with how to read it.

    Per loss and measure it has mean ± standard deviation over the seeds, in per cent, and the mean
    difference from cross-entropy, seed by seed, in points, with its 95 % t interval from three seeds
    on.
    """
    header = ["loss", "seeds", *(column for name in measures for column in (TITLES[name], "− CE"))]
    per_cent = {name: runs.pivot(index="seed", columns="loss", values=name).mul(100) for name in measures}
    order = runs.drop_duplicates("loss").sort_values(["weight", "form"], ascending=[True, False])["loss"]
    rows = []
    for loss in order:
        cells = [loss, str(int((runs["loss"] == loss).sum()))]
        for name in measures:
            values = per_cent[name][loss].dropna()
            paired = loss != str(CROSS_ENTROPY) and str(CROSS_ENTROPY) in per_cent[name]
            difference = (values - per_cent[name][str(CROSS_ENTROPY)]).dropna() if paired else values[:0]
            cells += [spread_text(values), difference_text(difference)]
        rows.append(cells)
    lines = [
        markdown_table(header, rows),
        "In per cent, mean ± sample standard deviation over the seeds. − CE: difference in points, seed by seed.",
        f"Data: {'; '.join(data)}.",
        "Of the last epoch, which no result has chosen."
        if epoch == "last"
        else f"Of each run's epoch with the best {TITLES[measures[0]]} on these test samples: optimistic.",
    ]
    if any(cell.endswith(")") for cells in rows for cell in cells):
        lines.append(
            "In brackets: 95 % t interval of the mean difference over seeds, for the same data. The intervals are not corrected for "
            "their number: one in twenty excludes 0 by chance."
        )
    return "\n".join(lines) + "\n"


def write_table(out: Path, measures: Sequence[str], data: Sequence[str], epoch: Epoch) -> str:
    """Write the files of the table of every finished run, and return it.

    Raises OrsanetError if one of them is another file, or no run is finished.
    """
    with lock_file(out / ".orsanet-table", wait=True):  # of processes that end together, the last has all runs
        check_tables(out)
        runs, histories = collect(out, epoch)
        if runs.empty:
            raise OrsanetError(f"{out}: no finished run yet; run the same command again")
        table = summary(runs, measures, data, epoch)
        write_all(
            {
                out / RUNS: lambda path: runs.to_csv(path, index=False),
                out / TABLE: lambda path: path.write_text(printable(table), encoding="utf-8"),
            }
        )
        if plots.matplotlib_installed():
            named = {str(arm): each for arm, each in histories.items()}
            plots.write_picture(plots.curves_by_loss(named, measures[0], TITLES[measures[0]]), out / CURVES)
    return table
