"""A report says how its checkpoint was chosen, follows from the evaluation alone, and refuses a store that is not the evaluated one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_lines import in_process
from drawn_fonts import bare_home
from failing_disk import full_disk
from object_server import Proxy
from PIL import Image

from orsanet_cache import FrozenPriors, OrsanetError, PriorStore, load_manifest, prior_quality
from orsanet_cache.builder.build import build
from orsanet_cache.outputs import output_folder
from orsanet_cache.paths import Url
from orsanet_cache.places.bucket import Bucket
from orsanet_train.cli import main
from orsanet_train.config import load_config
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.evaluation.predictions import Evaluation, read_evaluation
from orsanet_train.report.album import _picture, album
from orsanet_train.report.contents import Report, Source
from orsanet_train.report.page import FOLDER, write_report
from orsanet_train.report.report import make_report
from orsanet_train.report.save import save_report
from orsanet_train.run.train import train

CPU = torch.device("cpu")
SMALL = (
    "epochs=9", "batch_size=6", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]",
    "model.backbone_units=[1,1,1]", "rho=0.0",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(world, tmp_path_factory: pytest.TempPathFactory) -> PriorStore:
    """The small store with two more views of the test split."""
    path = tmp_path_factory.mktemp("report") / "store.zarr"
    shutil.copytree(world.store, path)
    build(world.load_manifest(), path, world.priors, ["erase-10", "erase-20"], device=CPU, splits=["test"])
    return PriorStore.open(path)


@pytest.fixture(scope="module")
def seeds(world, store: PriorStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two seeds, evaluated."""
    out = tmp_path_factory.mktemp("seeds")
    for seed in (3, 11):
        run = out / f"seed-{seed}"
        train(load_config("small", [*SMALL, f"seed={seed}"]), world.load_manifest(), store, run, device=CPU)
        for checkpoint in ("best", "last"):
            folder = run / f"evaluation-{checkpoint}"
            evaluate(run / f"{checkpoint}.safetensors", world.load_manifest(), store, folder, groups=None, device=CPU)
    return out


@pytest.fixture(scope="module")
def run(seeds: Path) -> Path:
    return seeds / "seed-3"


def reported(run: Path, checkpoint: str = "best", split: str | None = None, store: Path | None = None) -> Source:
    report, (source,) = make_report([run], checkpoint, split, store)
    assert report.runs == (source.report,)
    return source


def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_the_choices_are_those_of_the_history(run: Path) -> None:
    accuracy = pd.read_csv(run / "metrics.csv")["selection_accuracy"]
    last, best, mean = reported(run).report.choices
    assert (last.epoch, last.accuracy) == ("9", accuracy.iloc[-1])
    assert (best.epoch, best.accuracy) == (str(accuracy.argmax() + 1), accuracy.max())
    assert (mean.protocol, mean.epoch) == ("mean of the last 5 epochs", "5–9")
    assert (mean.accuracy, mean.deviation) == (accuracy[4:].mean(), accuracy[4:].std())


def test_the_stamp_says_what_chose(world, store: PriorStore, run: Path, tmp_path: Path) -> None:
    assert reported(run).report.stamp == "best of 9 epochs on 'valid'"
    assert reported(run, "last").report.stamp == "last of 9 epochs"
    copy = copied(run, tmp_path)  # stopped early
    pd.read_csv(run / "metrics.csv").iloc[:4].to_csv(copy / "metrics.csv", index=False)
    assert reported(copy).report.stamp == "best of 4 epochs on 'valid'"
    on_test = tmp_path / "on-test"
    config = load_config("small", [*SMALL, "epochs=1", "selection_split=test"])
    train(config, world.load_manifest(), store, on_test, device=CPU)
    evaluate(
        on_test / "best.safetensors", world.load_manifest(), store, on_test / "evaluation-best", groups=None, device=CPU
    )
    report = reported(on_test).report
    assert report.stamp == "best of 1 epochs on 'test', as published: optimistic"
    assert reported(on_test, split="valid").report.stamp == "best of 1 epochs on 'test'"
    assert reported(run, split="valid").report.stamp == "best of 9 epochs on 'valid', as published: optimistic"
    assert report.warnings[0] == "the checkpoint was chosen on 'test', so the numbers below are optimistic"


def test_a_drop_is_the_difference_on_the_same_images(run: Path) -> None:
    report = reported(run).report
    groups = {group.name: group.accuracy.value for group in report.groups}
    assert [drop.view for drop in report.robustness] == ["erase-10", "erase-20"]
    for drop in report.robustness:
        assert drop.images == 6
        assert drop.clean == groups["test"]
        assert drop.occluded == groups[drop.group]
        assert drop.difference.value == pytest.approx(groups[drop.group] - groups["test"], abs=1e-15)


def test_quartiles_part_the_images_the_worst_first(run: Path, store: PriorStore) -> None:
    source = reported(run)
    quartiles = source.report.quartiles
    assert sum(part.images for part in quartiles) == 6
    ends = [end for part in quartiles for end in (part.low, part.high)]
    assert ends == sorted(ends)
    quality = prior_quality(store, "test", "clean", np.arange(6))
    assert [image["image"] for image in source.report.worst] == quality.sort_values("score", kind="stable")[
        "image"
    ].tolist()


