"""The networks compute what the published ones compute: every recorded array of the golden file is met."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from orsanet_cache import FrozenPriors, MobileFaceNet, SegFace, SegFaceConfig, imagenet_normalised, unit_range
from orsanet_train.config import LossConfig, ModelConfig
from orsanet_train.losses import training_loss
from orsanet_train.model import ORSANet, build_model
from orsanet_train.sam import sam_step

RELATIVE_L2 = 1e-5  # float32 rounding through 24 transformer blocks or 21 residual units, on other processors
LOGIT_ROUNDING = (
    1e-5  # four times the largest difference seen between the recorded segmentation logits and a float64 run
)


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "reference" / "golden" / "orsanet_large_7.npz") as arrays:
        return dict(arrays)


def filled(filler: ModuleType, network: nn.Module, prefix: str, salt: int) -> Any:
    """The network with the filler's weights for its published names, in evaluation mode."""
    names = {prefix + name: value for name, value in network.state_dict().items()}
    network.load_state_dict({name.removeprefix(prefix): value for name, value in filler.fill(names, salt).items()})
    return network.eval()


@pytest.fixture(scope="module")
def images(filler: ModuleType, golden: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack([filler.image(int(seed)) for seed in golden["seeds"]]))


@pytest.fixture(scope="module")
def frozen(filler: ModuleType, golden: dict[str, np.ndarray]) -> FrozenPriors:
    salt = int(golden["salt"])
    segmenter = filled(filler, SegFace(SegFaceConfig()), "face_segment.", salt)
    return FrozenPriors(segmenter, filled(filler, MobileFaceNet(), "face_landback.", salt), "published")


@pytest.fixture
def model(filler: ModuleType, golden: dict[str, np.ndarray]) -> ORSANet:
    config = ModelConfig(depth=int(golden["depth"]))
    return filled(filler, build_model(config, int(golden["num_classes"])), "", int(golden["salt"]))


@pytest.fixture(scope="module")
def backbone_input(images: Tensor) -> Tensor:
    return imagenet_normalised(unit_range(images))[..., ::2, ::2]


def relative_l2(ours: Tensor, recorded: np.ndarray) -> float:
    return float(np.linalg.norm(ours.numpy() - recorded) / np.linalg.norm(recorded))


def test_published_names_and_shapes_are_ours(shared: Path, frozen: FrozenPriors, model: ORSANet) -> None:
    published = json.loads((shared / "reference" / "orsanet_state_dict.json").read_text())
    ours = {
        **{f"face_segment.{name}": value for name, value in frozen.segmenter.state_dict().items()},
        **{f"face_landback.{name}": value for name, value in frozen.landmark_network.state_dict().items()},
        **model.state_dict(),
    }
    unused = {name for name in published if name.startswith(("ir_back.output_layer.", "pyramid_fuse.cls_token"))}
    assert set(published) - unused == set(ours)
    assert {name: published[name][0] for name in ours} == {name: list(value.shape) for name, value in ours.items()}


def test_frozen_networks_meet_the_recorded_priors(
    frozen: FrozenPriors, images: Tensor, golden: dict[str, np.ndarray]
) -> None:
    priors = frozen(images)
    assert relative_l2(priors.segmentation_features, golden["seg_feat"]) <= RELATIVE_L2
    assert relative_l2(priors.landmark_features, golden["lm_feat"]) <= RELATIVE_L2
    assert relative_l2(priors.landmarks.flatten(1), golden["landmarks"]) <= RELATIVE_L2


