"""The same training with several seeds, and a table of the results.

OUT/seed-<n>/   a run folder      OUT/seeds.csv   one row per seed

At a URL each run has its copy there (mirror.py), and the table follows it.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pandas as pd

from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import check_file
from orsanet_cache.paths import Place, Url
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.places.files import has_file
from orsanet_train.engine.distributed import ONE, Ranks, from_main
from orsanet_train.run.folder import RUN
from orsanet_train.run.mirror import HOLDER
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
    seeds: Sequence[int],
    out: Place,
    folder: Path,
    train: Callable[[int, Place, Path], RunSummary],
    ranks: Ranks = ONE,
) -> pd.DataFrame:
    """Call train(seed, OUT/seed-<seed>, FOLDER/seed-<seed>) for every seed. Returns a table of the results.

    The main process writes the table after every run, so that an interrupted series has the finished
    runs. Raises OrsanetError if seeds.csv is another file.

    Args:
        seeds: of the runs.
        out: the folder of the runs, or its URL.
        folder: this folder; for a URL the one of this machine in which the runs work.
        train: trains a run.
        ranks: the processes that share every batch.
    """
    from_main(lambda: _check_table(out, folder), ranks)
    rows = []
    for seed in seeds:
        summary = train(seed, out / f"seed-{seed}", folder / f"seed-{seed}")
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
        if ranks.main:
            write_whole(folder / TABLE, partial(_write, table))
            if isinstance(out, Url):
                Bucket.open(out).write(TABLE, (folder / TABLE).read_bytes())
    return table


def has_begun(out: Place, folder: Path) -> bool:
    """Whether there is a run to resume at a place, or in the folder in which it works."""
    names = (RUN, HOLDER) if isinstance(out, Url) else (RUN,)
    return (folder / RUN).is_file() or any(has_file(out, name) for name in names)


def _check_table(out: Place, folder: Path) -> None:
    what = "a table of `orsanet-train run --seeds`"
    check_file(folder / TABLE, _TABLE_BEGINS, what)
    with suppress(FileNotFoundError):
        if isinstance(out, Url) and not re.match(_TABLE_BEGINS, Bucket.open(out).read(TABLE)[0]):
            raise OrsanetError(f"{out / TABLE}: is not {what}; choose another --out, or move this one away")


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False)
