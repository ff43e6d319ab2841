"""SpectralFormer and its tokens, schedule, optimiser and measures are the published ones, by recorded outputs."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orsanet_train.evaluation.statistics import kappa
from orsanet_train.general.arms import CROSS_ENTROPY, Arm, arm_loss, whole
from orsanet_train.general.hyperspectral import Tokens
from orsanet_train.general.measures import measured
from orsanet_train.general.recipes import SPECTRAL, changed
from orsanet_train.general.spectralformer import SpectralFormer

CPU = torch.device("cpu")
SCENES = {"indian": (200, 16, "indian-pines"), "pavia": (103, 9, "pavia-university")}  # bands, classes, recipe
# The published code's names, and ours.
NAMES = (
    (r"^pos_embedding", "position"), (r"^cls_token", "class_token"), (r"^patch_to_embedding", "embed"),
    (r"^transformer\.skipcat", "fusions"), (r"^mlp_head\.0", "norm"), (r"^mlp_head\.1", "head"),
    (r"^transformer\.layers\.(\d)\.0\.fn\.norm", r"layers.\1.norm1"), (r"^transformer\.layers\.(\d)\.1\.fn\.norm", r"layers.\1.norm2"),
    (r"^transformer\.layers\.(\d)\.0\.fn\.fn\.to_qkv", r"layers.\1.qkv"),
    (r"^transformer\.layers\.(\d)\.0\.fn\.fn\.to_out\.0", r"layers.\1.project"),
    (r"^transformer\.layers\.(\d)\.1\.fn\.fn\.net\.0", r"layers.\1.widen"),
    (r"^transformer\.layers\.(\d)\.1\.fn\.fn\.net\.3", r"layers.\1.narrow"),
)  # fmt: skip


def ours(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in published.items():
        for pattern, own in NAMES:
            name = re.sub(pattern, own, name)
        renamed[name] = tensor
    return renamed


def recorded(shared: Path, taken: str) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "reference" / "golden" / f"spectralformer_{taken}.npz"))


def filled(
    shared: Path, filler: ModuleType, scene: str, taken: str, fusion: str = "caf", dropout: float = 0.1
) -> nn.Module:
    """The network with the recorded outputs' weights, which must have exactly the published names and shapes."""
    shapes = json.loads((shared / "reference" / "spectralformer_state_dict.json").read_text())[f"{scene}_{taken}"]
    bands, classes, name = SCENES[scene]
    recipe = SPECTRAL[name, taken]
    network = SpectralFormer(bands, recipe.group * recipe.patch**2, classes, fusion, dropout)
    network.load_state_dict(ours(filler.fill({name: torch.empty(shape) for name, shape in shapes.items()})))
    return network.eval()


@pytest.mark.parametrize("taken", ["pixel", "patch"])
@pytest.mark.parametrize("scene", SCENES)
def test_tokens_and_logits_are_the_recorded_ones(shared: Path, filler: ModuleType, scene: str, taken: str) -> None:
    golden = recorded(shared, taken)
    recipe = SPECTRAL[SCENES[scene][2], taken]
    tokens = Tokens(golden[f"{scene}_cube"], recipe.patch, recipe.group, CPU).at(*torch.from_numpy(golden["points"]).T)
    np.testing.assert_allclose(tokens.numpy(), golden[f"{scene}_tokens"], rtol=0, atol=1e-6)
    for fusion in ("caf", "vit"):
        network = filled(shared, filler, scene, taken, fusion)
        with torch.inference_mode():
            logits = network(torch.from_numpy(golden[f"{scene}_tokens"]))
            exact = network.double()(torch.from_numpy(golden[f"{scene}_tokens"]).double())
        np.testing.assert_allclose(logits.numpy(), golden[f"{scene}_logits_{fusion}"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(exact.numpy(), golden[f"{scene}_logits_{fusion}_float64"], rtol=0, atol=1e-9)


def test_a_pixels_seven_bands_are_in_another_order_than_a_patchs(shared: Path) -> None:
    golden = recorded(shared, "pixel")
    points = torch.from_numpy(golden["points"]).T
    tokens = Tokens(golden["pavia_cube"], 1, 7, CPU).at(*points)
    np.testing.assert_allclose(tokens.numpy(), golden["pavia_tokens_7_bands"], rtol=0, atol=1e-6)
    patch = Tokens(golden["pavia_cube"], 3, 7, CPU).at(*points).unflatten(2, (7, 9))[..., 4]  # the pixel in the middle
    assert torch.equal(patch[..., [2, 1, 0, 3, 4, 5, 6]], tokens)


@pytest.mark.parametrize(
    ("scene", "taken", "parameters"),
    [
        ("indian", "pixel", 346_361),
        ("indian", "patch", 355_577),
        ("pavia", "pixel", 161_897),
        ("pavia", "patch", 183_657),
    ],
)
def test_parameters_are_the_published_number(scene: str, taken: str, parameters: int) -> None:
    bands, classes, name = SCENES[scene]
    recipe = SPECTRAL[name, taken]
    network = SpectralFormer(bands, recipe.group * recipe.patch**2, classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.position.detach().std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("arm", "name"), [(CROSS_ENTROPY, "ce"), (Arm(0.1, "published"), "dare")])
def test_six_steps_of_the_recipe_are_the_recorded_ones(shared: Path, filler: ModuleType, arm: Arm, name: str) -> None:
    """In float64 without dropout, on one batch: losses, learning rates, and logits after the last step."""
    golden = recorded(shared, "pixel")
    recipe = changed(SPECTRAL["indian-pines", "pixel"], ["epochs=20", "weight_decay=0.005"])
    network = filled(shared, filler, "indian", "pixel", dropout=0.0).double().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    tokens, labels = torch.from_numpy(golden["indian_tokens"]).double(), torch.from_numpy(golden["train_labels"])
    losses, rates = [], []
    for epoch in range(6):
        rates.append(recipe.rate(epoch))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        loss = arm_loss(network(tokens), whole(labels), arm)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(rates, golden["train_lrs"], rtol=1e-12)
    np.testing.assert_allclose(losses, golden[f"train_{name}_losses"], rtol=0, atol=1e-9)
    with torch.inference_mode():
        np.testing.assert_allclose(network(tokens).numpy(), golden[f"train_{name}_logits"], rtol=0, atol=1e-7)


def test_measures_are_the_recorded_ones(shared: Path) -> None:
    golden = recorded(shared, "pixel")
    true, predicted = golden["metric_true"].astype(np.int64), golden["metric_predicted"].astype(np.int64)
    first = min(true.min(), predicted.min())
    one_hot = np.eye(9)[predicted - first]
    found = measured(("overall", "average", "kappa"), true - first, one_hot)
    np.testing.assert_allclose(list(found.values()), golden["metric_oa_aa_kappa"], rtol=1e-12)


def test_kappa_is_0_at_random_and_1_if_all_is_right() -> None:
    assert kappa(np.array([[4, 4], [8, 8]])) == 0
    assert kappa(np.diag([5, 3, 2])) == 1
    assert np.isnan(kappa(np.array([[5, 0], [0, 0]])))


@pytest.mark.parametrize("fusion", ["caf", "vit"])
def test_without_fusion_its_convolutions_have_no_effect(fusion: str) -> None:
    torch.manual_seed(0)
    network, tokens = SpectralFormer(7, 3, 4, fusion).eval(), torch.randn(2, 7, 3)
    before = network(tokens)
    with torch.no_grad():
        network.fusions[1].weight.mul_(2)
    assert torch.equal(network(tokens), before) == (fusion == "vit")
