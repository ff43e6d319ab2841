"""Training learns, is reproducible, resumes exactly, and refuses what does not fit before the first step."""

import importlib.metadata
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image

from orsanet_cache import OrsanetError, PriorStore, load_manifest
from orsanet_cache.frozen.loading import read_weights
from orsanet_cache.frozen.shipped import DEMO, weights_path
from orsanet_cache.outputs import entries, held
from orsanet_train.config import RunConfig, load_config
from orsanet_train.model.checkpoint import load_weights
from orsanet_train.model.frozen import demo_backbone_digest
from orsanet_train.model.model import build_model
from orsanet_train.model.orsanet import ORSANet
from orsanet_train.run.state import load_state, save_state
from orsanet_train.run.train import RunSummary, train

CPU = torch.device("cpu")
CLOCK = ["images_per_second", "waiting_share"]  # columns of metrics.csv that no two runs share
SMALL = (
    "batch_size=6", "learning_rate=1e-3", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]",
    "model.backbone_units=[1,1,1]", "loss.warmup_epochs=1",
    "learning_rate_decay=0.98",
)  # fmt: skip


def config(*overrides: str) -> RunConfig:
    return load_config("small", (*SMALL, *overrides))


def run(world, out: Path, *overrides: str, device: torch.device = CPU, **options):
    return train(config(*overrides), world.load_manifest(), world.open_store(), out, device=device, **options)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_epoch(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, streamed. Treat it as read-only; `begun` is a copy to go on with."""
    out = tmp_path_factory.mktemp("one") / "run"
    run(world, out, "epochs=1")
    return out


@pytest.fixture
def begun(one_epoch: Path, tmp_path: Path) -> Path:
    return shutil.copytree(one_epoch, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSummary]:
    """A run of two epochs, streamed, and what it said. Treat it as read-only."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, run(world, out, "epochs=2")


@pytest.fixture
def two_epochs(whole: tuple[Path, RunSummary]) -> Path:
    return whole[0]


def test_a_run_folder_holds_what_a_reader_looks_for(world, whole: tuple[Path, RunSummary]) -> None:
    out, summary = whole
    assert {path.name for path in out.iterdir()} == {
        "config.toml", "metrics.csv", "curves.png", "best.safetensors", "last.safetensors", "checkpoints", "run.json", "versions.json", "tensorboard",
        "train_batch0.png", "train_batch1.png", "train_batch2.png",
    }  # fmt: skip
    metrics = pd.read_csv(out / "metrics.csv")
    assert metrics["epoch"].tolist() == [1, 2]
    np.testing.assert_allclose(metrics["learning_rate"], [1e-3, 0.98e-3])
    assert metrics["selection_accuracy"].max() == summary.best_accuracy
    assert summary.beside == f"{summary.commonest}: {summary.commonest_accuracy:.2%}"
    manifest = world.load_manifest()
    for split, recorded in (
        ("train", json.loads((out / "run.json").read_text())["training_class_counts"]),
        ("valid", None),
    ):
        labels = [manifest.classes[sample.label] for sample in manifest.split(split)]
        counts = {name: labels.count(name) for name in manifest.classes}
        if recorded is None:
            assert (summary.images, summary.commonest_accuracy) == (len(labels), max(counts.values()) / len(labels))
        else:
            assert recorded == counts
    assert load_config(str(out / "config.toml")) == config("epochs=2")
    _, identity = load_weights(out / "last.safetensors")
    assert identity.classes == world.load_manifest().classes
    assert (identity.epoch, identity.selection, identity.selection_split) == (2, "last", "valid")
    with Image.open(out / "curves.png") as picture:
        assert picture.width > 400


def test_metrics_have_the_accuracy_of_both_passes(two_epochs: Path) -> None:
    metrics = pd.read_csv(two_epochs / "metrics.csv")
    for name in ("train_accuracy", "perturbed_accuracy"):
        correct = 14 * metrics[name]
        np.testing.assert_allclose(correct, correct.round())
        assert metrics[name].between(0, 1).all()


def test_a_state_from_before_the_second_pass_was_counted_is_resumed(
    world, whole: tuple[Path, RunSummary], tmp_path: Path
) -> None:
    """In the middle of the second epoch, whose row then has no such accuracy; the weights are the same."""
    out = tmp_path / "run"
    run(world, out, "epochs=2", save_minutes=0)
    states = sorted((out / "checkpoints").iterdir())
    shutil.rmtree(states[-1])
    middle = load_state(out / "checkpoints")
    assert middle is not None
    assert (middle.epoch, len(middle.history)) == (1, 1)
    older = {name: value for name, value in middle.history[0].items() if name != "perturbed_accuracy"}
    save_state(
        out / "checkpoints", replace(middle, history=[older], metrics=[*middle.metrics[:6], *middle.metrics[-2:]])
    )
    run(world, out, "epochs=2", resume=True)
    assert equal(weights(out / "last.safetensors"), weights(whole[0] / "last.safetensors"))
    metrics, uninterrupted = pd.read_csv(out / "metrics.csv"), pd.read_csv(whole[0] / "metrics.csv")
    pd.testing.assert_series_equal(metrics["train_accuracy"], uninterrupted["train_accuracy"])
    assert "perturbed_accuracy" not in metrics


def test_a_small_model_learns_its_training_images(world, tmp_path: Path) -> None:
    run(world, tmp_path / "run", "epochs=25", "augmentation.erasing=0.0", "learning_rate=3e-3", "loss.dare=none")
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert metrics["train_accuracy"].iloc[-5:].mean() > 0.9  # chance is a third


def test_two_runs_with_one_seed_are_the_same(world, two_epochs: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "b", "epochs=2")
    run(world, tmp_path / "c", "epochs=2", "seed=1")
    a, b, c = (weights(out / "last.safetensors") for out in (two_epochs, tmp_path / "b", tmp_path / "c"))
    assert equal(a, b)
    assert not equal(a, c)


def test_where_the_data_is_kept_changes_no_loss_and_no_weight(
    world, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modes = ("stream", "host", "device")
    for mode in modes:
        run(world, tmp_path / mode, "epochs=2", resident=mode)
        said = capsys.readouterr().err
        for split in ("train", "valid"):
            assert len([line for line in said.splitlines() if f"'{split}': " in line and "as requested" in line]) == 1
    tables = [pd.read_csv(tmp_path / mode / "metrics.csv").drop(columns=CLOCK) for mode in modes]
    kept = [weights(tmp_path / mode / "last.safetensors") for mode in modes]
    for table, tensors in zip(tables[1:], kept[1:], strict=True):
        pd.testing.assert_frame_equal(table, tables[0], check_exact=True)
        assert equal(tensors, kept[0])


def test_a_run_resumes_wherever_its_data_is_kept(world, two_epochs: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "part", "epochs=1", resident="host")
    run(world, tmp_path / "part", "epochs=2", resume=True, resident="stream")
    assert equal(*(weights(out / "last.safetensors") for out in (two_epochs, tmp_path / "part")))


@pytest.mark.cuda
def test_on_a_gpu_a_resumed_exact_run_ends_exactly_like_the_whole_one(world, tmp_path: Path) -> None:
    """Graphs, resident data, and a state that is loaded before the first step is recorded."""
    on_gpu = {"device": torch.device("cuda")}
    run(world, tmp_path / "whole", "epochs=2", "precision=exact", **on_gpu)
    for epochs in (1, 2):
        run(world, tmp_path / "part", f"epochs={epochs}", "precision=exact", resume=epochs == 2, **on_gpu)
    whole, part = (load_state(tmp_path / name / "checkpoints") for name in ("whole", "part"))
    assert equal(whole.tensors, part.tensors)
    assert equal(*(weights(tmp_path / name / "last.safetensors") for name in ("whole", "part")))


def test_a_resumed_run_ends_exactly_like_the_whole_one(world, two_epochs: Path, begun: Path) -> None:
    run(world, begun, "epochs=2", resume=True)  # the one key that may change
    assert load_config(str(begun / "config.toml")) == config("epochs=2")
    assert equal(weights(begun / "last.safetensors"), weights(two_epochs / "last.safetensors"))
    assert equal(weights(begun / "best.safetensors"), weights(two_epochs / "best.safetensors"))
    a, b = (pd.read_csv(folder / "metrics.csv").drop(columns=CLOCK) for folder in (begun, two_epochs))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_resuming_needs_a_run_and_the_same_configuration(world, begun: Path, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="no run to resume"):
        run(world, tmp_path / "none", "epochs=1", resume=True)
    with pytest.raises(OrsanetError, match=r"batch_size: 6 before, 7 now"):
        run(world, begun, "epochs=1", "batch_size=7", resume=True)
    with pytest.raises(OrsanetError, match="already exists; continue with --resume"):
        run(world, begun, "epochs=1")


def test_resuming_before_the_first_finished_epoch_is_starting(world, one_epoch: Path, tmp_path: Path) -> None:
    early = tmp_path / "early"  # killed in the first epoch: the configuration is there, and nothing to go on from
    early.mkdir()
    for name in ("config.toml", "run.json"):
        shutil.copy(one_epoch / name, early)
    run(world, early, "epochs=1", resume=True)
    assert equal(weights(early / "last.safetensors"), weights(one_epoch / "last.safetensors"))


def test_a_run_records_the_versions_that_trained_it_and_notes_a_change(
    world, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = begun / "versions.json"
    (first,) = json.loads(path.read_text())
    assert first["from_epoch"] == 1
    assert first["versions"]["torch"] == importlib.metadata.version("torch")
    run(world, begun, "epochs=2", resume=True)
    assert json.loads(path.read_text()) == [first]
    assert "other versions" not in capsys.readouterr().err
    earlier = {**first, "versions": {**first["versions"], "torch": "2.9.0"}}
    path.write_text(json.dumps([earlier]))
    run(world, begun, "epochs=3", resume=True)
    assert json.loads(path.read_text()) == [earlier, {**first, "from_epoch": 3}]
    assert f"(torch 2.9.0 before, {first['versions']['torch']} now)" in capsys.readouterr().err
    path.unlink()  # a run of an earlier release
    run(world, begun, "epochs=4", resume=True)
    assert json.loads(path.read_text()) == [{**first, "from_epoch": 4}]


def test_resuming_on_other_labels_is_refused(world, begun: Path, tmp_path: Path) -> None:
    table = world.manifest.with_name("samples.csv").read_text()
    (tmp_path / "samples.csv").write_text(table.replace("train_0.png,anger", "train_0.png,neutral"))
    shutil.copy(world.manifest, tmp_path / "dataset.toml")
    manifest = load_manifest(tmp_path / "dataset.toml", check_files=False)
    with pytest.raises(
        OrsanetError, match=r"(?s)resumed with other data, weights or options.*\n  training_images_sha256"
    ):
        train(config("epochs=1"), manifest, world.open_store(), begun, device=CPU, resume=True)


def test_what_does_not_fit_is_refused_and_leaves_no_folder(world, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match=r"--set selection_split=NAME \(it has valid, test\)"):
        run(world, tmp_path / "run", "selection_split=other")
    with pytest.raises(OrsanetError, match="no split 'trian'"):
        run(world, tmp_path / "run", "train_split=trian")
    assert not (tmp_path / "run").exists()


def test_a_class_without_training_images_is_refused(world, tmp_path: Path) -> None:
    lines = world.manifest.with_name("samples.csv").read_text().splitlines()
    kept = [line for line in lines if ",neutral,train" not in line]
    (tmp_path / "samples.csv").write_text("\n".join(kept) + "\n")
    shutil.copy(world.manifest, tmp_path / "dataset.toml")
    manifest = load_manifest(tmp_path / "dataset.toml", check_files=False)
    with pytest.raises(OrsanetError, match="no usable image of class neutral"):
        train(config("epochs=1"), manifest, world.open_store(), tmp_path / "run", device=CPU)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_epoch_before(world, begun: Path) -> None:
    before = (begun / "last.safetensors").read_bytes()
    state = load_state(begun / "checkpoints")
    state.tensors["model/head.linear.bias"].fill_(float("nan"))
    save_state(begun / "checkpoints", state)
    with pytest.raises(OrsanetError, match="not finite in epoch 2"):
        run(world, begun, "epochs=2", resume=True)
    assert (begun / "last.safetensors").read_bytes() == before


def test_ir50_weights_are_where_training_starts(world, tmp_path: Path) -> None:
    torch.manual_seed(5)
    backbone = build_model(config().model, 3, 128, 512).ir_back.state_dict()
    unused = {
        name: torch.zeros(value.shape)
        for name, value in ORSANet.published_unread().items()
        if name.startswith("ir_back.")
    }
    tensors = {**backbone, **{name.removeprefix("ir_back."): value for name, value in unused.items()}}
    torch.save(tensors, tmp_path / "ir50.pth")
    run(world, tmp_path / "run", "epochs=1", "learning_rate=1e-12", ir50=read_weights(tmp_path / "ir50.pth"))
    trained = weights(tmp_path / "run" / "last.safetensors")
    kernel = "body.0.res_layer.1.weight"
    torch.testing.assert_close(trained[f"ir_back.{kernel}"], backbone[kernel], rtol=0, atol=1e-10)


def test_the_word_demo_starts_from_the_shipped_backbone(world, tmp_path: Path) -> None:
    sizes = "model.backbone_channels=[8,16,32]", "model.backbone_units=[1,1,2]"
    settings = config("epochs=1", "learning_rate=1e-12", "batch_size=6", *sizes)
    train(settings, world.load_manifest(), world.open_store(), tmp_path / "run", device="cpu", ir50="demo", images=6)
    model, identity = load_weights(tmp_path / "run" / "last.safetensors")
    assert identity.ir50_sha256 == demo_backbone_digest()
    shipped = read_weights(weights_path(DEMO, "backbone")).tensors
    kernel = "body.0.res_layer.1.weight"
    torch.testing.assert_close(model.ir_back.state_dict()[kernel], shipped[kernel].float(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "choice",
    ["model.tokens=spatial", "model.segmentation_prior=map", "model.segmentation_prior=none", "model.multi_scale=false",
     "model.cross_interaction=false", "model.landmark_reintegration=false", "model.mcm=false", "model.landmark_prior=none", "model.spade=paper", "model.query=projected",
     "loss.dare=none", "loss.dare=paper",
     "rho=0.0", "sampling=shuffled", "augmentation.hflip=0.0"],
)  # fmt: skip
def test_every_named_choice_trains(world, tmp_path: Path, choice: str) -> None:
    """In one step."""
    summary = run(world, tmp_path / "run", "epochs=1", "loss.warmup_epochs=0", choice, images=6)
    assert summary.epochs == 1


def test_outputs_that_are_not_finite_never_become_a_result(world, tmp_path: Path) -> None:
    """The step's loss is finite, the weights after it are not: the epoch must not be saved as if it were one."""
    with pytest.raises(OrsanetError, match="outputs on 'valid' are not finite"):
        run(world, tmp_path / "run", "epochs=1", "learning_rate=100", "batch_size=100")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_resuming_needs_the_same_backbone_weights_and_selection_images(world, begun: Path, tmp_path: Path) -> None:
    torch.save({**build_model(config().model, 3, 128, 512).ir_back.state_dict()}, tmp_path / "ir50.pth")
    with pytest.raises(OrsanetError, match="ir50_sha256: null before"):
        run(world, begun, "epochs=1", resume=True, ir50=read_weights(tmp_path / "ir50.pth"))
    table = world.manifest.with_name("samples.csv").read_text()
    (tmp_path / "samples.csv").write_text(table.replace("valid_0.png,anger", "valid_0.png,neutral"))
    shutil.copy(world.manifest, tmp_path / "dataset.toml")
    manifest = load_manifest(tmp_path / "dataset.toml", check_files=False)
    with pytest.raises(OrsanetError, match="selection_images_sha256"):
        train(config("epochs=1"), manifest, world.open_store(), begun, device=CPU, resume=True)


def test_the_training_split_cannot_choose_the_best_epoch(world, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="choose images not trained on"):
        run(world, tmp_path / "run", "selection_split=train")


def test_a_run_that_another_command_trains_is_refused_and_untouched(world, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with held(out):
        for resume in (False, True):
            with pytest.raises(OrsanetError, match=f"^{out}: another command is writing this folder"):
                run(world, out, "epochs=1", resume=resume)
        assert entries(out) == []
    assert not out.exists()


class Disturbed(PriorStore):
    """Another program overwrites a shard of the training split once `begun` exists."""

    begun: Path
    done = False

    def read(self, split, *arguments, **options):
        found = super().read(split, *arguments, **options)
        if split == "train" and not self.done and self.begun.exists():
            self.done = True
            time.sleep(0.05)  # longer than a tick of the file system's clock
            clean = self.path / "train/clean/landmark_features"
            shutil.copy(self.path / "train/hflip/landmark_features/c.0.0.0.0", clean)
        return found


def test_what_other_data_has_trained_does_not_become_a_state(world, tmp_path: Path) -> None:
    """After the first epoch a shard is overwritten in place: the run ends with its rows, and resumes to the same weights."""
    every_row = config(
        "epochs=2", "sampling=shuffled", "augmentation.hflip=0.0"
    )  # of the first epoch: none is read first later
    train(every_row, world.load_manifest(), world.open_store(), tmp_path / "undisturbed", device=CPU)
    path, out = Path(shutil.copytree(world.store, tmp_path / "store.zarr")), tmp_path / "run"
    store = Disturbed.open(path)
    store.begun = out / "metrics.csv"
    with pytest.raises(
        OrsanetError, match=r"train/clean/landmark_features is damaged \(rows 0 to 13: .* has changed since"
    ):
        train(every_row, world.load_manifest(), store, out, device=CPU, save_minutes=0)
    assert max(entry.name for entry in (out / "checkpoints").iterdir()) == "00000001-000000"
    shutil.rmtree(path)
    shutil.copytree(world.store, path)
    train(every_row, world.load_manifest(), path, out, device=CPU, resume=True)
    assert equal(weights(out / "last.safetensors"), weights(tmp_path / "undisturbed" / "last.safetensors"))


@pytest.mark.parametrize(
    ("best", "commonest", "warned"), [(0.5, 0.5, True), (0.55, 0.5, True), (0.7, 0.5, False), (1.0, 1.0, False)]
)
def test_a_run_that_is_not_shown_to_beat_the_commonest_class_is_warned_of(
    best: float, commonest: float, warned: bool
) -> None:
    summary = RunSummary(3, 2, best, 0.1, 100, "always 'fear', the commonest class of these images", commonest)
    assert (summary.warning is not None) is warned
    if summary.warning is not None:
        assert summary.warning.startswith(
            "the model is not shown to be better than the baseline 'commonest class': 95 % interval of "
        )
        assert summary.warning.endswith(f"; always 'fear', the commonest class of these images: {commonest:.2%}")
