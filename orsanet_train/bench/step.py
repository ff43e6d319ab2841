"""The speed of a training step. Contenders take turns in one run, so that noise affects all alike.

    online, published   frozen networks in both passes, SAM and Adam parameter by parameter (reference/step.py);
                        on a GPU with PyTorch's defaults: convolutions in TF32, products in float32
    cached, <mode>      priors as input: the step of `orsanet-train run` in each mode, and compiled

Batches are random and already on the device: this measures the step, not the disk. (`run` writes
the share of time that it waited for data into metrics.csv.)
"""

import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.priors import FrozenPriors
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.progress import Progress
from orsanet_train.config import RunConfig
from orsanet_train.engine.allocator import keep_freed_memory
from orsanet_train.engine.distributed import ONE
from orsanet_train.engine.engine import build_engine
from orsanet_train.engine.graph import GraphedStep
from orsanet_train.engine.precision import Precision, choose_arithmetic, possible_precisions
from orsanet_train.engine.step import Sums
from orsanet_train.feed.feed import PriorBatch
from orsanet_train.model.complexity import complexity
from orsanet_train.model.inputs import random_inputs
from orsanet_train.model.model import ExpressionModel, build_model
from orsanet_train.reference.feed import OnlineBatch
from orsanet_train.reference.network import OnlineORSANet
from orsanet_train.reference.step import PublishedStep

CLASSES = 7
RAFDB_IMAGES = 12_271
PEAK_SIZE = 4096  # of the matrix product that measures the device's arithmetic rate
GPU_TURN = 400  # images of a turn on a GPU, in whole steps; on a CPU a turn is one step
PUBLISHED = "online, published"
PASSES = {"forward": 1, "forward and backward": 3}  # multiply-adds, in forward passes


Result = TypeVar("Result")


class StepSpeed(NamedTuple):
    """One contender."""

    name: str
    images_per_second: float  # median over the turns
    ratio: float  # median, turn by turn, to the published step; NaN if that failed
    utilisation: float  # arithmetic rate of the trained part, as a share of a float32 matrix product's
    epoch_seconds: float  # of the steps that RAF-DB's training images need


class StepShare(NamedTuple):
    """One part of a cached step."""

    name: str
    share: float  # of the step's time


Failed = Callable[[str, str], None]  # called with a contender's name and its traceback


