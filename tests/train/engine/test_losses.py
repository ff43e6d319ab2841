"""Losses: each is its formula, gradients flow where they should, and the schedule is the published one."""

import math
import subprocess
import sys
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.autograd import grad, gradcheck

from orsanet_train.config import PRESETS, LossConfig, load_config
from orsanet_train.engine.dare import dare_loss
from orsanet_train.engine.losses import training_loss

Form = Literal["published", "paper"]
FORMS: tuple[Form, ...] = ("published", "paper")

# Two float64 computations of the same short formula differ by a few units in the last place, 2e-16 each.
FLOAT64 = {"rtol": 1e-13, "atol": 1e-13}


def random_batch(size: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standard normal float64 logits [B, K], and targets.

    Margins stay below 20, beyond which torch's softplus drops the exp(-20) = 2e-9 that the plain formula has.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (size,), generator=generator)


def probabilities(row: list[float]) -> list[float]:
    total = sum(math.exp(z) for z in row)
    return [math.exp(z) / total for z in row]


def dare_of(row: list[float], true: int, temperature: float, form: Form) -> float:
    """One image's DARE loss as the two-class cross-entropy that it is."""
    doubt = 1 - probabilities(row)[true]
    rival = max(z for k, z in enumerate(row) if k != true)
    raised = rival + temperature * doubt * (1 if form == "published" else rival)
    return -math.log(math.exp(row[true]) / (math.exp(row[true]) + math.exp(raised)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_dare_is_the_batch_mean_of_its_formula(form: Form, temperature: float, classes: int) -> None:
    logits, target = random_batch(40, classes)
    expected = [
        dare_of(row, true, temperature, form) for row, true in zip(logits.tolist(), target.tolist(), strict=True)
    ]
    loss = dare_loss(logits, target, temperature, form)
    torch.testing.assert_close(loss, torch.tensor(sum(expected) / 40, dtype=torch.float64), **FLOAT64)


def test_dare_is_by_default_the_published_form_at_temperature_one() -> None:
    logits, target = random_batch(10, 4)
    assert torch.equal(dare_loss(logits, target), dare_loss(logits, target, 1.0, "published"))
    assert not torch.equal(dare_loss(logits, target), dare_loss(logits, target, 1.0, "paper"))


@pytest.mark.parametrize("form", FORMS)
def test_no_gradient_flows_through_the_doubt(form: Form) -> None:
    """Autograd gives the derivative with the doubt a held constant: s and -s (times 1 + a in the paper's form) at rival and
    true class, s = sigmoid(raised rival - true logit), and nothing elsewhere."""
    logits, target = random_batch(40, 5)
    logits.requires_grad_()
    (found,) = grad(dare_loss(logits, target, form=form), logits)

    expected = torch.zeros_like(found)
    for image, (row, true) in enumerate(zip(logits.tolist(), target.tolist(), strict=True)):
        doubt = 1 - probabilities(row)[true]
        rival = max((k for k in range(5) if k != true), key=row.__getitem__)
        slope, raised = (1.0, row[rival] + doubt) if form == "published" else (1 + doubt, row[rival] * (1 + doubt))
        share = 1 / (1 + math.exp(row[true] - raised))
        expected[image, true] = -share / 40
        expected[image, rival] = slope * share / 40
    torch.testing.assert_close(found, expected, **FLOAT64)


@pytest.mark.parametrize("form", FORMS)
def test_the_doubt_would_have_a_gradient_of_its_own(form: Form) -> None:
    """Without doubt (temperature 0) the analytic gradient is the numerical one; with it they must part."""
    logits, target = random_batch(4, 3)
    logits.requires_grad_()
    assert gradcheck(lambda z: dare_loss(z, target, 0.0, form), logits)
    assert not gradcheck(lambda z: dare_loss(z, target, 1.0, form), logits, raise_exception=False)


def test_dare_grows_with_the_doubt_at_the_same_margin() -> None:
    """A third class that rises below the rival leaves true logit and rival as they are and only feeds the doubt."""
    target = torch.tensor([0])
    losses = [dare_loss(torch.tensor([[2.0, 1.0, third]]), target).item() for third in (-4.0, -2.0, 0.0, 1.0)]
    assert losses == sorted(losses)
    assert len(set(losses)) == len(losses)


def test_the_papers_form_grows_with_the_doubt_only_where_the_rivals_logit_is_positive() -> None:
    """The consequence of a product: a negative rival is lowered by doubt."""
    target = torch.tensor([0])

    def change(rival: float) -> float:
        sure, doubtful = (torch.tensor([[rival + 1, rival, rival - gap]]) for gap in (5.0, 0.5))
        return (dare_loss(doubtful, target, form="paper") - dare_loss(sure, target, form="paper")).item()

    assert change(1.0) > 0
    assert change(-1.0) < 0


@pytest.mark.parametrize("form", FORMS)
def test_the_true_class_is_never_its_own_rival(form: Form) -> None:
    """However large the true logit: were it its own rival, the loss would be near log 2, not near 0."""
    logits = torch.tensor([[9.0, -9.0, -8.0]], dtype=torch.float64)
    loss = dare_loss(logits, torch.tensor([0]), form=form)
    torch.testing.assert_close(
        loss, torch.tensor(dare_of([9.0, -9.0, -8.0], 0, 1.0, form), dtype=torch.float64), rtol=1e-6, atol=0
    )  # rtol: the plain formula takes the logarithm of a number next to 1 and keeps 16 - 8 digits
    assert loss < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_give_a_finite_loss_and_gradient(form: Form) -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]], requires_grad=True)
    loss = dare_loss(logits, torch.zeros(3, dtype=torch.long), form=form)
    (found,) = grad(loss, logits)
    assert loss.isfinite()
    assert found.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_further_axes_are_positions_as_in_cross_entropy(form: Form) -> None:
    """A map of 2 x 3 positions is six samples an image."""
    logits, target = random_batch(4 * 6, 5)
    on_axis_one = logits.view(4, 2, 3, 5).movedim(3, 1)
    torch.testing.assert_close(
        dare_loss(on_axis_one, target.view(4, 2, 3), form=form), dare_loss(logits, target, form=form), **FLOAT64
    )


