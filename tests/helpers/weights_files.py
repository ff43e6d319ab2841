"""Weights files as they are published, with seeded random numbers."""

import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from orsanet_cache import OrsanetError
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.priors import ARCHITECTURE_KEY
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.weights.convert import convert_weights

FILE_NAME = "network.pt"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def seeded(network: torch.nn.Module) -> dict[str, Tensor]:
    """The network's state dict with values that differ everywhere, statistics too."""
    torch.manual_seed(0)
    return {
        name: torch.rand(tensor.shape) + 0.5 if tensor.is_floating_point() else torch.full(tensor.shape, 7)
        for name, tensor in network.state_dict().items()
    }


def published_landmarks(path: Path) -> Path:
    """A MobileFaceNet as its authors keep it: a pickle, DataParallel's names, an optimiser's state beside."""
    tensors = {f"module.{name}": tensor for name, tensor in seeded(MobileFaceNet()).items()}
    torch.save({"epoch": 3, "state_dict": tensors, "optimizer": {"state": {0: torch.ones(1000)}}}, path)
    return path


def small_segmenter(path: Path) -> Path:
    config = SegFaceConfig(
        embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), decoder_width=32, decoder_heads=4,
        decoder_mlp_width=64,
    )  # fmt: skip
    header = {ARCHITECTURE_KEY: config.model_dump_json(), "note": "not needed"}
    safetensors.torch.save_file(seeded(SegFace(config)), path, metadata=header)
    return path


def refusal(path: Path, out: Path) -> str:
    before = sorted(out.parent.iterdir())
    with pytest.raises(OrsanetError) as refused:
        convert_weights(path, out)
    assert sorted(out.parent.iterdir()) == before
    return str(refused.value)
