"""metrics.csv of a run, read back: one row per finished epoch."""

import io
from pathlib import Path

import numpy as np
import pandas as pd

from orsanet_cache.errors import OrsanetError
from orsanet_cache.reading import read_limited
from orsanet_cache.shortage import refuse_shortage

HISTORY = "metrics.csv"
MAX_BYTES = 256 * 1024**2
# Columns that curves and the choices of a checkpoint are made from.
COLUMNS = ("epoch", "loss", "perturbed_loss", "train_accuracy", "selection_accuracy")


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