def test_one_class_has_no_rival() -> None:
    with pytest.raises(ValueError, match=r"logits \[3, 1\]: a rival needs at least two classes"):
        dare_loss(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))


def test_a_form_that_does_not_exist_is_not_taken_for_another() -> None:
    logits, target = random_batch(3, 4)
    with pytest.raises(ValueError, match="form 'papr': must be 'published' or 'paper'"):
        dare_loss(logits, target, form="papr")  # type: ignore[arg-type]


def test_dare_alone_needs_torch_and_nothing_of_ours() -> None:
    code = "import sys; from orsanet_train.engine.dare import dare_loss; print(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = result.stdout.split()
    assert {name for name in loaded if name.startswith("orsanet")} == {
        "orsanet_train",
        "orsanet_train.engine",
        "orsanet_train.engine.dare",
    }
    assert not {"pydantic", "pandas", "sklearn", "zarr"} & set(loaded)


def cross_entropies(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Mean over images of -sum_k q_k log p_k, with q = (1 - smoothing) one-hot + smoothing / K."""
    total = 0.0
    for row, true in zip(logits.tolist(), target.tolist(), strict=True):
        for k, p in enumerate(probabilities(row)):
            total -= ((1 - smoothing) * (k == true) + smoothing / len(row)) * math.log(p)
    return torch.tensor(total / len(target), dtype=torch.float64)


@pytest.mark.parametrize("epoch", [0, 4])
@pytest.mark.parametrize("dare", ["published", "paper", "none"])
def test_the_first_five_epochs_add_twice_the_smoothed_cross_entropy(
    epoch: int, dare: Literal["published", "paper", "none"]
) -> None:
    logits, target = random_batch(30, 7)
    expected = cross_entropies(logits, target, 0) + 2 * cross_entropies(logits, target, 0.2)
    torch.testing.assert_close(training_loss(logits, target, LossConfig(dare=dare), epoch), expected, **FLOAT64)


@pytest.mark.parametrize("epoch", [5, 399])
@pytest.mark.parametrize("form", FORMS)
def test_later_epochs_add_a_tenth_of_dare(epoch: int, form: Form) -> None:
    logits, target = random_batch(30, 7)
    dare = sum(dare_of(row, true, 1.0, form) for row, true in zip(logits.tolist(), target.tolist(), strict=True)) / 30
    expected = cross_entropies(logits, target, 0) + 0.1 * dare
    torch.testing.assert_close(training_loss(logits, target, LossConfig(dare=form), epoch), expected, **FLOAT64)


def test_without_dare_later_epochs_are_cross_entropy_alone() -> None:
    logits, target = random_batch(30, 7)
    loss = training_loss(logits, target, LossConfig(dare="none"), 5)
    torch.testing.assert_close(loss, cross_entropies(logits, target, 0), **FLOAT64)


def test_weights_smoothing_and_warm_up_follow_the_configuration() -> None:
    logits, target = random_batch(30, 4)
    config = LossConfig(warmup_epochs=1, smoothed_weight=0.5, smoothing=0.4, dare_weight=3.0)
    plain = cross_entropies(logits, target, 0)
    warm = plain + 0.5 * cross_entropies(logits, target, 0.4)
    torch.testing.assert_close(training_loss(logits, target, config, 0), warm, **FLOAT64)
    later = plain + 3.0 * dare_loss(logits, target)
    torch.testing.assert_close(training_loss(logits, target, config, 1), later, **FLOAT64)


def test_no_warm_up_begins_with_dare() -> None:
    logits, target = random_batch(30, 4)
    later = training_loss(logits, target, LossConfig(), 100)
    assert torch.equal(training_loss(logits, target, LossConfig(warmup_epochs=0), 0), later)


# Epochs of warm-up, weight of DARELoss and its form: read in or inferred from the published logs, or stated by the preset itself.
SCHEDULES: dict[str, tuple[int, float, Form]] = {
    "rafdb": (7, 0.1, "published"),
    "affectnet7": (5, 1.0, "published"),
    "affectnet8": (5, 0.1, "published"),
    "occlu-fer": (5, 0.1, "published"),
    "paper": (0, 0.1, "paper"),
    "small": (2, 0.1, "published"),
    "demo": (2, 0.1, "published"),
    **{f"poster-{data}": (1_000_000, 0.0, "published") for data in ("rafdb", "affectnet")},  # always the warm-up's
    **{f"poster-v2-{data}": (0, 0.0, "published") for data in ("rafdb", "affectnet", "caer-s")},  # cross-entropy alone
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("epoch", [5, 6, 7, 8])
def test_every_preset_changes_its_loss_where_its_log_does(preset: str, epoch: int) -> None:
    """Epochs as the logs count them, from 1."""
    logits, target = random_batch(30, 7)
    warmup, weight, form = SCHEDULES[preset]
    expected = cross_entropies(logits, target, 0)
    if epoch <= warmup:
        expected = expected + 2 * cross_entropies(logits, target, 0.2)
    else:
        expected = expected + weight * dare_loss(logits, target, form=form)
    loss = training_loss(logits, target, load_config(preset).loss, epoch - 1)
    torch.testing.assert_close(loss, expected, **FLOAT64)


def test_no_model_can_bring_the_warm_up_loss_of_seven_classes_below_1_68() -> None:
    """So RAF-DB's 0.276 in epoch 8 is not a warm-up's, and its 1.986 in epoch 7 may be (docs/fidelity.md)."""
    chances = torch.linspace(0.5, 0.999, 500, dtype=torch.float64)  # of the true class; the others share the rest
    logits = torch.cat([chances.log()[:, None], ((1 - chances) / 6).log()[:, None].expand(-1, 6)], dim=1)
    target = torch.zeros(1, dtype=torch.int64)
    losses = [training_loss(row[None], target, LossConfig(), 0).item() for row in logits]
    assert round(min(losses), 2) == 1.68


@pytest.mark.parametrize("seed", range(5))
def test_dare_exceeds_the_cross_entropy_by_no_more_than_the_doubt(seed: int) -> None:
    """The inequality from which docs/fidelity.md bounds the weight of DARELoss in AffectNet-7's log."""
    logits, target = random_batch(200, 7, seed)
    for image, true in zip(3 * logits, target, strict=True):
        doubt = 1 - image.softmax(dim=0)[true]
        own = (image[None], true[None])
        assert dare_loss(*own) <= cross_entropies(*own, 0) + doubt + 1e-12


@pytest.mark.parametrize(
    ("config", "epoch"), [(LossConfig(), 0), (LossConfig(dare="none"), 5)], ids=["warm-up", "cross-entropy"]
)
def test_losses_without_doubt_pass_gradcheck(config: LossConfig, epoch: int) -> None:
    logits, target = random_batch(6, 4)
    assert gradcheck(lambda z: training_loss(z, target, config, epoch), logits.requires_grad_())
