"""An evaluation says what the checkpoint does on named images, and refuses images it was not made for."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from failing_disk import full_disk
from PIL import Image
from sklearn.metrics import accuracy_score

from orsanet_cache import FrozenPriors, Manifest, OrsanetError, PriorStore, load_manifest
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.outputs import output_folder
from orsanet_train.config import load_config
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.landmark_model import fit_landmark_model
from orsanet_train.evaluation.predictions import FOLDER, Evaluation
from orsanet_train.evaluation.tables import known_text
from orsanet_train.feed.split import join
from orsanet_train.model.checkpoint import load_weights, save_weights
from orsanet_train.run.train import train

pytestmark = pytest.mark.usefixtures("without_matplotlib")
CPU = torch.device("cpu")
SMALL = (
    "epochs=2", "batch_size=6", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]",
    "model.backbone_units=[1,1,1]",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    train(load_config("small", SMALL), world.load_manifest(), world.open_store(), out, device=CPU)
    return out


def evaluated(world, run: Path, out: Path, groups: list[str] | None = None, checkpoint: str = "best"):
    weights = run / f"{checkpoint}.safetensors"
    return evaluate(weights, world.load_manifest(), world.open_store(), out, groups=groups, device=CPU)


def test_by_default_everything_but_training_and_the_mirrored_view(world, run: Path, tmp_path: Path) -> None:
    evaluation = evaluated(world, run, tmp_path)
    assert [report.name for report in evaluation.groups] == ["valid", "valid:occluded", "test", "test:occluded"]
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "predictions.csv", "features.npy"}
    assert evaluation.date is not None
    assert abs(datetime.now(UTC) - datetime.fromisoformat(evaluation.date)) < timedelta(hours=1)
    assert (evaluation.versions["orsanet"], evaluation.versions["torch"]) == (version("orsanet"), version("torch"))


def test_by_default_the_occluded_views_of_the_store_too(world, run: Path, erased: PriorStore, tmp_path: Path) -> None:
    weights = run / "best.safetensors"
    evaluation = evaluate(weights, world.load_manifest(), erased, tmp_path, groups=None, device=CPU)
    names = [report.name for report in evaluation.groups]
    assert names == ["valid", "valid:occluded", "test", "test:occluded", "test@erase-20"]


def test_metrics_and_predictions_say_the_same(world, run: Path, tmp_path: Path) -> None:
    evaluated(world, run, tmp_path, ["test", "test:occluded"])
    predictions = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    assert len(predictions) == 6  # every image once, however many groups it is in
    for group in json.loads((tmp_path / "evaluation.json").read_text())["groups"]:
        rows = predictions[predictions["tags"] == "occluded"] if ":" in group["name"] else predictions
        assert len(rows) == group["images"]
        assert accuracy_score(rows["label"], rows["predicted"]) == group["accuracy"]["value"]
        assert np.sum(group["confusion"]) == group["images"]
    occluded = predictions[predictions["tags"] == "occluded"]["image"].tolist()
    assert occluded == ["images/test_1.png", "images/test_3.png", "images/test_5.png"]
    shares = predictions.filter(like="p_")
    assert list(shares.columns) == ["p_anger", "p_happiness", "p_neutral"]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)  # float32 softmax, printed in full
    assert (shares.idxmax(axis=1).str.removeprefix("p_") == predictions["predicted"]).all()


def test_the_linear_model_on_landmarks_stands_beside_the_run(
    world, run: Path, erased: PriorStore, tmp_path: Path
) -> None:
    groups = ["valid", "test", "test:occluded", "test@erase-20"]
    evaluation = evaluate(
        run / "best.safetensors", world.load_manifest(), erased, tmp_path, groups=groups, device=CPU
    )  # fmt: skip
    again = Evaluation.read(tmp_path)
    _, identity = load_weights(run / "best.safetensors")
    model = fit_landmark_model(world.load_manifest(), erased, identity)
    for name, tag, view in (
        ("test", None, "clean"),
        ("test:occluded", "occluded", "clean"),
        ("test@erase-20", None, "erase-20"),
    ):
        part = join(world.load_manifest(), erased, "test", [view], tag)
        report = evaluation.group(name)
        assert report is not None
        commonest, landmarks = report.baselines or ()
        assert commonest.name == "commonest class"
        assert (landmarks.name, landmarks.meaning) == ("linear model on landmarks", model.meaning)
        assert landmarks.accuracy == float((model.predict(erased, part, view) == part.labels).mean())
        assert again.group(name) == report


def test_a_set_without_training_images_is_evaluated_with_a_note_instead_of_the_linear_model(
    world, run: Path, tmp_path: Path
) -> None:
    manifest = world.load_manifest()
    tested = Manifest(manifest.name, manifest.classes, manifest.root, manifest.split("test"))
    evaluation = evaluate(run / "best.safetensors", tested, world.open_store(), tmp_path, device=CPU)
    assert (
        "no linear model on landmarks is fitted beside the run: manifest 'small' has no split 'train'"
        in evaluation.notes
    )
    assert all([one.name for one in report.baselines or ()] == ["commonest class"] for report in evaluation.groups)


def test_predictions_do_not_depend_on_the_row_order_of_the_manifest(world, run: Path, tmp_path: Path) -> None:
    header, *lines = world.manifest.with_name("samples.csv").read_text().splitlines()
    (tmp_path / "samples.csv").write_text("\n".join([header, *reversed(lines)]) + "\n")
    shutil.copy(world.manifest, tmp_path / "dataset.toml")
    reversed_manifest = load_manifest(tmp_path / "dataset.toml", check_files=False)
    best = run / "best.safetensors"
    evaluate(best, reversed_manifest, world.open_store(), tmp_path / "b", groups=["test"], device=CPU)
    evaluated(world, run, tmp_path / "a", ["test"])
    a, b = (pd.read_csv(tmp_path / name / "predictions.csv").sort_values("image", ignore_index=True) for name in "ab")
    pd.testing.assert_frame_equal(a, b, rtol=1e-5)  # another order within the batch


def test_the_protocol_is_stated_and_a_flattering_split_is_marked(world, run: Path, tmp_path: Path) -> None:
    best = evaluated(world, run, tmp_path / "best")
    assert "chosen by its accuracy on split 'valid'" in best.protocol
    assert "optimistic" in best.protocol
    chose = {report.name: report.chose_checkpoint for report in best.groups}
    assert chose == {"valid": True, "valid:occluded": True, "test": False, "test:occluded": False}
    last = evaluated(world, run, tmp_path / "last", checkpoint="last")
    assert last.protocol == "last checkpoint (epoch 2), not chosen by any result"
    assert not any(report.chose_checkpoint for report in last.groups)


def test_the_best_checkpoint_repeats_the_accuracy_that_chose_it(world, run: Path, tmp_path: Path) -> None:
    evaluation = evaluated(world, run, tmp_path, ["valid"])
    _, identity = load_weights(run / "best.safetensors")
    assert evaluation.groups[0].accuracy.value == identity.selection_accuracy


def test_another_class_order_is_refused(world, run: Path, tmp_path: Path) -> None:
    text = world.manifest.read_text().replace('"anger", "happiness"', '"happiness", "anger"')
    (tmp_path / "swapped.toml").write_text(text)
    shutil.copy(world.manifest.with_name("samples.csv"), tmp_path)
    swapped = load_manifest(tmp_path / "swapped.toml", check_files=False)
    with pytest.raises(
        OrsanetError, match=r"anger, happiness, neutral .in this order., manifest 'small' has happiness"
    ):
        evaluate(run / "best.safetensors", swapped, world.open_store(), tmp_path, groups=None, device=CPU)


def test_a_store_from_other_frozen_weights_is_refused_by_name(world, run: Path, tmp_path: Path) -> None:
    native = FrozenPriors.load(world.segmenter, world.landmarks, "native")
    build(world.load_manifest(), tmp_path / "native.zarr", native, ["clean"], device=CPU)
    store = PriorStore.open(tmp_path / "native.zarr")
    with pytest.raises(OrsanetError, match=r"landmarks\.input"):
        evaluate(run / "best.safetensors", world.load_manifest(), store, tmp_path, groups=None, device=CPU)


def test_unknown_groups_are_named(world, run: Path, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="no split 'tset'; it has train, valid, test"):
        evaluated(world, run, tmp_path, ["tset"])
    with pytest.raises(OrsanetError, match="no image with the tag 'hat'; its tags: occluded"):
        evaluated(world, run, tmp_path, ["test:hat"])


@pytest.fixture(scope="module")
def erased(world, tmp_path_factory: pytest.TempPathFactory) -> PriorStore:
    """The small store with one more view, of the test split alone."""
    path = tmp_path_factory.mktemp("erased") / "store.zarr"
    shutil.copytree(world.store, path)
    build(world.load_manifest(), path, world.priors, ["erase-20"], device=CPU, splits=["test"])
    return PriorStore.open(path)


def test_a_group_with_a_view_is_predicted_from_that_views_rows(
    world, run: Path, erased: PriorStore, tmp_path: Path
) -> None:
    groups = ["test", "test@erase-20", "test:occluded@erase-20"]
    weights = run / "best.safetensors"
    evaluation = evaluate(weights, world.load_manifest(), erased, tmp_path, groups=groups, device=CPU)
    assert [(report.name, report.images) for report in evaluation.groups] == [
        ("test", 6), ("test@erase-20", 6), ("test:occluded@erase-20", 3)
    ]  # fmt: skip
    model, _ = load_weights(weights)
    model.eval()
    predictions = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    by_group = {}
    for group, view, rows in (
        ("test", "clean", np.arange(6)),
        ("test@erase-20", "erase-20", np.arange(6)),
        ("test:occluded@erase-20", "erase-20", np.array([1, 3, 5])),
    ):
        table = predictions[Group.parse(group).of(predictions)]
        image, segmentation, landmark_features = (
            torch.from_numpy(erased.read("test", view, field, rows))
            for field in ("image", "segmentation_features", "landmark_features")
        )
        with torch.no_grad():
            by_hand = model(imagenet_normalised(unit_range(image)), segmentation.float(), landmark_features.float())
        assert table["image"].tolist() == [f"images/test_{row}.png" for row in rows]
        shares = table.filter(like="p_").to_numpy()
        np.testing.assert_allclose(shares, by_hand.logits.softmax(dim=1).numpy(), rtol=1e-6)  # float32 in decimal
        by_group[group] = shares
    assert not np.allclose(by_group["test"], by_group["test@erase-20"], rtol=1e-6)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("test@erase-30", r"split 'test' has no view 'erase-30'; it has clean, erase-20, hflip.*--views erase-30"),
        ("valid@erase-20", r"split 'valid' has no view 'erase-20'; it has clean, hflip.*--views erase-20"),
        ("test@", "no view ''"),
        ("tset@erase-20", "no split 'tset'"),
    ],
)
def test_a_view_that_the_store_lacks_is_answered_with_those_it_has(
    world, run: Path, erased: PriorStore, tmp_path: Path, group: str, said: str
) -> None:
    with pytest.raises(OrsanetError, match=said):
        evaluate(run / "best.safetensors", world.load_manifest(), erased, tmp_path, groups=[group], device=CPU)


def test_a_tag_may_have_the_name_of_a_view(world, run: Path, erased: PriorStore, tmp_path: Path) -> None:
    shutil.copy(world.manifest, tmp_path)
    table = world.manifest.with_name("samples.csv").read_text().replace("occluded", "erase-20")
    (tmp_path / "samples.csv").write_text(table)
    manifest = load_manifest(tmp_path / "dataset.toml", check_files=False)
    groups = ["test", "test:erase-20", "test@erase-20", "test:erase-20@erase-20"]
    evaluation = evaluate(run / "best.safetensors", manifest, erased, tmp_path / "out", groups=groups, device=CPU)
    assert [(report.name, report.images) for report in evaluation.groups] == list(
        zip(groups, (6, 3, 6, 3), strict=True)
    )


def test_rejected_images_are_counted_not_hidden(world, run: Path, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "images", tmp_path / "images")
    for name in ("samples.csv", "dataset.toml"):
        shutil.copy(world.folder / name, tmp_path / name)
    (tmp_path / "images" / "test_1.png").write_bytes(b"")
    manifest = load_manifest(tmp_path / "dataset.toml")
    build(manifest, tmp_path / "s", world.priors, ["clean"], device=CPU)
    evaluation = evaluate(
        run / "best.safetensors", manifest, PriorStore.open(tmp_path / "s"), tmp_path / "out",
        groups=["test", "test:occluded"], device=CPU,
    )  # fmt: skip
    assert [(report.images, report.rejected) for report in evaluation.groups] == [(5, 1), (2, 1)]
    assert evaluation.notes == ("'test': the numbers do not include 1 image(s) that the build rejected",)
    with_tag = (
        (tmp_path / "samples.csv")
        .read_text()
        .replace("test_1.png,happiness,test,occluded", "test_1.png,happiness,test,hat")
    )
    (tmp_path / "samples.csv").write_text(with_tag)
    retagged, store = load_manifest(tmp_path / "dataset.toml"), PriorStore.open(tmp_path / "s")
    best = run / "best.safetensors"
    evaluation = evaluate(best, retagged, store, tmp_path / "out", groups=None, device=CPU)
    assert "test:hat" not in [report.name for report in evaluation.groups]
    assert "'test:hat' is left out: the build rejected all its images" in evaluation.notes
    with pytest.raises(OrsanetError, match="no image of 'test:hat' can be used"):
        evaluate(best, retagged, store, tmp_path / "out", groups=["test", "test:hat"], device=CPU)


def test_a_manifest_of_training_images_alone_needs_a_named_split(world, run: Path, tmp_path: Path) -> None:
    header, *lines = world.manifest.with_name("samples.csv").read_text().splitlines()
    (tmp_path / "samples.csv").write_text("\n".join([header, *(line for line in lines if ",train," in line)]) + "\n")
    shutil.copy(world.manifest, tmp_path / "dataset.toml")
    manifest, best = load_manifest(tmp_path / "dataset.toml", check_files=False), run / "best.safetensors"
    with pytest.raises(OrsanetError, match="no split besides 'train'; name one with --splits"):
        evaluate(best, manifest, world.open_store(), tmp_path / "out", groups=None, device=CPU)
    evaluation = evaluate(best, manifest, world.open_store(), tmp_path / "out", groups=["train"], device=CPU)
    assert evaluation.notes[0] == "the model was trained on the images of train"


def test_an_empty_tag_is_no_tag(world, run: Path, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="no image with the tag ''"):
        evaluated(world, run, tmp_path, ["test:"])


def test_a_folder_that_cannot_be_written_is_refused_before_the_model_runs(
    world, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OrsanetError, match=r"file: cannot be created .*--out"):
        evaluated(world, run, tmp_path / "file")
    assert "evaluate" not in capfd.readouterr().err


def test_on_a_full_disk_the_earlier_evaluation_stays_as_it_is(world, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    evaluated(world, run, out, ["valid"])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for limit in (0, len(before["predictions.csv"]) + 100):  # of the table, of the metrics
        with full_disk(limit), pytest.raises(OrsanetError, match=f"^{out}: cannot be written .File too large"):
            evaluated(world, run, out, ["test"])
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["evaluation"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("predictions.csv", "mine\n"), ("predictions.json", "{}"), ("notes.txt", "mine"), ("evaluation.json", "{}")],
)
def test_a_folder_of_other_files_is_refused_by_the_name_of_the_first(
    world, run: Path, tmp_path: Path, name: str, text: str
) -> None:
    evaluated(world, run, tmp_path, ["valid"])
    evaluated(world, run, tmp_path, ["test"])  # its own may be replaced
    (tmp_path / name).write_text(text)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OrsanetError, match=f"^{tmp_path}/{name}: is not a file of an evaluation, so nothing"):
        evaluated(world, run, tmp_path, ["valid"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_another_command_writes_is_refused(world, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    with output_folder(out, FOLDER), pytest.raises(OrsanetError, match=f"^{out}: another command is writing"):
        evaluated(world, run, out)
    assert list(out.iterdir()) == []


# --- what the run knows, by the images' digests ---


def counts(evaluation: Evaluation) -> dict[str, tuple[int | None, int | None]]:
    return {report.name: (report.trained_images, report.chose_images) for report in evaluation.groups}


def renamed(world, folder: Path, name: str = "other", **splits: str) -> Manifest:
    """The same images under another name of the data set, and of splits."""
    table = world.manifest.with_name("samples.csv").read_text()
    for before, after in splits.items():
        table = table.replace(f",{before},", f",{after},")
    (folder / "samples.csv").write_text(table)
    text = world.manifest.read_text().replace('name = "small"', f'name = "{name}"')
    (folder / "dataset.toml").write_text(text + f"splits = {['train', 'valid', 'test', *splits.values()]}\n")
    shutil.copytree(world.folder / "images", folder / "images")
    return load_manifest(folder / "dataset.toml")


def test_every_group_says_how_many_of_its_images_the_run_knows(world, run: Path, tmp_path: Path) -> None:
    best = evaluated(world, run, tmp_path / "best", ["train", "valid", "valid:occluded", "test"])
    assert counts(best) == {"train": (14, 0), "valid": (0, 6), "valid:occluded": (0, 3), "test": (0, 0)}
    assert best.notes == ("the model was trained on the images of train",)
    assert known_text(best.groups).endswith(": train 14 and 0; valid 0 and 6; valid:occluded 0 and 3; test 0 and 0")
    content = json.loads((tmp_path / "best" / "evaluation.json").read_text())
    assert [(group["trained_images"], group["chose_images"]) for group in content["groups"]][:2] == [(14, 0), (0, 6)]
    assert "images" not in content["checkpoint"]
    last = evaluated(world, run, tmp_path / "last", ["train", "valid"], checkpoint="last")
    assert counts(last) == {"train": (14, 0), "valid": (0, 0)}  # nothing chose it


def test_the_runs_images_are_known_under_any_name(world, run: Path, tmp_path: Path) -> None:
    manifest = renamed(world, tmp_path, train="test2", valid="valid2")
    build(manifest, tmp_path / "s", world.priors, ["clean"], device=CPU)
    best, store = run / "best.safetensors", PriorStore.open(tmp_path / "s")
    evaluation = evaluate(best, manifest, store, tmp_path / "out", groups=["test2", "valid2", "test"], device=CPU)
    assert counts(evaluation) == {"test2": (14, 0), "valid2": (0, 6), "test": (0, 0)}
    assert [report.trained_on for report in evaluation.groups] == [True, False, False]
    assert [report.chose_checkpoint for report in evaluation.groups] == [False, True, False]
    assert evaluation.notes == (
        "the model was trained on the images of test2",
        f"no linear model on landmarks is fitted beside the run: manifest '{manifest.name}' has no split 'train'",
    )
    by_default = evaluate(best, manifest, store, tmp_path / "out", device=CPU)
    assert [report.name for report in by_default.groups] == ["valid2", "valid2:occluded", "test", "test:occluded"]


def test_another_data_set_of_the_same_name_is_not_marked(world, run: Path, tmp_path: Path) -> None:
    manifest = renamed(world, tmp_path, name="small")
    for path in (tmp_path / "images").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    shutil.copy(world.folder / "images" / "train_3.png", tmp_path / "images" / "valid_0.png")
    shutil.copy(world.folder / "images" / "valid_3.png", tmp_path / "images" / "test_0.png")
    build(manifest, tmp_path / "s", world.priors, ["clean"], device=CPU)
    store = PriorStore.open(tmp_path / "s")
    evaluation = evaluate(run / "best.safetensors", manifest, store, tmp_path / "out", device=CPU)
    assert counts(evaluation) == {
        "train": (0, 0), "train:occluded": (0, 0), "valid": (1, 0), "valid:occluded": (0, 0), "test": (0, 1), "test:occluded": (0, 0)
    }  # fmt: skip
    assert evaluation.notes == (
        "the model was trained on 1 of the 6 images of valid",
        "the checkpoint was chosen on 1 of the 6 images of test, so their numbers are optimistic",
        "no linear model on landmarks is fitted beside the run: "
        "none of the images of split 'train' is one that the run trained on",
    )
    assert evaluation.groups[2].training_mark == "(1 training images)"


def test_weights_without_digests_are_judged_by_names_and_say_so(world, run: Path, tmp_path: Path) -> None:
    model, identity = load_weights(run / "best.safetensors")
    save_weights(tmp_path / "best.safetensors", model, identity.model_copy(update={"images": None}))
    manifest, store = world.load_manifest(), world.open_store()
    groups = ["train", "valid", "test"]
    evaluation = evaluate(tmp_path / "best.safetensors", manifest, store, tmp_path / "out", groups=groups, device=CPU)
    assert counts(evaluation) == dict.fromkeys(groups, (None, None))
    assert [report.trained_on for report in evaluation.groups] == [True, False, False]
    assert [report.chose_checkpoint for report in evaluation.groups] == [False, True, False]
    assert "judged by the names of manifest and split" in evaluation.notes[0]
    assert evaluation.notes[1] == "the model was trained on the images of train"
    assert known_text(evaluation.groups).endswith("not known")


def test_a_held_out_part_is_counted(world, tmp_path: Path) -> None:
    config = load_config("small", [*SMALL, "epochs=1", "selection_split=held-out", "held_out_share=0.3"])
    train(config, world.load_manifest(), world.open_store(), tmp_path / "run", device=CPU)
    evaluation = evaluated(world, tmp_path / "run", tmp_path / "out", ["train"])
    trained, chose = counts(evaluation)["train"]
    assert trained is not None
    assert chose is not None
    assert trained + chose == 14
    assert 0 < chose < trained
    assert evaluation.notes == (
        f"the model was trained on {trained} of the 14 images of train",
        f"the checkpoint was chosen on {chose} of the 14 images of train, so their numbers are optimistic",
    )
