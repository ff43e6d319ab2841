"""A benchmark trains every kind on the same rows, continues where it stopped, and its table follows from the evaluations."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from ablation_tables import table_cells
from command_lines import in_process

from orsanet_cache import OrsanetError
from orsanet_train.cli import main
from orsanet_train.config import load_config
from orsanet_train.evaluation.evaluate import is_evaluated
from orsanet_train.evaluation.predictions import Evaluation
from orsanet_train.evaluation.statistics import smallest_seen, t_interval
from orsanet_train.experiments import benchmark as module
from orsanet_train.experiments.benchmark import benchmark, write_benchmark
from orsanet_train.report import paper
from orsanet_train.report.paper import Published

SETTINGS = (
    "epochs=1",
    "batch_size=14",
    "model.backbone_channels=[8,8,16]",
    "model.backbone_units=[1,1,1]",
    "model.hidden=8",
)


def begun(world, out: Path, models: list[str], seeds: list[int], *more: str) -> list[str]:
    return list(
        benchmark(
            world.store, world.manifest, out, preset="small", overrides=[*SETTINGS, *more], models=models, seeds=seeds,
            groups=["test", "test:occluded"], device="cpu",
        )
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_measurement() -> Iterator[None]:
    """Of a forward's time, which takes seconds otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TIMED_SECONDS", 0.001)
        patch.setattr(module, "TIMED_IMAGES", 2)
        yield


def written(out: Path) -> dict[Path, int]:
    """When each of the files was written that training and evaluation end with."""
    names = ("metrics.csv", "last.safetensors", "evaluation-last/*")
    return {path: path.stat().st_mtime_ns for name in names for path in sorted(out.glob(f"*/*/{name}"))}


