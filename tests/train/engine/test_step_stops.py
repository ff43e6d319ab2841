"""A loss that is not finite stops a run for good; a gradient that overflows skips its step."""

import math

import pytest
import torch
from torch import Tensor
from training_steps import (
    ARITHMETICS,
    CUDA,
    FLOAT16,
    SCALE,
    Linears,
    assert_same_tensors,
    everything,
    new_engine,
    new_model,
    new_step,
    random_batch,
    said,
    scaler_state,
    settings,
)

from orsanet_train.engine.losses import training_loss
from orsanet_train.engine.precision import Arithmetic
from orsanet_train.engine.step import Sums
from orsanet_train.feed.feed import PriorBatch
from orsanet_train.model.model import Expression


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_loss_that_is_not_finite_stops_the_weights_and_the_counting_for_good(arithmetic: Arithmetic) -> None:
    """The batch with it, and finite ones after it, change no weight and no optimiser state."""
    config = settings()
    step = new_step(config, arithmetic)
    step(random_batch(config, 4, 0), 4)
    before, counted = everything(step), said(step)
    assert any(name.startswith("optimizer/exp_avg/") for name in before)
    broken = random_batch(config, 4, 1)
    broken[0][2, 0, 5, 5] = math.nan
    for batch in (broken, random_batch(config, 4, 2), random_batch(config, 4, 3)):
        step(batch, 4)
        assert_same_tensors(everything(step), before)
        assert said(step) == counted._replace(stopped=1)


def test_a_loss_that_is_not_finite_in_the_very_first_step_leaves_the_weights_as_they_began() -> None:
    config = settings()
    step = new_step(config)
    broken = random_batch(config, 4, 1)
    broken[0][0] = math.inf
    step(broken, 4)
    begun = new_model(config).get_parameter
    assert all(torch.equal(p, begun(name)) for name, p in step.parameters.items())
    assert said(step) == Sums(stopped=1)


def test_a_loss_that_is_not_finite_in_the_second_pass_alone_stops_too() -> None:
    config = settings().model_copy(update={"rho": 1e38})  # beyond what a configuration may have
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


@pytest.mark.cuda
def test_on_a_gpu_a_recorded_step_stops_at_a_loss_that_is_not_finite() -> None:
    config = settings()
    engine = new_engine(config, CUDA)
    engine.step.begin_epoch(0, Sums())
    batches = [PriorBatch(*(tensor.to(CUDA) for tensor in random_batch(config, 4, seed))) for seed in range(3)]
    batches[1][0][0] = math.nan
    engine.take(batches[0], 4)
    before, counted = everything(engine.step), said(engine.step)
    for batch in batches[1:]:
        engine.take(batch, 4)
        assert_same_tensors(everything(engine.step), before)
        assert said(engine.step) == counted._replace(stopped=1)
