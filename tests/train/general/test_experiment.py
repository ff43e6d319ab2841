"""An experiment goes on after any stop to the same results, its seeds are paired, and its table is what the runs say."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from command_lines import Ended, in_process
from forks import ForkServer
from scipy.stats import ttest_rel

from orsanet_cache.errors import OrsanetError
from orsanet_train.cli import main
from orsanet_train.general.arms import CROSS_ENTROPY, Arm
from orsanet_train.general.cifar import FOLDER, read_pictures
from orsanet_train.general.images import ImageTask
from orsanet_train.general.recipes import IMAGES, SPECTRAL, changed
from orsanet_train.general.table import collect, summary
from orsanet_train.run.state import load_state

SEED = "seed-0"
PATIENCE = 300.0  # seconds that no command needs
SIGNAL = "signal"  # a file in OUT with the signal that the next saved state is followed by
# A state after every step, so that a kill hits steps that must be done again.
SAVING = f"""
import os
import orsanet_train.cli
import timm.data
from orsanet_train.general import training

def save_and_stop(folder, state, save=training.save_state):
    save(folder, state)
    order = folder.parents[2] / "{SIGNAL}"
    if order.exists():
        number = int(order.read_text())
        order.unlink()
        training.SAVE_SECONDS = 60
        os.kill(os.getpid(), number)

