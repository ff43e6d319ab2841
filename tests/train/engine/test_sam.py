"""SAM's gradient is the textbook's, bit by bit that of a loop over the parameters, and the weights are in their place afterwards."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, Optimizer

from orsanet_train.engine.sam import Pass, sam_gradient

Backward = Callable[[int], Pass]


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


def backward_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Backward:
    def backward(index: int) -> Pass:
        logits = model(batch[0])
        loss = cross_entropy(logits, batch[1])
        loss.backward()
        return Pass(loss.detach(), logits.detach())

    return backward


def sam_step(optimizer: Optimizer, backward: Backward, rho: float) -> tuple[Pass, Pass]:
    passes = sam_gradient([p for group in optimizer.param_groups for p in group["params"]], backward, rho)
    optimizer.step()
    return passes


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def vector(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def watching(model: nn.Module, backward: Backward, seen: list[Tensor]) -> Backward:
    """Remembers the weights that each pass ran at."""

    def watched(index: int) -> Pass:
        assert index == len(seen)
        seen.append(vector(model))
        return backward(index)

    return watched


def textbook_gradient(model: nn.Module, backward: Backward, rho: float) -> tuple[Tensor, Tensor]:
    """As in the paper's algorithm 1, parameter by parameter, moving the weights there and back; returns the losses at w and w + e."""
    model.zero_grad()
    loss = backward(0).loss
    gradients = {p: p.grad.clone() for p in model.parameters()}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    before = {p: p.detach().clone() for p in model.parameters()}
    with torch.no_grad():
        for p, g in gradients.items():
            p.add_(g * (rho / (norm + 1e-12)))
    model.zero_grad()
    perturbed_loss = backward(1).loss
    with torch.no_grad():
        for p, w in before.items():
            p.copy_(w)
    return loss, perturbed_loss


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    for (name, left), right in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


# --- the gradient ---


def test_radius_zero_is_the_plain_gradient_bit_by_bit() -> None:
    ours = network(torch.float32)
    plain = copy.deepcopy(ours)
    our_adam, plain_adam = Adam(ours.parameters(), lr=0.01), Adam(plain.parameters(), lr=0.01)
    for batch in batches(5, torch.float32):
        sam_step(our_adam, backward_of(ours, batch), rho=0)
        plain_adam.zero_grad()
        backward_of(plain, batch)(0)
        plain_adam.step()
    assert_same_state(ours, plain)


def test_in_float32_every_bit_is_that_of_a_loop_over_the_parameters() -> None:
    """Gradients, losses, and with them weights and batch statistics over several steps of Adam."""
    ours = network(torch.float32)
    looped = copy.deepcopy(ours)
    our_adam, loop_adam = Adam(ours.parameters(), lr=0.01), Adam(looped.parameters(), lr=0.01)
    for batch in batches(4, torch.float32):
        first, second = sam_gradient(list(ours.parameters()), backward_of(ours, batch), rho=0.05)
        losses = textbook_gradient(looped, backward_of(looped, batch), rho=0.05)
        assert torch.equal(torch.stack([first.loss, second.loss]), torch.stack(losses))
        for (name, left), right in zip(ours.named_parameters(), looped.parameters(), strict=True):
            assert torch.equal(left.grad, right.grad), name
        our_adam.step()
        loop_adam.step()
        assert_same_state(ours, looped)


def test_in_float64_several_steps_are_the_textbooks_without_its_guard() -> None:
    """The same algorithm once more, by autograd.grad and with the norm over one long vector."""
    ours = network()
    textbook = copy.deepcopy(ours)
    our_adam, textbook_adam = Adam(ours.parameters(), lr=0.01), Adam(textbook.parameters(), lr=0.01)
    for images, labels in batches(4):
        passes = sam_step(our_adam, backward_of(ours, (images, labels)), rho=0.05)
        parameters = list(textbook.parameters())
        losses = [cross_entropy(textbook(images), labels)]
        slope = torch.autograd.grad(losses[0], parameters)
        before = vector(textbook)
        direction = torch.cat([g.flatten() for g in slope])
        nn.utils.vector_to_parameters(before + 0.05 * direction / direction.norm(), parameters)
        losses.append(cross_entropy(textbook(images), labels))
        slope = torch.autograd.grad(losses[1], parameters)
        nn.utils.vector_to_parameters(before, parameters)
        for p, g in zip(parameters, slope, strict=True):
            p.grad = g
        textbook_adam.step()
        assert [p.loss.item() for p in passes] == pytest.approx([loss.item() for loss in losses], rel=GUARD)
    torch.testing.assert_close(vector(ours), vector(textbook), rtol=GUARD, atol=GUARD)


