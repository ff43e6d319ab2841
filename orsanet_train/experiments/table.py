"""The tables of an ablation: every finished run, and means, differences and costs of the variants.

OUT/ablation.csv   one row per run and group
OUT/ablation.md    mean and standard deviation over the seeds, and the difference from the first variant of the set, seed by seed
"""

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from orsanet_cache.durable import write_all
from orsanet_cache.outputs import check_file, lock_file, read_steadily
from orsanet_cache.streams import printable
from orsanet_train.evaluation.compare import seed_folders
from orsanet_train.evaluation.history import read_history
from orsanet_train.evaluation.predictions import EVALUATION, Evaluation
from orsanet_train.evaluation.tables import difference_text, markdown_table, seen_text, spread_text
from orsanet_train.experiments.variants import in_order, reference_of

LAST = "evaluation-last"  # of the last checkpoint, which is not chosen by any result
RUNS, TABLE = "ablation.csv", "ablation.md"
_BEGINS = {RUNS: rb"variant,seed,epochs,group,", TABLE: rb"\| variant \| seeds \|"}


def collect(out: Path) -> pd.DataFrame:
    """A table of every finished run below `out`.

    Columns: variant, seed, epochs, group, images, then shares: accuracy, balanced accuracy, and the
    accuracy of always predicting the commonest class; then the seconds that training took per
    image, in the median epoch.
    """
    rows = []
    for variant, seed, run in run_folders(out):
        if not (run / LAST / EVALUATION).is_file():
            continue
        evaluation = read_steadily(run / LAST, Evaluation.read)
        history = read_history(run)
        seconds = math.nan if history is None else float((1 / history["images_per_second"]).median())
        rows += [
            {
                "variant": variant,
                "seed": seed,
                "epochs": evaluation.checkpoint.epoch,
                "group": group.name,
                "images": group.images,
                "accuracy": group.accuracy.value,
                "balanced_accuracy": group.balanced_accuracy.value,
                "commonest_class": group.commonest_share,
                "seconds_per_image": seconds,
            }
            for group in evaluation.groups
        ]
    return pd.DataFrame(rows)


def run_folders(out: Path) -> Iterator[tuple[str, int, Path]]:
    """Variant, seed and folder of every run that has begun."""
    for variant in sorted(out.glob("*/")):
        for seed, run in seed_folders(variant).items():
            if (run / "run.json").is_file():
                yield variant.name, seed, run


def summary(runs: pd.DataFrame) -> str:
    """The tables as Markdown.

    Per variant and group the first has the accuracy as mean ± standard deviation over the seeds, in
    per cent; the mean difference from the first variant of the set, seed by seed, in points; and its
    95 % t interval if there are three seeds. Below it are the accuracies of always predicting the
    commonest class, and a warning if the runs were not trained for the same number of epochs.

    The second has the time of a training image, and the smallest difference that the seeds could
    have shown.
    """
    order = in_order(list(set(runs["variant"])))
    reference = reference_of(order)
    groups = list(dict.fromkeys(runs["group"]))
    header = ["variant", "seeds", *(column for group in groups for column in (group, f"− {reference}"))]
    per_cent = runs.pivot(index="seed", columns=["variant", "group"], values="accuracy").mul(100)
    lines, costs = [], []
    for variant in order:
        of_variant = runs[runs["variant"] == variant]
        lines.append([variant, str(of_variant["seed"].nunique())])
        costs.append([variant, spread_text(1000 * of_variant.groupby("seed")["seconds_per_image"].first(), ".1f")])
        for group in groups:
            accuracy, first = (
                per_cent.get((name, group), pd.Series(dtype=float)).dropna() for name in (variant, reference)
            )
            difference = (accuracy - first).dropna()
            lines[-1] += [spread_text(accuracy), "" if variant == reference else difference_text(difference)]
            costs[-1].append("" if variant == reference else seen_text(difference))
    table = markdown_table(header, lines)
    table += (
        "\nAccuracy in per cent of the last checkpoint, mean ± sample standard deviation over the seeds. "
        f"− {reference}: difference in points, seed by seed.\n"
    )
    commonest = runs.groupby("group", sort=False)["commonest_class"].first()
    beside = "; ".join(f"{group} {spread_text(100 * commonest[[group]])}" for group in groups)
    table += f"Always the commonest class of these images: {beside}.\n"
    if any(cell.endswith(")") for cells in lines for cell in cells):
        table += (
            "In brackets: 95 % t interval of the mean difference over training seeds, for the same images. The intervals are not corrected "
            "for their number: one in twenty excludes 0 by chance.\n"
        )
    if runs["epochs"].nunique() > 1:
        counts = ", ".join(map(str, sorted(set(runs["epochs"]))))
        table += f"\nNot comparable yet: these runs have {counts} epochs. Run again with every variant and seed.\n"
    table += "\n" + markdown_table(["variant", "ms per image", *groups], costs)
    table += "\nms per image: training alone, in the median epoch, mean ± sample standard deviation over the seeds.\n"
    if any(cell for _, _, *cells in costs for cell in cells):
        table += (
            "The other columns: the smallest true difference in points that so many seeds with their spread would show in four of "
            "five repetitions.\n"
        )
    return table


def write_summary(out: Path) -> str:
    """Write ablation.csv and ablation.md of every finished run, and return the table.

    Raises OrsanetError if one of them is another file.
    """
    with lock_file(out / ".orsanet-table", wait=True):  # of processes that end together, the last has all runs
        check_tables(out)
        runs = collect(out)
        table = summary(runs)
        write_all(
            {
                out / RUNS: lambda path: runs.to_csv(path, index=False),
                out / TABLE: lambda path: path.write_text(printable(table), encoding="utf-8"),
            }
        )
    return table


def check_tables(out: Path) -> None:
    """Raises OrsanetError if a file of `out` with the name of a table is not one of an ablation."""
    for name, pattern in _BEGINS.items():
        check_file(out / name, pattern, "a table of `orsanet-train ablate`")