training.SAVE_SECONDS = 0
training.save_state = save_and_stop
"""


def pixels(scene: Path, out: Path, *options: object) -> list[object]:
    return ["dare", "hyperspectral", "--cube", scene, "--device", "cpu", "--out", out, *options]


def pictures(demo: Path, out: Path, *options: object) -> list[object]:
    small = [part for key in ("image_size=32", "batch_size=20", "epochs=2") for part in ("--set", key)]
    return [
        "dare", "images", "--data", demo / FOLDER, "--network", "gfnet", *small, "--device", "cpu", "--out", out, *options,
    ]  # fmt: skip


def done(*arguments: object) -> Ended:
    ended = in_process(main, *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended


def results(run: Path) -> dict[str, bytes]:
    """All that a finished run leaves."""
    assert sorted(path.name for path in run.iterdir()) == [
        "last.safetensors", "metrics.csv", "result.json", "run.json", "versions.json",
    ]  # fmt: skip
    return {path.name: path.read_bytes() for path in run.iterdir()}


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    server = ForkServer(SAVING)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("command", "data", "options"),
    [(pixels, "tiny_file", ("--set", "epochs=8", "--set", "batch_size=10")), (pictures, "demo", ("--set", "epochs=1"))], ids=["pixels", "pictures"],
)  # fmt: skip
def test_killed_and_stopped_it_goes_on_to_the_same_results(
    command, data: str, options: tuple[str, ...], forks: ForkServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    files, one = request.getfixturevalue(data), ("--weights", 0.1, "--forms", "paper", "--seeds", 0, *options)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    done(*command(files, whole, *one))
    run = stopped / "paper-0.1" / SEED
    for number in (signal.SIGKILL, signal.SIGINT):
        stopped.mkdir(exist_ok=True)
        (stopped / SIGNAL).write_text(str(int(number)))
        process = forks.start("orsanet-train", *command(files, stopped, *one))
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), said
        assert not (run / "result.json").exists()
    assert "`dare` as they are" in said
    position = load_state(run / "checkpoints")
    assert position is not None
    assert (position.epoch, position.step) > (0, 1)
    done(*command(files, stopped, *one))
    assert results(run) == results(whole / "paper-0.1" / SEED)


def test_a_repeated_call_trains_what_is_missing_and_leaves_finished_runs_alone(tiny_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    brief = ("--set", "epochs=1", "--seeds", "3")
    first = done(*pixels(tiny_file, out, *brief, "--weights", "0"))
    assert "| CE | 1 |" in first.stdout
    before = (out / "ce" / "seed-3" / "last.safetensors").stat().st_mtime_ns
    second = done(*pixels(tiny_file, out, *brief, "--weights", "0,0.1"))
    assert (out / "ce" / "seed-3" / "last.safetensors").stat().st_mtime_ns == before
    assert [line.split(" | ")[0] for line in second.stdout.splitlines() if line.startswith("| CE")] == [
        "| CE", "| CE + 0.1 DARE, published", "| CE + 0.1 DARE, paper",
    ]  # fmt: skip
    assert {path.name for path in out.iterdir()} == {
        "ce",
        "published-0.1",
        "paper-0.1",
        "dare.csv",
        "dare.md",
        "curves.png",
    }
    table = (out / "dare.md").read_text(encoding="utf-8")
    assert table in second.stdout
    report = json.loads((out / "ce" / "seed-3" / "result.json").read_text())
    row = pd.read_csv(out / "dare.csv").iloc[0]
    assert row["overall"] == report["accuracy"]["value"]
    assert row["average"] == report["balanced_accuracy"]["value"]

    for changes, named in (
        (("--set", "epochs=2"), "recipe.epochs: 1 before, 2 now"),
        (("--set", "epochs=1", "--input", "patch"), "recipe.patch: 1 before, 7 now"),
    ):
        refused = in_process(main, *pixels(tiny_file, out, "--weights", "0", *changes))
        assert refused.returncode == 1
        assert "trained with other settings or data" in refused.stderr
        assert named in refused.stderr, refused.stderr
    (out / "dare.md").write_text("my notes")
    refused = in_process(main, *pixels(tiny_file, out, *brief))
    assert refused.returncode == 1
    assert "dare.md: is not a table of `orsanet-train dare`" in refused.stderr
    (out / "dare.md").unlink()
    (out / "full" / "seed-0").mkdir(parents=True)
    (out / "full" / "seed-0" / "run.json").write_text('{"classes": []}')
    refused = in_process(main, *pixels(tiny_file, out, *brief))
    assert refused.returncode == 1
    assert "seed-0: no run of `orsanet-train dare`; choose another --out" in refused.stderr


def test_the_losses_of_a_seed_share_weights_order_and_dropout_and_seeds_share_nothing(
    tiny_file: Path, tmp_path: Path
) -> None:
    """A weight too small to change a float32 is cross-entropy to the last bit."""
    out = tmp_path / "out"
    done(*pixels(tiny_file, out, "--set", "epochs=2", "--weights", "0,1e-30", "--forms", "published", "--seeds", "0,1"))
    runs = {path.parent.relative_to(out).as_posix(): path for path in sorted(out.glob("*/*/last.safetensors"))}
    weights = {name: safetensors.torch.load_file(path) for name, path in runs.items()}
    plain, same, other = (weights[name] for name in ("ce/seed-0", "published-1e-30/seed-0", "ce/seed-1"))
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    assert not torch.equal(plain["head.weight"], other["head.weight"])
    table = (out / "dare.md").read_text(encoding="utf-8")
    assert "+0.00 ± 0.00" in table


def test_it_learns(tiny_file: Path, tmp_path: Path) -> None:
    """Twenty epochs of the small scene at a high rate: better than the commonest class, whose share is 0.38."""
    out, brisk = tmp_path / "out", ("epochs=20", "batch_size=10", "learning_rate=0.003", "dropout=0")
    settings = [part for key in brisk for part in ("--set", key)]
    done(*pixels(tiny_file, out, *settings, "--weights", "0", "--seeds", 0))
    report = json.loads((out / "ce" / SEED / "result.json").read_text())
    history = pd.read_csv(out / "ce" / SEED / "metrics.csv")
    assert max(one["images"] for one in report["classes"].values()) / report["images"] < 0.39
    assert report["accuracy"]["value"] > 0.45
    assert history["epoch"].tolist() == [5, 10, 15, 20]
    assert history["loss"].iloc[3] < 0.9 * history["loss"].iloc[0]


def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing(demo: Path, tmp_path: Path) -> None:
    out, exploding = (
        tmp_path / "out",
        ("warmup_epochs=0", "learning_rate=100", "weight_decay=1000", "augmentation=none"),
    )
    settings = [part for key in exploding for part in ("--set", key)]
    ended = in_process(main, *pictures(demo, out, "--weights", 0, "--seeds", 0, *settings))
    assert ended.returncode == 1
    assert "the loss was not finite in epoch" in ended.stderr
    assert not (out / "ce" / SEED / "checkpoints").exists()


# --- recipes ---


def test_the_schedules_begin_fall_and_end_as_published() -> None:
    spectral = SPECTRAL["indian-pines", "patch"]
    assert [spectral.rate(epoch) for epoch in (0, 28, 29, 299)] == pytest.approx([5e-4, 5e-4, 4.5e-4, 5e-4 * 0.9**10])
    images = IMAGES["gfnet"]
    highest = 5e-4 * 64 / 512
    assert images.rate(0) == 1e-6
    assert images.rate(5) == pytest.approx(1e-5 + 0.5 * (1 + np.cos(np.pi * 5 / 300)) * (highest - 1e-5))
    assert max(map(images.rate, range(300))) <= highest
    assert images.rate(299) == pytest.approx(1e-5, rel=1e-2)


def test_settings_are_checked_all_at_once() -> None:
    with pytest.raises(OrsanetError) as caught:
        changed(IMAGES["gfnet"], ["epoch=3", "batch_size=1", "augmentation=flip"])
    for named in ("epoch: unknown key; did you mean 'epochs'?", "batch_size", "augmentation"):
        assert named in str(caught.value)


def test_repeated_augmentation_has_fewer_pictures_more_often(demo: Path) -> None:
    task = ImageTask(
        read_pictures(demo),
        "gfnet",
        changed(IMAGES["gfnet"], ["repeats=3", "batch_size=30", "image_size=32"]),
        torch.device("cpu"),
    )
    order = np.concatenate(task.epoch(0, 0))
    assert len(order) == 90  # of 100, whole batches
    assert np.bincount(order).max() == 3
    assert (np.diff(order.reshape(-1, 3), axis=1) == 0).all()


def test_decay_spares_vectors_and_positions(demo: Path) -> None:
    task = ImageTask(read_pictures(demo), "gfnet", changed(IMAGES["gfnet"], ["image_size=32"]), torch.device("cpu"))
    network = task.network()
    decayed, plain = (group["params"] for group in task.optimizer(network).param_groups)
    assert all(parameter.ndim >= 2 for parameter in decayed)
    assert any(parameter is network.position for parameter in plain)
    assert len(decayed) + len(plain) == len(list(network.parameters()))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # of torch's workers, on newer Pythons
def test_workers_and_a_later_start_give_the_same_batches(demo: Path) -> None:
    found, recipe = [], changed(IMAGES["gfnet"], ["image_size=32", "batch_size=50"])
    for workers, first in ((0, 0), (2, 0), (0, 1)):
        task = ImageTask(read_pictures(demo), "gfnet", recipe, torch.device("cpu"), workers)
        found.append([*task.batches(1, 2, task.epoch(1, 2), first)])
    assert [len(batches) for batches in found] == [2, 2, 1]
    for (images, labels), *others in zip(found[0][1:], found[1][1:], found[2], strict=True):
        for other_images, other_labels in others:
            assert torch.equal(images, other_images)
            assert torch.equal(labels.second, other_labels.second)
            assert labels.share == other_labels.share


# --- the table ---


def made_up(accuracy: dict[Arm, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"loss": str(arm), "weight": arm.weight, "form": arm.form, "seed": seed, "epoch": 4, "overall": value / 100}
            for arm, values in accuracy.items() for seed, value in enumerate(values)
        ]
    )  # fmt: skip


def test_the_table_has_the_paired_differences_and_their_t_intervals() -> None:
    rng = np.random.default_rng(0)
    plain, other = rng.uniform(70, 80, (2, 5))
    text = summary(
        made_up({CROSS_ENTROPY: plain.tolist(), Arm(0.1, "paper"): other.tolist()}), ["overall"], ["x"], "last"
    )
    low, high = ttest_rel(other, plain).confidence_interval(0.95)
    difference = other - plain
    assert f"| CE | 5 | {plain.mean():.2f} ± {plain.std(ddof=1):.2f} |  |" in text
    assert f"| {difference.mean():+.2f} ± {difference.std(ddof=1):.2f} ({low:+.2f} … {high:+.2f}) |" in text
    assert "one in twenty excludes 0 by chance" in text


def test_two_seeds_have_no_interval_and_only_shared_seeds_are_compared() -> None:
    text = summary(made_up({CROSS_ENTROPY: [70, 72], Arm(0.1, "paper"): [71, 72, 90]}), ["overall"], ["x"], "best")
    assert "| +0.50 ± 0.71 |" in text
    assert "…" not in text.splitlines()[3]
    assert "optimistic" in text


def test_best_is_the_row_with_the_highest_first_measure(tmp_path: Path) -> None:
    run = tmp_path / "ce" / SEED
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"weight": 0.0, "form": "published", "measures": ["top1", "top5"]}))
    (run / "result.json").write_text("{}")
    pd.DataFrame({"epoch": [1, 2, 3], "loss": [3, 2, 1], "top1": [0.4, 0.6, 0.5], "top5": [0.7, 0.8, 0.9]}).to_csv(
        run / "metrics.csv"
    )
    assert collect(tmp_path, "last")[0][["epoch", "top1", "top5"]].to_numpy().tolist() == [[3, 0.5, 0.9]]
    assert collect(tmp_path, "best")[0][["epoch", "top1", "top5"]].to_numpy().tolist() == [[2, 0.6, 0.8]]


@pytest.mark.cuda
def test_on_a_gpu_both_train(demo: Path, tiny_file: Path, tmp_path: Path) -> None:
    brief = ("--weights", "0,0.1", "--seeds", 0)
    for name, command in (
        ("pixels", pixels(tiny_file, tmp_path / "pixels", "--set", "epochs=2", *brief)),
        ("pictures", pictures(demo, tmp_path / "pictures", "--set", "augmentation=crop-flip", *brief)),
    ):
        done(*["cuda" if value == "cpu" else value for value in command])
        assert (tmp_path / name / "published-0.1" / SEED / "result.json").exists()
