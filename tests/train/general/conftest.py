"""The demo's data and a smaller scene, drawn once; torch on one thread, whose sums have a fixed order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import in_process
from written_mat import mat

from orsanet_train.cli import main
from orsanet_train.general.demo_data import SIZES, Scene, draw_scene


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `dare demo-data` writes: treat it as read-only."""
    out = tmp_path_factory.mktemp("dare") / "demo"
    drawn = in_process(main, "dare", "demo-data", "--out", out, "--pictures", 20)
    assert drawn.returncode == 0, drawn.stderr
    return out


@pytest.fixture(scope="package")
def tiny() -> Scene:
    """A scene like the demo's that is trained in a moment."""
    return draw_scene(SIZES["small"]._replace(rows=24, columns=20, bands=12, classes=3, training=15), seed=0)


@pytest.fixture(scope="package")
def tiny_file(tiny: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the form of SpectralFormer's files: treat it as read-only."""
    path = tmp_path_factory.mktemp("scene") / "scene.mat"
    return mat(path, input=tiny.cube, TR=tiny.train, TE=np.where(tiny.train > 0, 0, tiny.labels))
