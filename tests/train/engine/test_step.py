"""A training step is textbook SAM with Adam, to the last bit in float32 and within stated tolerances in every other arithmetic.

The reference is a loop written out here: every parameter by itself, float32, drop-path pinned by the draws in the batches.
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor
from torch.optim import Adam
from training_steps import (
    ARITHMETICS,
    CHANNELS,
    CLASSES,
    CUDA,
    FLOAT32,
    FUSED_ROUNDING,
    HALVES,
    SCALE,
    TOLERANCE,
    Linears,
    Trajectory,
    assert_same_tensors,
    furthest,
    new_engine,
    new_model,
    new_step,
    random_batch,
    reference,
    said,
    scaler_state,
    settings,
    trained,
)

from orsanet_train.engine.graph import GraphedStep
from orsanet_train.engine.losses import training_loss
from orsanet_train.engine.precision import Arithmetic
from orsanet_train.engine.step import Sums
from orsanet_train.feed.feed import PriorBatch
from orsanet_train.model.model import build_model


@pytest.fixture(scope="module")
def exact() -> Trajectory:
    return trained(new_step(settings()))


def test_exact_is_the_reference_loop_bit_by_bit_over_20_steps(exact: Trajectory) -> None:
    """Both losses of each step; weights, batch statistics and spectral vectors after the last. Both use the fused Adam."""
    loop = reference(settings(), fused=True)
    assert torch.equal(exact.losses, loop.losses)
    assert_same_tensors(exact.state, loop.state)


def test_with_adams_own_loop_the_losses_are_the_same_but_for_the_fused_adams_rounding(exact: Trajectory) -> None:
    loop = reference(settings(), fused=False)
    # No weight has moved before the first update.
    assert torch.equal(exact.losses[0], loop.losses[0])
    assert 0 < furthest(exact, loop) < FUSED_ROUNDING


def test_the_20_steps_learn_and_their_passes_and_phases_differ(exact: Trajectory) -> None:
    """Guards the comparisons: a trajectory that stood still would meet any other that did."""
    first, second = exact.losses.T
    assert first[-1] < 0.5 * first[0]
    assert ((first - second).abs() > 1e-3).all()


def test_parity_on_a_cpu_is_exact_bit_by_bit(exact: Trajectory) -> None:
    engine = new_engine(settings("precision=parity"))
    parity = trained(engine.step, engine.take)
    assert torch.equal(parity.losses, exact.losses)
    assert_same_tensors(parity.state, exact.state)


@pytest.mark.parametrize("arithmetic", HALVES)
def test_half_precision_stays_within_its_tolerance_of_exact_over_20_steps(
    arithmetic: Arithmetic, exact: Trajectory
) -> None:
    half = trained(new_step(settings(), arithmetic))
    print("MEASURED", arithmetic.reason, furthest(half, exact))
    assert 0 < furthest(half, exact) < TOLERANCE[arithmetic.reason]
    assert {tensor.dtype for tensor in half.state.values()} == {torch.float32, torch.int64}
    moved = [name for name in exact.state if name.endswith("num_batches_tracked")]
    assert {int(half.state[name]) for name in moved} == {2 * 20}


@pytest.mark.skipif(
    os.environ.get("ORSANET_COMPILE") != "1", reason="compiles for minutes; set ORSANET_COMPILE=1 to run it"
)
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_compiled_stays_within_its_tolerance_of_exact_over_20_steps() -> None:
    """Channels in sixteens: with others, torch's compiler writes past the end of arrays on a CPU (pytorch #196681)."""
    config = settings("model.backbone_channels=[16,16,32]", "model.width=128")
    engine = new_engine(config, compiled=True)
    assert "compiled" in engine.reason
    compiled, eager = trained(engine.step, engine.take), trained(new_step(config))
    assert furthest(compiled, eager) < TOLERANCE["compiled"]
    assert compiled.state.keys() == eager.state.keys()


def gradient_of_a_step(rho: float, arithmetic: Arithmetic, around: Callable[[], object] = nullcontext) -> Tensor:
    """What the second pass leaves; with float16 divided by the loss scale."""
    config = settings(f"rho={rho}")
    step = new_step(config, arithmetic, Linears())
    with around():
        step(random_batch(config, 4, 0), 4)
    gradient = torch.cat([p.grad.flatten() for p in step.parameters.values()])
    return gradient / (SCALE if arithmetic.loss_scaling else 1)


def autocast_around_both_passes(arithmetic: Arithmetic) -> Callable[[], object]:
    return lambda: torch.autocast("cpu", arithmetic.half)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_rho_changes_the_second_passs_gradient(arithmetic: Arithmetic) -> None:
    near, far = (gradient_of_a_step(rho, arithmetic) for rho in (0.05, 0.5))
    assert difference(near, far) > 0.1