@pytest.fixture(scope="module")
def out(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds with two seeds, the second one added by the command."""
    folder = tmp_path_factory.mktemp("benchmark") / "out"
    assert begun(world, folder, ["landmarks", "backbone"], [0]) == ["landmarks, seed 0", "backbone, seed 0"]
    before = written(folder)
    settings = [argument for each in SETTINGS for argument in ("--set", each)]
    done = in_process(
        main, "benchmark", world.store, "--manifest", world.manifest, "--preset", "small", *settings, "--models", "landmarks,backbone",
        "--seeds", "0,1", "--splits", "test,test:occluded", "--out", folder, "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith((folder / "benchmark.md").read_text(encoding="utf-8"))
    assert len(before) == 10
    assert before.items() <= written(folder).items()  # what was finished is neither trained nor evaluated again
    return folder


def test_every_kind_and_seed_has_its_run_of_the_same_recipe(out: Path) -> None:
    configs = [
        load_config(out / kind / f"seed-{n}" / "config.toml") for kind in ("landmarks", "backbone") for n in (0, 1)
    ]
    assert [config.model.kind for config in configs] == ["landmarks"] * 2 + ["backbone"] * 2
    assert [config.seed for config in configs] == [0, 1, 0, 1]
    same = {str(config.model_copy(update={"seed": 0, "model": configs[0].model})) for config in configs}
    assert len(same) == 1
    assert configs[0].model.model_dump() == {"kind": "landmarks", "form": "mlp", "hidden": 8}


def test_the_tables_follow_from_the_evaluations(out: Path) -> None:
    rows = pd.read_csv(out / "benchmark.csv").set_index(["model", "seed", "group"])
    assert len(rows) == 8
    for (kind, seed, name), row in rows.iterrows():
        group = Evaluation.read(out / str(kind) / f"seed-{seed}" / "evaluation-last").group(str(name))
        assert group is not None
        assert row["accuracy"] == pytest.approx(group.accuracy.value)
        assert row["images"] == group.images
    text = (out / "benchmark.md").read_text(encoding="utf-8")
    header, _, first, second, *_ = text.splitlines()
    assert header.startswith(
        "| model | parameters | with frozen | GFLOP | with frozen | ms an image (cpu) | training hours | seeds |"
    )
    assert first.startswith(
        "| landmarks | 1,123 | 1,008,371 | 0.00 |"
    )  # 136 x 8 + 8 + 8 x 3 + 3, and MobileFaceNet's 1,007,248
    assert second.startswith("| backbone |")
    assert second.endswith("| 2 |")
    test = rows.xs("test", level="group")["accuracy"]
    difference = 100 * (test.loc["backbone"] - test.loc["landmarks"]).mean()
    (line,) = [line for line in text.splitlines() if line.startswith("| test |")]
    assert line.split(" | ")[1].startswith(f"{100 * test.loc['landmarks'].mean():.2f} ± ")
    assert line.split(" | ")[3].startswith(f"{difference:+.2f}")


def test_three_seeds_show_an_interval_and_what_could_have_been_seen(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third seed is a copy of the second: the table is written of finished folders alone."""
    shutil.copytree(out, tmp_path / "out")
    for kind in ("landmarks", "backbone"):
        shutil.copytree(tmp_path / "out" / kind / "seed-1", tmp_path / "out" / kind / "seed-2")
    numbers = (
        Published("IR50", "small", "test", 0.5, None, "a page"),
        Published("EAC", "small", "test", 0.6, None, "a table"),
    )
    monkeypatch.setattr(paper, "NUMBERS", numbers)
    monkeypatch.setitem(paper._CLASSES, "small", {"anger", "happiness", "neutral"})
    write_benchmark(tmp_path / "out", "landmarks", "cpu")
    for folder in (out, tmp_path / "out"):
        rows = pd.read_csv(folder / "benchmark.csv")
        accuracy = rows.pivot(index="seed", columns=["model", "group"], values="accuracy")
        text = (folder / "benchmark.md").read_text(encoding="utf-8")
        for row, group in enumerate(("test", "test:occluded"), 1):
            difference = 100 * (accuracy["backbone", group] - accuracy["landmarks", group])
            *_, cell = table_cells(text, 1)[row]
            assert cell.startswith(f"{difference.mean():+.2f} ± {difference.std():.2f}")
            if len(difference) < 3:
                assert "(" not in cell
                assert "| could have been seen |" not in text
            else:
                low, high = t_interval(difference)
                assert cell.endswith(f" ({low:+.2f} … {high:+.2f})")
                assert table_cells(text, 2)[row] == [group, f"{smallest_seen(difference):.2f}"]
    assert "## Published numbers, measured under other protocols\n" in text
    beside = table_cells(text, 1)[1][2]
    assert [cells[:5] for cells in table_cells(text, 3)[1:]] == [
        ["IR50", "small", "test", "50.00", beside], ["EAC", "small", "test", "60.00", ""],
    ]  # fmt: skip


def test_an_evaluation_of_other_labels_tags_groups_or_weights_is_made_again(world, out: Path) -> None:
    weights = out / "landmarks" / "seed-0" / "last.safetensors"
    evaluation, store, manifest = weights.with_name("evaluation-last"), world.open_store(), world.load_manifest()
    groups = ["test", "test:occluded"]
    assert is_evaluated(weights, manifest, store, evaluation, groups)
    other = out / "landmarks" / "seed-1" / "last.safetensors"
    assert not is_evaluated(other, manifest, store, evaluation, groups)
    assert not is_evaluated(weights, manifest, store, evaluation.with_name("absent"), groups)
    assert not is_evaluated(weights, manifest, store, evaluation, ["test"])
    *samples, last = manifest.samples
    for changed in (replace(last, label=(last.label + 1) % 3), replace(last, tags=frozenset({"dark"}))):
        relabelled = replace(manifest, samples=(*samples, changed))
        assert not is_evaluated(weights, relabelled, store, evaluation, groups)


def test_what_does_not_belong_together_is_refused_before_a_training(world, out: Path, tmp_path: Path) -> None:
    def refused(said: str, models: list[str], *more: str, folder: Path = tmp_path / "new") -> None:
        with pytest.raises(OrsanetError, match=said):
            begun(world, folder, models, [0], *more)
        assert not (tmp_path / "new").exists()

    refused(r"no kind of model 'postr'; choose from orsanet, .*did you mean 'poster'\?", ["postr"])
    refused(r"--models backbone,backbone: name each kind once", ["backbone", "backbone"])
    refused(r"--set model\.kind=poster: --models and --seeds set this", ["backbone"], "model.kind=poster")
    refused(r"has no landmark_features_28 and no landmark_features_14", ["backbone", "poster-v2"])
    refused(
        r"seed-0: trained with other settings; .*\n  batch_size: 14 before, 7 now",
        ["backbone"],
        "batch_size=7",
        folder=out,
    )
    with pytest.raises(OrsanetError, match="no run of a benchmark is finished there"):
        write_benchmark(tmp_path)
