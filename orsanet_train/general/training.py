"""One training: a task, an arm and a seed, to a run folder. It can be stopped at any moment.

    RUN/run.json          settings, data by digest, arm and seed     RUN/versions.json     the versions of packages that trained it
    RUN/metrics.csv       a row per tested epoch                     RUN/checkpoints/      the state to go on from, until the end
    RUN/last.safetensors  the weights after the last epoch           RUN/result.json       metrics of the last epoch: the run is finished

First weights, order, augmentation and dropout follow from (seed, epoch, step) alone. So the arms of a
seed differ in the loss alone, and a resumed run goes on with the same draws.

Shapes: B = batch, K = classes.
"""

import json
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from orsanet_cache.durable import read_json, write_whole
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.outputs import entries, held
from orsanet_cache.progress import Progress, warn
from orsanet_cache.store.recipe import recipe_differences
from orsanet_train.engine.distributed import ONE
from orsanet_train.evaluation.history import HISTORY
from orsanet_train.evaluation.metrics import GroupReport, group_report
from orsanet_train.general.arms import Arm, Labels, arm_loss
from orsanet_train.general.measures import measured
from orsanet_train.general.recipes import ImageRecipe, SpectralRecipe
from orsanet_train.run.folder import record_versions
from orsanet_train.run.state import TrainingState, load_state, save_state
from orsanet_train.run.stop import StopSignals

RUN, RESULT, WEIGHTS, STATES = "run.json", "result.json", "last.safetensors", "checkpoints"
SAVE_SECONDS = 60.0  # between states: what a kill costs at most, besides the step under way
GLANCE_SECONDS = 1.0  # between looks at the device's sums; each look waits for the device
ORDER, STEP = 0, 1  # what a draw is for


class Task(Protocol):
    """What is trained: data, network and recipe."""

    device: torch.device
    classes: tuple[str, ...]
    unit: str  # what a sample is, for the progress
    test_labels: NDArray[np.int64]
    identity: dict[str, Any]  # of data and network, for run.json

    @property
    def recipe(self) -> SpectralRecipe | ImageRecipe: ...

    @property
    def measures(self) -> tuple[str, ...]: ...  # names of measures.py

    def network(self) -> nn.Module:
        """The network with random weights, on the CPU."""

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """The recipe's optimiser."""

    def epoch(self, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        """The training samples of each step of an epoch."""

    def batches(
        self, seed: int, epoch: int, steps: list[NDArray[np.int64]], done: int
    ) -> Iterator[tuple[Tensor, Labels]]:
        """Inputs and labels of the steps from `done` on, on the device."""

    def test_batches(self) -> Iterator[Tensor]:
        """Inputs of the test samples in order, on the device."""


def seed_of(*address: int) -> int:
    """A seed that follows from an address, such as (seed, epoch, step)."""
    return int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0])


