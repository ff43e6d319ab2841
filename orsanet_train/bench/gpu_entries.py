"""What `gpu_check` runs, ordered by worth: the tests that need a GPU, then the benchmarks.

Each entry calls the function behind a command (`bench step`, `bench build`, `bench read`, `bench
evaluate`, `run`), or pytest for one file of tests, and reports figures as they come.
"""

import os
import platform
import re
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from orsanet_cache.bench.build import bench_build
from orsanet_cache.bench.machine import installed_version, nccl_version
from orsanet_cache.bench.random_store import RandomSplit, write_random_store
from orsanet_cache.bench.read import BATCH, bench_read
from orsanet_cache.data.manifest import Manifest, Sample
from orsanet_cache.data.views import CLEAN, HFLIP
from orsanet_cache.device import allow_tf32, choose_device, processor_name
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.priors import FrozenPriors
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import schema
from orsanet_train.bench.apart import Send
from orsanet_train.bench.evaluate import bench_evaluate
from orsanet_train.bench.feed import bench_feed
from orsanet_train.bench.gpu_page import Fact, Failure, Figure
from orsanet_train.bench.step import CLASSES, RAFDB_IMAGES, bench_step
from orsanet_train.config import RunConfig, load_config
from orsanet_train.evaluation.history import read_history
from orsanet_train.feed.residence import Resident
from orsanet_train.feed.split import training_split
from orsanet_train.model.checkpoint import Identity, save_weights
from orsanet_train.run.train import train

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
CUDA_MARK = "@pytest.mark.cuda"
RAFDB_TEST_IMAGES = 3_068
EPOCHS = 400  # of the published run
PACKAGES = ("orsanet", "torch", "torchvision", "triton", "numpy", "zarr", "pillow", "pytest")
TINY_SEGFACE = SegFaceConfig(
    embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), decoder_width=32, decoder_heads=4, decoder_mlp_width=64
)
TINY_SETTINGS = (
    "batch_size=4", "model.depth=1", "model.width=32", "model.multi_scale=false", "model.backbone_channels=[8,8,16]",
    "model.backbone_units=[1,1,1]",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Where and how large everything is.

    Args:
        device: The name of the device.
        tiny: Sizes that a CPU does in seconds, instead of the published ones.
        folder: For temporary files, which later entries find again.
    """

    device: str
    tiny: bool
    folder: Path

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def config(self) -> RunConfig:
        """The published settings of RAF-DB, in the fastest precision that every such device has."""
        precision = "fast" if self.on_gpu else "exact"
        return load_config("rafdb", (f"precision={precision}", *(TINY_SETTINGS if self.tiny else ())))

    def frozen(self) -> FrozenPriors:
        """Frozen networks with random weights."""
        torch.manual_seed(0)
        return FrozenPriors(SegFace(TINY_SEGFACE if self.tiny else SegFaceConfig()), MobileFaceNet(), "published")

    def data(self) -> tuple[Manifest, PriorStore]:
        """A random store as large as RAF-DB's, written by the entry that needs it first."""
        train_images, test_images = (14, 7) if self.tiny else (RAFDB_IMAGES, RAFDB_TEST_IMAGES)
        samples = [
            Sample(f"{split}/{number:05d}.jpg", number % CLASSES, split, frozenset())
            for split, count in (("train", train_images), ("test", test_images))
            for number in range(count)
        ]
        names = tuple(f"class {label}" for label in range(CLASSES))
        manifest = Manifest("random", names, self.folder, tuple(samples))
        path = self.folder / "store.zarr"
        if not path.exists():
            channels = (128, 512) if self.tiny else (1024, 512)
            views = {"train": (CLEAN, HFLIP), "test": (CLEAN,)}
            splits = {
                split: RandomSplit([sample.image for sample in manifest.split(split)], of_split)
                for split, of_split in views.items()
            }
            unfinished = self.folder / "unfinished.zarr"
            shutil.rmtree(unfinished, ignore_errors=True)  # of an entry that was ended
            write_random_store(unfinished, schema(*channels, "float16"), splits)
            unfinished.rename(path)
        return manifest, PriorStore.open(path)


class Report:
    """Sends what an entry finds, as it finds it."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def fact(self, name: str, text: object) -> None:
        self._send(Fact(name, str(text)))

    def figure(self, name: str, value: float, unit: str = "", aim: float | None = None) -> None:
        self._send(Figure(name, float(value), unit, aim))

    def failed(self, name: str, text: str) -> None:
        self._send(Failure(name, text))


@dataclass(frozen=True)
class Entry:
    """A part of the check.

    Args:
        name: In the table.
        seconds: The longest time, of a check of eight minutes.
        work: Called in a process of its own.
    """

    name: str
    seconds: float
    work: Callable[[Setting, Report], None]


def planned(tiny: bool = False) -> list[Entry]:
    """All entries, the most valuable first; with tiny sizes fewer of them do the same."""
    entries = [
        Entry("machine", 25, machine),
        *entries_of_tests(tiny),
        Entry("step, batch 20", 70, partial(step, batch_size=20, compiled=False)),
        Entry("build", 80, build),
        Entry("feed", 80, feed),
        Entry("epoch", 80, epoch),
        Entry("step, batch 256", 60, partial(step, batch_size=256, compiled=False)),
        Entry("evaluation", 40, evaluation),
        Entry("read", 50, read),
        Entry("step, batch 20, compiled", 150, partial(step, batch_size=20, compiled=True)),
    ]
    return [entry for entry in entries if not tiny or entry.name not in ("step, batch 256", "step, batch 20, compiled")]


def entries_of_tests(tiny: bool) -> list[Entry]:
    """One for each file that has a test marked `cuda`: what one file does to the GPU is lost with its process.

    With tiny sizes, where all of them are skipped, one for all files.
    """
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [path for path in files if re.search(rf"^{CUDA_MARK}|{CUDA_MARK[1:]}\)", path.read_text("utf-8"), re.M)]
    if tiny:
        return [Entry("tests", 90, partial(tests, paths=marked))]
    return [Entry(f"tests: {path.relative_to(ROOT / 'tests')}", 45, partial(tests, paths=[path])) for path in marked]


def tests(setting: Setting, report: Report, *, paths: Sequence[Path]) -> None:
    """The files' tests that are marked `cuda`. Warnings of dependencies are no errors here."""
    import pytest

    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)

    class Listener:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            note(report, is_test=report.when == "call" or report.outcome != "passed")

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            note(report, is_test=report.failed)

    def note(found: "pytest.TestReport | pytest.CollectReport", is_test: bool) -> None:
        counts[found.outcome] += is_test
        if found.failed:
            report.failed(found.nodeid, found.longreprtext)

    options = ["-m", "cuda", "--list-warnings", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # this process has loaded plug-ins of pytest before
    code = pytest.main([*options, "-c", str(ROOT / "pyproject.toml"), *map(str, paths)], plugins=[Listener()])
    for name, count in counts.items():
        if count or name == "passed":
            report.figure(name, count, "tests")
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        report.failed("pytest", f"pytest ended with {code!r}; its output is in the log")


def machine(setting: Setting, report: Report) -> None:
    """The device, the software, and the device's own rates, which all others can be held against."""
    report.fact("commit", _commit())
    report.fact("python", platform.python_version())
    for package in PACKAGES:
        report.fact(package, installed_version(package))
    report.fact("processor", f"{processor_name()}, {len(os.sched_getaffinity(0))} cores")
    device = choose_device(setting.device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        report.fact("device", f"{properties.name}, {properties.multi_processor_count} multiprocessors")
        report.fact("device memory", f"{properties.total_memory / 2**30:.1f} GiB")
        report.fact("compute capability", f"{properties.major}.{properties.minor}")
        report.fact("driver", _driver())
        report.fact("CUDA, cuDNN, NCCL", f"{torch.version.cuda}, {torch.backends.cudnn.version()}, {nccl_version()}")
    else:
        report.fact("device", f"CPU, {torch.get_num_threads()} threads")
    size = 256 if setting.tiny else 8192
    for name, dtype, tf32 in (
        ("float32", torch.float32, False), ("TF32", torch.float32, True), ("float16", torch.float16, False),
    ):  # fmt: skip
        if device.type == "cuda" or name == "float32":
            allow_tf32(tf32)
            left, right = torch.randn(2, size, size, device=device).to(dtype)
            seconds = _fastest(device, lambda left=left, right=right: left @ right)  # type: ignore[misc]
            report.figure(f"matrix product, {name}", 2 * size**3 / seconds / 1e12, "TFLOP/s")
    allow_tf32(False)
    host = torch.empty(2**20 if setting.tiny else 2**30, dtype=torch.uint8)
    there = host.to(device)
    copies = {"on the device": partial(there.clone), "from memory": partial(there.copy_, host)}
    if device.type == "cuda":
        copies["from pinned memory"] = partial(there.copy_, host.pin_memory(), non_blocking=True)
        copies["to memory"] = partial(host.copy_, there)
    for name, copy in copies.items():
        report.figure(f"copy {name}", len(host) / _fastest(device, copy) / 1e9, "GB/s")


def step(setting: Setting, report: Report, *, batch_size: int, compiled: bool) -> None:
    """`bench step`; a contender that fails is left out."""
    device = choose_device(setting.device)
    size = 2 if setting.tiny else batch_size
    seconds = 0.0 if setting.tiny else 20.0
    speeds, parts = bench_step(
        setting.config, device, size, rounds=1 if setting.tiny else 5, compiled=compiled,
        frozen=setting.frozen() if setting.tiny else None, seconds=seconds, on_failure=report.failed,
    )  # fmt: skip
    aims = {"cached, parity": 6.0, "cached, fast": 12.0} if batch_size == 20 else {}
    for speed in speeds:
        report.figure(speed.name, speed.images_per_second, "img/s")
        if speed.ratio == speed.ratio:  # NaN if the published step failed
            report.figure(f"{speed.name}, of the published", speed.ratio, "times", aims.get(speed.name))
        report.figure(f"{speed.name}, of a float32 product", 100 * speed.utilisation, "%")
    for part in parts:
        report.figure(f"exact without a graph: {part.name}", 100 * part.share, "%")
    if device.type == "cuda":
        report.figure("most memory", torch.cuda.max_memory_allocated(device) / 2**30, "GiB")


def build(setting: Setting, report: Report) -> None:
    """`bench build`, decode included, against the networks alone; in the default batch size and in a larger one."""
    device = choose_device(setting.device)
    images = 2 if setting.tiny else 4096 if device.type == "cuda" else 64
    views = [CLEAN] if setting.tiny else [CLEAN, HFLIP]
    larger = [256] if device.type == "cuda" and not setting.tiny else []
    for batch_size in (None, *larger):
        for precision in (
            ("fp16", "fp32") if device.type == "cuda" and batch_size is None else ("fp16",) if larger else ("fp32",)
        ):
            name = f"{precision}, {'default batch' if batch_size is None else f'batch {batch_size}'}"
            try:
                speed = bench_build(
                    None, setting.frozen(), images, views, device, precision, batch_size, setting.folder
                )
            except Exception:
                report.failed(name, traceback.format_exc())
                continue
            aimed = name == "fp16, default batch"
            report.figure(f"{name}: build", speed.build, "views/s", 7000 if aimed else None)
            report.figure(f"{name}: networks alone", speed.networks_alone, "views/s")
            report.figure(
                f"{name}: build of networks alone", speed.build / speed.networks_alone, "times", 0.8 if aimed else None
            )
            report.figure(f"{name}: the networks ran", 100 * speed.networks_share, "% of time")


def feed(setting: Setting, report: Report) -> None:
    """The feed of two views, resident and streamed."""
    device = choose_device(setting.device)
    began = time.perf_counter()
    manifest, store = setting.data()
    report.figure("random store written", time.perf_counter() - began, "s")
    split = training_split(setting.config, manifest, store)
    modes: tuple[Resident, ...] = ("device", "stream", "host")
    for mode in modes:
        try:
            speed = bench_feed(setting.config, store, split, device, mode, 10.0)
        except Exception:
            report.failed(mode, traceback.format_exc())
            continue
        if mode != "stream":
            report.figure(f"{mode}: loaded", speed.load_seconds, "s")
        report.figure(f"{mode}: first epoch", speed.images_per_second, "img/s")
        report.figure(f"{mode}: second epoch", speed.again, "img/s")


def epoch(setting: Setting, report: Report) -> None:
    """An epoch of `run` with evaluation and files: the difference of a run of several epochs and of one."""
    manifest, store = setting.data()
    many = 9 if setting.tiny else 3
    seconds = {}
    for number, epochs in enumerate((1, 1, many)):  # the first run imports and compiles: it is not counted
        config = setting.config.model_copy(update={"epochs": epochs})
        out = setting.folder / f"run {number}"
        began = time.perf_counter()
        train(config, manifest, store, out, device=setting.device)
        seconds[epochs] = time.perf_counter() - began
    history = read_history(out)
    assert history is not None  # a run of an epoch has a row
    last = history.iloc[-1]
    report.figure("run of 1 epoch", seconds[1], "s")
    report.figure(f"run of {many} epochs", seconds[many], "s")
    report.figure(f"training, epoch {many}", float(last["images_per_second"]), "img/s")
    report.figure(f"waiting for data, epoch {many}", 100 * float(last["waiting_share"]), "% of time")
    each = (seconds[many] - seconds[1]) / (many - 1)
    report.figure("an epoch with evaluation", each, "s")
    report.figure(f"{EPOCHS} epochs", EPOCHS * each / 60, "min", 30)


def evaluation(setting: Setting, report: Report) -> None:
    """`bench evaluate` of a model with random weights."""
    manifest, store = setting.data()
    fields = store.fields("test", CLEAN)
    identity = Identity(
        classes=manifest.classes, model=setting.config.model, store_recipe=store.recipe, ir50_sha256=None, epoch=1,
        segmentation_channels=fields["segmentation_features"].shape[1], landmark_channels=fields["landmark_features"].shape[1],
        data_set=manifest.name, train_split="train", selection="last", selection_split="test", selection_accuracy=0.0,
    )  # fmt: skip
    weights = setting.folder / "last.safetensors"
    torch.manual_seed(0)
    save_weights(weights, identity.build(), identity)
    speed = bench_evaluate(weights, manifest, store, "test", choose_device(setting.device))
    report.figure("bare forward", speed.images / speed.forward, "img/s")
    report.figure("evaluation", speed.images / speed.evaluation, "img/s")


def read(setting: Setting, report: Report) -> None:
    """`bench read` of random values."""
    gigabytes, rounds, batch = (0.001, 1, 4) if setting.tiny else (1.0, 3, BATCH)
    _, row_bytes, speeds = bench_read(None, gigabytes, rounds, setting.folder, batch)
    for speed in speeds:
        report.figure(speed.name, speed.rows_per_second, "rows/s")
    report.figure("a row", row_bytes / 1e3, "kB")


def _fastest(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds of the fastest of five calls, after one that is not counted."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    spent = []
    for _ in range(6):
        wait()
        began = time.perf_counter()
        work()
        wait()
        spent.append(time.perf_counter() - began)
    return min(spent[1:])


def _commit() -> str:
    """The checkout's commit, and whether files differ from it."""
    found = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if not found:
        return "unknown: no git repository here, or no git"
    return f"{found}{' with changes' if _output('git', '-C', str(ROOT), 'status', '--porcelain') else ''}"


def _driver() -> str:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown: no nvidia-smi"


def _output(*command: str) -> str:
    """What a program prints, without its last line break; empty if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
