"""The model: every configuration computes and learns, switches remove exactly what they name, published weights fit by name.

Drop-path does what its draws say; spectral normalisation is torch's, bit by bit.
"""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy
from torch.nn.utils import spectral_norm
from torch.optim import SGD

from orsanet_cache import OrsanetError
from orsanet_cache.frozen.loading import Weights, load_strictly, read_weights
from orsanet_train.config import ModelConfig
from orsanet_train.model.fusion import MCM, SpectralConv
from orsanet_train.model.ir50 import IR50
from orsanet_train.model.orsanet import (
    ORSANet,
    backbone_weights,
    build_model,
    published_tokens,
    published_unused,
    spatial_tokens,
    trainable_weights,
)

CLASSES = 5
SEGMENTATION_CHANNELS = 24
LANDMARK_CHANNELS = 40
TOKENS = ("published", "spatial")
PRIORS = ("features", "map", "none")


def small(**changes: object) -> ModelConfig:
    sizes = {"depth": 2, "width": 64, "backbone_channels": (4, 8, 16), "backbone_units": (1, 1, 1)}
    return ModelConfig.model_validate({**sizes, **changes})


def small_model(config: ModelConfig, landmark_channels: int = LANDMARK_CHANNELS, seed: int = 0) -> ORSANet:
    torch.manual_seed(seed)
    return build_model(config, CLASSES, SEGMENTATION_CHANNELS, landmark_channels)


def inputs(
    config: ModelConfig, count: int, landmark_channels: int = LANDMARK_CHANNELS
) -> tuple[Tensor, Tensor, Tensor]:
    """image, segmentation as configured, landmark features."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(count, 3, 112, 112, generator=generator)
    if config.segmentation_prior == "features":
        segmentation = torch.randn(count, SEGMENTATION_CHANNELS, 7, 7, generator=generator)
    else:
        segmentation = torch.randint(11, (count, 224, 224), generator=generator, dtype=torch.uint8)
    return image, segmentation, torch.randn(count, landmark_channels, 7, 7, generator=generator)


def names(config: ModelConfig, landmark_channels: int = LANDMARK_CHANNELS) -> set[str]:
    with torch.device("meta"):
        return set(build_model(config, CLASSES, SEGMENTATION_CHANNELS, landmark_channels).state_dict())


def shapes(config: ModelConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = build_model(config, CLASSES, SEGMENTATION_CHANNELS, LANDMARK_CHANNELS)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


# --- every configuration ---


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


# --- drop-path ---


def draws(config: ModelConfig, count: int, value: float = 1.0) -> Tensor:
    return torch.full((count, *config.drop_path_shape), value)


def rates(depth: int) -> list[float]:
    """Linear from 0 to 0.1 over the levels, as published."""
    return [0.1 * level / (depth - 1) for level in range(depth)]


def factors_seen(config: ModelConfig, drop_path: Tensor | None, training: bool = False) -> Tensor:
    """[levels, scales, branches, B or 1] by which the MCM multiplied its branches."""
    mcm = MCM(config.width, config.depth, config.multi_scale, True, True).train(training)
    seen: list[Tensor] = []
    for level in mcm.blocks:
        level.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    tokens = torch.randn(2, 2, 49, config.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mcm(*tokens, drop_path)
    return torch.stack(seen).flatten(3)


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_drop_path_rates_grow_linearly_from_0_to_a_tenth(depth: int) -> None:
    """A draw just below a level's rate drops, one just above keeps: in every scale and branch of that level and of no other."""
    config = small(depth=depth, width=32)
    for index, rate in enumerate(rates(depth)):
        drop_path = draws(config, 2, rate)
        drop_path[0] -= min(rate, 1e-6)
        drop_path[1] += 1e-6
        dropped = factors_seen(config, drop_path) == 0
        # Rates of deeper levels are above both draws, those of shallower ones below.
        assert dropped[:index].sum() == 0
        assert dropped[index, ..., 0].all() == (index > 0)
        assert not dropped[index, ..., 1].any()
        assert dropped[index + 1 :].all()


def test_what_is_kept_is_enlarged_so_that_its_mean_stays() -> None:
    config = small(depth=4, width=32)
    factors = factors_seen(config, draws(config, 2))
    for level, rate in zip(factors, rates(4), strict=True):
        assert torch.equal(level, torch.ones_like(level) / (1 - rate))


