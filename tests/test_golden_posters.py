"""POSTER and POSTER V2 compute what the published networks compute: every recorded array of their golden files is met.

The recorded trajectories have four steps of two passes each, and a pass takes many seconds in float64. The step itself is held against
ORSANet's trajectory (test_golden.py), so here only the first loss is computed, in training mode. ORSANET_WHOLE_TRAJECTORIES=1 takes all
four steps and compares the final weights.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_train.config import RunConfig, load_config
from orsanet_train.engine.losses import training_loss
from orsanet_train.engine.precision import choose_arithmetic
from orsanet_train.engine.step import Sums, TrainingStep
from orsanet_train.feed.feed import PriorBatch
from orsanet_train.model.model import Expression, ExpressionModel, build_model

RELATIVE_L2 = 1e-5
WHOLE = os.environ.get("ORSANET_WHOLE_TRAJECTORIES") == "1"
PRESETS = {"poster_7": "poster-rafdb", "poster_v2_7": "poster-v2-rafdb"}
PRIORS = {"poster_7": ("lm_feat",), "poster_v2_7": ("lm_feat_1", "lm_feat_2", "lm_feat_3")}
Golden = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=list(PRESETS))
def file(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def golden(shared: Path, file: str) -> Golden:
    with np.load(shared / "reference" / "golden" / f"{file}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def config(file: str) -> RunConfig:
    """The published recipe, in float32 and with the recorded learning rate."""
    settings = ("precision=exact", "learning_rate=2e-5", "learning_rate_decay=0.98", "rho=0.05")
    return load_config(PRESETS[file], settings)


def filled(filler: ModuleType, network: nn.Module, salt: int, prefix: str = "") -> Any:
    """The network with the filler's weights for its published names, in evaluation mode."""
    names = {prefix + name: value for name, value in network.state_dict().items()}
    values = {name.removeprefix(prefix): value for name, value in filler.fill(names, salt).items()}
    network.load_state_dict(values, assign=True)
    return network.eval()


def on_meta(config: RunConfig, classes: int) -> ExpressionModel:
    with torch.device("meta"):
        return build_model(config.model, classes)


@pytest.fixture(scope="module")
def model(filler: ModuleType, config: RunConfig, golden: Golden) -> ExpressionModel:
    return filled(filler, on_meta(config, int(golden["num_classes"])), int(golden["salt"]))


@pytest.fixture(scope="module")
def image(filler: ModuleType, golden: Golden) -> Tensor:
    pixels = torch.from_numpy(np.stack([filler.image(int(seed)) for seed in golden["seeds"]]))
    return imagenet_normalised(unit_range(pixels))[..., ::2, ::2].contiguous()


@pytest.fixture(scope="module")
def inputs(file: str, image: Tensor, golden: Golden) -> tuple[Tensor, ...]:
    """The model's inputs with the recorded priors."""
    return image, *(torch.from_numpy(golden[name]) for name in PRIORS[file])


def relative_l2(ours: Tensor, recorded: np.ndarray) -> float:
    return float(np.linalg.norm(ours.numpy() - recorded) / np.linalg.norm(recorded))


def test_the_landmark_network_meets_the_recorded_priors(
    filler: ModuleType, file: str, image: Tensor, golden: Golden
) -> None:
    network = filled(filler, MobileFaceNet(), int(golden["salt"]), "face_landback.")
    with torch.no_grad():
        features, landmarks, grid_28, grid_14 = network.with_grids(image)
    assert relative_l2(landmarks.flatten(1), golden["landmarks"]) <= RELATIVE_L2
    ours = {"lm_feat": features, "lm_feat_1": grid_28, "lm_feat_2": grid_14, "lm_feat_3": features}
    assert [name for name in PRIORS[file] if relative_l2(ours[name], golden[name]) > RELATIVE_L2] == []


