"""The same training with several seeds, and what they say together.

OUT/seed-<n>/   a run folder      OUT/seeds.csv   one row per seed
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import sem, t

from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError
from orsanet_train.run.train import RunSummary


def parse_seeds(text: str) -> list[int]:
    """`1,2,3` -> [1, 2, 3]. Raises OrsanetError for anything else, for a seed too large for RunConfig, and for one named twice."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise OrsanetError(f"--seeds {text}: write numbers separated by commas, for example 0,1,2")
    seeds = [int(part) for part in parts]
    if max(seeds) >= 2**63:
        raise OrsanetError(f"--seeds {text}: a seed is less than 2^63")
    if len(set(seeds)) < len(seeds):
        raise OrsanetError(f"--seeds {text}: the same seed twice is the same run twice")
    return seeds


def train_seeds(
    seeds: Sequence[int], out: Path, train: Callable[[int, Path], RunSummary], *, main: bool = True
) -> pd.DataFrame:
    """train(seed, OUT/seed-<seed>) for every seed; a table of how each ended, also in OUT/seeds.csv (written by the `main` process).

    The table is written after every run, so that an interrupted series has what is finished.
    """
    rows = []
    for seed in seeds:
        summary = train(seed, out / f"seed-{seed}")
        rows.append(
            {
                "seed": seed,
                "epochs": summary.epochs,
                "last_accuracy": summary.last_accuracy,
                "best_accuracy": summary.best_accuracy,
                "best_epoch": summary.best_epoch,
            }
        )
        table = pd.DataFrame(rows)
        if main:
            write_whole(out / "seeds.csv", partial(_write, table))
    return table


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False)


def t_interval(differences: "pd.Series[float] | NDArray[np.float64]") -> tuple[float, float]:
    """95 % t interval of the mean difference over seeds. Needs two seeds."""
    half = float(t.ppf(0.975, len(differences) - 1) * sem(differences))
    return float(differences.mean()) - half, float(differences.mean()) + half


def spread(values: "pd.Series[float]") -> str:
    """Mean ± sample standard deviation of shares, in per cent."""
    series = values * 100
    return f"{series.mean():.2f} %" if len(series) < 2 else f"{series.mean():.2f} ± {series.std():.2f} %"
