"""Shared fixtures of the evaluation's tests."""

import numpy as np
import pytest
from numpy.typing import NDArray

RAFDB_SHARE = np.array([329, 74, 160, 1185, 478, 162, 680]) / 3068  # of the test split
RAFDB_RECALL = np.array([0.85, 0.60, 0.60, 0.93, 0.83, 0.78, 0.83])  # of a usual model: accuracy 0.85


@pytest.fixture(scope="session")
def usual_model() -> NDArray[np.float64]:
    """Shares of the cells [true, predicted] of a usual model on RAF-DB; it takes the frequent classes for others in proportion."""
    shares = np.tile(RAFDB_SHARE, (7, 1)) * (1 - np.eye(7))
    shares *= ((1 - RAFDB_RECALL) / shares.sum(axis=1))[:, None]
    return RAFDB_SHARE[:, None] * (shares + np.diag(RAFDB_RECALL))
