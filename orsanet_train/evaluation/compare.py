"""Evaluated runs against the first of them, image by image; seeds as mean and spread.

What differs between the runs' settings and stores stands before the numbers (differing.py).

Both models are evaluated on the same images, so what they have in common cancels: only images that
exactly one of them predicts correctly distinguish them (exact McNemar test). The test compares two
trained models. To compare two methods, train each with several seeds.

    RUN/evaluation-<checkpoint>/, or RUN/seed-<n>/evaluation-<checkpoint>/ ─┐
    predictions.csv of another program (outside.py) ────────────────────────┴─▶ Comparison
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.paths import StrPlace, as_places
from orsanet_train.evaluation.differing import CONFIGURATION, NOT_RECORDED, Compared, Differing, differing
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.metrics import GroupReport, baseline_names, not_beaten
from orsanet_train.evaluation.outside import SUFFIX, Outside, read_outside
from orsanet_train.evaluation.predictions import Evaluation, read_evaluation, right
from orsanet_train.evaluation.statistics import Estimate, Paired, mean_over_seeds, paired
from orsanet_train.model.checkpoint import how_chosen
from orsanet_train.model.fetched import local_runs

FILE_BEGINS = rb'\{\n  "runs": \[\n    ".*?\n  \],\n  "protocols": \[\n'  # of `compare --out`
EXAMPLES = 5  # images to name where two evaluations do not fit


@dataclass(frozen=True)
class Accuracy:
    """A run on a group."""

    run: str
    group: str
    seeds: tuple[int, ...]  # empty: a single run
    mean: float
    deviation: float | None  # sample standard deviation over the seeds; None: fewer than two seeds
    chose_checkpoint: bool  # a checkpoint was chosen on these images, so the number is optimistic
    # Accuracy of each baseline by name, mean over the seeds. None: not recorded, in evaluations from before.
    baselines: dict[str, float] | None
    images: int


@dataclass(frozen=True)
class Difference:
    """A further run against the first on a group."""

    run: str
    group: str
    seeds: tuple[int, ...]  # that both runs have; empty: single runs
    pairs: tuple[Paired, ...]  # one for each seed, or the only one
    over_seeds: Estimate | None  # mean difference with its t interval; None: single runs
    p_value: float | None  # paired t test over the seeds


@dataclass(frozen=True)
class Comparison:
    """Runs on the groups that all of them were evaluated on. Shares are in 0 … 1."""

    runs: tuple[str, ...]
    protocols: tuple[str, ...]  # of each run
    differing: tuple[Differing, ...]  # settings, training data and stores, only what differs
    accuracies: tuple[Accuracy, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]  # what was left out, which numbers are optimistic, which baselines are not beaten

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def seed_folders(run: Path) -> dict[int, Path]:
    """The runs of a folder of seeds by seed, in order; empty for any other folder."""
    found = {int(match[1]): path for path in run.glob("seed-*") if (match := re.fullmatch(r"seed-(\d+)", path.name))}
    return dict(sorted(found.items()))


def run_names(runs: Sequence[Path]) -> list[str]:
    """Names of the runs: their folders' names, or their paths if two folders have the same name."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def is_outside(run: Path) -> bool:
    """Whether a run to compare is a file of predictions that another program made."""
    return run.suffix == SUFFIX and not run.is_dir()


def compare(runs: Sequence[StrPlace], checkpoint: str = "best") -> Comparison:
    """Compare every further run with the first, on the groups that both were evaluated on.

    The folders evaluation-<checkpoint> of the runs are read. `runs` are all run folders, or all
    folders of seeds; each may have a URL. Beside run folders, after the first one, may be .csv files of predictions that
    another program made for the first run's images. Raises OrsanetError for a mixture of the two,
    for a run without an evaluation, for runs without a common group or seed, if classes, images or
    labels differ, and for a file that `read_outside` refuses.
    """
    with local_runs(as_places(runs, "runs", "run"), checkpoint) as folders:
        return _compared(_read(folders, checkpoint))


def _compared(read: list["_Run"]) -> Comparison:
    first, *others = read
    notes: list[str] = []
    for run in read:
        _check_same(first, run)
        notes += [*_left_out(first, run), *_trained_on(run), *_not_beaten(run), *run.notes]
    accuracies = tuple(_accuracy(run, group) for group in first.groups for run in read if group in run.groups)
    if any(one.chose_checkpoint for one in accuracies):
        notes.append("* the checkpoint was chosen on these images, so the number is optimistic")
    return Comparison(
        runs=tuple(run.name for run in read),
        protocols=tuple(run.protocol for run in read),
        differing=_differing(read),
        accuracies=accuracies,
        differences=tuple(
            _difference(first, run, group) for group in first.groups for run in others if group in run.groups
        ),
        notes=tuple(notes),
    )


