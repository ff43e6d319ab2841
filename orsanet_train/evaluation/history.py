"""What a run folder records of its training, read back.

metrics.csv      one row per finished epoch
versions.json    the versions of packages that trained it, and from which epoch on
run.json         among other things the training images of each class
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orsanet_cache.durable import read_json
from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.reading import read_limited

HISTORY, VERSIONS = "metrics.csv", "versions.json"
CLASS_COUNTS = "training_class_counts"  # of run.json: training images of each class, in label order
MAX_BYTES = 256 * 1024**2
# Columns that curves and the choices of a checkpoint are made from.
COLUMNS = ("epoch", "loss", "perturbed_loss", "train_accuracy", "selection_accuracy")


def best_epoch(history: pd.DataFrame) -> int:
    """The epoch of the best weights: the first with the highest accuracy on the selection split."""
    return int(history["epoch"].iloc[history["selection_accuracy"].argmax()])


def read_history(run: Path) -> pd.DataFrame | None:
    """The run's metrics.csv; None if it does not exist.

    Raises OrsanetError if it is damaged: without rows, or without a finite number in each of
    COLUMNS.
    """
    path = run / HISTORY
    if not path.exists():
        return None
    try:
        # An empty file is pandas' EmptyDataError, a ValueError.
        history = pd.read_csv(io.BytesIO(read_limited(path, MAX_BYTES)))
        if lacking := [name for name in COLUMNS if name not in history]:
            raise ValueError(f"no column {', '.join(lacking)}")
        if not len(history) or not np.isfinite(history[[*COLUMNS]].to_numpy(np.float64)).all():
            raise ValueError("not a row of numbers for every epoch")
    except (OSError, ValueError, TypeError, OverflowError) as error:
        refuse_shortage(error, path)
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise OrsanetError(
            f"{path}: damaged ({reason}); restore it from a copy, or delete it to go on without it"
        ) from error
    return history


def read_versions(run: Path) -> list[dict[str, Any]]:
    """The run's versions.json: an entry (from_epoch, versions) for each change; empty if it does not exist.

    Raises OrsanetError if versions.json is damaged.
    """
    path = run / VERSIONS
    entries = read_json(path, list) if path.exists() else []
    if not all(isinstance(entry, dict) and isinstance(entry.get("versions"), dict) for entry in entries):
        raise OrsanetError(f"{path}: damaged (an entry without versions); restore it from a copy, or delete it")
    return entries


def class_counts(run: Path, classes: Sequence[str]) -> dict[str, int] | None:
    """The run's training images of each class; None: not recorded.

    Raises OrsanetError if run.json is damaged.
    """
    counts = read_json(run / "run.json").get(CLASS_COUNTS)
    if counts is None:
        return None
    if (
        not isinstance(counts, dict)
        or list(counts) != list(classes)
        or not all(type(n) is int for n in counts.values())
    ):
        raise OrsanetError(f"{run / 'run.json'}: damaged ({CLASS_COUNTS}); restore it from a copy")
    return counts