def test_every_row_scale_and_branch_has_a_draw_of_its_own() -> None:
    config = small(depth=3, width=32)
    for place in itertools.product(range(2), (1, 2), range(3), range(2)):
        drop_path = draws(config, 2)
        drop_path[place] = 0.0
        factors = factors_seen(config, drop_path).movedim(-1, 0)
        assert (factors == 0).nonzero().tolist() == [list(place)]


def branches(model: ORSANet, level: int) -> list[nn.Linear]:
    """The layers that the branches of a level end with."""
    level_module = model.pyramid_fuse.blocks[level]
    blocks = [level_module.block_l, level_module.block_m, level_module.block_s]
    return [layer for block in blocks for layer in (block.attn_img.proj, block.mlp.fc2)]


def test_a_dropped_branch_is_as_if_it_said_zero_and_a_kept_one_as_if_it_said_more() -> None:
    """One row has all its branches dropped, the other has them kept: each meets a model with its last layers changed accordingly."""
    config = small(depth=3)
    model = small_model(config).double().eval()
    batch = tuple(part.double() for part in inputs(config, 2))
    drop_path = draws(config, 2)
    drop_path[0] = 0.0
    silent, louder = small_model(config).double().eval(), small_model(config).double().eval()
    with torch.no_grad():
        for level, rate in enumerate(rates(3)):
            for layer in branches(silent, level):
                for parameter in layer.parameters():
                    parameter.mul_(0 if rate > 0 else 1)
            for layer in branches(louder, level):
                for parameter in layer.parameters():
                    parameter.div_(1 - rate)
        logits = model(*batch, drop_path).logits
        assert torch.equal(logits[0], silent(*batch).logits[0])
        # The factors are float32, exact to 6e-8, and what the branches add to a logit is about 1e-2: 6e-10 measured.
        torch.testing.assert_close(logits[1], louder(*batch).logits[1], rtol=0, atol=5e-9)
        plain = model(*batch).logits
    assert ((logits - plain).abs().amax(dim=1) > 1e-4).all()


def test_a_dropped_branch_gets_no_gradient_from_that_row() -> None:
    config = small(depth=2)
    model = small_model(config).eval()
    drop_path = draws(config, 2)
    drop_path[0] = 0.0
    model(*inputs(config, 2), drop_path).logits[0].square().sum().backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in branches(model, 0))
    assert all(layer.weight.grad.abs().max() == 0 for layer in branches(model, 1))


@pytest.mark.parametrize("training", [True, False])
def test_without_draws_nothing_is_dropped_nor_enlarged_in_training_as_in_evaluation(training: bool) -> None:
    factors = factors_seen(small(depth=3, width=32), None, training)
    assert torch.equal(factors, torch.ones(3, 3, 2, 1))


def test_the_first_level_drops_nothing_whatever_is_drawn() -> None:
    """A model of one level says with any draws what it says in evaluation, bit by bit."""
    config = small(depth=1)
    model, batch = small_model(config).eval(), inputs(config, 2)
    with torch.no_grad():
        assert torch.equal(model(*batch, draws(config, 2, 0.0)).logits, model(*batch).logits)


def test_one_scale_needs_draws_for_one() -> None:
    config = small(multi_scale=False, width=32)
    assert config.drop_path_shape == (2, 1, 2)
    drop_path = draws(config, 2)
    drop_path[0, 1, 0, 1] = 0.0
    assert (factors_seen(config, drop_path) == 0).nonzero().tolist() == [[1, 0, 1, 0]]


# --- spectral normalisation ---


def spectral_pair(width: int = 8) -> tuple[SpectralConv, nn.Module]:
    """Ours and torch's, made from the same random numbers."""
    torch.manual_seed(0)
    ours = SpectralConv(width)
    torch.manual_seed(0)
    return ours, spectral_norm(nn.Conv2d(width, width, 3, padding=1))


def assert_same_tensors(ours: nn.Module, torchs: nn.Module) -> None:
    left, right = ours.state_dict(), torchs.state_dict()
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_spectral_convolution_has_torchs_names_and_is_initialised_alike() -> None:
    ours, torchs = spectral_pair()
    assert_same_tensors(ours, torchs)
    assert ours.weight_u.norm().item() == pytest.approx(1, rel=1e-6)
    assert {name for name, _ in ours.named_parameters()} == {"weight_orig", "bias"}