def test_the_radius_matters() -> None:
    """Guards the comparisons above: SAM and its base optimiser must be told apart by them."""
    small, large = network(), network()
    for model, rho in ((small, 0.0), (large, 0.05)):
        sam_step(SGD(model.parameters(), lr=0.1), backward_of(model, batches(1)[0]), rho)
    assert (small[0].weight - large[0].weight).abs().max() > 1e-4


def test_the_second_pass_sees_weights_at_distance_rho_along_the_gradient() -> None:
    model, batch = network(), batches(1)[0]
    backward_of(model, batch)(0)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    seen: list[Tensor] = []
    sam_gradient(list(model.parameters()), watching(model, backward_of(model, batch), seen), rho=0.05)
    assert len(seen) == 2
    assert gradient.norm() > 0.1
    torch.testing.assert_close(seen[1] - seen[0], 0.05 * gradient / gradient.norm(), rtol=GUARD, atol=1e-15)


def test_of_some_parameters_only_these_move_and_the_norm_is_theirs() -> None:
    """The others have a gradient too, which does not count."""
    model, batch = network(), batches(1)[0]
    last = list(model[3].parameters())
    seen: list[Tensor] = []
    sam_gradient(last, watching(model, backward_of(model, batch), seen), rho=0.05)
    moved = seen[1] - seen[0]
    count = sum(p.numel() for p in last)
    assert torch.equal(moved[:-count], torch.zeros_like(moved[:-count]))
    assert moved.norm().item() == pytest.approx(0.05, rel=GUARD)


def test_parameters_without_gradient_are_left_alone() -> None:
    """One is frozen, one takes no part in the forward pass; weight decay would move any parameter that has a gradient."""
    model = network()
    model[0].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    frozen = model[0].weight.detach().clone()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    inner = nn.Sequential(*(model[index] for index in range(4)))
    moved = model[3].weight.detach().clone()
    sam_step(optimizer, backward_of(inner, batches(1)[0]), rho=0.05)
    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(model.unused, torch.ones(3, dtype=torch.float64))
    assert model.unused.grad is None
    assert model[0].weight.grad is None
    assert not torch.equal(model[3].weight, moved)


@pytest.mark.parametrize("rho", [0.05, 0.0])
def test_gradients_of_earlier_steps_do_not_count(rho: float) -> None:
    fresh, stale = network(), network()
    for parameter in stale.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    for model in (fresh, stale):
        sam_gradient(list(model.parameters()), backward_of(model, batches(1)[0]), rho)
    for left, right in zip(fresh.parameters(), stale.parameters(), strict=True):
        assert torch.equal(left.grad, right.grad)


def test_a_vanishing_gradient_leaves_the_weights_finite_and_in_place() -> None:
    model = network()
    before = copy.deepcopy(model)

    def flat(index: int) -> Pass:
        logits = model(batches(1)[0][0])
        loss = (0 * logits).sum()
        loss.backward()
        return Pass(loss.detach(), logits.detach())

    _, second = sam_step(SGD(model.parameters(), lr=1.0), flat, rho=0.05)
    assert second.loss == 0
    for now, then in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize(("rho", "passes"), [(0.05, 2), (0.0, 1)])
def test_batch_statistics_move_once_per_forward_pass(rho: float, passes: int) -> None:
    model = network()
    optimizer = Adam(model.parameters(), lr=0.01)
    for count, batch in enumerate(batches(3), start=1):
        sam_step(optimizer, backward_of(model, batch), rho)
        assert model[1].num_batches_tracked.item() == passes * count


@pytest.mark.parametrize("rho", [0.05, 0.0])
def test_both_passes_are_reported_and_with_radius_zero_the_first_twice(rho: float) -> None:
    model, batch = network(), batches(1)[0]
    there = copy.deepcopy(model)
    seen: list[Tensor] = []
    first, second = sam_gradient(list(model.parameters()), watching(model, backward_of(model, batch), seen), rho)
    for weights, said in zip((seen[0], seen[-1]), (first, second), strict=True):
        nn.utils.vector_to_parameters(weights, there.parameters())
        loss, logits = backward_of(there, batch)(0)
        assert torch.equal(said.loss, loss)
        assert torch.equal(said.logits, logits)
    assert torch.equal(first.loss, second.loss) == (rho == 0)


