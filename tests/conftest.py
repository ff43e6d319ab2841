"""Shared fixtures: the reference material beside the project, and a small world of real files to run everything on.

The small world is a data set of procedural pictures, a small SegFace and a MobileFaceNet with seeded random weights, and the store
built from them. Nothing is mocked: the networks are the shipped classes at small sizes.

A warning is an error, here and in every process that a test starts. Dependencies of other versions than the locked ones may have
deprecated what we call: with `--list-warnings` such warnings fail nothing, and are listed at the end.
"""

import gc
import hashlib
import importlib.util
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.torch
import torch
from forks import ForkServer
from object_server import BUCKET, Moto, Objects, Proxy, moto_server, proxy_to
from PIL import Image
from slow import is_slow, order
from small_store import Remembering
from tqdm.auto import tqdm

from orsanet_cache import FrozenPriors, Manifest, PriorStore, load_manifest
from orsanet_cache.bench.random_store import Arrays, RandomSplit, random_arrays, write_random_store
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.priors import ARCHITECTURE_KEY
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.store.schema import schema
from orsanet_cache.store.units import Unit

gc.disable()  # while modules are imported and tests collected, where every look through all objects is in vain

# Processes of pytest-xdist share the cores: threads that wait for each other would take what another process needs.
THREADS = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
torch.set_num_threads(THREADS)
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # of the processes that tests start
# tqdm's own lock is shared with forks and is two locks: a killed fork, or a signal between the two, would leave it held for ever.
tqdm.set_lock(threading.RLock())
IMPORTED = {"slow", "forks", "command_lines", "object_server", "small_store"}  # above
pytest.register_assert_rewrite(*{path.stem for path in Path(__file__).with_name("helpers").glob("*.py")} - IMPORTED)

# How a dependency says that something will change; torch and zarr take FutureWarning and UserWarning for it. Pytest's own are errors.
LISTED = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning", "UserWarning")
WARNING_LOG = "ORSANET_WARNING_LOG"  # the file that child processes write theirs to (child_warnings/sitecustomize.py)

SHARED = Path(__file__).resolve().parents[2] / "shared"
CLASSES = ("anger", "happiness", "neutral")
SMALL_SEGFACE = SegFaceConfig(
    embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), decoder_width=32, decoder_heads=4, decoder_mlp_width=64
)
SMALL_MODEL = (
    "model.depth=2", "model.width=64", "model.backbone_channels=[8,16,32]", "model.backbone_units=[1,1,1]",
)  # fmt: skip

_LOG = pytest.StashKey[str]()  # the log's path, in the process that made it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--list-warnings", action="store_true", help="list the dependencies' warnings; none is an error")


def pytest_configure(config: pytest.Config) -> None:
    """What this process and those that it starts do with warnings. pytest-xdist's processes come here too, after the first one."""
    if not config.getoption("--list-warnings"):
        os.environ["PYTHONWARNINGS"] = "error"
        return
    filters = [f"default::{category}" for category in LISTED]
    os.environ["PYTHONWARNINGS"] = ",".join(["error", *filters])
    for line in [*filters, "error::pytest.PytestWarning"]:
        config.addinivalue_line("filterwarnings", line)
    if WARNING_LOG not in os.environ:
        folder = str(Path(__file__).with_name("child_warnings"))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        os.environ[WARNING_LOG] = config.stash[_LOG] = tempfile.mkstemp(prefix="orsanet-warnings-")[1]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    without_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(without_gpu)
        if "slow" in config.option.markexpr and is_slow(item):  # to read it off the code takes seconds in every process
            item.add_marker("slow")
    items.sort(key=order)  # pytest-xdist takes the files in this order (--no-loadscope-reorder)


def pytest_collection_finish() -> None:
    """What is there now stays: the collector need not look through it again."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the warnings of child processes, each once; pytest names those of the tests' own processes."""
    if _LOG not in config.stash:
        return
    log = Path(config.stash[_LOG])
    found = Counter(log.read_text(encoding="utf-8").splitlines())
    log.unlink()
    terminalreporter.section("warnings of the processes that tests started", sep="=")
    for text, times in found.most_common():
        terminalreporter.write_line(f"{times} times {text}")
    terminalreporter.write_line(f"{len(found)} different warnings")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference material; a user's clone has none, so tests that need it are skipped there."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference material, which is not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def programs() -> Iterator[ForkServer]:
    """Both command lines as processes; the libraries are loaded once for all of them."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def objects() -> Objects:
    """An object store with one bucket, for all tests."""
    return Objects()


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """The same through a server that other hands keep."""
    with moto_server() as server:
        yield server


def _reached(server: Objects | Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy_to(server) as proxy:
        for name, value in {**proxy.environment, "ORSANET_PATIENCE": "6"}.items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def bucket(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before that object store, and an environment in which commands reach it and give up after some seconds."""
    yield from _reached(objects, monkeypatch)


