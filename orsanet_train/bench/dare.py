"""DARELoss outside faces: its effect on a small network, on data sets that come with scikit-learn.

    data set ─ per seed: split, first weights, order of the images ─▶ cross-entropy | + w DARE, published | + w DARE, paper ─▶ held-out accuracy

Within a seed the arms differ only in the loss, so their differences are computed seed by seed. The
settings below were fixed before any arm with DARELoss was trained: one hidden layer, Adam at
torch's default learning rate, enough steps for cross-entropy to fit clean labels. The result is
that of the last step; no setting was chosen by it. There is no warm-up.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from orsanet_cache.progress import Progress
from orsanet_train.engine.dare import dare_loss
from orsanet_train.evaluation.statistics import t_interval
from orsanet_train.general.arms import CROSS_ENTROPY, Arm

HIDDEN, BATCH, STEPS = 64, 64, 600


class Task(NamedTuple):
    """A data set, and the changes that make it hard enough to leave room for improvement."""

    name: str
    load: Callable[..., tuple[NDArray[np.float64], NDArray[np.int64]]]
    training: int  # images, each class in its share; all others are held out
    wrong_labels: float  # share of the training labels that are changed to another class


TASKS = (
    Task("digits", load_digits, 898, 0.0),
    Task("digits, ten a class", load_digits, 100, 0.0),
    Task("digits, 30 % wrong labels", load_digits, 898, 0.3),
    Task("breast cancer", load_breast_cancer, 284, 0.0),
)
PRIMARY = (Arm(0.1, "published"), Arm(0.1, "paper"))  # the paper's weight
SECONDARY = (Arm(0.5, "published"), Arm(0.5, "paper"), Arm(1.0, "published"), Arm(1.0, "paper"))
ARMS = (CROSS_ENTROPY, *PRIMARY, *SECONDARY)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: small networks are slower on several, most on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Split(NamedTuple):
    """A task for S seeds: N training and M held-out samples of F standardised features."""

    inputs: Tensor  # float32 [S, N, F]
    labels: Tensor  # int64 [S, N], including the wrong ones
    held_out_inputs: Tensor  # float32 [S, M, F]
    held_out_labels: Tensor  # int64 [S, M], all correct


class Result(NamedTuple):
    """Held-out accuracy of every arm on a task."""

    task: Task
    classes: int
    held_out: int  # images
    accuracy: dict[Arm, NDArray[np.float64]]  # shares [S]


def bench_dare(seeds: Sequence[int], tasks: Sequence[Task] = TASKS, arms: Sequence[Arm] = ARMS) -> list[Result]:
    """Train every arm on every task with every seed; every call returns the same numbers."""
    results = []
    with Progress(len(tasks) * len(arms) * STEPS, "trainings", "step", leave=False) as progress:
        for task in tasks:
            split = split_task(task, seeds)
            accuracy = {}
            for arm in arms:
                progress.set_description(f"{task.name}: {arm}")
                logits = train(split, seeds, arm, progress.update)
                accuracy[arm] = (logits.argmax(dim=2) == split.held_out_labels).double().mean(dim=1).numpy()
            classes, held_out = int(split.labels.max()) + 1, split.held_out_labels.shape[1]
            results.append(Result(task, classes, held_out, accuracy))
    return results


def split_task(task: Task, seeds: Sequence[int]) -> Split:
    """The task's data, divided once for each seed."""
    inputs, labels = task.load(return_X_y=True)
    parts = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        ours, held_out = train_test_split(
            np.arange(len(labels)), train_size=task.training, stratify=labels, random_state=seed
        )
        given = labels[ours]
        wrong = rng.choice(len(given), round(task.wrong_labels * len(given)), replace=False)
        classes = labels.max() + 1
        given[wrong] = (given[wrong] + rng.integers(1, classes, len(wrong))) % classes
        scaler = StandardScaler().fit(inputs[ours])
        scaled = (scaler.transform(inputs[rows]).astype(np.float32) for rows in (ours, held_out))
        parts.append((next(scaled), given, next(scaled), labels[held_out]))
    return Split(*(torch.from_numpy(np.stack(arrays)) for arrays in zip(*parts, strict=True)))


@one_thread()
def train(split: Split, seeds: Sequence[int], arm: Arm, after_step: Callable[[], object] = lambda: None) -> Tensor:
    """Train a network for every seed, and return their logits for the held-out samples.

    The logits are float32 [S, M, K]. All networks train side by side as one batched network: the
    sum of their losses gives each network its own gradient, and Adam updates every weight
    independently.
    """
    features, classes = split.inputs.shape[2], int(split.labels.max()) + 1
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        networks.append(nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)))
    weights, _ = stack_module_state(networks)

    def logits_of(inputs: Tensor) -> Tensor:
        return vmap(lambda one, x: functional_call(networks[0], one, (x,)))(weights, inputs)

    optimizer = torch.optim.Adam(weights.values())
    which = torch.arange(len(seeds))[:, None]
    for batch in _order(split.inputs.shape[1], seeds):
        logits = logits_of(split.inputs[which, batch]).flatten(0, 1)
        label = split.labels[which, batch].flatten()
        loss = cross_entropy(logits, label)
        if arm.weight:
            loss = loss + arm.weight * dare_loss(logits, label, form=arm.form)
        optimizer.zero_grad()
        (len(seeds) * loss).backward()  # every network has as many samples here: the sum of their mean losses
        optimizer.step()
        after_step()
    with torch.no_grad():
        return logits_of(split.held_out_inputs)


def _order(images: int, seeds: Sequence[int]) -> Tensor:
    """int64 [STEPS, S, BATCH]: each seed's own order of the training images, in whole epochs."""
    epochs = -(-STEPS * BATCH // images)
    orders = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        order = torch.cat([torch.randperm(images, generator=generator) for _ in range(epochs)])
        orders.append(order[: STEPS * BATCH].view(STEPS, BATCH))
    return torch.stack(orders, dim=1)


def table(result: Result) -> str:
    """The result of one task as text for a terminal.

    Mean ± sample standard deviation over the seeds in per cent; difference from cross-entropy in
    points, with its 95 % t interval.
    """
    task, plain = result.task, 100 * result.accuracy[CROSS_ENTROPY]
    lines = [f"{task.name}: {task.training} training and {result.held_out} held-out samples, {result.classes} classes"]
    for arm, shares in result.accuracy.items():
        accuracy = 100 * shares
        line = f"  {arm!s:<26} {accuracy.mean():6.2f} ± {accuracy.std(ddof=1):.2f}"
        if arm != CROSS_ENTROPY:
            low, high = t_interval(accuracy - plain)
            line += f"   {(accuracy - plain).mean():+.2f} ({low:+.2f} … {high:+.2f})"
        lines.append(line)
    return "\n".join(lines)