@pytest.mark.parametrize("arithmetic", HALVES)
def test_one_autocast_context_around_both_passes_would_drop_the_perturbation(arithmetic: Arithmetic) -> None:
    """The trap that the step's own contexts avoid: the second pass runs on the first one's copies of the weights."""
    around = autocast_around_both_passes(arithmetic)
    near, far, none = (gradient_of_a_step(rho, arithmetic, around) for rho in (0.05, 0.5, 0.0))
    assert torch.equal(near, far)
    assert torch.equal(near, none)


@pytest.mark.parametrize("arithmetic", HALVES)
def test_the_models_second_loss_at_a_large_radius_is_float32s_and_not_that_of_the_trap(arithmetic: Arithmetic) -> None:
    def second_loss(arithmetic: Arithmetic, around: Callable[[], object] = nullcontext) -> float:
        config = settings("rho=0.3")
        step = new_step(config, arithmetic)
        with around():
            step(random_batch(config, 4, 0), 4)
        return said(step).perturbed_loss

    expected = second_loss(FLOAT32)
    # 3e-4 measured, and 0.23 for the trap: at this radius half of what the loss gains is gone.
    assert second_loss(arithmetic) == pytest.approx(expected, rel=0.01)
    assert second_loss(arithmetic, autocast_around_both_passes(arithmetic)) < 0.9 * expected


def test_with_rho_0_a_step_is_plain_adams_bit_by_bit() -> None:
    config = settings("rho=0.0")
    ours, plain = new_step(config), new_model(config)
    optimizer = Adam(plain.parameters(), lr=config.learning_rate, fused=True)
    for seed in range(3):
        batch = random_batch(config, 4, seed)
        ours(batch, 4)
        optimizer.zero_grad()
        logits = plain(*batch.inputs, batch.drop_path[:, 0]).logits
        training_loss(logits, batch.label, config.loss, 0).backward()
        optimizer.step()
    assert_same_tensors(ours.model.state_dict(), plain.state_dict())
    assert said(ours).loss == said(ours).perturbed_loss


def test_sums_are_those_of_the_first_pass_and_go_on_from_where_they_were() -> None:
    config = settings()
    step = new_step(config)
    begun = Sums(images=10, loss=20.5, perturbed_loss=30.25, correct=4, steps=3)
    step.begin_epoch(1, begun)
    batch = random_batch(config, 3, 0)
    before = copy.deepcopy(step.model)
    step(batch, 3)
    logits = before(*batch.inputs, batch.drop_path[:, 0]).logits
    loss = training_loss(logits, batch.label, config.loss, 1).item()
    now = said(step)
    assert (now.images, now.steps, now.stopped) == (13, 4, 0)
    assert now.correct == 4 + int((logits.argmax(dim=1) == batch.label).sum())
    # The sums are float64; three times a float32 loss has more digits than float32.
    assert now.loss == pytest.approx(20.5 + 3 * loss, rel=1e-7)
    assert now.perturbed_loss > 30.25


@pytest.mark.parametrize("rho", [0.0, 2.0])
def test_the_correct_predictions_of_both_passes_are_counted(rho: float) -> None:
    config = settings(f"rho={rho}")
    step, passes = new_step(config), []
    step.begin_epoch(0, Sums(correct=2, perturbed_correct=1))
    step.model.register_forward_hook(lambda _, given, said: passes.append(said.logits.argmax(dim=1)))
    batch = random_batch(config, 12, 0)
    step(batch, 12)
    first, second = passes[0], passes[-1]
    assert len(passes) == (1 if rho == 0 else 2)
    right = [2 + int((first == batch.label).sum()), 1 + int((second == batch.label).sum())]
    assert [said(step).correct, said(step).perturbed_correct] == right


def test_each_pass_has_its_own_draws_of_drop_path() -> None:
    config = settings()
    *tensors, _ = random_batch(config, 4, 0)
    batch = PriorBatch(*tensors, torch.ones(4, 2, *config.model.drop_path_shape))
    seen = []
    for index in (None, 0, 1):
        drop_path = batch.drop_path.clone()
        if index is not None:
            drop_path[:, index] = 0.0
        step = new_step(config)
        step(PriorBatch(*tensors, drop_path), 4)
        seen.append(said(step))
    kept, first_dropped, second_dropped = seen
    assert first_dropped.loss != kept.loss
    assert second_dropped.loss == kept.loss
    assert second_dropped.perturbed_loss != kept.perturbed_loss


