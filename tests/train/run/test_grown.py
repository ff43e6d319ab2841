"""A run on a store that grows: it goes on in the state that it began in, and new runs have the new pictures."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from object_server import Proxy
from PIL import Image

from orsanet_cache import Manifest, OrsanetError, PriorStore
from orsanet_cache.builder.build import build
from orsanet_cache.writing.convert import convert
from orsanet_train.config import RunConfig, load_config
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.run.train import train

pytestmark = pytest.mark.usefixtures("without_matplotlib")
CPU = torch.device("cpu")
SMALL = (
    "batch_size=6", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]",
    "model.multi_scale=false",
)  # fmt: skip


def config(epochs: int) -> RunConfig:
    return load_config("small", (*SMALL, f"epochs={epochs}"))


def equal(run: Path, other: Path) -> bool:
    a, b = (safetensors.torch.load_file(folder / "last.safetensors") for folder in (run, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def grown(world: Any, tmp_path: Path) -> tuple[Path, Manifest]:
    """The small world's store after a picture came, others went, and all of `train` was turned round."""
    store = tmp_path / "store.zarr"
    shutil.copytree(world.store, store)
    root = tmp_path / "pictures"
    shutil.copytree(world.folder / "images", root / "images")
    before = world.load_manifest()
    Image.new("RGB", (100, 120), (90, 60, 30)).save(root / "images" / "new.png")
    train_samples, others = before.split("train"), [sample for sample in before.samples if sample.split != "train"]
    new = replace(train_samples[0], image="images/new.png")
    samples = (new, *reversed(train_samples[1:]), *others)
    after = Manifest(before.name, before.classes, root, samples)
    summary = build(after, store, world.priors, ["clean", "hflip"], device=CPU)
    assert (summary.computed, summary.grown) == (2, ("train",))
    return store, after


def test_a_run_is_resumed_in_its_state_after_the_store_has_grown(
    world: Any, grown: tuple[Path, Manifest], tmp_path: Path
) -> None:
    store, _ = grown
    for name, second in (("whole", world.store), ("part", store)):
        train(config(1), world.load_manifest(), world.store, tmp_path / name, device=CPU)
        train(config(2), world.load_manifest(), second, tmp_path / name, device=CPU, resume=True)
    assert equal(tmp_path / "part", tmp_path / "whole")
    seals = json.loads((tmp_path / "part" / "run.json").read_bytes())["seals"]
    assert set(seals) == {"train/clean", "train/hflip", "valid/clean"}
    assert PriorStore.open(store).sealed("train", "clean").seal != seals["train/clean"]


def test_without_that_state_a_run_is_not_resumed(world: Any, grown: tuple[Path, Manifest], tmp_path: Path) -> None:
    store, after = grown
    train(config(1), after, store, tmp_path / "run", device=CPU)
    with pytest.raises(OrsanetError, match=r"no state with the seals that .*train/clean"):
        train(config(2), after, world.store, tmp_path / "run", device=CPU, resume=True)
    earlier = json.loads((tmp_path / "run" / "run.json").read_bytes())
    del earlier["seals"]  # as a version wrote it that knew no states
    (tmp_path / "run" / "run.json").write_text(json.dumps(earlier))
    train(config(2), after, store, tmp_path / "run", device=CPU, resume=True)


def test_a_grown_store_trains_and_evaluates_as_one_that_is_built_from_nothing(
    world: Any, grown: tuple[Path, Manifest], tmp_path: Path
) -> None:
    store, after = grown
    build(after, tmp_path / "whole.zarr", world.priors, ["clean", "hflip"], device=CPU)
    for name, of_run in (("grown", store), ("whole", tmp_path / "whole.zarr")):
        train(config(1), after, of_run, tmp_path / name, device=CPU)
    assert equal(tmp_path / "grown", tmp_path / "whole")
    tables = [
        evaluate(tmp_path / "grown", after, of_run, tmp_path / f"on-{name}", device="cpu").table
        for name, of_run in (("grown", store), ("whole", tmp_path / "whole.zarr"))
    ]
    assert tables[0].equals(tables[1])
    fewer = Manifest(after.name, after.classes, after.root, after.samples[::-2])  # any subset, in any order
    assert len(evaluate(tmp_path / "grown", fewer, store, tmp_path / "fewer", groups=["test"], device="cpu").table) == 3


def test_a_grown_store_at_a_url_trains_in_windows_as_the_one_in_the_folder(
    world: Any, grown: tuple[Path, Manifest], tmp_path: Path, bucket: Proxy, url: str
) -> None:
    store, after = grown
    convert(store, url)
    windowed = load_config("small", (*SMALL, "epochs=1", "order=windowed", "window_units=1"))
    for name, opened in (("here", PriorStore.open(store)), ("there", PriorStore.open(url, tmp_path / "cache"))):
        train(windowed, after, opened, tmp_path / name, device=CPU)
    assert equal(tmp_path / "here", tmp_path / "there")


def test_a_run_at_a_url_is_resumed_in_its_state(
    world: Any, grown: tuple[Path, Manifest], tmp_path: Path, bucket: Proxy, url: str
) -> None:
    store, _ = grown
    convert(store, url)
    for name, second in (("whole", world.store), ("part", PriorStore.open(url, tmp_path / "cache"))):
        train(config(1), world.load_manifest(), world.store, tmp_path / name, device=CPU)
        train(config(2), world.load_manifest(), second, tmp_path / name, device=CPU, resume=True)
    assert equal(tmp_path / "part", tmp_path / "whole")