def _differing(runs: Sequence["_Run"]) -> tuple[Differing, ...]:
    """What differs between the runs; of another program's predictions no setting is known."""
    found = list(differing([Compared(run.name, bool(run.seeds), run.by_folder) for run in runs if run.by_folder]))
    unknown = [run.name for run in runs if not run.by_folder]
    if not unknown:
        return tuple(found)
    recorded = {run.name: "recorded" if run.by_folder else NOT_RECORDED for run in runs}
    blank = dict.fromkeys(unknown, NOT_RECORDED)
    return (
        Differing(CONFIGURATION, "all settings", recorded),
        *(replace(one, values={**one.values, **blank}) for one in found),
    )


@dataclass(frozen=True)
class _Run:
    """A run to compare: one evaluation, or one for each seed."""

    name: str
    folder: Path
    by_seed: Mapping[int | None, Evaluation | Outside]  # None: a single run
    by_folder: Mapping[Path, Evaluation]  # the evaluations by run folder; none of another program's predictions
    notes: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(seed for seed in self.by_seed if seed is not None)

    @property
    def groups(self) -> list[str]:
        """The groups that were evaluated with every seed."""
        one, *more = self.by_seed.values()
        return [report.name for report in one.groups if all(other.group(report.name) for other in more)]

    @property
    def protocol(self) -> str:
        """How its checkpoints were chosen."""
        if not self.by_folder:
            return f"predictions of another program ({self.folder}): how it was trained and chosen is not known"
        return how_chosen(*(evaluation.checkpoint for evaluation in self.by_folder.values()))

    def reports(self, group: str) -> list[GroupReport]:
        """The reports of one group, by seed."""
        return [report for evaluation in self.by_seed.values() if (report := evaluation.group(group))]

    def outcomes(self, seed: int | None, group: str) -> pd.DataFrame:
        """The group's rows of the predictions table, by (split, view, image)."""
        table = self.by_seed[seed].table
        return table[Group.parse(group).of(table)].set_index(["split", "view", "image"])


def _read(runs: Sequence[Path], checkpoint: str) -> list[_Run]:
    if is_outside(runs[0]):
        raise OrsanetError(f"{runs[0]}: name an evaluated run first, which has the images and their labels")
    found = [seed_folders(run) for run in runs]
    several = [run for run, seeds in zip(runs, found, strict=True) if seeds]
    single = [run for run, seeds in zip(runs, found, strict=True) if not seeds]
    if several and single:
        raise OrsanetError(
            f"{several[0]} is a folder of seeds and {single[0]} is not; name one of its runs ({several[0]}/seed-…) instead"
        )
    if len(single) == 1:
        raise OrsanetError(f"{single[0]}: name another run to compare it with")
    read: list[_Run] = []
    for name, run, seeds in zip(run_names(runs), runs, found, strict=True):
        if is_outside(run):
            outside = read_outside(run, next(iter(read[0].by_folder.values())))
            read.append(_Run(name, run, {None: outside}, {}, outside.notes))
            continue
        folders: list[tuple[int | None, Path]] = [*seeds.items()] or [(None, run)]
        evaluations = [(seed, folder, read_evaluation(folder, checkpoint)) for seed, folder in folders]
        by_seed = {seed: evaluation for seed, _, evaluation in evaluations}
        read.append(_Run(name, run, by_seed, {folder: evaluation for _, folder, evaluation in evaluations}))
    return read


