"""A Ray cluster of two workers builds what one process builds, while its workers are killed; and what ends such a build with a sentence."""

import json
import os
import pickle
import random
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from crew import tree
from forks import Fork, ForkServer
from object_server import Objects, proxy_to
from small_store import everything

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.builder.additions import Additions
from orsanet_cache.builder.build import build
from orsanet_cache.builder.engine import Setup
from orsanet_cache.builder.plan import Work
from orsanet_cache.builder.ray_engine import ANSWER_SECONDS, RayCluster, RayEngine
from orsanet_cache.builder.ray_worker import IN_HAND, Job, Task, _Begun
from orsanet_cache.cli import main
from orsanet_cache.data.manifest import Manifest, load_manifest
from orsanet_cache.store.schema import schema
from orsanet_cache.store.units import Share, Unit
from orsanet_cache.writing.writer import StoreWriter

CPU = torch.device("cpu")
VIEWS = ("clean", "mask")  # the second is placed by the first
LISTS = {"folder": {"train": 8, "test": 4}, "url": {"train": 2}, "grown": {"train": 10, "test": 4}}
UNIT = 2
# Each costs the six seconds that a new process takes to import torch, so the fewest that show everything: one of the two workers
# is killed, and at a URL, to which one unit at a time is built, the only one. ORSANET_KILLS kills more of the two.
KILLS = {"folder": int(os.environ.get("ORSANET_KILLS", 1)), "url": 1}
SECONDS = 0.6  # that a batch takes
PATIENCE = 300.0  # seconds that no build needs; one that hangs fails the test
LOADED = "import orsanet_cache.builder.build, orsanet_cache.builder.ray_engine, ray, zarr.storage"


