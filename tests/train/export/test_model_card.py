"""The card says what the run's files say, and its example runs as it is printed; test_export.py has the whole pipeline's."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from card_examples import examples, printed

from orsanet_cache import PriorStore
from orsanet_cache.builder.build import build
from orsanet_cache.data.views import AUGMENTED, ERASED, PLACED, UNSEEDED
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.evaluation.metrics import GroupReport
from orsanet_train.export.export import Exported, export_onnx, largest_difference
from orsanet_train.export.model_card import VIEWS, WrittenGraph, evaluation_of, licences, model_card, size_said
from orsanet_train.model.checkpoint import Identity, save_weights
from orsanet_train.model_config import ORSANetConfig
from orsanet_train.report.text import between, percent

CPU = torch.device("cpu")
TINY = ORSANetConfig(depth=1, width=32, multi_scale=False, backbone_channels=(8, 8, 16), backbone_units=(1, 1, 1))
GRAPH = WrittenGraph("trainable.onnx", "0" * 64, 1, (), (), 0.0, 20)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with the store that it would have been trained on, evaluated in two views."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("card")
    shutil.copytree(world.store, folder / "store.zarr")
    manifest = world.load_manifest()
    build(manifest, folder / "store.zarr", world.priors, ["erase-20"], device=CPU, splits=["test"])
    store = PriorStore.open(folder / "store.zarr")
    identity = Identity(
        classes=manifest.classes, model=TINY, segmentation_channels=128, landmark_channels=512, store_recipe=store.recipe,
        ir50_sha256=None, epoch=3, data_set=manifest.name, train_split="train", selection="best", selection_split="valid",
        selection_accuracy=0.5,
    )  # fmt: skip
    (folder / "run").mkdir()
    best = folder / "run" / "best.safetensors"
    save_weights(best, identity.build(), identity)
    evaluate(best, manifest, store, folder / "run" / "evaluation-best", groups=None, device=CPU)
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run: Path) -> Exported:
    """The trainable part alone: tracing the frozen networks takes much longer."""
    return export_onnx(run, "best", run / "onnx", part="trainable")


def identity_of(run: Path) -> Identity:
    evaluation = evaluation_of(run, "best")
    assert evaluation is not None
    return evaluation.checkpoint


def test_the_trainable_parts_example_reads_a_store(run: Path, exported: Exported) -> None:
    (exported.folder / "store.zarr").symlink_to(run.parent / "store.zarr")
    said = printed(examples(exported.folder)["trainable.onnx"], exported.folder)
    assert re.findall(r"[a-z]+", said) == ["anger", "happiness", "neutral"] * 6
    shares = np.array(re.findall(r"[01]\.\d*", said), dtype=float).reshape(6, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=2e-4)  # of four digits each
    store = PriorStore.open(run.parent / "store.zarr")
    rows = {port.name: store.read("test", "clean", port.name, slice(0, 8)) for port in exported.graphs[0].inputs}
    assert largest_difference(exported.folder / "trainable.onnx", rows, shares.astype(np.float32), [6]) <= 1e-4


def test_the_card_has_the_files_as_onnxruntime_sees_them(exported: Exported) -> None:
    card = (exported.folder / "MODEL_CARD.md").read_text()
    assert "| out | probabilities | float32 | batch x 3 |" in card
    assert "| in | landmark_features | float16 | batch x 512 x 7 x 7 |" in card
    for graph in exported.graphs:
        assert f"| {graph.name} | {graph.size / 1e6:.1f} | {graph.difference:.1e} | {graph.sha256} |" in card


def test_the_card_has_the_evaluations_numbers_and_protocol(run: Path, exported: Exported) -> None:
    evaluation, card = evaluation_of(run, "best"), (exported.folder / "MODEL_CARD.md").read_text()
    assert evaluation is not None
    assert [report.name for report in evaluation.groups] == [
        "valid",
        "valid:occluded",
        "test",
        "test:occluded",
        "test@erase-20",
    ]

    def row(report: GroupReport) -> str:
        mark = " \\*" if report.chose_checkpoint else ""
        counts = [part.images for part in report.classes.values()]
        guesses = [percent(max(counts) / sum(counts)), percent(1 / np.count_nonzero(counts))]
        shares = [
            f"{percent(e.value)} | {between(e)}" for e in (report.accuracy, report.balanced_accuracy, report.macro_f1)
        ]
        cells = [shares[0], guesses[0], shares[1], guesses[1], shares[2], percent(report.calibration_error)]
        return f"| {report.name}{mark} | {report.images} | {' | '.join(cells)} |"

    for report in evaluation.groups:
        assert row(report) in card.splitlines()
    assert "chosen by its accuracy on split 'valid', so the numbers of 'valid' are optimistic." in card
    assert "* chosen on these" not in card
    assert "anger, 1 happiness, 2 neutral" in card
    clean, erased = evaluation.group("test"), evaluation.group("test@erase-20")
    assert clean is not None
    assert erased is not None
    assert (
        f"- test@erase-20: accuracy {percent(erased.accuracy.value)} % ({between(erased.accuracy)}); the same images as they are: "
        f"{percent(clean.accuracy.value)} %." in card
    )


def test_the_card_has_every_class_and_names_those_that_are_never_predicted(run: Path, exported: Exported) -> None:
    evaluation, card = evaluation_of(run, "best"), (exported.folder / "MODEL_CARD.md").read_text()
    assert evaluation is not None
    report = evaluation.group("test")
    assert report is not None
    table = card.partition("Per class, test:")[2]
    for name, part in report.classes.items():
        cells = (name, part.images, part.predicted, percent(part.recall), percent(part.precision))
        assert f"| {' | '.join(map(str, cells))} |" in table.splitlines()
    never = [name for name, part in report.classes.items() if part.predicted == 0]
    assert never  # an untrained model says few of them
    assert f"Never predicted in test: {', '.join(never)}." in table


def test_every_view_that_there_is_has_a_meaning_and_the_card_has_those_evaluated(exported: Exported) -> None:
    assert set(VIEWS) == {*UNSEEDED, *ERASED, *PLACED, AUGMENTED} - {"clean"}
    card = (exported.folder / "MODEL_CARD.md").read_text()
    assert [line for line in card.splitlines() if line.startswith("- @")] == [f"- @erase-20: {VIEWS['erase-20']}."]


def test_the_size_is_called_published_where_it_is(run: Path) -> None:
    tiny = identity_of(run)
    card = model_card("best", tiny, None, [GRAPH], "pictures", None)
    count = sum(parameter.numel() for parameter in tiny.build().parameters())
    assert f"Size: {count:,} trained parameters, not a published size" in card
    assert "Differences from the published model: multi\\_scale = False." in card
    channels = {"segmentation_channels": 1024, "landmark_channels": 512}
    base = tiny.model_copy(update={"model": ORSANetConfig(depth=6), **channels})
    assert size_said(base) == "the published base size"
    assert size_said(base.model_copy(update={"segmentation_channels": 128})) == "not a published size"


def test_a_run_without_evaluation_is_told_which_command_makes_one(run: Path) -> None:
    card = model_card("best", identity_of(run), None, [GRAPH], "pictures", None)
    assert "Not evaluated. `orsanet-train evaluate RUN --checkpoint best --store STORE --manifest MANIFEST`" in card
    assert "best checkpoint (epoch 3), chosen by its accuracy on split 'valid'" in card
    assert "The effect of occlusions drawn over the images was not measured" in card
    assert evaluation_of(run, "last") is None


def test_the_card_names_no_folder_of_this_machine(run: Path, exported: Exported) -> None:
    assert str(run.parent) not in (exported.folder / "MODEL_CARD.md").read_text()


def test_the_trainable_part_alone_needs_no_frozen_networks_and_says_so(exported: Exported) -> None:
    assert {path.name for path in exported.folder.iterdir()} - {"store.zarr"} == {"trainable.onnx", "MODEL_CARD.md"}
    card = (exported.folder / "MODEL_CARD.md").read_text()
    assert "trainable.onnx was compared on seeded random priors" in card
    assert set(examples(exported.folder)) == {"trainable.onnx"}


def test_names_that_look_like_markup_stay_text(run: Path) -> None:
    odd = identity_of(run).model_copy(update={"classes": ("a|b", "<b>", "`c`"), "data_set": "*my* <set>"})
    card = model_card("best", odd, None, [GRAPH], "pictures", None)
    assert "0 a\\|b, 1 &lt;b&gt;, 2 \\`c\\`" in card
    assert "# ORSANet, trained on \\*my\\* &lt;set&gt;" in card


def test_licences_are_those_of_the_weights_that_were_used(run: Path) -> None:
    identity = identity_of(run)
    plain = licences(identity)
    assert len(plain) == 4
    assert plain[0] == (
        "SegFace: the licence of the weights used, which may not be the published file; licence of the published file: MIT"
    )
    assert "none stated by its author" in plain[1]
    assert plain[2] == "trained weights (ORSANet): no licence stated; it is decided by the person who trained them"
    assert "data set 'small'" in plain[3]
    started = licences(identity.model_copy(update={"ir50_sha256": "0" * 64}))
    assert "IR50: trained from weights given with --ir50" in started[2]
    published = identity.model_copy(update={"selection": "published", "epoch": None, "selection_accuracy": None})
    assert "trained by the checkpoint's authors" in licences(published)[2]
    assert "according to its authors the best epoch" in model_card("best", published, None, [GRAPH], "pictures", None)
