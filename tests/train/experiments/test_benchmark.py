"""A benchmark trains every kind on the same rows, continues where it stopped, and its table follows from the evaluations."""

from pathlib import Path

import pandas as pd
import pytest
from command_lines import in_process

from orsanet_cache import OrsanetError
from orsanet_train.cli import main
from orsanet_train.config import load_config
from orsanet_train.evaluation.predictions import Evaluation
from orsanet_train.experiments.benchmark import benchmark, write_benchmark

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


@pytest.fixture(scope="module")
def out(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds with two seeds, the second one added by the command."""
    folder = tmp_path_factory.mktemp("benchmark") / "out"
    assert begun(world, folder, ["landmarks", "backbone"], [0]) == ["landmarks, seed 0", "backbone, seed 0"]
    settings = [argument for each in SETTINGS for argument in ("--set", each)]
    done = in_process(
        main, "benchmark", world.store, "--manifest", world.manifest, "--preset", "small", *settings, "--models", "landmarks,backbone",
        "--seeds", "0,1", "--splits", "test,test:occluded", "--out", folder, "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith((folder / "benchmark.md").read_text(encoding="utf-8"))
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
