"""The tables for a terminal have every number, mark what chose the checkpoint, shorten no name and leave out no row."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from orsanet_train.evaluation.compare import Accuracy, Comparison, Difference
from orsanet_train.evaluation.differing import Differing
from orsanet_train.evaluation.metrics import GroupReport, group_report
from orsanet_train.evaluation.statistics import mean_over_seeds, paired
from orsanet_train.evaluation.tables import comparison_text, text_table

CLASSES = ("surprise", "fear", "anger", "neutral")


def report_of(
    pairs: Sequence[tuple[str, str]], name: str = "test", rejected: int = 0, chose: bool = False
) -> GroupReport:
    """The report of (true, predicted) pairs."""
    labels, predicted = np.array([(CLASSES.index(true), CLASSES.index(said)) for true, said in pairs]).T
    probabilities = np.full((len(pairs), len(CLASSES)), 0.1)
    probabilities[np.arange(len(pairs)), predicted] = 0.7
    return group_report(name, labels, probabilities, CLASSES, rejected=rejected, chose_checkpoint=chose)


def comparison(*seeds: int, chose: bool = False) -> Comparison:
    """Two runs on 60 images, with these seeds, or with none: single runs."""
    rng = np.random.default_rng(0)
    pairs = [paired("test", rng.random(60) < 0.5, rng.random(60) < 0.8) for _ in seeds or (None,)]
    accuracies = []
    for run, values in (("a", [pair.first for pair in pairs]), ("b", [pair.second for pair in pairs])):
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        accuracies.append(
            Accuracy(run, "test", seeds, float(np.mean(values)), deviation, chose, {"commonest class": 0.4}, 60)
        )
    over_seeds, p_value = mean_over_seeds(pairs) if seeds else (None, None)
    differences = (Difference("b", "test", seeds, tuple(pairs), over_seeds, p_value),)
    protocols = ("last checkpoint", "best checkpoint")
    differing = (Differing("configuration", "loss.dare", {"a": "published", "b": "none"}),)
    return Comparison(("a", "b"), protocols, differing, tuple(accuracies), differences, ("a note", "another"))


def test_the_table_has_a_row_per_group_in_per_cent_with_columns_two_spaces_apart() -> None:
    first = report_of([("surprise", "surprise"), ("surprise", "fear"), ("fear", "fear")], "valid", 2, True)
    second = report_of([("anger", "anger")] * 7, "test:occluded")
    header, *rows = (re.split(r" {2,}", line.strip()) for line in text_table([first, second]).splitlines())
    assert header == [
        "group", "images", "rejected", "accuracy, %", "95 % interval", "width", "commonest class, %", "balanced, %", "macro F1, %", "top-2, %", "ECE, %",
    ]  # fmt: skip
    assert rows == [
        ["valid *", "3", "2", "66.67", "0.00–100.00", "3", "66.67", "75.00", "66.67", "100.00", "3.33"],
        ["test:occluded", "7", "0", "100.00", "64.57–100.00", "2", "100.00", "100.00", "100.00", "100.00", "30.00"],
    ]


def test_the_tables_shorten_no_name_and_leave_out_no_row() -> None:
    """Data frames abbreviate long cells and long tables unless told not to."""
    classes = [f"expression-{'x' * 80}-{index}" for index in range(70)]
    report = group_report("test:" + "a" * 80, np.arange(70), np.eye(70), classes)
    lines = text_table([report] * 70).splitlines()
    assert len(lines) == 71
    assert {line.split()[0] for line in lines[1:]} == {report.name}


def test_a_group_without_recorded_baselines_says_so() -> None:
    old = replace(report_of([("anger", "anger"), ("fear", "anger")]), baselines=None)
    header, row = (re.split(r" {2,}", line.strip()) for line in text_table([old]).splitlines())
    assert row[header.index("commonest class, %")] == "not recorded"
    compared = comparison()
    before = replace(compared, accuracies=tuple(replace(one, baselines=None) for one in compared.accuracies))
    assert comparison_text(before).count("not recorded") == 2


def test_a_comparison_begins_with_what_differs_and_says_so_if_nothing_does() -> None:
    title, header, row, blank = comparison_text(comparison()).splitlines()[:4]
    assert title == "What differs between the runs:"
    assert [header.split(), row.split(), blank] == [
        ["setting", "a", "b"],
        ["configuration:", "loss.dare", "published", "none"],
        "",
    ]
    same = comparison_text(replace(comparison(), differing=()))
    assert same.startswith("The runs' configurations, training data and stores do not differ.\n\n")


def test_accuracies_stand_beside_the_baselines() -> None:
    header, *rows = comparison_text(comparison(0, 1)).split("\n\n")[1].splitlines()
    assert header.endswith("accuracy commonest class")
    assert [row.split()[-1] for row in rows] == ["40.00", "40.00"]


def test_the_text_of_a_comparison_has_every_number() -> None:
    compared = comparison(0, 1)
    text = comparison_text(compared)
    (difference,) = compared.differences
    for pair in difference.pairs:
        low, high = pair.difference.low, pair.difference.high
        assert low is not None
        assert high is not None
        row = ["60", str(pair.only_first), str(pair.only_second), f"{100 * pair.difference.value:+.2f}"]
        row += [f"{100 * low:+.2f}", "…", f"{100 * high:+.2f}", f"{pair.p_value:.2g}"]
        assert any(line.split()[-8:] == row for line in text.splitlines())
    for one in compared.accuracies:
        assert f"{100 * one.mean:.2f} ± {100 * (one.deviation or 0):.2f}" in text
    assert difference.over_seeds is not None
    assert f"{100 * difference.over_seeds.value:+.2f}" in text.partition("over the seeds")[2]


def test_the_text_of_a_comparison_ends_with_how_each_run_was_chosen_and_the_notes() -> None:
    assert comparison_text(comparison()).splitlines()[-4:] == [
        "a: last checkpoint", "b: best checkpoint", "a note", "another"
    ]  # fmt: skip


def test_single_runs_have_no_column_and_no_table_of_seeds() -> None:
    assert "seed" not in comparison_text(comparison())
    assert "over the seeds" in comparison_text(comparison(0, 1))


def test_a_seed_alone_has_a_difference_and_no_interval() -> None:
    header, row = comparison_text(comparison(7)).partition("over the seeds (paired t test):\n")[2].splitlines()[:2]
    assert header.split() == ["group", "run", "seeds", "difference", "95", "%", "p"]
    assert row.split()[-2:] == ["-", "-"]


def test_a_group_that_chose_the_checkpoint_is_marked() -> None:
    assert "test *" in comparison_text(comparison(chose=True))
    assert "*" not in comparison_text(comparison())
