"""A training step is textbook SAM with Adam, to the last bit in float32 and within stated tolerances in every other arithmetic.

The reference is a loop written out here: every parameter by itself, float32, drop-path pinned by the draws in the batches.
"""

import copy
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from orsanet_train.config import RunConfig, load_config
from orsanet_train.engine.distributed import ONE
from orsanet_train.engine.engine import Engine, build_engine
from orsanet_train.engine.graph import GraphedStep
from orsanet_train.engine.losses import training_loss
from orsanet_train.engine.precision import Arithmetic
from orsanet_train.engine.step import Sums, TrainingStep
from orsanet_train.feed.feed import PriorBatch
from orsanet_train.model.orsanet import Expression, ORSANet, build_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CLASSES, CHANNELS = 5, 8
EPOCHS = ([4, 4, 4, 4, 4, 4, 2], [4, 4, 4, 4, 4, 4, 2], [4, 4, 4, 4, 4, 4])  # sizes of batches: 20 steps
SETTINGS = (
    "precision=exact", "batch_size=4", "learning_rate=1e-3", "learning_rate_decay=0.8", "rho=0.05", "loss.warmup_epochs=1",
    "model.depth=2", "model.width=32", "model.backbone_channels=[4,8,16]", "model.backbone_units=[1,1,1]",
)  # fmt: skip

FLOAT32 = Arithmetic(None, False, "float32")
BFLOAT16 = Arithmetic(torch.bfloat16, False, "bfloat16")
FLOAT16 = Arithmetic(torch.float16, True, "float16")
ARITHMETICS = [pytest.param(arithmetic, id=arithmetic.reason) for arithmetic in (FLOAT32, BFLOAT16, FLOAT16)]
HALVES = ARITHMETICS[1:]
SCALE = 2.0**10  # of float16's loss where a test wants no step to be skipped

# Largest relative difference of a loss from the exact one over the 20 steps, in which the losses fall from 6 to 2; each some three
# times what was measured. Adam's own loop and the fused one differ in the last bit of a weight (2e-7 of a loss); half precision rounds
# every product's operands to 8 bits (bfloat16: 4e-3) or 11 (float16: 4e-3, small gradients lose more of them). Compiled kernels sum in
# another order (5e-4): as far as this trajectory goes when every weight begins with another last bit, because Adam makes whole steps of
# the rounding that is the gradient of a bias before a normalisation.
FUSED_ROUNDING = 1e-6
TOLERANCE = {"bfloat16": 1.5e-2, "float16": 1.2e-2, "compiled": 1.5e-3}

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def settings(*more: str) -> RunConfig:
    return load_config("rafdb", [*SETTINGS, *more])


def random_batch(config: RunConfig, size: int, seed: int) -> PriorBatch:
    generator = torch.Generator().manual_seed(seed)
    return PriorBatch(
        image=torch.randn(size, 3, 112, 112, generator=generator),
        segmentation=torch.randn(size, CHANNELS, 7, 7, generator=generator),
        landmark_features=torch.randn(size, CHANNELS, 7, 7, generator=generator),
        label=torch.randint(CLASSES, (size,), generator=generator),
        drop_path=torch.rand(size, 2, *config.model.drop_path_shape, generator=generator),
    )


def schedule(config: RunConfig) -> Iterator[tuple[int, PriorBatch]]:
    """Epoch and batch of 20 steps; the data comes again in every epoch, the draws do not."""
    for epoch, sizes in enumerate(EPOCHS):
        for index, size in enumerate(sizes):
            again, fresh = random_batch(config, size, index), random_batch(config, size, 100 * (epoch + 1) + index)
            yield epoch, again._replace(drop_path=fresh.drop_path)


def new_model(config: RunConfig, device: torch.device = CPU) -> ORSANet:
    torch.manual_seed(0)
    return build_model(config.model, CLASSES, CHANNELS, CHANNELS).train().to(device)


def new_step(config: RunConfig, arithmetic: Arithmetic = FLOAT32, network: nn.Module | None = None) -> TrainingStep:
    """Of a new model, or of another network, in its first epoch."""
    network = new_model(config) if network is None else network
    step = TrainingStep(network, network, config, arithmetic, CPU)
    step.load_scaler({f"scaler/{key}": torch.tensor(value) for key, value in scaler_state(step, SCALE).items()})
    step.begin_epoch(0, Sums())
    return step


def scaler_state(step: TrainingStep, scale: float) -> dict[str, float]:
    return {**step.scaler.state_dict(), "scale": scale} if step.scaler.is_enabled() else {}


def said(step: TrainingStep) -> Sums:
    return Sums(*step.sums.tolist())


class Trajectory(NamedTuple):
    losses: Tensor  # float64 [20, 2], of both passes
    state: dict[str, Tensor]  # of the model at the end