def poster_stages(outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    levels = {
        f"level_{level}_{scale}": outputs[f"pyramid_fuse.blocks.{level}"][index][:, ::7, ::4]
        for level in (0, 3, 7)
        for index, scale in enumerate("lms")
    }
    named = {"ir_out": "ir_back", "ir_tokens": "ir_layer", "mcm_out": "pyramid_fuse"}
    return {**levels, **{theirs: outputs[ours] for theirs, ours in named.items()}}


def poster_v2_stages(outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    stages = {"lm_feat_3_conv": outputs["last_face_conv"], "vit_out": outputs["VIT.norm"][:, 0]}
    for level, step in ((1, 16), (2, 4), (3, 1)):
        stages[f"ir_out_{level}"] = outputs[f"ir_back.body{level}"][..., :: 2 ** (4 - level), :: 2 ** (4 - level)]
        stages[f"conv_{level}"] = outputs[f"conv{level}"].flatten(2)[:, ::4, ::step]
        stages[f"attn_{level}"] = outputs[f"attn{level}"][:, ::step, ::4]
        stages[f"ffn_{level}"] = outputs[f"ffn{level}"][:, ::step, ::4]
    for level, name in enumerate(("embed_q", "embed_k", "embed_v"), start=1):
        stages[f"tokens_{level}"] = outputs[name].flatten(2).transpose(1, 2)[:, ::3, ::4]
    return stages | {f"vit_block_{n}": outputs[f"VIT.blocks.{n}"][:, ::7, ::4] for n in range(2)}


STAGES: dict[str, Callable[[Mapping[str, Any]], dict[str, Tensor]]] = {
    "poster_7": poster_stages,
    "poster_v2_7": poster_v2_stages,
}


def test_every_recorded_stage_is_met(
    file: str, model: ExpressionModel, inputs: tuple[Tensor, ...], golden: Golden
) -> None:
    outputs: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.update({name: output}))
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        said = model(*inputs)
    for hook in hooks:
        hook.remove()
    ours = {**STAGES[file](outputs), "features": said.features}
    beside = {"seeds", "salt", "num_classes", "depth", "logits", "landmarks", *PRIORS[file]}
    assert ours.keys() == {name for name in golden if not name.startswith(("train_", "affect_"))} - beside
    assert {name: tuple(value.shape) for name, value in ours.items()} == {name: golden[name].shape for name in ours}
    far = {name: relative_l2(value, golden[name]) for name, value in ours.items()}
    assert {name: distance for name, distance in far.items() if distance > RELATIVE_L2} == {}
    np.testing.assert_allclose(said.logits.numpy(), golden["logits"], rtol=0, atol=1e-4)


def test_the_variant_for_affectnet_meets_its_recorded_outputs(
    filler: ModuleType, shared: Path, image: Tensor, file: str, golden: Golden
) -> None:
    if file != "poster_7":
        return
    model = filled(filler, on_meta(load_config("poster-affectnet"), 7), int(golden["salt"]))
    fused: list[Tensor] = []
    model.pyramid_fuse.register_forward_hook(lambda _module, _inputs, output: fused.append(output))
    with torch.no_grad():
        said = model(image, torch.from_numpy(golden["lm_feat"]))
    assert relative_l2(fused[0], golden["affect_mcm_out"]) <= RELATIVE_L2
    assert relative_l2(said.features, golden["affect_features"]) <= RELATIVE_L2
    np.testing.assert_allclose(said.logits.numpy(), golden["affect_logits"], rtol=0, atol=1e-4)


class Undropped(nn.Module):
    """The network that the trajectory was recorded with: no branch is ever dropped."""

    def __init__(self, model: ExpressionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Expression:
        return self.model(*inputs[:-1])


def test_the_float64_trajectory(
    model: ExpressionModel, config: RunConfig, inputs: tuple[Tensor, ...], golden: Golden
) -> None:
    """Losses to 1e-7. Of the whole trajectory, which the step that trains takes, final logits, norms and sums to 1e-6 too."""
    cpu, labels = torch.device("cpu"), torch.from_numpy(golden["train_labels"])
    model.double().train()  # the last use of the fixture
    doubles = [value.double() for value in inputs]  # recorded from float32 inputs
    recorded = golden["train_losses"]
    if not WHOLE:
        with torch.no_grad():
            first = training_loss(model(*doubles).logits, labels, config.loss, epoch=0)
        np.testing.assert_allclose(float(first), recorded[0, 0], rtol=1e-7)
        return
    step = TrainingStep(Undropped(model), model, config, choose_arithmetic(config, cpu), cpu)
    batch = PriorBatch(*doubles, labels, torch.zeros(len(labels), 2, *config.model.drop_path_shape))
    for epoch, expected in enumerate(recorded):
        step.begin_epoch(epoch, Sums())
        step(batch, len(labels))
        sums = Sums(*step.sums.tolist())
        losses = [sums.loss / sums.images, sums.perturbed_loss / sums.images]
        np.testing.assert_allclose(losses, expected, rtol=1e-7)
    with torch.no_grad():
        final = model.eval()(*doubles).logits
    np.testing.assert_allclose(final.numpy(), golden["train_final_logits"], rtol=0, atol=1e-6)
    tensors = model.state_dict()
    for name, norm, total in zip(golden["train_names"], golden["train_norms"], golden["train_sums"], strict=True):
        np.testing.assert_allclose(float(tensors[str(name)].norm()), norm, rtol=1e-6, err_msg=str(name))
        np.testing.assert_allclose(float(tensors[str(name)].sum()), total, rtol=0, atol=1e-6 * norm, err_msg=str(name))