def _check_same(first: _Run, run: _Run) -> None:
    """Compare classes, images and labels of every seed with those of the first run's first seed.

    Raises OrsanetError if any of them differ, or if the runs have no group or seed in common.
    """
    reference, expected = next(iter(first.by_seed.items()))
    common = [group for group in first.groups if group in run.groups]
    if not common:
        raise OrsanetError(
            f"{run.folder} was evaluated on {_enumerated(run.groups)}, {first.folder} on {_enumerated(first.groups)}: no group in common; "
            "evaluate both, with every seed, with the same --splits"
        )
    if not first.by_seed.keys() & run.by_seed.keys():
        raise OrsanetError(
            f"{run.folder} has the seeds {_enumerated(run.seeds)}, {first.folder} has {_enumerated(first.seeds)}: no seed in common; "
            "train both with the same --seeds"
        )
    for seed, evaluation in run.by_seed.items():
        where = run.folder if seed is None else run.folder / f"seed-{seed}"
        if evaluation.classes != expected.classes:
            raise OrsanetError(
                f"{where}: the classes are {', '.join(evaluation.classes)} (in this order), those of {first.folder} are "
                f"{', '.join(expected.classes)}; compare runs that were trained with the same classes"
            )
        for group in common:
            here, there = run.outcomes(seed, group)["label"], first.outcomes(reference, group)["label"]
            if unmatched := [key[-1] for key in here.index.symmetric_difference(there.index)]:
                raise OrsanetError(
                    f"{where}: '{group}' has other images than in {first.folder}; evaluate both with the same manifest and store. "
                    f"Images in only one of them:\n{listed(unmatched, EXAMPLES)}"
                )
            there = there.loc[here.index]
            if differing := [
                f"{key[-1]}: {label}, in {first.folder} {other}"
                for key, label, other in zip(here.index, here, there, strict=True)
                if label != other
            ]:
                raise OrsanetError(
                    f"{where}: images of '{group}' have other labels than in {first.folder}; evaluate both with the same manifest:\n"
                    f"{listed(differing, EXAMPLES)}"
                )


def _left_out(first: _Run, run: _Run) -> Iterator[str]:
    for one, other in ((first, run), (run, first)):
        if groups := [group for group in one.groups if group not in other.groups]:
            yield f"{other.name} was not evaluated on {_enumerated(groups)}: left out"
        if seeds := [seed for seed in one.seeds if seed not in other.seeds]:
            yield f"{other.name} has no seed {_enumerated(seeds)}: left out of the differences"
    somewhere = dict.fromkeys(report.name for evaluation in run.by_seed.values() for report in evaluation.groups)
    if groups := [group for group in somewhere if group not in run.groups]:
        yield f"{run.name}: not every seed was evaluated on {_enumerated(groups)}: left out"


def _trained_on(run: _Run) -> Iterator[str]:
    for group in run.groups:
        trained = [report for report in run.reports(group) if report.trained_on]
        if any(report.all_trained_on for report in trained):
            yield f"{run.name} was trained on the images of {group}"
        elif trained:
            most = max(trained, key=lambda report: report.trained_images or 0)
            yield f"{run.name} was trained on {most.trained_images:,} of the {most.images:,} images of {group}"


def _not_beaten(run: _Run) -> Iterator[str]:
    """A warning for each baseline that the run does not beat on some groups, or not with every seed."""
    if not run.seeds:
        (evaluation,) = run.by_seed.values()
        yield from (f"{run.name}: {warning}" for warning in not_beaten(evaluation.groups))
        return
    by_name: dict[str, list[str]] = {}
    for group in run.groups:
        reports = run.reports(group)
        for name in baseline_names(reports):
            found = [one for report in reports if (one := report.baseline(name)) is not None and not one.beaten]
            if found:
                by_name.setdefault(name, []).append(f"{group} ({len(found)} of {len(reports)} seeds)")
    for name, groups in by_name.items():
        yield f"{run.name}: the model is not shown to be better than the baseline '{name}' on {', '.join(groups)}"


def _enumerated(items: Sequence[object]) -> str:
    return ", ".join(map(str, items)) or "nothing"


def _accuracy(run: _Run, group: str) -> Accuracy:
    reports = run.reports(group)
    values = [report.accuracy.value for report in reports]
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    chose = any(report.chose_checkpoint for report in reports)
    return Accuracy(
        run.name, group, run.seeds, float(np.mean(values)), deviation, chose, _baselines(reports), reports[0].images
    )


def _baselines(reports: Sequence[GroupReport]) -> dict[str, float] | None:
    if any(report.baselines is None for report in reports):
        return None
    return {
        name: float(np.mean([one.accuracy for report in reports if (one := report.baseline(name)) is not None]))
        for name in baseline_names(reports)
    }


def _difference(first: _Run, run: _Run, group: str) -> Difference:
    pairs = []
    seeds = [seed for seed in first.by_seed if seed in run.by_seed]
    for seed in seeds:
        reference = first.outcomes(seed, group)
        pairs.append(paired(group, right(reference), right(run.outcomes(seed, group).loc[reference.index])))
    named = tuple(seed for seed in seeds if seed is not None)
    over_seeds, p_value = mean_over_seeds(pairs) if named else (None, None)
    return Difference(run.name, group, named, tuple(pairs), over_seeds, p_value)
