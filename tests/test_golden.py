"""The networks compute what the published ones compute: every recorded array of the golden file is met."""

import copy
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from small_store import Remembering
from torch import Tensor, nn

from orsanet_cache import FrozenPriors
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_train.config import load_config
from orsanet_train.engine.precision import choose_arithmetic
from orsanet_train.engine.step import Sums, TrainingStep
from orsanet_train.feed.feed import PriorBatch
from orsanet_train.model.model import Expression, build_model
from orsanet_train.model.orsanet import ORSANet
from orsanet_train.model_config import ORSANetConfig

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
    """The published sizes, which look at a batch once."""
    salt = int(golden["salt"])
    segmenter = filled(filler, SegFace(SegFaceConfig()), "face_segment.", salt)
    landmark_network = filled(filler, MobileFaceNet(), "face_landback.", salt)
    return Remembering(FrozenPriors(segmenter, landmark_network, "published"))


@pytest.fixture(scope="module")
def model(filler: ModuleType, golden: dict[str, np.ndarray]) -> ORSANet:
    """Treat as read-only."""
    config = ORSANetConfig(depth=int(golden["depth"]))
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
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: stages.update({name: output})
        )
        for name in ("ir_back", "seg_sample", "seg_fusion", "pyramid_fuse")
    ]
    with torch.no_grad():
        said = model(backbone_input, torch.from_numpy(golden["seg_feat"]), torch.from_numpy(golden["lm_feat"]))
    for hook in hooks:
        hook.remove()
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


class Undropped(nn.Module):
    """The network that the trajectory was recorded with: no branch is ever dropped. (Draws of 1 would keep them all, enlarged.)"""

    def __init__(self, model: ORSANet) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, segmentation: Tensor, landmark_features: Tensor, drop_path: Tensor) -> Expression:
        return self.model(image, segmentation, landmark_features)


def test_float64_sam_trajectory(model: ORSANet, backbone_input: Tensor, golden: dict[str, np.ndarray]) -> None:
    """The step that trains takes four: both losses of each to 1e-7, final logits, norms and sums to 1e-6."""
    settings = ("precision=exact", "learning_rate=2e-5", "learning_rate_decay=0.98", "rho=0.05", "loss.warmup_epochs=2")
    config = load_config("rafdb", settings)
    cpu = torch.device("cpu")
    model = copy.deepcopy(model).double().train()
    step = TrainingStep(Undropped(model), model, config, choose_arithmetic(config, cpu), cpu)
    inputs = [backbone_input, torch.from_numpy(golden["seg_feat"]), torch.from_numpy(golden["lm_feat"])]
    inputs = [value.double() for value in inputs]  # recorded from float32 inputs
    labels = torch.from_numpy(golden["train_labels"])
    batch = PriorBatch(*inputs, labels, torch.zeros(len(labels), 2, *config.model.drop_path_shape))
    losses = []
    for epoch, rate in enumerate(golden["train_lr"]):
        step.begin_epoch(epoch, Sums())
        assert float(step.optimizer.param_groups[0]["lr"]) == pytest.approx(float(rate), rel=1e-12)
        step(batch, len(labels))
        sums = Sums(*step.sums.tolist())
        losses.append([sums.loss / sums.images, sums.perturbed_loss / sums.images])

    np.testing.assert_allclose(losses, golden["train_losses"], rtol=1e-7)
    with torch.no_grad():
        final = model.eval()(*inputs).logits
    np.testing.assert_allclose(final.numpy(), golden["train_final_logits"], rtol=0, atol=1e-6)
    tensors = model.state_dict()
    for name, norm, total in zip(golden["train_names"], golden["train_norms"], golden["train_sums"], strict=True):
        np.testing.assert_allclose(float(tensors[str(name)].norm()), norm, rtol=1e-6, err_msg=str(name))
        np.testing.assert_allclose(float(tensors[str(name)].sum()), total, rtol=0, atol=1e-6 * norm, err_msg=str(name))
