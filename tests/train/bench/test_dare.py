"""The experiment with DARELoss is paired and repeatable: within a seed the arms differ in the loss alone, and seeds do not mix."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import in_process
from scipy.stats import ttest_rel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from orsanet_train.bench import dare
from orsanet_train.bench.dare import (
    ARMS,
    PRIMARY,
    TASKS,
    Result,
    Split,
    Task,
    bench_dare,
    split_task,
    table,
    train,
)
from orsanet_train.cli import main
from orsanet_train.engine.dare import dare_loss
from orsanet_train.general.arms import CROSS_ENTROPY, Arm

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "dareloss.md").read_text(encoding="utf-8")
FEW = TASKS[1]  # a hundred training images
ZERO_WEIGHT = Arm(0.0, "paper")  # the same loss as CROSS_ENTROPY

# float32 logits of a batched product and of single ones round differently (1e-7 each); thirty steps of Adam, which divides a small
# gradient by its own size, enlarge that. Logits are of size 1; another seed's or another loss's differ by more than 1e-2.
ROUNDING = {"rtol": 0.0, "atol": 1e-3}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty steps instead of 600."""
    monkeypatch.setattr(dare, "STEPS", 30)


def plain_loop(split: Split, seed: int, arm: Arm) -> Tensor:
    """One seed's training as anybody would write it; `split` is of this seed alone."""
    images, features = split.inputs.shape[1:]
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, int(split.labels.max()) + 1))
    optimizer = torch.optim.Adam(network.parameters())
    generator = torch.Generator().manual_seed(seed)
    left: list[int] = []
    for _ in range(30):
        while len(left) < 64:
            left += torch.randperm(images, generator=generator).tolist()
        batch, left = left[:64], left[64:]
        logits, label = network(split.inputs[0, batch]), split.labels[0, batch]
        loss = cross_entropy(logits, label)
        if arm != CROSS_ENTROPY:
            loss = loss + arm.weight * dare_loss(logits, label, form=arm.form)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return network(split.held_out_inputs[0])


def of_seed(split: Split, index: int) -> Split:
    return Split(*(tensor[index : index + 1] for tensor in split))


# --- training ---


@pytest.mark.parametrize("arm", [CROSS_ENTROPY, *PRIMARY], ids=str)
def test_networks_side_by_side_are_those_that_a_plain_loop_trains_one_by_one(arm: Arm, brief: None) -> None:
    seeds = [3, 5]
    split = split_task(FEW, seeds)
    together = train(split, seeds, arm)
    for index, seed in enumerate(seeds):
        torch.testing.assert_close(together[index], plain_loop(of_seed(split, index), seed, arm), **ROUNDING)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_arms_differ_in_the_loss_alone(brief: None) -> None:
    """Without weight the loss is cross-entropy and the result the same to the last bit; with weight it is another."""
    split = split_task(FEW, [0, 1])
    plain, *others = (train(split, [0, 1], arm) for arm in (CROSS_ENTROPY, ZERO_WEIGHT, *PRIMARY))
    assert torch.equal(others[0], plain)
    for trained in others[1:]:
        assert (trained - plain).abs().amax(dim=(1, 2)).min() > 10 * ROUNDING["atol"]


