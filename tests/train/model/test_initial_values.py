"""Every tensor of the published model starts with the law that the published code gives it.

The reference has a law and a number for each of the 687 tensors that are no counters: a constant, a
uniform law with its half-width (the largest magnitude over three seeds, in three digits), or a unit
vector of random direction.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orsanet_train.model.ir50 import published_output_layer
from orsanet_train.model.model import build_model
from orsanet_train.model_config import ORSANetConfig

ABSENT = "pyramid_fuse.cls_token"  # no forward reads it, and our model does not have it


@pytest.fixture(scope="module")
def laws(shared: Path) -> dict[str, tuple[str, float]]:
    return json.loads((shared / "reference" / "orsanet_init.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ours() -> dict[str, Tensor]:
    """The model as a run begins it, and the layer that no forward reads."""
    torch.manual_seed(0)
    model, layer = build_model(ORSANetConfig(), 7), published_output_layer()
    unused = {f"ir_back.output_layer.{name}": tensor for name, tensor in layer.state_dict().items()}
    return {**model.state_dict(), **unused}


def begins_with(tensor: Tensor, law: str, number: float) -> bool:
    """Whether a tensor can be a sample of the law."""
    if law == "constant":
        return bool((tensor == number).all())
    if law == "unit vector":
        spread = tensor.mean().abs() < 5 / len(tensor)  # of n coordinates the mean has a deviation of 1 / n
        return bool(spread) and math.isclose(tensor.norm().item(), 1, rel_tol=1e-5)
    count, size = tensor.numel(), tensor.abs().flatten().double()
    digits, missing = 0.01, 10 / count  # of the largest of n magnitudes, the law's end is a share of about 1 / n away
    widest = abs(size.max().item() / number - 1) < digits + missing
    inner = (size < number / 2).double().mean().item()  # half of a uniform law
    return widest and abs(inner - 0.5) < 2.5 / math.sqrt(count) + digits


def test_every_tensor_begins_with_the_published_law(
    laws: dict[str, tuple[str, float]], ours: dict[str, Tensor]
) -> None:
    assert len(laws) == 687
    counters = {name for name in ours if name.endswith("num_batches_tracked")}
    assert set(laws) - {ABSENT} == set(ours) - counters
    others = {name: law for name, law in laws.items() if name != ABSENT and not begins_with(ours[name], *law)}
    assert others == {}


@pytest.mark.parametrize(
    ("law", "number", "other"),
    [
        ("constant", 0.0, torch.nn.init.trunc_normal_(torch.empty(50, 512), std=0.02)),
        ("uniform", 0.05, torch.empty(1000).uniform_(-0.06, 0.06)),
        ("uniform", 0.05, torch.nn.init.trunc_normal_(torch.empty(1000), std=0.025, a=-0.05, b=0.05)),
        ("unit vector", 1.0, torch.full((64,), 1 / 8)),
        ("unit vector", 1.0, torch.randn(64)),
    ],
    ids=["position embedding of earlier versions", "wider", "normal", "one direction", "not normed"],
)
def test_other_laws_are_told_apart(law: str, number: float, other: Tensor) -> None:
    assert not begins_with(other, law, number)