def test_spectral_convolution_is_torchs_bit_by_bit_in_training_and_evaluation() -> None:
    """Outputs, gradients and vectors over several steps, and in evaluation after each."""
    ours, torchs = spectral_pair()
    optimizers = [SGD(module.parameters(), lr=0.1) for module in (ours, torchs)]
    generator = torch.Generator().manual_seed(1)
    begun = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    for _ in range(4):
        x = torch.randn(2, 8, 7, 7, generator=generator)
        grids = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [module.train()(grid) for module, grid in zip((ours, torchs), grids, strict=True)]
        assert torch.equal(*outputs)
        for optimizer, output in zip(optimizers, outputs, strict=True):
            optimizer.zero_grad()
            output.square().sum().backward()
        assert torch.equal(grids[0].grad, grids[1].grad)
        for name, parameter in ours.named_parameters():
            assert torch.equal(parameter.grad, torchs.get_parameter(name).grad), name
        for optimizer in optimizers:
            optimizer.step()
        assert_same_tensors(ours, torchs)
        with torch.no_grad():
            assert torch.equal(ours.eval()(x), torchs.eval()(x))
        assert_same_tensors(ours, torchs)
    assert not any(torch.equal(tensor, begun[name]) for name, tensor in ours.state_dict().items())


def test_spectral_convolution_divides_by_the_largest_singular_value() -> None:
    ours, _ = spectral_pair()
    x = torch.randn(1, 8, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = ours.double()
    for _ in range(200):
        ours(x)
    largest = torch.linalg.matrix_norm(ours.weight_orig.detach().flatten(1), ord=2)
    expected = conv2d(x, ours.weight_orig / largest, ours.bias, padding=1)
    # float64, and the power iteration is done: its error shrinks with the ratio of the two largest singular values.
    torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("device", "half"),
    [
        ("cpu", torch.bfloat16),
        pytest.param(
            "cuda",
            torch.float16,
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ),
    ],
)
def test_under_autocast_the_spectral_vectors_are_those_of_float32_bit_by_bit(device: str, half: torch.dtype) -> None:
    full, short = (spectral_pair()[0].to(device) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        x = torch.randn(2, 8, 7, 7, generator=generator).to(device)
        exact = full(x)
        with torch.autocast(device, half):
            rounded = short(x)
        assert (exact.dtype, rounded.dtype) == (torch.float32, half)
        assert_same_tensors(full, short)
        # Operands of 8 bits or more: 2^-9 each, relative; 72 products and a bias add up to one value.
        assert 0 < (rounded.float() - exact).norm() / exact.norm() < 2**-7


# --- tokens ---


def test_published_tokens_are_the_memory_viewed_again() -> None:
    feature_map = torch.randn(2, 8, 14, 14, generator=torch.Generator().manual_seed(0))
    tokens = published_tokens(feature_map)
    assert tokens.shape == (2, 49, 32)
    for image in range(2):
        flat = [value for channel in feature_map[image].tolist() for row in channel for value in row]
        assert tokens[image].flatten().tolist() == flat


def test_published_tokens_do_not_depend_on_the_memory_format() -> None:
    feature_map = torch.randn(2, 8, 14, 14, generator=torch.Generator().manual_seed(0))
    other = feature_map.to(memory_format=torch.channels_last)
    assert not other.is_contiguous()
    assert torch.equal(published_tokens(other), published_tokens(feature_map))


@pytest.mark.parametrize("tokens", TOKENS)
def test_a_channels_last_model_and_image_give_the_same_logits(tokens: str) -> None:
    config = small(tokens=tokens)
    model = small_model(config).double().eval()
    image, segmentation, landmark_features = (part.double() for part in inputs(config, 2))
    with torch.no_grad():
        logits = model(image, segmentation, landmark_features).logits
        model.to(memory_format=torch.channels_last)
        last = [part.to(memory_format=torch.channels_last) for part in (image, segmentation, landmark_features)]
        # float64: other kernels sum in another order, which costs a few of 16 digits.
        torch.testing.assert_close(model(*last).logits, logits, rtol=1e-11, atol=1e-11)


def test_a_spatial_token_is_exactly_the_values_of_its_cell() -> None:
    channels = 3
    feature_map = torch.arange(2 * channels * 14 * 14, dtype=torch.float32).view(2, channels, 14, 14)
    tokens = spatial_tokens(feature_map)
    assert tokens.shape == (2, 49, 4 * channels)
    for n in range(49):
        y, x = divmod(n, 7)
        cell = feature_map[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        assert torch.equal(tokens[:, n].sort().values, cell.flatten(1).sort().values)


def cells_behind(tokens: Callable[[Tensor], Tensor], n: int) -> set[tuple[int, int]]:
    """Cells of the 7x7 grid whose values token `n` depends on, by autograd."""
    feature_map = torch.randn(1, 64, 14, 14, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(tokens(feature_map)[0, n].square().sum(), feature_map)
    return {(y // 2, x // 2) for _, _, y, x in gradient.nonzero().tolist()}


def test_a_spatial_token_depends_on_its_own_cell_alone() -> None:
    assert [cells_behind(spatial_tokens, n) for n in range(49)] == [{divmod(n, 7)} for n in range(49)]


@pytest.mark.parametrize("n", [0, 24, 48])
def test_a_published_token_depends_on_every_cell(n: int) -> None:
    """The quirk that the name stands for: it is a run of memory, longer than one channel, not a place in the image."""
    assert cells_behind(published_tokens, n) == set(itertools.product(range(7), repeat=2))


@pytest.mark.parametrize("tokens", TOKENS)
def test_the_model_uses_the_tokens_it_is_configured_for(tokens: str) -> None:
    config = small(tokens=tokens)
    model = small_model(config).eval()
    function = {"published": published_tokens, "spatial": spatial_tokens}[tokens]
    seen: list[tuple[Tensor, Tensor]] = []
    model.ir_layer.register_forward_hook(lambda module, arguments, output: seen.append((arguments[0], output)))
    image, segmentation, landmark_features = inputs(config, 2)
    with torch.no_grad():
        model(image, segmentation, landmark_features)
        assert torch.equal(seen[0][0], function(model.ir_back(image)))


# --- switches ---


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
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_ablation_removes_exactly_the_parameters_it_names(change: dict[str, object], removed: str) -> None:
    full, ablated = shapes(small()), shapes(small(**change))
    assert full.keys() - ablated.keys() == {name for name in full if re.match(removed, name)}
    assert ablated == {name: full[name] for name in ablated}


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


# --- published weights ---


def published_shapes(shared: Path) -> dict[str, tuple[list[int], str]]:
    return json.loads((shared / "reference" / "orsanet_state_dict.json").read_text(encoding="utf-8"))


def is_trainable(name: str) -> bool:
    return not re.match(r"face_segment\.|face_landback\.|ir_back\.output_layer\.|pyramid_fuse\.cls_token$", name)


@pytest.fixture(scope="module")
def filled(shared: Path, filler: ModuleType) -> dict[str, Tensor]:
    """The trainable tensors of a published checkpoint, filled."""
    chosen = {name: torch.empty(shape) for name, (shape, _) in published_shapes(shared).items() if is_trainable(name)}
    return filler.fill(chosen)


@pytest.fixture(scope="module")
def checkpoint(shared: Path, filled: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A file as the published training script writes it, read back; what is dropped by its name alone is one number long."""
    tensors = {f"module.{name}": filled.get(name, torch.zeros(1)) for name in published_shapes(shared)}
    path = tmp_path_factory.mktemp("published") / "checkpoint.pth"
    torch.save(
        {"iter": 400, "model_state_dict": tensors, "optimizer_state_dict": {"state": {}, "param_groups": []}}, path
    )
    weights = read_weights(path)
    path.unlink()  # 190 MB
    return weights


def meta_model() -> ORSANet:
    with torch.device("meta"):
        return build_model(ModelConfig(), 7)


def test_the_parameters_of_the_published_model_count_as_published() -> None:
    used = sum(parameter.numel() for parameter in meta_model().parameters())
    unused = sum(tensor.numel() for tensor in published_unused().values())
    assert (used, used + unused) == (47_441_447, 60_289_575)


def test_names_shapes_and_types_are_the_published_checkpoints(shared: Path) -> None:
    """What our model lacks are the frozen networks, what no forward reads, and that layer's buffers."""
    published = {
        name: (shape, f"torch.{dtype}")
        for name, (shape, dtype) in published_shapes(shared).items()
        if is_trainable(name)
    }
    ours = {name: (list(tensor.shape), str(tensor.dtype)) for name, tensor in meta_model().state_dict().items()}
    assert ours == published


def test_unused_parameters_are_those_of_the_published_checkpoint(shared: Path) -> None:
    published = published_shapes(shared)
    unused = {name: list(tensor.shape) for name, tensor in published_unused().items()}
    assert unused == {name: published[name][0] for name in unused}
    left_out = {name for name in published if name.startswith(("ir_back.output_layer.", "pyramid_fuse.cls_token"))}
    assert {name for name in left_out if not re.search(r"running_|num_batches", name)} == unused.keys()


def test_trainable_weights_drop_the_frozen_and_unread_tensors_and_keep_the_rest(checkpoint: Weights) -> None:
    trainable = trainable_weights(checkpoint)
    assert trainable.tensors.keys() == {name for name in checkpoint.tensors if is_trainable(name)}
    dropped = {".".join(name.split(".")[:1]) for name in checkpoint.tensors.keys() - trainable.tensors.keys()}
    assert dropped == {"face_segment", "face_landback", "ir_back", "pyramid_fuse"}
    assert (trainable.path, trainable.metadata) == (checkpoint.path, checkpoint.metadata)


def test_a_published_checkpoint_loads_strictly(checkpoint: Weights, filled: dict[str, Tensor]) -> None:
    model = meta_model()
    load_strictly(model, trainable_weights(checkpoint))
    state = model.state_dict()
    assert state.keys() == filled.keys()
    assert [name for name, tensor in filled.items() if not torch.equal(state[name], tensor)] == []
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_missing_and_extra_tensors_of_a_checkpoint_are_refused_by_name(checkpoint: Weights) -> None:
    missing = ("head.linear.bias", "pyramid_fuse.blocks.7.block_s.scale", "seg_fusion.conv_1.weight_u")
    extra = ("head.linear.scale", "face_segmenter.weight", "pyramid_fuse.blocks.8.block_l.scale")
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in missing}
    with pytest.raises(OrsanetError) as caught:
        load_strictly(meta_model(), trainable_weights(replace(checkpoint, tensors=tensors)))
    findings = re.findall(r"(missing|extra|misshapen|not finite): (\S+)", str(caught.value))
    assert sorted(findings) == sorted(("missing", name) for name in missing)
    tensors = {**checkpoint.tensors, **dict.fromkeys(extra, torch.zeros(1))}
    with pytest.raises(OrsanetError) as caught:
        load_strictly(meta_model(), trainable_weights(replace(checkpoint, tensors=tensors)))
    findings = re.findall(r"(missing|extra|misshapen|not finite): (\S+)", str(caught.value))
    assert sorted(findings) == sorted(("extra", name) for name in extra)


def test_a_checkpoint_of_another_depth_or_number_of_classes_is_refused(checkpoint: Weights) -> None:
    with torch.device("meta"):
        base, eight = build_model(ModelConfig(depth=6), 7), build_model(ModelConfig(), 8)
    with pytest.raises(OrsanetError, match=re.escape("extra: pyramid_fuse.blocks.6.")):
        load_strictly(base, trainable_weights(checkpoint))
    with pytest.raises(OrsanetError, match=re.escape("misshapen: head.linear.weight")):
        load_strictly(eight, trainable_weights(checkpoint))


def test_the_backbones_own_file_of_304_entries_loads_strictly(checkpoint: Weights) -> None:
    """Its names are those below `ir_back.`, with the output layer that is dropped."""
    prefix = "ir_back."
    tensors = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
    assert len(tensors) == 304
    with torch.device("meta"):
        backbone: nn.Module = IR50((64, 128, 256), (3, 4, 14))
    load_strictly(backbone, backbone_weights(Weights(Path("ir50.pth"), tensors)))
    state = backbone.state_dict()
    assert len(state) == 304 - sum(name.startswith("output_layer.") for name in tensors)
    assert [name for name, tensor in state.items() if not torch.equal(tensor, tensors[name])] == []