def trained(step: TrainingStep, take: Callable[[PriorBatch, int], None] | None = None) -> Trajectory:
    """20 steps."""
    losses = []
    for epoch, batch in schedule(step.config):
        step.begin_epoch(epoch, Sums())  # so that the sums are of one step
        size = len(batch.label)
        (take or step)(PriorBatch(*(tensor.to(step.device) for tensor in batch)), size)
        assert step.sums[-1] == 0
        losses.append(step.sums[1:3] / size)
    state = {name: tensor.detach().cpu().clone() for name, tensor in step.model.state_dict().items()}
    return Trajectory(torch.stack(losses).cpu(), state)


def reference(config: RunConfig, *, fused: bool) -> Trajectory:
    """The published loop, a parameter at a time."""
    model = new_model(config)
    optimizer = Adam(model.parameters(), lr=config.learning_rate, fused=fused, foreach=False)
    losses = []
    for epoch, batch in schedule(config):
        optimizer.param_groups[0]["lr"] = config.learning_rate * config.learning_rate_decay**epoch

        def loss_of_pass(index: int, batch: PriorBatch = batch, epoch: int = epoch) -> Tensor:
            optimizer.zero_grad()
            logits = model(*batch.inputs, batch.drop_path[:, index]).logits
            loss = training_loss(logits, batch.label, config.loss, epoch)
            loss.backward()
            return loss.detach().double()

        first = loss_of_pass(0)
        before = {p: p.detach().clone() for p in model.parameters()}
        norm = torch.stack([p.grad.norm() for p in before]).norm()
        with torch.no_grad():
            for p in before:
                p.add_(p.grad * (config.rho / (norm + 1e-12)))
        second = loss_of_pass(1)
        with torch.no_grad():
            for p, weight in before.items():
                p.copy_(weight)
        optimizer.step()
        losses.append(torch.stack([first, second]))
    return Trajectory(torch.stack(losses), model.state_dict())


def furthest(one: Trajectory, other: Trajectory) -> float:
    """Largest relative difference of a loss."""
    return float(((one.losses - other.losses).abs() / other.losses).max())