def write_manifest(folder: Path, root: Path, counts: dict[str, int]) -> Path:
    rows = [f"images/{split}_{number}.png,anger,{split}" for split, count in counts.items() for number in range(count)]
    (folder / "some.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
    (folder / "some.toml").write_text(
        f'name = "some"\nclasses = ["anger", "neutral"]\nsamples = "some.csv"\nroot = "{root}"\n'
    )
    return folder / "some.toml"


@dataclass(frozen=True)
class Ran:
    """What the builds on the cluster have left."""

    summaries: list[list[int]]  # computed, reused, added, waiting
    folder: Path
    objects: dict[str, bytes]  # of the store at a URL
    batches: dict[str, Counter[str]]  # of a build: how often a batch was begun
    processes: dict[str, int]  # of a build: how many computed


@pytest.fixture(scope="module")
def manifests(world: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write_manifest(tmp_path_factory.mktemp(name), world.folder, counts) for name, counts in LISTS.items()}


@pytest.fixture(scope="module")
def local(world: Any, manifests: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What one process builds of each list of pictures."""
    stores = {name: tmp_path_factory.mktemp(name) / "store.zarr" for name in KILLS}
    for name, out in stores.items():
        build(manifests[name], out, world.priors, VIEWS, device=CPU, rows_per_unit=UNIT)
    return stores


def kill_workers(process: Fork, notes: Path, kills: int) -> None:
    """Kill a worker in the midst of its work, at random moments."""
    rng = random.Random(kills)
    seen, until = 0, time.monotonic() + PATIENCE
    for _ in range(kills):
        wanted = seen + rng.randint(1, 2)
        while seen < wanted:
            assert process.poll() is None, process.communicate(PATIENCE)[0]
            assert time.monotonic() < until, "no worker computes"
            time.sleep(0.02)
            lines = notes.read_text().splitlines() if notes.exists() else []
            seen = len(lines)
        time.sleep(rng.uniform(0, SECONDS / 2))
        os.kill(int(lines[-1].split()[0]), signal.SIGKILL)


@pytest.fixture(scope="module")
def ran(world: Any, manifests: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("ray")
    outs = {"folder": folder / "store.zarr", "url": "s3://bucket/store.zarr"}
    notes = {name: folder / f"{name}.notes" for name in outs}
    builds = [{"manifest": manifests[name], "out": out, "notes": notes[name]} for name, out in outs.items()]
    order = {
        "segmenter": world.segmenter, "landmarks": world.landmarks, "builds": builds, "seconds": SECONDS,
        "options": {"views": VIEWS, "rows_per_unit": UNIT},
    }  # fmt: skip
    (folder / "order.json").write_text(json.dumps(order, default=str))
    objects, program = Objects(), str(Path(__file__).with_name("ray_child.py"))
    with (
        # Ray's own files, in a folder of a short name, because that of a socket is below 108 bytes.
        TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short,
        closing(ForkServer(LOADED)) as forks,
        proxy_to(objects) as proxy,
    ):
        # Ray writes a token to the home folder.
        environment = {**proxy.environment, "ORSANET_PATIENCE": "30", "RAY_TMPDIR": short, "HOME": short}
        process = forks.start(program, folder / "order.json", environment=environment)
        for name in outs:
            kill_workers(process, notes[name], KILLS[name])
        said, _ = process.communicate(PATIENCE)
        assert process.returncode == 0, said
    lines = {name: [line.split() for line in path.read_text().splitlines()] for name, path in notes.items()}
    return Ran(
        [json.loads(line) for line in said.splitlines() if line.startswith("[") and line.endswith("]")],
        folder / "store.zarr",
        {name.removeprefix("store.zarr/"): content for name, (content, _, _) in objects.found.items()},
        {name: Counter(batch for _, batch in found) for name, found in lines.items()},
        {name: len({process for process, _ in found}) for name, found in lines.items()},
    )


def units(name: str) -> int:
    """Of all views."""
    return sum(LISTS[name].values()) // UNIT * len(VIEWS)


@pytest.mark.parametrize("name", KILLS)
def test_killed_workers_cost_at_most_the_units_that_they_had_in_hand(ran: Ran, name: str) -> None:
    batches = ran.batches[name]
    assert len(batches) == units(name)
    assert 0 < batches.total() - units(name) <= KILLS[name] * IN_HAND
    assert ran.processes[name] > KILLS[name]


def test_ray_builds_the_store_of_one_process(ran: Ran, local: dict[str, Path]) -> None:
    assert ran.summaries == [[units(name) * UNIT, 0, 0, 0] for name in KILLS]
    assert tree(ran.folder) == tree(local["folder"])
    assert ran.objects == {name: content for name, content in tree(local["url"]).items() if content is not None}


class HereEngine(RayEngine):
    """Ray's part is done by this process: it calls a worker, with what would be sent to one."""

    def _run(self, work: Sequence[Any], pictures: Any, name: str, fields: Any) -> int:
        self._phase += 1
        worker = _Begun(pickle.loads(pickle.dumps(self._job)))
        done = [worker.compute(pickle.loads(pickle.dumps(self._task(lacking, pictures)))) for lacking in work]
        worker.end()
        return sum(one.copied for one in done)


def test_workers_grow_a_store_add_fields_and_copy_known_rows_as_one_process_does(
    world: Any, manifests: dict[str, Path], local: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = [tmp_path / name / "store.zarr" for name in ("one", "workers")]
    summaries = []
    monkeypatch.setattr(RayCluster, "__enter__", lambda self: vars(self).update(device=CPU) or self)
    monkeypatch.setattr("orsanet_cache.builder.ray_engine.RayEngine", HereEngine)
    for engine, out in zip(("local", "ray"), outs, strict=True):
        shutil.copytree(local["folder"], out)
        adding = {"reuse": world.store, "fields": ["landmark_features_14"]}
        summary = build(manifests["grown"], out, world.load_priors(), VIEWS, device="cpu", engine=engine, **adding)  # type: ignore[arg-type]
        summaries.append((summary.computed, summary.reused, summary.added, summary.waiting, summary.grown))
    assert summaries == [(UNIT, UNIT, sum(LISTS["grown"].values()) * len(VIEWS), 0, ("train",))] * 2
    stores = [everything(out, {split: list(VIEWS) for split in LISTS["grown"]}) for out in outs]
    assert stores[0] == stores[1]
    assert tree(outs[0]).keys() == tree(outs[1]).keys()


def test_a_part_and_ray_exclude_each_other(manifests: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="--part 1/2 and --engine ray exclude each other"):
        build(manifests["folder"], tmp_path / "store.zarr", engine="ray", part=Share(1, 2))
    assert not (tmp_path / "store.zarr").exists()


def test_without_ray_the_sentence_names_what_to_install(
    world: Any, manifests: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    networks = ["--segmenter", str(world.segmenter), "--landmarks", str(world.landmarks)]
    line = ["build", str(manifests["folder"]), "--out", str(tmp_path / "store.zarr"), *networks, "--engine", "ray"]
    ended = CliRunner().invoke(main, line)
    assert (ended.exit_code, ended.output) == (
        1,
        "Error: --engine ray needs Ray; install it with: pip install 'orsanet[ray]'\n",
    )


def test_an_address_where_nobody_answers_is_refused_in_time() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        port, began = taken.getsockname()[1], time.monotonic()
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with pytest.raises(OrsanetError, match=rf"--address {address}: no Ray cluster answers at .*refused"):
                RayCluster(address, "cpu")
        assert time.monotonic() - began < ANSWER_SECONDS


@pytest.mark.parametrize("address", ["here", "host:", "http://host:1", "ray://host", ":6379", "host:123456"])
def test_a_text_that_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(OrsanetError, match="write auto, HOST:PORT or ray://HOST:PORT"):
        RayCluster(address, "cpu")


def test_an_address_without_ray_and_a_numbered_gpu_with_it_are_refused(
    manifests: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(OrsanetError, match="add --engine ray"):
        build(manifests["folder"], tmp_path / "store.zarr", address="auto")
    with pytest.raises(OrsanetError, match="Ray chooses each worker's GPU"):
        build(manifests["folder"], tmp_path / "store.zarr", engine="ray", device="cuda:1")


class Joined:
    """A build whose process holds the store, and what its workers are sent."""

    def __init__(self, world: Any, manifest: Manifest, writer: StoreWriter, recipe: dict[str, Any]) -> None:
        self.manifest, self.writer = manifest, writer
        fields = tuple(writer.fields_of("clean").values())
        self.setup = Setup(
            writer.path, recipe, manifest.root, world.priors, fields, "fp32", "float16", "upright", None, ("clean",), (), (), None
        )  # fmt: skip

    def job(self, **changes: Any) -> Job:
        return Job(replace(self.setup, **changes), (), False, "cpu", {})


@pytest.fixture
def joined(world: Any, manifests: dict[str, Path], local: dict[str, Path], tmp_path: Path) -> Iterator[Joined]:
    recipe, out = PriorStore.open(local["folder"]).recipe, tmp_path / "store.zarr"
    fields = schema(world.priors.segmenter.feature_channels, world.priors.landmark_network.feature_channels, "float16")
    with StoreWriter.open(out, recipe, fields, rows_per_unit=UNIT) as writer:
        yield Joined(world, load_manifest(manifests["folder"]), writer, recipe)


def test_a_worker_with_another_version_is_refused_by_name(joined: Joined) -> None:
    job = replace(joined.job(), versions={"torch": "1.0"})
    with pytest.raises(
        OrsanetError, match=rf"{socket.gethostname()} \(.*\): has torch .*, the machine that builds has 1.0"
    ):
        _Begun(job)


def test_a_worker_that_finds_another_folder_is_refused_by_name(
    joined: Joined, local: dict[str, Path], tmp_path: Path
) -> None:
    for elsewhere in (local["folder"], tmp_path / "none.zarr"):
        with pytest.raises(
            OrsanetError, match=rf"{socket.gethostname()} \(.*\): {elsewhere}: is not the folder that is being built"
        ):
            _Begun(joined.job(out=elsewhere))


def test_a_worker_whose_lock_excludes_nobody_is_refused(joined: Joined) -> None:
    path = joined.writer.path
    joined.writer.__exit__()
    (path / ".commits" / "parts").mkdir(parents=True)
    (path / ".commits" / "parts" / "1of1.lock").touch()  # of a process of another machine, whose lock is not known here
    with pytest.raises(OrsanetError, match="does not exclude this machine's processes"):
        _Begun(joined.job())
    joined.writer = StoreWriter.open(path, joined.setup.recipe, joined.setup.fields)


def test_pictures_that_a_worker_cannot_read_end_the_build_unless_nobody_can(joined: Joined, tmp_path: Path) -> None:
    unit = Unit("train", 0, 0, UNIT)
    samples = joined.manifest.split("train")[unit.rows]
    joined.writer.add_split("train", [sample.image for sample in joined.manifest.split("train")])
    joined.writer.add_view("train", "clean")
    task = Task(Work(unit, ("clean",)), 1, samples, [sample.image for sample in samples])
    worker = _Begun(joined.job(root=tmp_path / "not mounted"))
    done = worker.compute(task)
    assert done.unreadable == set(task.of_files)
    assert joined.writer.missing("train", "clean")[0] == unit
    engine = RayEngine(RayCluster(None, "cpu"), joined.writer, joined.job(), None, Additions({}, (), frozenset()))
    with pytest.raises(
        OrsanetError, match=rf"{socket.gethostname()} \(.*\): cannot read {joined.manifest.root}/images/train_0.png"
    ):
        engine._readable_nowhere(task, done)
    nowhere = RayEngine(
        RayCluster(None, "cpu"), joined.writer, joined.job(root=tmp_path), None, Additions({}, (), frozenset())
    )
    worker.compute(nowhere._readable_nowhere(task, done))  # which are rejected, as in one process
    marker = joined.writer.marker(unit, "clean")
    assert marker is not None
    assert marker.record.rejected.keys() == set(task.of_files)
    worker.end()
