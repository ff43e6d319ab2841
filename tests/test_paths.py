"""Every public function takes a path as text or as a path, lists where lists are meant, and names what it expected otherwise."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orsanet_cache import FrozenPriors, OrsanetError, PriorStore, load_manifest, prior_quality, read_image
from orsanet_cache.builder.build import build
from orsanet_cache.data.manifest import with_tags
from orsanet_cache.device import as_device
from orsanet_cache.doctor.examine import examine
from orsanet_cache.frozen.loading import read_weights
from orsanet_cache.paths import as_names, as_path, as_paths
from orsanet_cache.store.verify import verify
from orsanet_cache.writing.convert import convert
from orsanet_train.config import load_config
from orsanet_train.evaluation.compare import compare
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.evaluation.metrics import group_report
from orsanet_train.evaluation.predictions import read_evaluation
from orsanet_train.export.export import export_onnx
from orsanet_train.model.checkpoint import load_weights
from orsanet_train.report.report import make_report
from orsanet_train.run.imported import import_checkpoint
from orsanet_train.run.train import train

FEW = (
    "epochs=1",
    "model.depth=1",
    "model.width=32",
    "model.backbone_channels=[8,8,16]",
    "model.backbone_units=[1,1,1]",
)


class Elsewhere(os.PathLike[str]):
    """A path of another kind than pathlib's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("kind", [str, Elsewhere])
def test_stage_one_takes_paths_as_text(world, tmp_path: Path, kind: Callable[[Path], Any]) -> None:
    manifest = load_manifest(kind(world.manifest))
    assert manifest == world.load_manifest()
    (tmp_path / "tags.csv").write_text(f"image,tags\n{manifest.samples[0].image},mask\n")
    assert "mask" in with_tags(manifest, kind(tmp_path / "tags.csv")).samples[0].tags
    assert PriorStore.open(kind(world.store)).splits == ("test", "train", "valid")
    image = manifest.root / manifest.samples[0].image
    assert np.array_equal(read_image(kind(image)).rgb, read_image(image).rgb)
    assert read_weights(kind(world.landmarks)).tensors
    frozen = FrozenPriors.load(kind(world.segmenter), kind(world.landmarks))
    summary = build(kind(world.manifest), kind(tmp_path / "s.zarr"), frozen, ["clean"], splits=["test"], device="cpu")
    assert (summary.images, summary.computed) == (6, 6)
    assert verify(kind(tmp_path / "s.zarr")) == (1, [])
    assert convert(kind(tmp_path / "s.zarr"), kind(tmp_path / "s.h5")).path == tmp_path / "s.h5"
    assert examine(kind(world.manifest))[0].name == "small"
    assert len(prior_quality(kind(world.store), "test", "clean", [0, 2])) == 2


def test_the_word_demo_is_the_networks_that_come_with_the_package() -> None:
    assert FrozenPriors.load("demo", "demo").segmenter.feature_channels > 0


