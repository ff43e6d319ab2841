"""Drop-path: whole branches are dropped by the draws that come with the batch."""

import itertools

import pytest
import torch
from small_models import (
    inputs,
    small,
    small_model,
)
from torch import Tensor, nn

from orsanet_train.model.fusion import MCM
from orsanet_train.model.orsanet import ORSANet
from orsanet_train.model_config import ORSANetConfig


def draws(config: ORSANetConfig, count: int, value: float = 1.0) -> Tensor:
    return torch.full((count, *config.drop_path_shape), value)


def rates(depth: int) -> list[float]:
    """Linear from 0 to 0.1 over the levels, as published."""
    return [0.1 * level / (depth - 1) for level in range(depth)]


def factors_seen(config: ORSANetConfig, drop_path: Tensor | None, training: bool = False) -> Tensor:
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