def test_the_paper_stands_beside_a_data_set_of_its_classes_only(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)  # named so, but of three classes
    replace(Evaluation.read(run / "evaluation-best"), manifest="rafdb").write(copy / "evaluation-best")
    assert reported(copy).report.beside == ()


def test_the_split_in_detail_can_be_chosen(run: Path) -> None:
    assert reported(run).report.detailed.name == "test"
    assert reported(run, split="valid").report.detailed.name == "valid"
    with pytest.raises(OrsanetError, match="split 'train' was not evaluated; choose one of valid, test"):
        reported(run, split="train")


def test_a_run_without_an_evaluation_is_told_how_to_make_one(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    shutil.rmtree(copy / "evaluation-best")
    with pytest.raises(
        OrsanetError,
        match=r"its best checkpoint has not been evaluated; run `orsanet-train evaluate .*/run --checkpoint best",
    ):
        reported(copy)


def test_a_moved_store_is_found_and_another_one_refused(world, run: Path, store: PriorStore, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(store.path, tmp_path / "moved.zarr"))
    assert reported(run, store=moved).report == reported(run).report
    native = FrozenPriors.load(world.segmenter, world.landmarks, "native")
    build(world.load_manifest(), tmp_path / "native.zarr", native, ["clean"], device=CPU)
    with pytest.raises(OrsanetError, match=r"not the store that was evaluated:\n.*landmarks\.input"):
        reported(run, store=tmp_path / "native.zarr")
    table = world.manifest.with_name("samples.csv").read_text().replace("images/test_0.png", "images/test_0b.png")
    shutil.copytree(world.folder / "images", tmp_path / "images")
    shutil.move(tmp_path / "images" / "test_0.png", tmp_path / "images" / "test_0b.png")
    (tmp_path / "samples.csv").write_text(table)
    shutil.copy(world.manifest, tmp_path / "dataset.toml")
    build(load_manifest(tmp_path / "dataset.toml"), tmp_path / "b.zarr", world.priors, ["clean"], device=CPU)
    with pytest.raises(OrsanetError, match="split 'test' is not the one that was evaluated"):
        reported(run, store=tmp_path / "b.zarr")
    gone = copied(run, tmp_path)
    replace(Evaluation.read(gone / "evaluation-best"), store="/no/store.zarr").write(gone / "evaluation-best")
    with pytest.raises(OrsanetError, match="does not exist any more; give its new path with --store"):
        reported(gone)
    assert reported(gone, store=moved).report.groups == reported(run).report.groups


def test_seeds_are_shown_by_the_first_and_compared_over_all(seeds: Path) -> None:
    report, sources = make_report([seeds], "best", None, None)
    assert [source.run.name for source in sources] == ["seed-3"]
    assert report.runs[0].name == f"{seeds.name}, seed 3 (one of 2 seeds)"
    assert report.comparison is not None
    (accuracy,) = [one for one in report.comparison.accuracies if one.group == "test"]
    assert accuracy.seeds == (3, 11)
    values = [Evaluation.read(seeds / f"seed-{seed}" / "evaluation-best").group("test") for seed in (3, 11)]
    assert accuracy.mean == pytest.approx(np.mean([value.accuracy.value for value in values if value]), abs=1e-15)


def test_a_report_is_json_as_it_stands(run: Path, seeds: Path) -> None:
    report: Report = make_report([run, seeds / "seed-11"], "best", None, None)[0]
    content = report.as_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["runs"][0]["config"]["epochs"] == 9


def test_chosen_images_are_those_whose_attention_is_shown(run: Path) -> None:
    source = reported(run)
    pictures = {picture.name: picture for picture in album(source, ["images/test_4.png"], CPU)}
    everyone = {picture.name: picture for picture in album(source, None, CPU)}
    assert pictures["attention"].source != everyone["attention"].source
    assert {name: picture for name, picture in pictures.items() if name != "attention"} == {
        name: picture for name, picture in everyone.items() if name != "attention"
    }
    assert all(picture.source for picture in everyone.values())
    with pytest.raises(OrsanetError, match=r"--images: not among .*\n.*elsewhere\.png"):
        album(source, ["elsewhere.png"], CPU)


def test_weights_that_changed_since_the_evaluation_are_refused(run: Path, seeds: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    shutil.copy(seeds / "seed-11" / "best.safetensors", copy)
    with pytest.raises(OrsanetError, match="has changed since it was evaluated"):
        reported(copy)


def test_the_training_images_are_marked_under_another_name_of_the_manifest(
    world, store: PriorStore, run: Path, tmp_path: Path
) -> None:
    copy = copied(run, tmp_path)
    shutil.copy(world.manifest.with_name("samples.csv"), tmp_path)
    (tmp_path / "dataset.toml").write_text(world.manifest.read_text().replace('name = "small"', 'name = "other"'))
    other = load_manifest(tmp_path / "dataset.toml", check_files=False)
    out = copy / "evaluation-best"
    evaluate(copy / "best.safetensors", other, store, out, groups=["train", "valid", "test"], device=CPU)
    report, _ = make_report([copy])
    assert report.runs[0].warnings[0] == "the model was trained on the images of train"
    (tmp_path / "page").mkdir()
    write_report(report, [[]], tmp_path / "page")
    for name in ("report.html", "report.md"):
        page = (tmp_path / "page" / name).read_text()
        assert "train (training images)" in page
        assert page.count("training images)") == 1


def test_a_damaged_history_is_named(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    (copy / "metrics.csv").write_text("")
    with pytest.raises(OrsanetError, match=r"metrics\.csv: damaged"):
        reported(copy)
    (copy / "metrics.csv").unlink()
    assert reported(copy).report.choices == ()


def test_a_report_is_replaced_whole_by_one_of_the_same_runs_and_by_no_other(
    run: Path, seeds: Path, store: PriorStore, tmp_path: Path
) -> None:
    other = seeds / "seed-11"
    out = tmp_path / "report"

    def write(*runs: Path, split: str | None = None) -> None:
        save_report(runs, out, split=split, images=["images/test_0.png"], device="cpu")

    write(run)
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert files.keys() == {"report.html", "report.md", "report.json"}
    with full_disk(len(files["report.json"]) * 2), pytest.raises(OrsanetError, match=f"^{out}: cannot be written"):
        write(run)  # where the page does not fit
    with pytest.raises(OrsanetError, match=f"^{out}: has the report of seed-3, not of seed-3, seed-11; choose another"):
        write(run, other)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    save_report([run], out, split="valid", images=["images/valid_0.png"], device="cpu")
    assert all((out / name).read_bytes() != content for name, content in files.items())
    (out / "report.html").write_text("mine")
    with pytest.raises(OrsanetError, match=r"report/report\.html: is not a file of a report, so nothing"):
        write(run)
    assert (out / "report.html").read_text() == "mine"


def test_the_report_of_several_runs_has_a_folder_of_its_own(run: Path, seeds: Path) -> None:
    other = seeds / "seed-11"
    for runs, name in (((run,), "report-best"), ((run, other), "report-best-with-seed-11")):
        with output_folder(run / name, FOLDER):
            ended = in_process(main, "report", *runs)
        (run / name).rmdir()
        assert ended.returncode == 1
        assert ended.stderr.startswith(f"Error: {run / name}: another command is writing this folder; let it finish")


def test_a_caption_explains_the_numbers_in_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare_home(tmp_path, monkeypatch)
    square = Image.new("RGB", (10, 10))
    assert _picture("a", "A", "Counts.", lambda: square, ["anger", "fear"]).caption == "Counts."
    explained = _picture("a", "A", "Counts.", lambda: square, ["anger", "生气"])
    assert explained.caption == "Counts. Numbers in the picture: #1 生气."


def test_evaluated_runs_at_urls_are_reported_compared_and_read_for_export_and_push(
    seeds: Path, run: Path, bucket: Proxy, url: str, tmp_path: Path
) -> None:
    """What a command writes lies beside the run, as for a run folder."""
    for place, folder in ((f"{url}/seeds", seeds), (f"{url}/seed-3", run)):
        for path in folder.rglob("*"):
            if path.is_file():
                Bucket.open(Url(place)).write(path.relative_to(folder).as_posix(), path.read_bytes())
    Bucket.open(Url(f"{url}/broken")).write("best.safetensors", b"of nothing")
    Bucket.open(Url(f"{url}/seed-3")).write("onnx-best/a", b"")
    there, of_seeds, out = f"{url}/seed-3", f"{url}/seeds", str(tmp_path / "numbers.json")
    long_name = of_seeds.removeprefix("s3://").replace("/", "-")
    for words, said in (
        (["report", there, "--device", "cpu"], f"wrote {there}/report-best/report.html"),
        (["compare", of_seeds, f"{url}/seeds", "--out", out], f"wrote {out}"),
        (["push", there, "owner/name"], f"Error: {there}: these parts have terms of their own"),
        (["export", f"{url}/broken", "--part", "trainable"], f"{url}/broken/best.safetensors"),
        (["export", there, "--part", "trainable"], f"{there}/onnx-best/a: is in the way"),
        (["report", f"{there}-2"], f"{there}-2: there is no run at this URL"),
        (["report", there, "--checkpoint", "last", "--split", "x"], f"{there}: split 'x' was not evaluated"),
    ):
        ended = in_process(main, *words)
        assert said in ended.stdout + ended.stderr, ended
        assert "orsanet-run-" not in ended.stdout + ended.stderr
    written = json.loads(Bucket.open(Url(f"{there}/report-best")).read("report.json")[0])
    assert written == json.loads(json.dumps(make_report([run])[0].as_json()))
    assert json.loads(Path(out).read_text())["runs"] == [long_name, "seeds"]
    assert read_evaluation(there, "last").table.equals(read_evaluation(run, "last").table)