def order_of(samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the samples in an epoch: int64 [samples]."""
    return np.random.default_rng([seed, epoch, ORDER]).permutation(samples)


def identity_of(task: Task, arm: Arm, seed: int) -> dict[str, Any]:
    """What makes a run this run: run.json."""
    return {
        **task.identity, "classes": list(task.classes), "measures": list(task.measures),
        "recipe": task.recipe.model_dump(mode="json"), "weight": arm.weight, "form": arm.form, "seed": seed,
    }  # fmt: skip


def check_run(out: Path, task: Task, arm: Arm, seed: int) -> bool:
    """Whether the run has begun. Raises OrsanetError if `out` has anything but this run."""
    if not (out / RUN).is_file():
        if out.exists() and any(not name.startswith(".") for name in entries(out)):
            raise OrsanetError(f"{out}: has files and no {RUN}; choose another --out, or move them away")
        return False
    if found := list(recipe_differences(read_json(out / RUN), identity_of(task, arm, seed))):
        raise OrsanetError(
            f"{out}: trained with other settings or data; pass the run's own, or choose another --out (before: the run's, "
            f"now: this command's):\n{listed(found)}"
        )
    return True


def train_run(task: Task, arm: Arm, seed: int, out: Path) -> None:
    """Train to the last epoch, from the state in `out` if there is one; a finished run is left alone.

    Raises OrsanetError if `out` has another run, and for a loss that is not finite.
    """
    with held(out), StopSignals(ONE) as signals:
        check_run(out, task, arm, seed)
        if (out / RESULT).is_file():
            return
        content = json.dumps(identity_of(task, arm, seed), indent=2)
        write_whole(out / RUN, lambda path: path.write_text(content, encoding="utf-8"))
        _Training(task, arm, seed, out, signals).run()


class _Training:
    """The network, the optimiser and the position of a run."""

    def __init__(self, task: Task, arm: Arm, seed: int, out: Path, signals: StopSignals) -> None:
        self.task, self.arm, self.seed, self.out, self.signals = task, arm, seed, out, signals
        self.recipe, self.device = task.recipe, task.device
        torch.manual_seed(seed)
        self.network = task.network().to(self.device)
        self.optimizer = task.optimizer(self.network)
        amp = isinstance(self.recipe, ImageRecipe) and self.recipe.precision == "amp" and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp)
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # of an epoch: loss, right, samples
        self.saved = time.monotonic()

    def run(self) -> None:
        state = load_state(self.out / STATES) or TrainingState(0, 0, [], [], {})
        if state.tensors:
            self._restore(state.tensors)
            self.sums += torch.tensor(state.metrics or [0.0, 0.0, 0.0], dtype=torch.float64, device=self.device)
        if (note := record_versions(self.out, state.epoch + 1)) is not None:
            warn(f"{self.out}: {note}")
        history, done = list(state.history), state.step
        samples = sum(map(len, self.task.epoch(self.seed, 0)))
        before = sum(map(len, self.task.epoch(self.seed, state.epoch)[:done])) if done else 0
        with Progress(
            self.recipe.epochs * samples, f"{self.arm}, seed {self.seed}", self.task.unit, initial=state.epoch * samples + before
        ) as progress:  # fmt: skip
            for epoch in range(state.epoch, self.recipe.epochs):
                self._epoch(epoch, done, history, progress)
                last = epoch + 1 == self.recipe.epochs
                if last or (epoch + 1) % self.recipe.test_every == 0:
                    probabilities = self._tested(epoch, history)
                    history.append(self._row(epoch, probabilities))
                    table = pd.DataFrame(history).astype({"epoch": int})
                    write_whole(self.out / HISTORY, partial(table.to_csv, index=False))
                self.sums.zero_()
                done = 0
                if self.signals.asked() and not last:
                    self._stop(epoch + 1, 0, history)
        self._finish(probabilities)

    def _epoch(self, epoch: int, done: int, history: list[dict[str, float]], progress: Progress) -> None:
        """The steps of an epoch from `done` on."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(epoch)
        steps, glanced = self.task.epoch(self.seed, epoch), time.monotonic()
        for step, (inputs, labels) in enumerate(self.task.batches(self.seed, epoch, steps, done), done):
            torch.manual_seed(seed_of(self.seed, epoch, step, STEP))  # dropout and drop-path
            self._step(inputs, labels)
            progress.update(len(inputs))
            now = time.monotonic()
            if now - glanced >= GLANCE_SECONDS:
                glanced = now
                loss, _, seen = self._checked(epoch)
                progress.set_postfix(epoch=f"{epoch + 1}/{self.recipe.epochs}", loss=f"{loss / seen:.3f}")
            if self.signals.asked():
                self._stop(epoch, step + 1, history)
            if now - self.saved >= SAVE_SECONDS:
                self._save(epoch, step + 1, history)
        self._checked(epoch)

    def _step(self, inputs: Tensor, labels: Labels) -> None:
        recipe = self.recipe
        with torch.autocast(self.device.type, torch.float16, enabled=self.scaler.is_enabled()):
            logits = self.network(inputs)
        logits = logits.float() if logits.dtype == torch.float16 else logits
        smoothing, dare_labels, clip = 0.0, "mixed", 0.0
        if isinstance(recipe, ImageRecipe):
            smoothing, dare_labels, clip = recipe.smoothing, recipe.dare_labels, recipe.clip
        loss = arm_loss(logits, labels, self.arm, smoothing, dare_labels)  # type: ignore[arg-type]
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            heavier = labels.first if labels.share >= 0.5 else labels.second
            right = (logits.argmax(dim=1) == heavier).sum()
            count = torch.tensor(float(len(inputs)), device=self.device)
            self.sums += torch.stack([loss.detach() * len(inputs), right, count])

    def _checked(self, epoch: int) -> list[float]:
        """The epoch's sums so far. Raises OrsanetError for a loss that was not finite."""
        sums = self.sums.tolist()
        if not np.isfinite(sums[0]):
            raise OrsanetError(
                f"{self.out}: the loss was not finite in epoch {epoch + 1}; lower the rate with --set learning_rate=…, in another --out"
            )
        return sums

    def _tested(self, epoch: int, history: list[dict[str, float]]) -> NDArray[np.float32]:
        """Probabilities of the test samples [M, K]; a stop meanwhile saves the epoch's last step."""
        self.network.eval()
        found = []
        with torch.inference_mode():
            for inputs in self.task.test_batches():
                found.append(self.network(inputs).softmax(dim=1).cpu())
                if self.signals.asked():
                    self._stop(epoch, len(self.task.epoch(self.seed, epoch)), history)
        return torch.cat(found).numpy()

    def _row(self, epoch: int, probabilities: NDArray[np.float32]) -> dict[str, float]:
        loss, right, seen = self._checked(epoch)
        return {
            "epoch": epoch + 1, "learning_rate": self.recipe.rate(epoch), "loss": loss / seen, "train_accuracy": right / seen,
            **measured(self.task.measures, self.task.test_labels, probabilities),
        }  # fmt: skip

    def _finish(self, probabilities: NDArray[np.float32]) -> None:
        """Write weights and result; the states are not needed any more."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        content = safetensors.torch.save(tensors)
        write_whole(self.out / WEIGHTS, lambda path: path.write_bytes(content))
        report = group_report("test", self.task.test_labels, probabilities, self.task.classes)
        write_whole(
            self.out / RESULT, lambda path: path.write_text(json.dumps(report.as_json(), indent=2), encoding="utf-8")
        )
        shutil.rmtree(self.out / STATES, ignore_errors=True)

    def _stop(self, epoch: int, step: int, history: list[dict[str, float]]) -> None:
        self._checked(epoch)
        self._save(epoch, step, history)
        raise self.signals.interrupt()

    def _save(self, epoch: int, step: int, history: list[dict[str, float]]) -> None:
        metrics = self._checked(epoch) if step else []
        save_state(self.out / STATES, TrainingState(epoch, step, history, metrics, self._tensors()))
        self.saved = time.monotonic()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model/{name}": tensor for name, tensor in self.network.state_dict().items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in values.items()}
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            tensors["scaler/scale"] = torch.tensor(scaler["scale"], dtype=torch.float64)
            tensors["scaler/steps"] = torch.tensor(scaler["_growth_tracker"])
        return tensors

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self.network.load_state_dict(_below("model/", tensors))
        state = self.optimizer.state_dict()
        for name, tensor in _below("optimizer/", tensors).items():
            number, _, key = name.partition("/")
            state["state"].setdefault(int(number), {})[key] = tensor
        self.optimizer.load_state_dict(state)
        if self.scaler.is_enabled():
            scaler = {"scale": float(tensors["scaler/scale"]), "_growth_tracker": int(tensors["scaler/steps"])}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **scaler})


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def result(run: Path) -> GroupReport:
    """Metrics of a finished run's last epoch."""
    return GroupReport.from_json(read_json(run / RESULT))
