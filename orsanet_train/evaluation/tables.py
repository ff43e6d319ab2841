"""Evaluations and comparisons as tables of plain text, and the cells of Markdown tables over seeds."""

from collections.abc import Sequence

import pandas as pd

from orsanet_train.evaluation.baselines import COMMONEST
from orsanet_train.evaluation.compare import Accuracy, Comparison, Difference
from orsanet_train.evaluation.differing import NOT_RECORDED, Differing
from orsanet_train.evaluation.metrics import GroupReport, baseline_names
from orsanet_train.evaluation.statistics import Estimate, smallest_seen, t_interval

LEAST_SEEDS = 3  # for an interval: that of two seeds is about ten times as wide as their spread


def text_table(reports: Sequence[GroupReport]) -> str:
    """The headlines of several groups, columns two spaces apart.

    A `*` marks groups on which the checkpoint was chosen, and training images are named. Metrics,
    including the calibration error ECE, are in per cent. `width` is the width of the accuracy's
    interval as a number of images. Each baseline has a column with its accuracy.
    """
    baselines = baseline_names(reports) or [COMMONEST]
    columns = [
        "group", "images", "rejected", "accuracy, %", "95 % interval", "width", *(f"{name}, %" for name in baselines),
        "balanced, %", "macro F1, %", "top-2, %", "ECE, %",
    ]  # fmt: skip
    rows = [
        [
            report.name
            + (" *" if report.chose_checkpoint else "")
            + (f" {report.training_mark}" if report.trained_on else ""),
            report.images,
            report.rejected,
            _percent(report.accuracy.value),
            "–".join(map(_percent, (report.accuracy.low, report.accuracy.high))),
            "-" if (width := report.accuracy.images(report.images)) is None else f"{width:.0f}",
            *(baseline_text(report, name) for name in baselines),
            *(_percent(metric.value) for metric in (report.balanced_accuracy, report.macro_f1, report.top2_accuracy)),
            _percent(report.calibration_error),
        ]
        for report in reports
    ]
    apart = [columns[0], *(f" {column}" for column in columns[1:])]  # pandas puts one space between columns
    return _aligned(pd.DataFrame(rows, columns=apart).astype(str))


def baseline_text(report: GroupReport, name: str, digits: int = 2) -> str:
    """A baseline's accuracy in per cent."""
    if report.baselines is None:
        return NOT_RECORDED
    return "-" if (one := report.baseline(name)) is None else f"{100 * one.accuracy:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def known_text(reports: Sequence[GroupReport]) -> str:
    """How many images of each group the run trained on, and how many chose its checkpoint."""
    counts = [
        f"{report.name} {report.trained_images:,} and {report.chose_images:,}"
        for report in reports
        if report.trained_images is not None and report.chose_images is not None
    ]
    return f"images that the run trained on, and that chose its checkpoint: {'; '.join(counts) or 'not known'}"


def comparison_text(comparison: Comparison) -> str:
    """What differs between the runs, the tables in per cent and points, then the protocols and notes."""
    parts = [_accuracy_table(comparison.accuracies)]
    if len(comparison.runs) > 1:
        parts.insert(0, _differing_text(comparison.runs, comparison.differing))
    if comparison.differences:
        first = comparison.runs[0]
        parts.append(f"Against {first}, image by image (exact McNemar test):\n{_pair_table(comparison.differences)}")
        if any(difference.over_seeds for difference in comparison.differences):
            parts.append(f"Against {first}, over the seeds (paired t test):\n{_seed_table(comparison.differences)}")
    stated = [f"{run}: {protocol}" for run, protocol in zip(comparison.runs, comparison.protocols, strict=True)]
    return "\n\n".join([*parts, "\n".join([*stated, *comparison.notes])])


def _differing_text(runs: Sequence[str], differing: Sequence[Differing]) -> str:
    """A row for each setting, a column for each run."""
    if not differing:
        return "The runs' configurations, training data and stores do not differ."
    rows = [[f"{one.what}: {one.key}", *(one.values[run] for run in runs)] for one in differing]
    table = pd.DataFrame(rows, columns=["setting", *runs])
    return f"What differs between the runs:\n{_aligned(table)}"


def _accuracy_table(accuracies: Sequence[Accuracy]) -> str:
    names = accuracy_baselines(accuracies)
    rows = [
        {
            "group": one.group + (" *" if one.chose_checkpoint else ""),
            "run": one.run,
            "seeds": len(one.seeds),
            "accuracy": f"{100 * one.mean:.2f}" + ("" if one.deviation is None else f" ± {100 * one.deviation:.2f}"),
            **{name: NOT_RECORDED if one.baselines is None else _percent(one.baselines.get(name)) for name in names},
        }
        for one in accuracies
    ]
    table = pd.DataFrame(rows)
    return _aligned(table if any(one.seeds for one in accuracies) else table.drop(columns="seeds"))


def accuracy_baselines(accuracies: Sequence[Accuracy]) -> list[str]:
    """Names of the baselines to show beside accuracies."""
    return list(dict.fromkeys(name for one in accuracies for name in one.baselines or ())) or [COMMONEST]


def _pair_table(differences: Sequence[Difference]) -> str:
    rows = [
        {
            "group": difference.group,
            "run": difference.run,
            **({} if seed is None else {"seed": seed}),
            "images": pair.images,
            "only first right": pair.only_first,
            "only this right": pair.only_second,
            **_points(pair.difference, pair.p_value),
        }
        for difference in differences
        for seed, pair in zip(difference.seeds or (None,), difference.pairs, strict=True)
    ]
    return _aligned(pd.DataFrame(rows))


def _seed_table(differences: Sequence[Difference]) -> str:
    rows = [
        {
            "group": difference.group,
            "run": difference.run,
            "seeds": len(difference.seeds),
            **_points(difference.over_seeds, difference.p_value),
        }
        for difference in differences
        if difference.over_seeds is not None
    ]
    return _aligned(pd.DataFrame(rows))


def _aligned(table: pd.DataFrame) -> str:
    """The table as text. A letter that takes two columns of a terminal, as Chinese ones do, counts as two."""
    with pd.option_context("display.unicode.east_asian_width", True):
        return table.to_string(index=False)


def _points(difference: Estimate, p_value: float | None) -> dict[str, str]:
    ends = [f"{100 * end:+.2f}" for end in (difference.low, difference.high) if end is not None]
    return {
        "difference": f"{100 * difference.value:+.2f}",
        "95 %": " … ".join(ends) or "-",
        "p": "-" if p_value is None else f"{p_value:.2g}",
    }


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown, with a line break at its end."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, ["---"] * len(header), *rows))


def spread_text(values: "pd.Series[float]", form: str = ".2f") -> str:
    """Mean ± sample standard deviation of numbers; the mean alone of a single one, nothing of none."""
    if values.empty:
        return ""
    mean = f"{values.mean():{form}}"
    return mean if len(values) < 2 else f"{mean} ± {values.std():.2f}"


def difference_text(values: "pd.Series[float]") -> str:
    """Differences over seeds as `spread_text`, with the 95 % t interval of their mean from LEAST_SEEDS on."""
    text = spread_text(values, "+.2f")
    if len(values) < LEAST_SEEDS:
        return text
    low, high = t_interval(values)
    return f"{text} ({low:+.2f} … {high:+.2f})"


def seen_text(differences: "pd.Series[float]") -> str:
    """The smallest true difference that the seeds of these would show (`smallest_seen`), from LEAST_SEEDS on."""
    return "" if len(differences) < LEAST_SEEDS else f"{smallest_seen(differences):.2f}"