def test_every_image_is_seen_once_before_any_is_seen_again() -> None:
    order = dare._order(100, [0, 1])
    assert order.shape == (600, 2, 64)
    for seed in range(2):
        seen = order[:, seed].flatten()
        for epoch in seen[: len(seen) // 100 * 100].view(-1, 100):
            assert torch.equal(epoch.sort().values, torch.arange(100))
    assert not torch.equal(order[:, 0], order[:, 1])


def test_a_second_call_gives_the_same_numbers_and_leaves_torchs_threads_as_they_were(brief: None) -> None:
    before = torch.get_num_threads()
    first, second = (bench_dare([0, 1], TASKS[1:2], ARMS[:2])[0].accuracy for _ in range(2))
    assert all(np.array_equal(first[arm], second[arm]) for arm in ARMS[:2])
    assert torch.get_num_threads() == before


def test_accuracy_is_the_share_of_held_out_labels_that_the_largest_logit_names(brief: None) -> None:
    (result,) = bench_dare([4, 7], [FEW], [CROSS_ENTROPY])
    split = split_task(FEW, [4, 7])
    predicted = train(split, [4, 7], CROSS_ENTROPY).argmax(dim=2)
    right = [(predicted[index] == split.held_out_labels[index]).sum().item() for index in range(2)]
    assert result.accuracy[CROSS_ENTROPY].tolist() == [count / 1697 for count in right]
    assert (result.held_out, result.classes) == (1697, 10)
    assert min(right) > 0.2 * 1697  # it has learned something; guessing gives a tenth


# --- data ---


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_no_held_out_sample_is_trained_on_and_every_seed_has_its_own_split(task: Task) -> None:
    """Samples are told apart by their features, put back into the units of the data set."""
    inputs, labels = task.load(return_X_y=True)
    split = split_task(task, [0, 1])
    assert split.inputs.shape[1] == task.training
    assert split.inputs.shape[1] + split.held_out_inputs.shape[1] == len(labels)
    for index in range(2):
        ours, held_out = (
            {row.tobytes() for row in part[index].numpy()} for part in (split.inputs, split.held_out_inputs)
        )
        assert not ours & held_out
        assert len(ours) + len(held_out) == len(np.unique(inputs, axis=0))
    assert not torch.equal(split.held_out_labels[0], split.held_out_labels[1])


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_classes_have_their_share_of_both_parts(task: Task) -> None:
    _, labels = task.load(return_X_y=True)
    held_out = np.bincount(split_task(task, [0]).held_out_labels[0].numpy())
    expected = np.bincount(labels) * (len(labels) - task.training) / len(labels)
    assert np.abs(held_out - expected).max() <= 1  # whole samples


def test_inputs_are_standardised_by_the_training_part_alone() -> None:
    split = split_task(TASKS[3], [0])
    # float32 means over 284 values of size 1, and their deviations
    assert split.inputs[0].mean(dim=0).abs().max() < 1e-6
    assert (split.inputs[0].std(dim=0, correction=0) - 1).abs().max() < 1e-5
    assert split.held_out_inputs[0].mean(dim=0).abs().max() > 1e-2


def test_that_share_of_the_training_labels_is_wrong_and_none_of_the_held_out() -> None:
    noisy, clean = (split_task(task, [0, 1]) for task in (TASKS[2], TASKS[0]))
    assert torch.equal(noisy.inputs, clean.inputs)
    assert torch.equal(noisy.held_out_labels, clean.held_out_labels)
    assert (noisy.labels != clean.labels).sum(dim=1).tolist() == [round(0.3 * 898)] * 2
    assert noisy.labels[noisy.labels != clean.labels].unique().tolist() == list(range(10))


def test_nothing_is_downloaded() -> None:
    """sklearn's load_* functions read what is installed, its fetch_* ones do not."""
    assert all(task.load.__name__.startswith("load_") for task in TASKS)


# --- the table ---


def made_up(arms: dict[Arm, list[float]]) -> Result:
    """Accuracy in per cent."""
    return Result(FEW, 10, 1697, {arm: np.array(values) / 100 for arm, values in arms.items()})


def test_the_table_shows_mean_sample_deviation_and_the_paired_difference_with_its_t_interval() -> None:
    """Differences 1, 2, 6: mean 3, deviation sqrt((4 + 1 + 9) / 2) = 2.65, t(0.975; 2) = 4.303."""
    lines = table(made_up({CROSS_ENTROPY: [79, 80, 81], PRIMARY[0]: [80, 82, 87]})).splitlines()
    assert lines == [
        "digits, ten a class: 100 training and 1697 held-out samples, 10 classes",
        "  CE                          80.00 ± 1.00",
        "  CE + 0.1 DARE, published    83.00 ± 3.61   +3.00 (-3.57 … +9.57)",
    ]


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    plain, other = rng.uniform(80, 90, (2, 20))
    low, high = ttest_rel(other, plain).confidence_interval(0.95)
    last = table(made_up({CROSS_ENTROPY: plain.tolist(), PRIMARY[1]: other.tolist()})).splitlines()[-1]
    assert last.endswith(f" {(other - plain).mean():+.2f} ({low:+.2f} … {high:+.2f})")


def test_arms_that_never_differ_have_an_interval_of_no_width() -> None:
    last = table(made_up({CROSS_ENTROPY: [80, 81], PRIMARY[0]: [80, 81]})).splitlines()[-1]
    assert last.endswith("+0.00 (+0.00 … +0.00)")


# --- the command and the page ---


@pytest.mark.slow
def test_the_command_prints_every_task_and_arm_the_same_with_one_thread_or_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At five steps; the tables come whole and nothing else is printed."""
    monkeypatch.setattr(dare, "STEPS", 5)
    before, printed = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        result = in_process(main, "bench", "dare", "--seeds", 2)
        torch.set_num_threads(before)
        assert result.returncode == 0, result.stderr
        printed.append(result.stdout)
    assert printed[0] == printed[1]
    assert names(printed[0]) == [line for task in TASKS for line in (task.name, *map(str, ARMS))]


def test_the_pages_example_runs_and_trains(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(code, {})
    assert float(capsys.readouterr().out.split()[-1]) > 0.9  # of the digits; guessing gives a tenth


def test_the_pages_output_is_of_all_tasks_and_arms_of_the_experiment() -> None:
    (output,) = re.findall(r"```\n(digits: .*?)```", PAGE, flags=re.DOTALL)
    assert names(output) == [line for task in TASKS for line in (task.name, *map(str, ARMS))]
    for task, described in zip(TASKS, re.findall(r": (\d+) training", output), strict=True):
        assert task.training == int(described)


def names(output: str) -> list[str]:
    """Names of tasks and arms in the order of their lines."""
    return [re.split(r"\s{2,}|: \d", line.strip())[0] for line in output.splitlines()]
