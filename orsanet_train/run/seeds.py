"""The same training with several seeds, and a table of the results.

OUT/seed-<n>/   a run folder      OUT/seeds.csv   one row per seed
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import check_file
from orsanet_train.run.train import RunSummary

TABLE = "seeds.csv"
_TABLE_BEGINS = rb"seed,epochs,last_accuracy,"
DIGITS = 19  # of 2^63


def parse_seeds(text: str) -> list[int]:
    """`1,2,3` -> [1, 2, 3].

    Raises OrsanetError for any other text, for a seed too large for RunConfig, and for a repeated
    seed.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise OrsanetError(f"--seeds {text}: write numbers separated by commas, for example 0,1,2")
    seeds = [int(part) if len(part) <= DIGITS else 2**63 for part in parts]  # int refuses thousands of digits
    if max(seeds) >= 2**63:
        raise OrsanetError(f"--seeds {text}: a seed must be less than 2^63")
    if len(set(seeds)) < len(seeds):
        raise OrsanetError(f"--seeds {text}: name each seed once; the same seed gives the same run")
    return seeds


def train_seeds(
    seeds: Sequence[int], out: Path, train: Callable[[int, Path], RunSummary], *, main: bool = True
) -> pd.DataFrame:
    """Call train(seed, OUT/seed-<seed>) for every seed. Returns a table of the results.

    The `main` process writes the table to OUT/seeds.csv after every run, so that an interrupted
    series has the finished runs. Raises OrsanetError if OUT/seeds.csv is another file.
    """
    check_file(out / TABLE, _TABLE_BEGINS, "a table of `orsanet-train run --seeds`")
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
            write_whole(out / TABLE, partial(_write, table))
    return table


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False)