@pytest.fixture
def s3(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """As `bucket`, before the server that other hands keep."""
    yield from _reached(moto, monkeypatch)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a place that no other test uses."""
    return f"s3://{BUCKET}/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}/store.zarr"


@dataclass(frozen=True)
class InUnits:
    """A manifest, and a store of random values for it in units of four rows: every split has several shards. Read-only."""

    manifest: Path
    store: Path


@pytest.fixture(scope="session")
def in_units(tmp_path_factory: pytest.TempPathFactory) -> InUnits:
    folder = tmp_path_factory.mktemp("in-units")
    found = InUnits(write_dataset(folder, {"train": 14, "valid": 6, "test": 6}), folder / "units.zarr")
    fields = schema(32, 16, "float16")

    def values(unit: Unit) -> Arrays:
        rng = np.random.default_rng([unit.index, len(unit.split)])
        return random_arrays(rng, unit.stop - unit.start, fields)

    manifest = load_manifest(found.manifest)
    splits = {
        split: RandomSplit([sample.image for sample in manifest.split(split)], ["clean", "hflip"])
        for split in manifest.splits
    }
    write_random_store(found.store, fields, splits, values, rows_per_unit=4)
    return found


@pytest.fixture(scope="session")
def filler(shared: Path) -> ModuleType:
    """The deterministic weight filler and image generator of the golden files."""
    spec = importlib.util.spec_from_file_location("fill", shared / "reference" / "golden" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(seed: int, size: tuple[int, int] = (120, 100)) -> np.ndarray:
    """uint8 RGB [H, W, 3]: smooth blobs of random colours, different in every corner and under a flip."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def write_segmenter(path: Path, config: SegFaceConfig = SMALL_SEGFACE, seed: int = 0) -> Path:
    """A SegFace with seeded random weights, as a weights file that says its sizes."""
    torch.manual_seed(seed)
    network = SegFace(config)
    safetensors.torch.save_file(network.state_dict(), path, metadata={ARCHITECTURE_KEY: config.model_dump_json()})
    return path


def write_landmark_network(path: Path, seed: int = 0) -> Path:
    """A MobileFaceNet with seeded random weights."""
    torch.manual_seed(seed)
    safetensors.torch.save_file(MobileFaceNet().state_dict(), path)
    return path


@dataclass(frozen=True)
class World:
    """Files of the small world. Treat them as read-only; build into other folders."""

    folder: Path
    manifest: Path
    segmenter: Path
    landmarks: Path
    store: Path

    def load_manifest(self) -> Manifest:
        return load_manifest(self.manifest)

    def load_priors(self) -> FrozenPriors:
        return FrozenPriors.load(self.segmenter, self.landmarks)

    @cached_property
    def priors(self) -> Remembering:
        """The same networks for whatever is built and not about them: in this process they compute a batch once. Read-only."""
        return Remembering(self.load_priors())

    def open_store(self) -> PriorStore:
        return PriorStore.open(self.store)


def write_dataset(folder: Path, counts: dict[str, int]) -> Path:
    """Pictures and a manifest with `counts` images per split; every second image has the tag `occluded`."""
    (folder / "images").mkdir(parents=True)
    lines = ["image,label,split,tags"]
    for split, count in counts.items():
        for index in range(count):
            name = f"images/{split}_{index}.png"
            Image.fromarray(picture(len(lines))).save(folder / name)
            lines.append(f"{name},{CLASSES[index % len(CLASSES)]},{split},{'occluded' if index % 2 else ''}")
    (folder / "samples.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = ", ".join(f'"{name}"' for name in CLASSES)
    (folder / "dataset.toml").write_text(
        f'name = "small"\nclasses = [{names}]\nsamples = "samples.csv"\n', encoding="utf-8"
    )
    return folder / "dataset.toml"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    small = World(
        folder=folder,
        manifest=write_dataset(folder, {"train": 14, "valid": 6, "test": 6}),
        segmenter=write_segmenter(folder / "segmenter.safetensors"),
        landmarks=write_landmark_network(folder / "landmarks.safetensors"),
        store=folder / "store.zarr",
    )
    build(small.load_manifest(), small.store, small.priors, ["clean", "hflip"], device=torch.device("cpu"))
    return small
