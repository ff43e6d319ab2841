"""What is collected before the first step is of the run asked for, and nothing is written meanwhile."""

from pathlib import Path
from typing import Any

import pytest
import torch

from orsanet_train.config import load_config
from orsanet_train.engine.distributed import ONE
from orsanet_train.run.prepare import prepare

SMALL = ("model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]")


@pytest.mark.parametrize("priors", ["cached", "online"])
def test_a_run_is_prepared_without_writing(world: Any, tmp_path: Path, priors: str) -> None:
    config = load_config("small", (*SMALL, f"priors={priors}"))
    run = prepare(
        config, world.load_manifest(), world.open_store(), tmp_path / "run", device=torch.device("cpu"), ir50=None,
        resume=False, resident="stream", compiled=False, frozen_weights=(world.segmenter, world.landmarks), images=5,
        ranks=ONE,
    )  # fmt: skip
    assert (run.training.split.name, len(run.training.split.rows)) == ("train", 5)
    assert run.selection.split.name == config.selection_split
    assert (run.identity.epoch, run.identity.selection, run.identity.store_recipe) == (
        0,
        "last",
        world.open_store().recipe,
    )
    assert run.state is None
    assert (run.network is run.engine.step.model) == (run.engine.companion is None) == (priors == "cached")
    assert list(tmp_path.iterdir()) == []
