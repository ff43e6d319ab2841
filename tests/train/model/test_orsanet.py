"""The model: every configuration computes and learns, switches remove exactly what they name, published weights fit by name.

Drop-path does what its draws say; spectral normalisation is torch's, bit by bit.
"""

import itertools
import re

import pytest
import torch
from small_models import (
    CLASSES,
    PRIORS,
    TOKENS,
    inputs,
    names,
    shapes,
    small,
    small_model,
)
from torch.nn.functional import cross_entropy


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("ablated", list(itertools.product([True, False], repeat=3)))
def test_every_combination_gives_logits_and_finite_gradients_for_all_parameters(
    tokens: str, prior: str, ablated: tuple[bool, bool, bool]
) -> None:
    multi_scale, cross_interaction, landmark_reintegration = ablated
    config = small(
        tokens=tokens,
        segmentation_prior=prior,
        multi_scale=multi_scale,
        cross_interaction=cross_interaction,
        landmark_reintegration=landmark_reintegration,
    )
    model = small_model(config).train()
    logits, features = model(*inputs(config, 2))
    assert (logits.shape, features.shape) == ((2, CLASSES), (2, 64))
    cross_entropy(logits, torch.tensor([0, 3])).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("prior", PRIORS)
def test_no_parameter_of_the_full_model_is_dead(tokens: str, prior: str) -> None:
    """In float64 a used parameter's gradient is far above rounding.

    The exceptions are the published architecture's, not a loose wire: normalisation subtracts a constant that was added just
    before it. Instance norm does so to the bias of `conv_0`; LayerNorm, wherever the widest scale is read, to the biases
    that convolutions over tokens add along the whole width.
    """
    config = small(tokens=tokens, segmentation_prior=prior)
    model = small_model(config).double().eval()
    image, segmentation, landmark_features = inputs(config, 2)
    segmentation = segmentation.double() if prior == "features" else segmentation
    logits, _ = model(image.double(), segmentation, landmark_features.double())
    cross_entropy(logits, torch.tensor([0, 3])).backward()
    dead = {name for name, parameter in model.named_parameters() if parameter.grad.abs().max() < 1e-14}
    normalised_away = {
        f"pyramid_fuse.blocks.{n}.{name}.bias" for n in range(2) for name in ("block_l.conv", "upsample_m")
    }
    if prior != "none":
        normalised_away.add("seg_fusion.conv_0.bias")
    assert dead == normalised_away


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("prior", PRIORS)
def test_logits_depend_on_every_prior_that_is_configured_and_on_no_other(tokens: str, prior: str) -> None:
    config = small(tokens=tokens, segmentation_prior=prior)
    model = small_model(config).eval()
    image, segmentation, landmark_features = inputs(config, 2)
    with torch.no_grad():
        logits = model(image, segmentation, landmark_features).logits
        assert not torch.equal(model(image.flip(0), segmentation, landmark_features).logits, logits)
        assert not torch.equal(model(image, segmentation, landmark_features.flip(0)).logits, logits)
        other = model(image, segmentation.flip(0), landmark_features).logits
    assert torch.equal(other, logits) == (prior == "none")


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("prior", PRIORS)
def test_an_images_logits_do_not_depend_on_the_rest_of_the_batch(tokens: str, prior: str) -> None:
    config = small(tokens=tokens, segmentation_prior=prior)
    model = small_model(config).double()
    image, segmentation, landmark_features = inputs(config, 4)
    segmentation = segmentation.double() if prior == "features" else segmentation
    batch = (image.double(), segmentation, landmark_features.double())
    with torch.no_grad():
        for _ in range(2):
            model.train()(*batch)  # batch statistics that differ from those of a new model
        model.eval()
        together = model(*batch).logits
        alone = torch.cat([model(*(part[n : n + 1] for part in batch)).logits for n in range(4)])
    # float64: another batch size makes the kernels sum in another order, which costs a few of 16 digits.
    torch.testing.assert_close(alone, together, rtol=1e-11, atol=1e-11)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_evaluation_is_deterministic_and_moves_nothing_training_moves_statistics_and_spectral_vectors() -> None:
    config = small()
    model = small_model(config)
    batch = inputs(config, 2)

    def moved() -> set[str]:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with torch.no_grad():
            model(*batch)
        return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}

    model.eval()
    assert moved() == set()
    with torch.no_grad():
        assert torch.equal(model(*batch).logits, model(*batch).logits)
    model.train()
    buffers = {name for name, _ in model.named_buffers()}
    assert {"seg_fusion.conv_0.weight_u", "seg_fusion.conv_1.weight_v"} <= buffers
    assert moved() == buffers


