"""GFNet and CrossViT are the published networks, by recorded outputs and numbers of parameters."""

import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from orsanet_cache.errors import OrsanetError
from orsanet_train.general.augment import normalised
from orsanet_train.general.gfnet import VARIANTS, GFNet, GlobalFilter
from orsanet_train.general.images import CROSSVITS, build_network
from orsanet_train.general.recipes import IMAGES, changed


def ours(name: str) -> str:
    """Our name of a tensor of the published GFNet."""
    name = name.replace("pos_embed", "position").replace("filter.complex_weight", "filter.weight")
    name = name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.2")
    name = re.sub(r"^patch_embed\.proj", "embed.0", name)
    name = re.sub(r"^patch_embed\.(\d)\.proj", r"embed.\1", name)
    name = re.sub(r"^blocks\.(\d+)\.(?=\d)", r"stages.\1.", name)
    return re.sub(r"^blocks\.", "stages.0.", name)


def load(network: nn.Module, shared: Path, filler: ModuleType, which: str, published: bool = False) -> nn.Module:
    shapes = json.loads((shared / "reference" / "image_state_dict.json").read_text())[which]
    values = filler.fill({name: torch.empty(shape) for name, shape in shapes.items()})
    network.load_state_dict(values if published else {ours(name): value for name, value in values.items()})
    return network.eval()


def outputs(network: nn.Module, pictures: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(normalised(torch.from_numpy(pictures))).numpy()


@pytest.mark.parametrize(
    ("which", "variant", "size", "patch"),
    [
        ("ti_224", "gfnet-ti", 224, None), ("h_ti_224", "gfnet-h-ti", 224, None), ("ti_32", "gfnet-ti", 32, None),
        ("ti_32_patch4", "gfnet-ti", 32, 4),
    ],
)  # fmt: skip
def test_gfnets_logits_are_the_recorded_ones(
    shared: Path, filler: ModuleType, which: str, variant: str, size: int, patch: int | None
) -> None:
    golden = np.load(shared / "reference" / "golden" / "gfnet.npz")
    network = load(GFNet(VARIANTS[variant], 10, size, patch), shared, filler, which)
    np.testing.assert_allclose(outputs(network, golden[f"images_{size}"]), golden[f"logits_{which}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [240, 32])
def test_crossvits_logits_are_the_recorded_ones_and_it_resizes_pictures_itself(
    shared: Path, filler: ModuleType, size: int
) -> None:
    golden = np.load(shared / "reference" / "golden" / "crossvit_tiny.npz")
    recipe = changed(IMAGES["crossvit"], ["variant=crossvit-tiny"])
    network = load(build_network(recipe, "crossvit", 10), shared, filler, "crossvit_tiny_240", published=True)
    np.testing.assert_allclose(outputs(network, golden[f"images_{size}"]), golden[f"logits_{size}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "size", "parameters"),
    [
        ("gfnet-ti", 224, 7_257_354), ("gfnet-ti", 32, 6_544_650), ("gfnet-xs", 224, 15_604_618), ("gfnet-xs", 32, 14_535_562),
        ("gfnet-s", 224, 24_488_458), ("gfnet-b", 224, 42_612_746), ("gfnet-h-ti", 224, 14_577_226),
        ("gfnet-h-ti", 32, 12_823_114), ("gfnet-h-s", 224, 31_401_322), ("gfnet-h-b", 224, 52_982_890),
    ],
)  # fmt: skip
def test_gfnets_parameters_are_the_published_number(variant: str, size: int, parameters: int) -> None:
    with torch.device("meta"):
        network = GFNet(VARIANTS[variant], 10, size)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


PARAMETERS = {
    "crossvit-tiny": 6_727_700, "crossvit-9": 8_171_156, "crossvit-9-dagger": 8_394_452, "crossvit-small": 26_284_052,
    "crossvit-15": 26_956_244, "crossvit-18": 42_604_148, "crossvit-base": 103_882_772,
}  # fmt: skip


@pytest.mark.parametrize("variant", PARAMETERS)
def test_crossvits_parameters_are_the_published_number(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without timm's first values, which take seconds even for tensors that have none."""
    monkeypatch.setattr("timm.models.crossvit.trunc_normal_", lambda *_, **__: None)
    with torch.device("meta"):
        network = build_network(changed(IMAGES["crossvit"], [f"variant={variant}"]), "crossvit", 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[variant]


def test_a_filter_is_a_circular_convolution() -> None:
    """With the transform of a kernel as its weight, scaled because "ortho" divides by the map's side."""
    torch.manual_seed(0)
    layer, side = GlobalFilter(2, 6), 6
    kernel, grid = torch.randn(side, side, 2), torch.randn(1, side, side, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.view_as_real(torch.fft.rfft2(kernel, dim=(0, 1))))
    expected = torch.zeros_like(grid)
    for down in range(side):
        for across in range(side):
            expected += kernel[down, across] * grid.roll((down, across), dims=(1, 2))
    torch.testing.assert_close(layer(grid.flatten(1, 2)).unflatten(1, (side, side)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "setting", "named"),
    [
        ("gfnet", "image_size=36", "image_size = 36: this GFNet needs a multiple of 16; use --set image_size=32"),
        ("gfnet", "variant=gfnet-x", "variant = gfnet-x: no size of gfnet; choose from gfnet-ti"),
        ("crossvit", "variant=gfnet-ti", "variant = gfnet-ti: no size of crossvit"),
        ("crossvit", "patch_size=4", "patch_size: CrossViT's two branches have their own patches"),
    ],
)
def test_sizes_that_a_network_does_not_have_are_refused_in_a_sentence(network, setting: str, named: str) -> None:
    with pytest.raises(OrsanetError) as caught:
        build_network(changed(IMAGES[network], [setting]), network, 10)
    assert named in str(caught.value)


def test_every_variant_of_crossvit_is_one_of_timm() -> None:
    import timm

    assert set(CROSSVITS.values()) <= set(timm.list_models("crossvit*"))