def assert_same_tensors(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.fixture(scope="module")
def exact() -> Trajectory:
    return trained(new_step(settings()))


# --- against the reference ---


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


def new_engine(config: RunConfig, device: torch.device = CPU, *, compiled: bool = False) -> Engine:
    model = new_model(config, device)
    return build_engine(model, model, config, device, ONE, compiled=compiled)


# --- rho ---


class Linears(nn.Module):
    """All of its weights are what autocast makes half-precision copies of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(CHANNELS * 49, 16), nn.Linear(16, CLASSES)

    def forward(self, image: Tensor, segmentation: Tensor, landmark_features: Tensor, drop_path: Tensor) -> Expression:
        features = self.inner(landmark_features.flatten(1)).tanh()
        return Expression(self.outer(features), features)


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


# --- what a step counts ---


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


def test_each_pass_has_its_own_draws_of_drop_path() -> None:
    config = settings()
    batch = random_batch(config, 4, 0)._replace(drop_path=torch.ones(4, 2, *config.model.drop_path_shape))
    seen = []
    for index in (None, 0, 1):
        drop_path = batch.drop_path.clone()
        if index is not None:
            drop_path[:, index] = 0.0
        step = new_step(config)
        step(batch._replace(drop_path=drop_path), 4)
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


# --- buffers ---


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


# --- losses and gradients that are not finite ---


def everything(step: TrainingStep) -> dict[str, Tensor]:
    """Weights and optimiser state."""
    names = (*(f"model/{name}" for name in step.parameters), "optimizer/")
    return {name: tensor.clone() for name, tensor in step.state().items() if name.startswith(names)}


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_loss_that_is_not_finite_stops_the_weights_and_the_counting_for_good(arithmetic: Arithmetic) -> None:
    """The batch with it, and finite ones after it, change no weight and no optimiser state."""
    config = settings()
    step = new_step(config, arithmetic)
    step(random_batch(config, 4, 0), 4)
    before, counted = everything(step), said(step)
    assert any(name.startswith("optimizer/exp_avg/") for name in before)
    broken = random_batch(config, 4, 1)
    broken.image[2, 0, 5, 5] = math.nan
    for batch in (broken, random_batch(config, 4, 2), random_batch(config, 4, 3)):
        step(batch, 4)
        assert_same_tensors(everything(step), before)
        assert said(step) == counted._replace(stopped=1)


def test_a_loss_that_is_not_finite_in_the_very_first_step_leaves_the_weights_as_they_began() -> None:
    config = settings()
    step = new_step(config)
    broken = random_batch(config, 4, 1)
    broken.image[0] = math.inf
    step(broken, 4)
    begun = new_model(config).get_parameter
    assert all(torch.equal(p, begun(name)) for name, p in step.parameters.items())
    assert said(step) == Sums(stopped=1)


def test_a_loss_that_is_not_finite_in_the_second_pass_alone_stops_too() -> None:
    config = settings("rho=1e38")
    step = new_step(config)
    begun = {name: p.detach().clone() for name, p in step.parameters.items()}
    batch = random_batch(config, 4, 0)
    logits = new_model(config)(*batch.inputs, batch.drop_path[:, 0]).logits
    assert training_loss(logits, batch.label, config.loss, 0).isfinite()
    step(batch, 4)
    assert said(step) == Sums(stopped=1)
    assert all(torch.equal(p, begun[name]) for name, p in step.parameters.items())


def test_a_gradient_that_overflows_skips_the_step_halves_the_scale_and_the_run_goes_on() -> None:
    config = settings()
    step = new_step(config, FLOAT16)
    step.load_scaler({f"scaler/{key}": torch.tensor(value) for key, value in scaler_state(step, 2.0**18).items()})
    begun = {name: p.detach().clone() for name, p in step.parameters.items()}
    batch = random_batch(config, 4, 0)
    scales = []
    for _ in range(8):
        scales.append(step.scaler.get_scale())
        step(batch, 4)
        if any(not torch.equal(p, begun[name]) for name, p in step.parameters.items()):
            break
    skipped = len(scales) - 1
    assert skipped > 0
    assert scales == [2.0**18 / 2**halved for halved in range(skipped + 1)]
    assert step.scaler.get_scale() == scales[-1]  # the step that was taken left it
    assert {int(state["step"]) for state in step.optimizer.state.values()} == {1}
    assert all(tensor.isfinite().all() for tensor in step.model.state_dict().values())
    now = said(step)
    assert (now.images, now.steps, now.stopped) == (4 * len(scales), len(scales), 0)
    assert math.isfinite(now.perturbed_loss)


class Steep(Linears):
    """Says what Linears says, by way of a small number in float16 through which a scaled gradient does not fit."""

    def forward(self, image: Tensor, segmentation: Tensor, landmark_features: Tensor, drop_path: Tensor) -> Expression:
        logits, features = super().forward(image, segmentation, landmark_features, drop_path)
        narrow = drop_path.flatten()[0].to(logits.dtype)
        return Expression(logits * narrow / narrow, features)


@pytest.mark.parametrize("narrow", [None, 0, 1], ids=["in-no-pass", "in-the-first-pass", "in-the-second-pass"])
def test_an_overflow_in_either_pass_alone_skips_the_step(narrow: int | None) -> None:
    config = settings()
    step = new_step(config, FLOAT16, Steep())
    before = everything(step)
    batch = random_batch(config, 4, 0)
    batch.drop_path.fill_(1)
    if narrow is not None:
        batch.drop_path[:, narrow] = 2.0**-14
    step(batch, 4)
    weights = {name: before[name] for name in before if name.startswith("model/")}
    now = everything(step)
    unmoved = [name for name in weights if torch.equal(now[name], weights[name])]
    assert unmoved == ([] if narrow is None else list(weights))
    assert step.scaler.get_scale() == (SCALE if narrow is None else SCALE / 2)
    assert math.isfinite(said(step).perturbed_loss)
    assert said(step).stopped == 0


# --- state ---


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


# --- on a GPU ---


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Raises where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_on_a_gpu_graphs_are_eager_steps_bit_by_bit_over_20_steps() -> None:
    """Two sizes of batch and both phases of the loss: four graphs, replayed in turns."""
    eager, graphed = new_engine(settings(), CUDA), new_engine(settings(), CUDA)
    assert isinstance(graphed.take, GraphedStep)
    launched, replayed = trained(eager.step, eager.step), trained(graphed.step, graphed.take)
    assert not graphed.take.refused
    assert len(graphed.take.recorded) == 4
    assert torch.equal(replayed.losses, launched.losses)
    assert_same_tensors(replayed.state, launched.state)


@needs_gpu
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


@needs_gpu
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


@needs_gpu
def test_on_a_gpu_a_recorded_step_stops_at_a_loss_that_is_not_finite() -> None:
    config = settings()
    engine = new_engine(config, CUDA)
    engine.step.begin_epoch(0, Sums())
    batches = [PriorBatch(*(tensor.to(CUDA) for tensor in random_batch(config, 4, seed))) for seed in range(3)]
    batches[1].image[0] = math.nan
    engine.take(batches[0], 4)
    before, counted = everything(engine.step), said(engine.step)
    for batch in batches[1:]:
        engine.take(batch, 4)
        assert_same_tensors(everything(engine.step), before)
        assert said(engine.step) == counted._replace(stopped=1)