# --- the weights ---


@pytest.mark.parametrize("rho", [0.05, 10.0, 1e30])
def test_weights_are_the_same_bits_afterwards(rho: float) -> None:
    """Subtracting the perturbation again would leave rounding behind, most at a large radius."""
    model = network(torch.float32)
    before = vector(model)
    for batch in batches(3, torch.float32):
        sam_gradient(list(model.parameters()), backward_of(model, batch), rho)
        assert torch.equal(vector(model), before)


@pytest.mark.parametrize("fails", [None, 0, 1], ids=["no-pass", "first-pass", "second-pass"])
def test_weights_are_in_the_memory_they_were_in_also_when_a_pass_raises(fails: int | None) -> None:
    """Whoever holds that memory (an optimiser, a recorded graph, another process) still holds the weights."""
    model, batch = network(torch.float32), batches(1, torch.float32)[0]
    backward = backward_of(model, batch)
    held = {name: p.data for name, p in model.named_parameters()}
    before = {name: tensor.clone() for name, tensor in held.items()}

    def sometimes(index: int) -> Pass:
        for name, p in model.named_parameters():
            assert (p.data_ptr() == held[name].data_ptr()) == (index == 0), name  # w + e has memory of its own
            assert torch.equal(held[name], before[name]), name
        said = backward(index)
        if index == fails:
            raise MemoryError("of this pass")
        return said

    if fails is None:
        sam_gradient(list(model.parameters()), sometimes, rho=0.05)
    else:
        with pytest.raises(MemoryError, match="of this pass"):
            sam_gradient(list(model.parameters()), sometimes, rho=0.05)
    for name, p in model.named_parameters():
        assert p.data_ptr() == held[name].data_ptr(), name
        assert torch.equal(p.detach(), before[name]), name


def test_the_gradient_shares_no_memory_with_the_weights() -> None:
    model = network(torch.float32)
    sam_gradient(list(model.parameters()), backward_of(model, batches(1, torch.float32)[0]), rho=0.05)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert weights.isdisjoint({p.grad.untyped_storage().data_ptr() for p in model.parameters()})


# --- gradients that are not finite ---


def spoilt(model: nn.Module, backward: Backward, value: float) -> Backward:
    """After the first pass one entry of one gradient is `value`."""

    def backward_spoilt(index: int) -> Pass:
        said = backward(index)
        if index == 0:
            model[0].weight.grad[2, 1] = value
        return said

    return backward_spoilt


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_an_entry_that_is_not_finite_is_flagged_and_perturbs_nothing_while_the_others_do(value: float) -> None:
    """As if that entry had been 0: where the second pass runs and what gradient it leaves, to the last bit."""
    seen: dict[float, list[Tensor]] = {value: [], 0.0: []}
    left: dict[float, dict[str, Tensor | None]] = {}
    for entry, expected in ((value, 1.0), (0.0, 0.0)):
        model = network(torch.float32)
        backward = spoilt(model, backward_of(model, batches(1, torch.float32)[0]), entry)
        overflow = torch.full((), 7.0)
        sam_gradient(list(model.parameters()), watching(model, backward, seen[entry]), 0.05, overflow)
        assert overflow.item() == expected
        left[entry] = gradients(model)
    assert torch.equal(seen[value][1], seen[0.0][1])
    assert seen[value][1].isfinite().all()
    assert not torch.equal(seen[value][1], seen[value][0])
    assert all(torch.equal(left[value][name], left[0.0][name]) for name in left[0.0])


def test_the_flag_goes_down_with_the_next_finite_gradient() -> None:
    model = network(torch.float32)
    overflow = torch.zeros(())
    backward = backward_of(model, batches(1, torch.float32)[0])
    flags = []
    for value in (math.inf, 1.0, math.nan, 0.0):
        sam_gradient(list(model.parameters()), spoilt(model, backward, value), 0.05, overflow)
        flags.append(overflow.item())
    assert flags == [1, 0, 1, 0]


def test_watching_for_overflow_changes_no_bit_of_a_finite_gradient() -> None:
    watched, plain = network(torch.float32), network(torch.float32)
    batch = batches(1, torch.float32)[0]
    sam_gradient(list(watched.parameters()), backward_of(watched, batch), 0.05, torch.zeros(()))
    sam_gradient(list(plain.parameters()), backward_of(plain, batch), 0.05)
    for left, right in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(left.grad, right.grad)
