"""A weights file that several tests look at; made once."""

from pathlib import Path

import pytest
import torch
from weights_files import seeded

from orsanet_cache.weights.convert import IR50Layout, convert_weights


@pytest.fixture(scope="session")
def ir50_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """IR50 at its published sizes, as a pickle and converted; the unused layer is one value, to be quick to write."""
    path = tmp_path_factory.mktemp("ir50") / "ir50.pth"
    tensors = {
        name: tensor if tensor.numel() < 5_000_000 else torch.full((1,), 0.5).expand(tensor.shape)
        for name, tensor in seeded(IR50Layout()).items()
    }
    torch.save(tensors, path)
    convert_weights(path, path.with_suffix(".safetensors"))
    return path, path.with_suffix(".safetensors")
