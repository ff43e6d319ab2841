"""Attention is Grad-CAM as its paper writes it, of each image alone, and leaves the model as it was.

Without the prior it is that of a model whose SSGM adds nothing.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

from orsanet_train.drawing.attention import BATCH, attention, grad_cam
from orsanet_train.model.model import build_model
from orsanet_train.model.orsanet import ORSANet
from orsanet_train.model_config import ORSANetConfig

CLASSES = 5
Inputs = tuple[Tensor, Tensor, Tensor]


def tiny(prior: str = "features", tokens: str = "published") -> ORSANet:
    """In float64, so that only the rounding of the maps to float32 is left to tell results apart."""
    torch.manual_seed(0)
    config = ORSANetConfig(
        depth=1, width=32, multi_scale=False, backbone_channels=(4, 4, 8), backbone_units=(1, 1, 1),
        segmentation_prior=prior, tokens=tokens,
    )  # fmt: skip
    return build_model(config, CLASSES, segmentation_channels=6, landmark_channels=10).double().eval()


FLOAT32 = 1e-6  # of maps whose largest value is 1


def inputs(prior: str, count: int) -> Inputs:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator, dtype=torch.float64)

    image, landmark_features = normal(3, 112, 112), normal(10, 7, 7)
    if prior == "features":
        return image, normal(6, 7, 7), landmark_features
    return image, torch.randint(11, (count, 224, 224), generator=generator, dtype=torch.uint8), landmark_features


def predicted(model: ORSANet, batch: Inputs) -> Tensor:
    with torch.no_grad():
        return model(*batch).logits.argmax(dim=1)


def by_hand(model: ORSANet, batch: Inputs, classes: Tensor) -> Tensor:
    """Image by image, channel by channel, through the model's own forward."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = model.ir_back.register_forward_hook(keep)
    maps = []
    for n, of_class in enumerate(classes.tolist()):
        model(*(values[n : n + 1] for values in batch)).logits[0, of_class].backward()
        feature_map = seen[-1]
        assert feature_map.grad is not None
        cam = torch.zeros(14, 14, dtype=torch.float64)
        for channel in range(feature_map.shape[1]):
            cam += feature_map.grad[0, channel].mean() * feature_map[0, channel].detach()
        cam = cam.clamp(min=0)
        maps.append(cam / cam.max())
    handle.remove()
    return torch.stack(maps).float()


class AddsNothing(nn.Module):
    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("tokens", ["published", "spatial"])
@pytest.mark.parametrize("prior", ["features", "map", "none"])
def test_with_the_prior_it_is_grad_cam_of_the_predicted_class(prior: str, tokens: str) -> None:
    model, batch = tiny(prior, tokens), inputs(prior, 3)
    found = attention(model, *batch).with_prior
    assert (found.shape, found.dtype) == ((3, 14, 14), torch.float32)
    torch.testing.assert_close(found, by_hand(model, batch, predicted(model, batch)), rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("prior", ["features", "map"])
def test_without_the_prior_it_is_that_of_a_model_whose_ssgm_adds_nothing(prior: str) -> None:
    model, batch = tiny(prior), inputs(prior, 3)
    found = attention(model, *batch)
    bypassed = copy.deepcopy(model)
    bypassed.seg_fusion = AddsNothing()
    expected = by_hand(bypassed, batch, predicted(model, batch))  # the class that the whole model predicts
    assert found.without_prior is not None
    torch.testing.assert_close(found.without_prior, expected, rtol=0, atol=FLOAT32)
    assert (found.with_prior - found.without_prior).abs().max() > 0.01  # so the two are not the same by construction


def test_a_model_without_a_segmentation_prior_has_no_second_map() -> None:
    assert attention(tiny("none"), *inputs("none", 1)).without_prior is None


def test_a_map_does_not_depend_on_the_other_images() -> None:
    model, batch = tiny(), inputs("features", BATCH + 2)  # more than go through the model at a time
    whole = attention(model, *batch)
    assert whole.without_prior is not None
    for n in (0, BATCH - 1, BATCH + 1):
        alone = attention(model, *(values[n : n + 1] for values in batch))
        assert alone.without_prior is not None
        torch.testing.assert_close(whole.with_prior[n], alone.with_prior[0], rtol=0, atol=FLOAT32)
        torch.testing.assert_close(whole.without_prior[n], alone.without_prior[0], rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = tiny().train(training)
    model.ir_back.eval()
    model.head.requires_grad_(False)
    before = {
        "modes": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
    }
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = inputs("features", 2)
    images = batch[0].clone()
    attention(model, *batch)
    after = {
        "modes": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
    }
    assert after == before
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])] == []
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == []
    assert torch.equal(batch[0], images)


def test_neither_the_models_mode_nor_no_grad_changes_a_map() -> None:
    model, batch = tiny(), inputs("features", 2)
    expected = attention(model, *batch).with_prior
    with torch.no_grad():
        assert torch.equal(attention(model.train(), *batch).with_prior, expected)


def test_an_error_in_the_model_leaves_its_mode() -> None:
    model = tiny().train()
    image, segmentation, _ = inputs("features", 1)
    with pytest.raises(RuntimeError):
        attention(model, image, segmentation, torch.zeros(1, 3, 7, 7, dtype=torch.float64))
    assert all(module.training for module in model.modules())


def test_channels_that_speak_for_the_class_are_added_and_others_subtracted() -> None:
    feature_map = torch.arange(16.0).reshape(2, 2, 2, 2).requires_grad_()  # two images of two channels
    first, second = feature_map.sum(dim=(2, 3)).unbind(1)
    found = grad_cam(feature_map, (3 * first - second)[:, None])
    # By hand: 3 [[0, 1], [2, 3]] - [[4, 5], [6, 7]] is [[-4, -2], [0, 2]]; 3 [[8, 9], [10, 11]] - [[12, …, 15]] is [[12, 14], [16, 18]].
    expected = torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[12 / 18, 14 / 18], [16 / 18, 1.0]]])
    torch.testing.assert_close(found, expected)


def test_a_map_with_nothing_for_the_class_is_0_everywhere() -> None:
    feature_map = torch.ones(1, 2, 3, 3).requires_grad_()
    assert torch.equal(grad_cam(feature_map, -feature_map.sum(dim=(1, 2, 3))[:, None]), torch.zeros(1, 3, 3))