def test_segmentation_logits_and_map_meet_the_recorded_ones(
    frozen: FrozenPriors, images: Tensor, golden: dict[str, np.ndarray]
) -> None:
    """With random weights the class tokens hardly differ: at 1 % of the pixels the two best classes are within 1e-5.

    There the recorded argmax depends on the rounding of the machine that recorded it (a float64 run differs from it at 0.017 % of
    the pixels), so a pixel may differ only if it is such a tie; everywhere else the maps are equal.
    """
    with torch.no_grad():
        logits = frozen.segmenter(imagenet_normalised(unit_range(images)))[1]
    assert relative_l2(logits[..., ::7, ::7], golden["seg_logits"]) <= RELATIVE_L2
    recorded_class = torch.from_numpy(golden["seg_map"]).long()
    behind = logits.amax(dim=1) - logits.gather(1, recorded_class[:, None])[:, 0]
    assert float(behind.max()) <= LOGIT_ROUNDING
    assert float((logits.argmax(1) == recorded_class).float().mean()) >= 0.9995
    assert torch.equal(frozen(images).segmentation_map, logits.argmax(1).to(torch.uint8))


def test_trainable_part_meets_every_recorded_stage(
    model: ORSANet, backbone_input: Tensor, golden: dict[str, np.ndarray]
) -> None:
    stages: dict[str, Tensor] = {}
    for name in ("ir_back", "seg_sample", "seg_fusion", "pyramid_fuse"):
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: stages.update({name: output})
        )
    with torch.no_grad():
        said = model(backbone_input, torch.from_numpy(golden["seg_feat"]), torch.from_numpy(golden["lm_feat"]))
    recorded = {
        "ir_back": "ir_out",
        "seg_sample": "seg_sample_out",
        "seg_fusion": "ssgm_out",
        "pyramid_fuse": "mcm_out",
    }
    for ours, theirs in recorded.items():
        assert relative_l2(stages[ours], golden[theirs]) <= RELATIVE_L2, ours
    assert relative_l2(said.features, golden["features"]) <= RELATIVE_L2
    np.testing.assert_allclose(said.logits.numpy(), golden["logits"], rtol=0, atol=1e-4)


def test_from_pixels_to_logits(
    frozen: FrozenPriors, model: ORSANet, images: Tensor, backbone_input: Tensor, golden: dict[str, np.ndarray]
) -> None:
    priors = frozen(images)
    with torch.no_grad():
        logits = model(backbone_input, priors.segmentation_features, priors.landmark_features).logits
    np.testing.assert_allclose(logits.numpy(), golden["logits"], rtol=0, atol=1e-4)


def test_float64_sam_trajectory(model: ORSANet, backbone_input: Tensor, golden: dict[str, np.ndarray]) -> None:
    """Four steps of SAM(Adam): both losses of each step to 1e-7, final logits, norms and sums to 1e-6."""
    model = model.double().train()
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    inputs = [backbone_input, torch.from_numpy(golden["seg_feat"]), torch.from_numpy(golden["lm_feat"])]
    inputs = [value.double() for value in inputs]  # recorded from float32 inputs
    labels = torch.from_numpy(golden["train_labels"])
    optimizer = torch.optim.Adam(model.parameters(), lr=float(golden["train_lr"][0]))
    losses = []
    for step, rate in enumerate(golden["train_lr"]):
        optimizer.param_groups[0]["lr"] = float(rate)

        def forward(step: int = step) -> tuple[Tensor, Tensor]:
            logits = model(*inputs).logits
            return training_loss(logits, labels, LossConfig(warmup_epochs=2), epoch=step), logits

        taken = sam_step(optimizer, forward, rho=0.05)
        losses.append([float(taken.loss), float(taken.perturbed_loss)])

    np.testing.assert_allclose(losses, golden["train_losses"], rtol=1e-7)
    with torch.no_grad():
        final = model.eval()(*inputs).logits
    np.testing.assert_allclose(final.numpy(), golden["train_final_logits"], rtol=0, atol=1e-6)
    tensors = model.state_dict()
    for name, norm, total in zip(golden["train_names"], golden["train_norms"], golden["train_sums"], strict=True):
        np.testing.assert_allclose(float(tensors[str(name)].norm()), norm, rtol=1e-6, err_msg=str(name))
        np.testing.assert_allclose(float(tensors[str(name)].sum()), total, rtol=0, atol=1e-6 * norm, err_msg=str(name))
