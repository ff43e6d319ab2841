"""The speed of a training step. Contenders take turns in one run, so that noise affects all alike.

    online, published   frozen networks in both passes, SAM and Adam parameter by parameter (published.py)
    cached, <mode>      priors as input: the step of `orsanet-train run` in each mode, and compiled

Batches are random and already on the device: this measures the step, not the disk. (`run` writes
the share of time that it waited for data into metrics.csv.)
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.priors import FrozenPriors
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.progress import Progress
from orsanet_train.config import RunConfig
from orsanet_train.engine.allocator import keep_freed_memory
from orsanet_train.engine.distributed import ONE
from orsanet_train.engine.engine import build_engine
from orsanet_train.engine.precision import choose_arithmetic
from orsanet_train.engine.step import Sums
from orsanet_train.feed.feed import PriorBatch
from orsanet_train.model.complexity import complexity
from orsanet_train.model.orsanet import ORSANet, build_model
from orsanet_train.reference.feed import OnlineBatch
from orsanet_train.reference.network import OnlineORSANet
from orsanet_train.reference.step import PublishedStep

CLASSES = 7
RAFDB_IMAGES = 12_271
PEAK_SIZE = 4096  # of the matrix product that measures the device's arithmetic rate
GPU_STEPS = 20  # of a turn; on a CPU a turn is one step
PASSES = {"forward": 1, "forward and backward": 3}  # multiply-adds, in forward passes


class StepSpeed(NamedTuple):
    """One contender."""

    name: str
    images_per_second: float  # median over the turns
    ratio: float  # median, turn by turn, to the published step
    utilisation: float  # arithmetic rate of the trained part, as a share of a float32 matrix product's
    epoch_seconds: float  # of the steps that RAF-DB's training images need


class StepShare(NamedTuple):
    """One part of a cached step."""

    name: str
    share: float  # of the step's time


def bench_step(
    config: RunConfig, device: torch.device, batch_size: int, rounds: int, compiled: bool
) -> tuple[list[StepSpeed], list[StepShare]]:
    """Time steps of random batches in turns, then the parts of the exact step.

    Raises OrsanetError if the device does not support `fast`.

    Args:
        config: The model and the settings of the step.
        device: The device to measure.
        batch_size: Images in a step.
        rounds: Measured turns of every contender.
        compiled: Whether the cached steps are also measured compiled.
    """
    torch.manual_seed(0)
    contenders = dict(_contenders(config, device, batch_size, compiled))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    steps = GPU_STEPS if device.type == "cuda" else 1
    with Progress((rounds + 1) * len(contenders), "steps", "turn", leave=False) as progress:
        for turn in range(rounds + 1):
            for name, take in contenders.items():
                progress.set_description(name)
                spent = _timed(take, steps, device)
                if turn:  # the first turn compiles, records and chooses kernels
                    seconds[name].append(spent / steps)
                progress.update()
    choose_arithmetic(config.model_copy(update={"precision": "exact"}), device)  # the last contender had its own
    times = {name: np.array(values) for name, values in seconds.items()}
    published = next(iter(times.values()))
    peak = _product_rate(device)
    trained = sum(part.multiply_adds for part in complexity(config.model, CLASSES) if part.trainable)
    passes = 2 if config.rho else 1
    work = 2 * passes * PASSES["forward and backward"] * trained  # floating-point operations an image
    speeds = [
        StepSpeed(
            name,
            batch_size / float(np.median(values)),
            float(np.median(published / values)),
            work * batch_size / float(np.median(values)) / peak,
            RAFDB_IMAGES / batch_size * float(np.median(values)),
        )
        for name, values in times.items()
    ]
    return speeds, _parts(config, device, batch_size, rounds)


def _contenders(
    config: RunConfig, device: torch.device, batch_size: int, compiled: bool
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The contenders by name; each has its own model."""
    with torch.device(device):
        frozen = FrozenPriors(SegFace(SegFaceConfig()), MobileFaceNet(), "published")
        network = OnlineORSANet(_model(config, device), frozen, "published").train()
    published = PublishedStep(network, config.model_copy(update={"precision": "exact"}))
    yield "online, published", _turn(published, _pictures(config, device, batch_size), published.config, device)
    modes = [("exact", False), *([("parity", False)] if device.type == "cuda" else []), ("fast", False)]
    if compiled:
        modes += [(mode, True) for mode, _ in modes]
    for mode, is_compiled in modes:
        chosen = config.model_copy(update={"precision": mode})
        model = _model(chosen, device)
        engine = build_engine(model, model, chosen, device, ONE, compiled=is_compiled)
        engine.step.begin_epoch(config.loss.warmup_epochs, Sums())
        name = f"cached, {mode}{', compiled' if is_compiled else ''}"
        yield name, _turn(engine.take, _priors(chosen, device, batch_size), chosen, device)


