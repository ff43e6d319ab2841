"""SAM: with radius 0 it is its base optimiser, otherwise the textbook's two passes, and it leaves nothing but the step behind."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam

from orsanet_train.sam import sam_step

Forward = Callable[[], tuple[Tensor, Tensor]]


# SAM guards its division: rho / (|g| + 1e-12). The gradients here are longer than 0.1, so e is short by less than 1e-11.
GUARD = 1e-11


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """No bias before the normalisation: its gradient is rounding noise, which Adam would blow up."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batches(count: int, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 5, generator=generator, dtype=dtype), torch.randint(3, (6,), generator=generator))
        for _ in range(count)
    ]


def forward_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Forward:
    def forward() -> tuple[Tensor, Tensor]:
        logits = model(batch[0])
        return cross_entropy(logits, batch[1]), logits

    return forward


def textbook_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, forward: Forward, rho: float
) -> tuple[float, float]:
    """SAM as in the paper's algorithm 1, parameter by parameter; returns the losses at w and at w + e."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss, _ = forward()
    gradients = torch.autograd.grad(loss, parameters)
    norm = sum((g**2).sum() for g in gradients) ** 0.5
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            p.add_(rho * g / norm)
    perturbed_loss, _ = forward()
    for p, w, g in zip(parameters, before, torch.autograd.grad(perturbed_loss, parameters), strict=True):
        p.data.copy_(w)
        p.grad = g
    optimizer.step()
    return loss.item(), perturbed_loss.item()


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    for (name, left), right in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


def test_radius_zero_is_plain_adam_bit_by_bit() -> None:
    ours = network(torch.float32)
    plain = copy.deepcopy(ours)
    our_adam, plain_adam = Adam(ours.parameters(), lr=0.01), Adam(plain.parameters(), lr=0.01)
    for batch in batches(5, torch.float32):
        sam_step(our_adam, forward_of(ours, batch), rho=0)
        plain_adam.zero_grad()
        forward_of(plain, batch)()[0].backward()
        plain_adam.step()
    assert_same_state(ours, plain)


def test_several_steps_are_the_textbooks_two_passes() -> None:
    ours = network()
    textbook = copy.deepcopy(ours)
    our_adam, textbook_adam = Adam(ours.parameters(), lr=0.01), Adam(textbook.parameters(), lr=0.01)
    for batch in batches(4):
        step = sam_step(our_adam, forward_of(ours, batch), rho=0.05)
        losses = textbook_step(textbook, textbook_adam, forward_of(textbook, batch), rho=0.05)
        assert (step.loss.item(), step.perturbed_loss.item()) == pytest.approx(losses, rel=GUARD)
    for ours_now, textbook_now in zip(ours.parameters(), textbook.parameters(), strict=True):
        torch.testing.assert_close(ours_now, textbook_now, rtol=GUARD, atol=GUARD)


def test_the_radius_matters() -> None:
    """Guards the comparisons above: SAM and its base optimiser must be told apart by them."""
    small, large = network(), network()
    for model, rho in ((small, 0.0), (large, 0.05)):
        sam_step(SGD(model.parameters(), lr=0.1), forward_of(model, batches(1)[0]), rho)
    assert (small[0].weight - large[0].weight).abs().max() > 1e-4


@pytest.mark.parametrize("rho", [0.05, 10.0])
def test_weights_before_the_optimisers_step_are_restored_bit_by_bit(rho: float) -> None:
    """SGD with rate 0 steps nowhere. Subtracting the perturbation again would leave rounding behind, most at a large radius."""
    model = network(torch.float32)
    before = [p.detach().clone() for p in model.parameters()]
    for batch in batches(3, torch.float32):
        sam_step(SGD(model.parameters(), lr=0.0), forward_of(model, batch), rho)
    for now, then in zip(model.parameters(), before, strict=True):
        assert torch.equal(now, then)


def test_the_second_pass_sees_weights_at_distance_rho_along_the_gradient() -> None:
    model, batch = network(), batches(1)[0]
    forward = forward_of(model, batch)
    seen: list[Tensor] = []

    def watched() -> tuple[Tensor, Tensor]:
        seen.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        return forward()

    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(forward()[0], list(model.parameters()))])
    sam_step(SGD(model.parameters(), lr=0.0), watched, rho=0.05)
    assert len(seen) == 2
    assert gradient.norm() > 0.1
    torch.testing.assert_close(seen[1] - seen[0], 0.05 * gradient / gradient.norm(), rtol=GUARD, atol=1e-15)


def test_the_norm_spans_all_parameter_groups() -> None:
    whole, grouped = network(), network()
    first, *rest = grouped.children()
    batch = batches(1)[0]
    sam_step(SGD(whole.parameters(), lr=0.1), forward_of(whole, batch), 0.5)
    groups = [{"params": list(first.parameters())}, {"params": [p for m in rest for p in m.parameters()]}]
    sam_step(SGD(groups, lr=0.1), forward_of(grouped, batch), 0.5)
    assert_same_state(whole, grouped)


def test_parameters_without_gradient_are_left_alone() -> None:
    """One is frozen, one takes no part in the forward pass; weight decay would move any parameter that has a gradient."""
    model = network()
    model[0].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    frozen = model[0].weight.detach().clone()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    inner = nn.Sequential(*(model[index] for index in range(4)))
    moved = model[3].weight.detach().clone()
    sam_step(optimizer, forward_of(inner, batches(1)[0]), rho=0.05)
    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(model.unused, torch.ones(3, dtype=torch.float64))
    assert model.unused.grad is None
    assert not torch.equal(model[3].weight, moved)


def test_gradients_of_earlier_steps_do_not_count() -> None:
    fresh, stale = network(), network()
    for parameter in stale.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    batch = batches(1)[0]
    for model in (fresh, stale):
        sam_step(SGD(model.parameters(), lr=0.1), forward_of(model, batch), 0.05)
    assert_same_state(fresh, stale)


def test_a_vanishing_gradient_leaves_the_weights_finite_and_in_place() -> None:
    model = network()
    before = copy.deepcopy(model)

    def flat() -> tuple[Tensor, Tensor]:
        logits = model(batches(1)[0][0])
        return (0 * logits).sum(), logits

    step = sam_step(SGD(model.parameters(), lr=1.0), flat, rho=0.05)
    assert step.perturbed_loss == 0
    for now, then in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize(("rho", "passes"), [(0.05, 2), (0.0, 1)])
def test_batch_statistics_move_once_per_forward_pass(rho: float, passes: int) -> None:
    model = network()
    optimizer = Adam(model.parameters(), lr=0.01)
    for count, batch in enumerate(batches(3), start=1):
        sam_step(optimizer, forward_of(model, batch), rho)
        assert model[1].num_batches_tracked.item() == passes * count


@pytest.mark.parametrize("rho", [0.05, 0.0])
def test_a_step_reports_what_it_saw_at_the_weights_it_started_from(rho: float) -> None:
    model, batch = network(), batches(1)[0]
    loss, logits = forward_of(copy.deepcopy(model), batch)()
    step = sam_step(Adam(model.parameters(), lr=0.01), forward_of(model, batch), rho)
    assert torch.equal(step.loss, loss)
    assert torch.equal(step.output, logits)
    assert torch.equal(step.perturbed_loss, loss) == (rho == 0)
    assert not any(value.requires_grad for value in step)