def test_the_learning_rate_falls_by_its_factor_every_epoch() -> None:
    step = new_step(settings("learning_rate=0.5", "learning_rate_decay=0.5"))
    rates = []
    for epoch in range(4):
        step.begin_epoch(epoch, Sums())
        rates.append(float(step.optimizer.param_groups[0]["lr"]))
    assert rates == [0.5, 0.25, 0.125, 0.0625]


def test_moved_buffers_are_those_after_both_passes_kept_ones_those_after_the_first() -> None:
    """And the gradient, so the weights, is the same: in training a pass reads no batch statistics of another."""
    batch = random_batch(settings(), 4, 0)
    once = new_model(settings())
    once(*batch.inputs, batch.drop_path[:, 0])
    after_first = {name: buffer.clone() for name, buffer in once.named_buffers()}
    after: dict[str, dict[str, Tensor]] = {}
    for choice in ("kept", "moved"):
        step = new_step(settings(f"second_pass_buffers={choice}"))
        step(batch, 4)
        after[choice] = dict(step.model.named_buffers())
    assert_same_tensors(after["kept"], after_first)
    unmoved = [name for name in after_first if torch.equal(after["moved"][name], after_first[name])]
    assert unmoved == []
    assert {int(buffer) for name, buffer in after["moved"].items() if name.endswith("num_batches_tracked")} == {2}


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_loaded_state_goes_on_bit_by_bit(arithmetic: Arithmetic) -> None:
    """Into a step of other weights; with loss scaling, in the middle of what the scale counts to grow."""
    config = settings()
    batches = [random_batch(config, 4, seed) for seed in range(5)]
    whole = new_step(config, arithmetic)
    for batch in batches[:3]:
        whole(batch, 4)
    saved, sums = {name: tensor.clone() for name, tensor in whole.state().items()}, said(whole)
    torch.manual_seed(1)
    resumed = new_step(config, arithmetic, build_model(config.model, CLASSES, CHANNELS, CHANNELS).train())
    assert not torch.equal(resumed.parameters["head.linear.weight"], whole.parameters["head.linear.weight"])
    resumed.load(saved)
    assert_same_tensors(resumed.state(), saved)
    if arithmetic.loss_scaling:
        assert saved["scaler/_growth_tracker"] == 3
    resumed.begin_epoch(0, sums)
    for batch in batches[3:]:
        whole(batch, 4)
        resumed(batch, 4)
    assert_same_tensors(resumed.state(), whole.state())
    assert said(resumed) == said(whole)


def test_a_state_from_before_the_first_step_can_be_loaded() -> None:
    config = settings()
    begun, resumed = new_step(config), new_step(config)
    with torch.no_grad():
        resumed.parameters["head.linear.weight"].add_(1)
    resumed.load({name: tensor.clone() for name, tensor in begun.state().items()})
    for step in (begun, resumed):
        step(random_batch(config, 4, 0), 4)
    assert_same_tensors(resumed.state(), begun.state())


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Raises where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_on_a_gpu_graphs_are_eager_steps_bit_by_bit_over_20_steps() -> None:
    """Two sizes of batch and both phases of the loss: four graphs, replayed in turns."""
    eager, graphed = new_engine(settings(), CUDA), new_engine(settings(), CUDA)
    assert isinstance(graphed.take, GraphedStep)
    launched, replayed = trained(eager.step, eager.step), trained(graphed.step, graphed.take)
    assert not graphed.take.refused
    assert len(graphed.take.recorded) == 4
    assert torch.equal(replayed.losses, launched.losses)
    assert_same_tensors(replayed.state, launched.state)


@pytest.mark.cuda
@pytest.mark.parametrize(("precision", "tolerance"), [("exact", 1e-3), ("parity", 1e-2), ("fast", 2e-2)])
def test_on_a_gpu_every_mode_stays_within_its_tolerance_of_the_processors_losses(
    precision: str, tolerance: float, exact: Trajectory
) -> None:
    engine = new_engine(settings(f"precision={precision}"), CUDA)
    engine.step.load_scaler(
        {f"scaler/{key}": torch.tensor(value) for key, value in scaler_state(engine.step, SCALE).items()}
    )
    on_gpu = trained(engine.step, engine.take)
    assert not engine.take.refused
    assert furthest(on_gpu, exact) < tolerance


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("precision", ["exact", "parity", "fast"])
def test_on_a_gpu_the_host_never_waits_inside_a_step(precision: str) -> None:
    config = settings(f"precision={precision}")
    step = new_engine(config, CUDA).step
    step.begin_epoch(0, Sums())
    batches = [PriorBatch(*(tensor.to(CUDA) for tensor in random_batch(config, 4, seed))) for seed in range(3)]
    step(batches[0], 4)
    with no_synchronisation():
        for batch in batches[1:]:
            step(batch, 4)
    assert said(step).steps == 3