def _turn(
    take: Callable[..., None], batch: PriorBatch | OnlineBatch, config: RunConfig, device: torch.device
) -> Callable[[], None]:
    """A contender's step, which first sets its process-wide switches."""
    ours = not isinstance(take, PublishedStep)

    def step() -> None:
        choose_arithmetic(config, device)
        keep_freed_memory(ours)
        torch.backends.cudnn.deterministic &= ours  # the published code does not set it
        take(batch, len(batch.label))

    return step


def _parts(config: RunConfig, device: torch.device, batch_size: int, rounds: int) -> list[StepShare]:
    """The parts of the exact step without a graph; the remainder is SAM's own arithmetic."""
    exact = config.model_copy(update={"precision": "exact"})
    model = _model(exact, device)
    batch = _priors(exact, device, batch_size)
    step = build_engine(model, model, exact, device, ONE, compiled=False).step
    step.begin_epoch(config.loss.warmup_epochs, Sums())

    def forward() -> None:
        model(*batch.inputs, batch.drop_path[:, 0])

    def both() -> None:
        model.zero_grad()
        step.backward_pass(0, batch, batch_size)

    pieces: dict[str, Callable[[], object]] = {
        "step": lambda: step(batch, batch_size), "forward": forward, "both": both, "adam": step.optimizer.step,
    }  # fmt: skip
    turns = [{name: _timed(piece, 1, device) for name, piece in pieces.items()} for _ in range(rounds + 1)][1:]
    whole, forwards, both_ways, adam = (float(np.median([turn[name] for turn in turns])) for name in pieces)
    passes = 2 if config.rho else 1
    shares = {
        "forward passes": passes * forwards,
        "backward passes": passes * (both_ways - forwards),
        "Adam": adam,
        "SAM, sums": whole - passes * both_ways - adam,
    }
    return [StepShare(name, spent / whole) for name, spent in shares.items()]


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


def _model(config: RunConfig, device: torch.device) -> ORSANet:
    return build_model(config.model, CLASSES).to(device).train()


def _priors(config: RunConfig, device: torch.device, batch_size: int) -> PriorBatch:
    label, drop_path = _label_and_draws(config, device, batch_size)
    if config.model.segmentation_prior == "map":
        segmentation = torch.randint(11, (batch_size, 224, 224), dtype=torch.uint8, device=device)
    else:
        segmentation = torch.randn(batch_size, 1024, 7, 7, device=device)
    image = torch.randn(batch_size, 3, 112, 112, device=device)
    return PriorBatch(image, segmentation, torch.randn(batch_size, 512, 7, 7, device=device), label, drop_path)


def _pictures(config: RunConfig, device: torch.device, batch_size: int) -> OnlineBatch:
    label, drop_path = _label_and_draws(config, device, batch_size)
    pixels = torch.randint(256, (batch_size, 224, 224, 3), dtype=torch.uint8, device=device)
    return OnlineBatch(pixels, torch.zeros(batch_size, 4, dtype=torch.int64, device=device), label, drop_path)


def _label_and_draws(config: RunConfig, device: torch.device, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.arange(batch_size, device=device) % CLASSES
    return label, torch.rand(batch_size, 2, *config.model.drop_path_shape, device=device)