def test_stage_two_takes_paths_as_text(world, tmp_path: Path) -> None:
    store, manifest, run = str(world.store), str(world.manifest), str(tmp_path / "run")
    summary = train(load_config("small", FEW), manifest, store, run, device="cpu")
    assert summary.epochs == 1
    assert load_config(str(tmp_path / "run" / "config.toml")) == load_config(tmp_path / "run" / "config.toml")
    assert load_weights(f"{run}/best.safetensors")[1].data_set == "small"
    written = evaluate(run, manifest, store, groups=["test"], device="cpu")  # of its best weights, beside them
    read = read_evaluation(run)
    assert read.groups == written.groups
    evaluate(f"{run}/last.safetensors", manifest, store, device=torch.device("cpu"))
    assert sorted(path.name for path in (tmp_path / "run").glob("evaluation-*")) == [
        "evaluation-best",
        "evaluation-last",
    ]
    (tmp_path / "copy").symlink_to(run)
    (difference,) = [one for one in compare([run, tmp_path / "copy"]).differences if one.group == "test"]
    assert difference.pairs[0].images == 6
    assert make_report([run])[0].runs[0].manifest == "small"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: load_manifest(3), r"manifest: expected a path \(str or os.PathLike\), not int 3"),  # type: ignore[arg-type]
        (lambda: load_manifest("m.csv", classes="anger"), "classes: expected a list of names, not str 'anger'"),
        (lambda: PriorStore.open(None), "store: expected a path .*, not NoneType None"),  # type: ignore[arg-type]
        (lambda: PriorStore.open(b"store.zarr"), "store: expected a path .*, not bytes"),  # type: ignore[arg-type]
        (lambda: read_image(np.zeros((9, 9, 3))), "image: expected a path .*, not ndarray$"),  # type: ignore[arg-type]
        (lambda: verify(["store.zarr"]), r"store: expected a path .*, not list \['store.zarr'\]"),  # type: ignore[arg-type]
        (lambda: convert("a", 1.5), "target: expected a path"),  # type: ignore[arg-type]
        (lambda: examine({}), "manifest: expected a path"),  # type: ignore[arg-type]
        (lambda: compare("run"), "runs: expected a list of paths, not str 'run'"),
        (lambda: compare(Path("run")), "runs: expected a list of paths, not PosixPath"),  # type: ignore[arg-type]
        (lambda: make_report("run"), "runs: expected a list of paths, not str 'run'"),
        (lambda: read_evaluation(["run"]), "run: expected a path"),  # type: ignore[arg-type]
        (lambda: load_weights(0), "weights: expected a path"),  # type: ignore[arg-type]
        (lambda: load_config(1), "preset: expected a path"),  # type: ignore[arg-type]
        (lambda: load_config("small", "epochs=3"), "overrides: expected a list of names, not str 'epochs=3'"),
        (lambda: train(load_config("small"), 1, "s", "o"), "manifest: expected a path"),  # type: ignore[arg-type]
        (lambda: evaluate("w", 1, "s"), "manifest: expected a path"),  # type: ignore[arg-type]
        (lambda: export_onnx(1, "best", "out"), "run_folder: expected a path"),  # type: ignore[arg-type]
        (lambda: import_checkpoint("a", 1, load_config("small"), "ab", "x"), "out: expected a path"),  # type: ignore[arg-type]
        (lambda: as_device(0), "device: expected 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device, not 0"),  # type: ignore[arg-type]
        (lambda: as_paths(3, "runs"), "runs: expected a list of paths, not int 3"),
        (lambda: as_names(["a", 1], "views"), r"views: expected a list of names \(str\), but it contains int 1"),
    ],
)
def test_a_wrong_type_is_refused_with_what_was_expected(call: Callable[[], object], expected: str) -> None:
    with pytest.raises(TypeError, match=expected):
        call()


def test_a_path_stays_what_it_is() -> None:
    assert as_path(Path("a/b"), "x") == as_path("a/b", "x") == as_path(Elsewhere(Path("a/b")), "x") == Path("a/b")


def test_rows_may_be_any_list_of_row_numbers(world) -> None:
    store = world.open_store()
    wanted = store.read("test", "clean", "landmarks", np.array([4, 1]))
    for rows in ([4, 1], (4, 1), range(4, -1, -3)):
        assert np.array_equal(store.read("test", "clean", "landmarks", rows), wanted)
    assert store.read("test", "clean", "landmarks", []).shape == (0, 68, 2)
    for wrong in ([0.5], [[0]], 3, "4"):
        with pytest.raises(TypeError, match="rows: expected a list of row numbers, not"):
            store.read("test", "clean", "landmarks", wrong)


def test_predictions_of_ones_own_may_be_lists_and_must_fit() -> None:
    classes = ("a", "b")
    report = group_report("own", [0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], classes)
    assert report == group_report("own", np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), classes)
    for labels, probabilities, what in (
        ([0, 1], [[0.5, 0.5]], r"labels have shape \[2\] and probabilities \[1, 2\]; expected \[N\] and \[N, 2\]"),
        ([0], [[0.2, 0.3, 0.5]], r"probabilities \[1, 3\]"),
        ([2], [[0.5, 0.5]], "whole numbers from 0 to 1"),
        ([0.0], [[0.5, 0.5]], "whole numbers from 0 to 1"),
    ):
        with pytest.raises(OrsanetError, match=what):
            group_report("own", labels, probabilities, classes)
    with pytest.raises(TypeError, match="classes: expected a list of names, not str 'ab'"):
        group_report("own", [0], [[0.5, 0.5]], "ab")