def bench_step(
    config: RunConfig,
    device: torch.device,
    batch_size: int,
    rounds: int,
    compiled: bool,
    *,
    frozen: FrozenPriors | None = None,
    seconds: float = math.inf,
    on_failure: Failed | None = None,
) -> tuple[list[StepSpeed], list[StepShare]]:
    """Time steps of random batches in turns, then the parts of the exact step.

    Args:
        config: The model and the settings of the step.
        device: The device to measure.
        batch_size: Images in a step.
        rounds: Measured turns of every contender, at most.
        compiled: Whether the cached steps are also measured compiled.
        frozen: The frozen networks, on any device. None: the published sizes, random values.
        seconds: No turn begins later, except the first measured one.
        on_failure: Called for a contender that fails, which is then left out. None: its exception
            is raised.
    """
    torch.manual_seed(0)
    until = time.monotonic() + seconds
    if frozen is None:
        with torch.device(device):
            frozen = FrozenPriors(SegFace(SegFaceConfig()), MobileFaceNet(), "published")
    bench = _Bench(config, device, batch_size, frozen.to(device), on_failure)
    contenders: dict[str, Callable[[], None]] = {}
    for name, prepare in bench.contenders(possible_precisions(device), compiled):
        prepared = bench.attempt(name, prepare)
        if prepared is not None:
            contenders[name] = prepared
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    steps = -(-GPU_TURN // batch_size) if device.type == "cuda" else 1
    with Progress((rounds + 1) * len(contenders), "steps", "turn", leave=False) as progress:
        for turn in range(rounds + 1):
            if turn > 1 and time.monotonic() > until:
                break
            for name in list(contenders):
                progress.set_description(name)
                spent = bench.attempt(name, partial(_timed, contenders[name], steps, device))
                if spent is None:
                    del contenders[name], measured[name]
                elif turn:  # the first turn compiles, records and chooses kernels
                    measured[name].append(spent / steps)
                progress.update()
    contenders.clear()  # their memory
    bench.report_refused()
    choose_arithmetic(config.model_copy(update={"precision": "exact"}), device)  # the last contender had its own
    shares = bench.attempt("parts of the exact cached step", lambda: bench.parts(rounds))
    return bench.speeds({name: np.array(values) for name, values in measured.items()}), shares or []


class _Bench:
    """A benchmark's sizes, and what becomes of contenders that fail."""

    def __init__(
        self, config: RunConfig, device: torch.device, batch_size: int, frozen: FrozenPriors, on_failure: Failed | None
    ) -> None:
        self.config = config
        self.device = device
        self.batch_size = batch_size
        self.frozen = frozen
        self.on_failure = on_failure
        self.graphed: dict[str, GraphedStep] = {}

    def attempt(self, name: str, work: Callable[[], Result]) -> Result | None:
        """The result of a contender's work; None if it failed and failures are only reported."""
        try:
            return work()
        except Exception:
            if self.on_failure is None:
                raise
            self.on_failure(name, traceback.format_exc())
            return None

    def report_refused(self) -> None:
        """Report the contenders whose steps were launched one by one, because no graph could be recorded."""
        for name, step in self.graphed.items():
            if step.refused and self.on_failure is not None:
                self.on_failure(f"{name}: CUDA graph", step.refused)

    def contenders(
        self, precisions: Sequence[Precision], compiled: bool
    ) -> Iterator[tuple[str, Callable[[], Callable[[], None]]]]:
        """The contenders by name, each with a function that prepares its step; each has its own model."""
        yield PUBLISHED, self._published
        for is_compiled in (False, True) if compiled else (False,):
            for mode in precisions:
                name = f"cached, {mode}{', compiled' if is_compiled else ''}"
                yield name, partial(self._cached, name, mode, is_compiled)

    def _published(self) -> Callable[[], None]:
        config = self.config.model_copy(update={"precision": "exact"})
        with torch.device(self.device):
            network = OnlineORSANet(self._model(config), self.frozen, "published").train()
        return _turn(PublishedStep(network, config), self._pictures(), config, self.device)

    def _cached(self, name: str, mode: Precision, compiled: bool) -> Callable[[], None]:
        config = self.config.model_copy(update={"precision": mode})
        model = self._model(config)
        engine = build_engine(model, model, config, self.device, ONE, compiled=compiled)
        engine.step.begin_epoch(config.loss.warmup_epochs, Sums())
        if isinstance(engine.take, GraphedStep):
            self.graphed[name] = engine.take
        return _turn(engine.take, self._priors(), config, self.device)

    def speeds(self, measured: dict[str, NDArray[np.float64]]) -> list[StepSpeed]:
        """The contenders' figures from the seconds of a step, turn by turn."""
        peak = _product_rate(self.device)
        trained = sum(part.multiply_adds for part in complexity(self.config.model, CLASSES) if part.trainable)
        passes = 2 if self.config.rho else 1
        work = 2 * passes * PASSES["forward and backward"] * trained  # floating-point operations an image
        published = measured.get(PUBLISHED)
        return [
            StepSpeed(
                name,
                self.batch_size / float(np.median(values)),
                math.nan if published is None else float(np.median(published / values)),
                work * self.batch_size / float(np.median(values)) / peak,
                RAFDB_IMAGES / self.batch_size * float(np.median(values)),
            )
            for name, values in measured.items()
        ]

    def parts(self, rounds: int) -> list[StepShare]:
        """The parts of the exact step without a graph; the remainder is SAM's own arithmetic."""
        exact = self.config.model_copy(update={"precision": "exact"})
        model, batch = self._model(exact), self._priors()
        step = build_engine(model, model, exact, self.device, ONE, compiled=False).step
        step.begin_epoch(exact.loss.warmup_epochs, Sums())

        def forward() -> None:
            model(*batch.inputs, batch.drop_path[:, 0])

        def both() -> None:
            model.zero_grad()
            step.backward_pass(0, batch, self.batch_size)

        pieces: dict[str, Callable[[], object]] = {
            "step": lambda: step(batch, self.batch_size), "forward": forward, "both": both, "adam": step.optimizer.step,
        }  # fmt: skip
        turns = [{name: _timed(piece, 1, self.device) for name, piece in pieces.items()} for _ in range(rounds + 1)][1:]
        whole, forwards, both_ways, adam = (float(np.median([turn[name] for turn in turns])) for name in pieces)
        passes = 2 if exact.rho else 1
        shares = {
            "forward passes": passes * forwards,
            "backward passes": passes * (both_ways - forwards),
            "Adam": adam,
            "SAM, sums": whole - passes * both_ways - adam,
        }
        return [StepShare(name, spent / whole) for name, spent in shares.items()]

    def _model(self, config: RunConfig) -> ExpressionModel:
        channels = self.frozen.segmenter.feature_channels, self.frozen.landmark_network.feature_channels
        return build_model(config.model, CLASSES, *channels).to(self.device).train()

    def _priors(self) -> PriorBatch:
        channels = self.frozen.segmenter.feature_channels, self.frozen.landmark_network.feature_channels
        inputs = random_inputs(self.config.model, self.batch_size, *channels, device=self.device)
        return PriorBatch(*inputs, *self._label_and_draws())

    def _pictures(self) -> OnlineBatch:
        size, device = self.batch_size, self.device
        pixels = torch.randint(256, (size, 224, 224, 3), dtype=torch.uint8, device=device)
        erased = torch.zeros(size, 4, dtype=torch.int64, device=device)
        return OnlineBatch(pixels, erased, *self._label_and_draws())

    def _label_and_draws(self) -> tuple[torch.Tensor, torch.Tensor]:
        label = torch.arange(self.batch_size, device=self.device) % CLASSES
        return label, torch.rand(self.batch_size, 2, *self.config.model.drop_path_shape, device=self.device)


def _turn(
    take: Callable[..., None], batch: PriorBatch | OnlineBatch, config: RunConfig, device: torch.device
) -> Callable[[], None]:
    """A contender's step, which first sets its process-wide switches."""
    ours = not isinstance(take, PublishedStep)

    def step() -> None:
        choose_arithmetic(config, device)
        keep_freed_memory(ours)
        if not ours:  # the published code sets no switch: PyTorch's defaults
            torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = False, True
        take(batch, len(batch.label))

    return step


def _timed(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds for `times` calls, including their work on the device."""
    _wait(device)
    began = time.perf_counter()
    for _ in range(times):
        work()
    _wait(device)
    return time.perf_counter() - began


def _product_rate(device: torch.device) -> float:
    """Floating-point operations a second of a float32 matrix product here, the best of three."""
    size = PEAK_SIZE if device.type == "cuda" else PEAK_SIZE // 2
    left, right = torch.randn(2, size, size, device=device)
    return 2 * size**3 / min(_timed(lambda: left @ right, 1, device) for _ in range(3))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