@pytest.mark.parametrize(
    ("change", "removed"),
    [
        ({"segmentation_prior": "none"}, r"seg_sample\.|seg_fusion\."),
        ({"cross_interaction": False}, r"pyramid_fuse\.blocks\.\d+\.block_[lms]\.(attn_img|norm1)\."),
        (
            {"multi_scale": False},
            r"pyramid_fuse\.(downsample_[ms]\.|blocks\.\d+\.(block_[ms]|upsample_[ms])\.)",
        ),
        ({"landmark_reintegration": False}, r"pyramid_fuse\.blocks\.\d+\.block_[lms]\.(scale$|conv\.)"),
        ({"tokens": "spatial"}, r"(?!)"),
        ({"mcm": False}, r"pyramid_fuse\.|landmark_sample\."),
        ({"landmark_prior": "none"}, r"landmark_sample\."),
        ({"mcm": False, "segmentation_prior": "none"}, r"pyramid_fuse\.|landmark_sample\.|seg_sample\.|seg_fusion\."),
        ({"spade": "paper"}, r"(?!)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_ablation_removes_exactly_the_parameters_it_names(change: dict[str, object], removed: str) -> None:
    full, ablated = shapes(small()), shapes(small(**change))
    assert full.keys() - ablated.keys() == {name for name in full if re.match(removed, name)}
    assert ablated == {name: full[name] for name in ablated}


def test_a_projected_query_adds_one_matrix_to_every_attention() -> None:
    published, projected = shapes(small()), shapes(small(query="projected"))
    widths = {"l": 64, "m": 32, "s": 16}
    assert {name: tuple(projected[name]) for name in projected.keys() - published.keys()} == {
        f"pyramid_fuse.blocks.{level}.block_{scale}.attn_img.q.weight": (width, width)
        for level in range(2)
        for scale, width in widths.items()
    }


@pytest.mark.parametrize("change", [{"mcm": False}, {"landmark_prior": "none"}], ids=["no-mcm", "no-landmarks"])
def test_without_mcm_or_landmarks_the_logits_do_not_depend_on_the_landmark_features(change: dict[str, object]) -> None:
    config = small(**change)
    assert not config.reads_landmarks
    model = small_model(config).eval()
    image, segmentation, landmark_features = inputs(config, 2)
    with torch.no_grad():
        logits = model(image, segmentation, landmark_features).logits
        assert torch.equal(model(image, segmentation, landmark_features.flip(0)).logits, logits)
        assert not torch.equal(model(image, segmentation.flip(0), landmark_features).logits, logits)


def test_without_the_mcm_the_gate_gets_the_mean_image_token() -> None:
    config = small(mcm=False)
    model = small_model(config).eval()
    image, segmentation, landmark_features = inputs(config, 2)
    with torch.no_grad():
        tokens = model.guided(model.tokens(model.ir_back(image)), segmentation)
        expected = model.se_block(tokens.sum(dim=1) / 49)
        torch.testing.assert_close(model(image, segmentation, landmark_features).features, expected)


def test_without_landmarks_the_image_tokens_stand_in_their_place() -> None:
    config, full = small(landmark_prior="none"), small()
    model, other = small_model(config, 64).eval(), small_model(full, 64).eval()
    other.load_state_dict(model.state_dict())
    image, segmentation, landmark_features = inputs(config, 2, 64)
    with torch.no_grad():
        tokens = model.guided(model.tokens(model.ir_back(image)), segmentation)
        expected = other(image, segmentation, tokens.transpose(1, 2).unflatten(2, (7, 7))).logits
        torch.testing.assert_close(model(image, segmentation, landmark_features).logits, expected)


@pytest.mark.parametrize(
    "change",
    [
        {"mcm": False},
        {"landmark_prior": "none"},
        {"mcm": False, "segmentation_prior": "none"},
        {"spade": "paper"},
        {"query": "projected"},
        {"spade": "paper", "query": "projected", "tokens": "spatial", "segmentation_prior": "map"},
    ],
    ids=["no-mcm", "no-landmarks", "backbone-only", "paper-spade", "projected-query", "paper"],
)
def test_every_parameter_of_a_form_gets_a_gradient(change: dict[str, object]) -> None:
    config = small(**change)
    model = small_model(config).train()
    logits, _ = model(*inputs(config, 2))
    cross_entropy(logits, torch.tensor([0, 3])).backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []


def test_the_map_prior_swaps_the_feature_layer_for_the_map_encoder() -> None:
    features, with_map = names(small()), names(small(segmentation_prior="map"))
    assert {name.split(".")[0] for name in features - with_map} == {"seg_sample"}
    assert {name.split(".")[0] for name in with_map - features} == {"map_encoder"}


def test_landmark_features_of_another_width_get_a_layer_and_of_the_same_width_none() -> None:
    other, same = names(small(), landmark_channels=40), names(small(), landmark_channels=64)
    assert same < other
    assert {name.split(".")[0] for name in other - same} == {"landmark_sample"}
    config = small()
    logits = small_model(config, 64).eval()(*inputs(config, 2, 64)).logits
    assert logits.shape == (2, CLASSES)


@pytest.mark.parametrize("depth", [1, 4, 6, 8])
def test_depth_is_the_number_of_levels(depth: int) -> None:
    levels = {
        match[1] for name in names(small(depth=depth)) if (match := re.match(r"pyramid_fuse\.blocks\.(\d+)\.", name))
    }
    assert levels == {str(level) for level in range(depth)}


@pytest.mark.parametrize("width", [32, 96])
def test_every_multiple_of_32_is_a_width(width: int) -> None:
    config = small(width=width)
    assert small_model(config).eval()(*inputs(config, 1)).features.shape == (1, width)
