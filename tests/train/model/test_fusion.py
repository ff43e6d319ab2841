"""Spectral normalisation and the tokens of MCM are what the published code computes."""

import itertools
from collections.abc import Callable

import pytest
import torch
from small_models import (
    TOKENS,
    inputs,
    small,
    small_model,
)
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils import spectral_norm
from torch.optim import SGD

from orsanet_train.model.fusion import SPADE, CrossAttention, SpectralConv, attend
from orsanet_train.model.orsanet import published_tokens, spatial_tokens


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
        pytest.param("cuda", torch.float16, marks=pytest.mark.cuda),
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


def test_attention_of_no_rows_has_gradients_for_all_it_is_made_of() -> None:
    """Several processes wait for every gradient of one another, also of a rank without rows."""
    parts = [torch.empty(0, 8, 50, 4, requires_grad=True) for _ in range(3)]
    attended = attend(*parts)
    attended.sum().backward()
    assert attended.shape == (0, 8, 50, 4)
    assert [part.grad is None for part in parts] == [False] * 3


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


def test_the_papers_spade_lacks_the_published_one_plus() -> None:
    """Equation 5: IN(x) gamma(s) + beta(s)."""
    torch.manual_seed(0)
    published, paper = SPADE(8).double(), SPADE(8, "paper").double()
    paper.load_state_dict(published.state_dict())
    x, s = torch.randn(2, 2, 8, 7, 7, dtype=torch.float64)
    normed = (x - x.mean(dim=(2, 3), keepdim=True)) / (x.var(dim=(2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    shared = paper.mlp_shared(s)
    torch.testing.assert_close(paper(x, s), normed * paper.mlp_gamma(shared) + paper.mlp_beta(shared))
    torch.testing.assert_close(published(x, s), paper(x, s) + normed)


def test_the_projected_query_is_the_published_one_times_a_matrix() -> None:
    """Equation 6: W_q X."""
    torch.manual_seed(0)
    published, projected = CrossAttention(16).double(), CrossAttention(16, "projected").double()
    projected.load_state_dict({**published.state_dict(), "q.weight": projected.state_dict()["q.weight"]})
    query, source = torch.randn(2, 3, 50, 16, dtype=torch.float64)
    assert projected.q is not None
    torch.testing.assert_close(projected(query, source), published(query @ projected.q.weight.T, source))
