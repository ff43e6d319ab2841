"""A training state comes back to the last bit, or the one before does with a warning: after damage, kills at any point and full disks."""

from pathlib import Path

import pytest
from small_states import small

from orsanet_train.run.state import save_state


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with the states (1, 5) and (1, 10)."""
    for step in (5, 10):
        save_state(tmp_path / "checkpoints", small(1, step))
    return tmp_path / "checkpoints"
