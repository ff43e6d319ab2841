"""An experiment: a task trained with every loss and seed, and its table.

    OUT/<loss>/seed-<n>/    a run folder (training.py)      OUT/dare.csv, dare.md, curves.png    the table (table.py)

A repeated call goes on where the last one stopped, and adds losses and seeds. Several processes may
share OUT, each with its own losses or seeds; the last to end writes the table of all.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from orsanet_cache.outputs import held
from orsanet_train.general.arms import Arm
from orsanet_train.general.table import Epoch, check_tables, runs_of, write_table
from orsanet_train.general.training import Task, check_run, train_run


def experiment(task: Task, arms: Sequence[Arm], seeds: Sequence[int], out: Path) -> Iterator[str]:
    """Train every loss with every seed; yields each run's name before it starts.

    Raises OrsanetError for runs in `out` with other settings or data, and for the errors of
    `train_run`.
    """
    check_tables(out)
    for arm, seed, run in runs_of(out):
        check_run(run, task, arm, seed)
    with held(out, shared=True):
        runs = [(arm, seed) for seed in seeds for arm in arms]  # after an interruption every loss has the same seeds
        for number, (arm, seed) in enumerate(runs, 1):
            yield f"run {number} of {len(runs)}: {arm}, seed {seed}"
            train_run(task, arm, seed, out / arm.folder / f"seed-{seed}")


def table(task: Task, out: Path, epoch: Epoch) -> str:
    """Write the table of every finished run in `out`, and return it as Markdown."""
    return write_table(out, task.measures, task.identity["data"], epoch)
