"""predict says of one's own pictures what an evaluation says of a store's, and every file ends with a row or a reason."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from command_lines import Ended, in_process
from drawn_fonts import bare_home
from failing_disk import full_disk
from forks import ForkServer
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache import FaceDetector, OrsanetError, PriorStore, crop_face
from orsanet_cache.builder.build import build
from orsanet_cache.data.cells import unmarked
from orsanet_cache.outputs import held
from orsanet_cache.synthetic.picture import draw
from orsanet_train.cli import main
from orsanet_train.commands.predict import predict
from orsanet_train.config import load_config
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.model.checkpoint import Identity, load_weights, save_weights
from orsanet_train.predict.annotated import _Copy
from orsanet_train.predict.folder import check_new_folder, columns
from orsanet_train.predict.inputs import find_inputs
from orsanet_train.predict.load import Predictor
from orsanet_train.predict.overlay import BOX, MAX_FACES, file_name
from orsanet_train.predict.pictures import InputPicture, Webcam, is_video, pictures
from orsanet_train.predict.predict import parse_overlays, predict_files
from orsanet_train.predict.predictor import CropPredictor
from orsanet_train.predict.seen import NO_FACE, Looker, look_ahead

CPU = torch.device("cpu")
SMALL = (
    "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]",
    "model.multi_scale=false",
)  # fmt: skip
SHARES = ["p_anger", "p_happiness", "p_neutral"]
SUMS = 1e-6  # of a probability: a batch of another size is summed in another order


def write_run(world, store: PriorStore, out: Path, *settings: str, classes: tuple[str, ...] | None = None) -> Path:
    """A run folder with weights as training begins with them, but for its head: an answer then depends on the picture."""
    fields = store.fields("test", "clean")
    identity = Identity(
        classes=classes or world.load_manifest().classes,
        model=load_config("small", (*SMALL, *settings)).model,
        segmentation_channels=fields["segmentation_features"].shape[1],
        landmark_channels=fields["landmark_features"].shape[1],
        store_recipe=store.recipe,
        ir50_sha256=None,
        epoch=1,
        data_set="small",
        train_split="train",
        selection="best",
        selection_split="valid",
        selection_accuracy=0.5,
    )
    torch.manual_seed(0)
    model = identity.build()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(5)
    out.mkdir()
    save_weights(out / "best.safetensors", model, identity)
    return out


def load(world, run: Path) -> Predictor:
    return Predictor.load(run, segmenter=world.segmenter, landmarks=world.landmarks, device=CPU)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(world, world.open_store(), tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture(scope="module")
def predictor(world, run: Path) -> Predictor:
    return load(world, run)


@pytest.fixture(scope="module")
def heads() -> list[Image.Image]:
    """Drawn heads of 160x160 pixels, not covered by anything."""
    return [Image.fromarray(draw(5, index, ()).image) for index in range(3)]


@pytest.fixture(scope="module")
def group(heads: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of three faces and one without a face, in a folder."""
    folder = tmp_path_factory.mktemp("group")
    picture = Image.new("RGB", (640, 360), (110, 120, 130))
    for head, place in zip(heads, [(430, 50), (20, 20), (230, 150)], strict=True):
        picture.paste(head, place)
    picture.save(folder / "three.png")
    Image.new("RGB", (300, 200), (90, 120, 60)).save(folder / "none.png")
    return folder


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(
        out / "predictions.csv", keep_default_na=False, na_values={"face": "", "x": "", "frame": "", "time_s": ""}
    )


def predicted(out: Path) -> NDArray[np.float64]:
    return table(out)[SHARES].to_numpy(np.float64)


def command(*arguments: object) -> Ended:
    return in_process(main, "predict", *arguments)


def invoke(*arguments: object) -> Result:
    """In this process."""
    return CliRunner().invoke(predict, [*map(str, arguments)])


def refusal(*arguments: object) -> str:
    result = invoke(*arguments)
    assert isinstance(result.exception, OrsanetError | SystemExit)
    assert result.exit_code != 0
    return str(result.exception) if isinstance(result.exception, OrsanetError) else result.output


def networks(world) -> list[object]:
    return ["--segmenter", world.segmenter, "--landmarks", world.landmarks]


@pytest.mark.parametrize(
    ("feature_dtype", "landmark_input", "prior"),
    [("float16", "published", "features"), ("int8", "native", "features"), ("float32", "published", "map")],
)  # fmt: skip
def test_a_crop_gets_the_probabilities_of_the_evaluation(
    world, tmp_path: Path, feature_dtype: str, landmark_input: str, prior: str
) -> None:
    frozen = world.load_priors()
    frozen.landmark_input = landmark_input
    manifest, path = world.load_manifest(), tmp_path / "store.zarr"
    build(manifest, path, frozen, ["clean"], splits=["test"], device=CPU, feature_dtype=feature_dtype)
    store = PriorStore.open(path)
    run = write_run(world, store, tmp_path / "run", f"model.segmentation_prior={prior}")
    evaluate(run / "best.safetensors", manifest, store, tmp_path / "evaluation", groups=["test"], device=CPU)
    evaluated = pd.read_csv(tmp_path / "evaluation" / "predictions.csv")
    assert evaluated[SHARES].std().min() > 1e-3  # so that another picture's would be noticed

    images = [manifest.root / name for name in evaluated["image"]]
    predict_files(load(world, run), images, tmp_path / "out", crop="none", overlays=0)
    ours = table(tmp_path / "out")
    assert ours["path"].tolist() == [str(image) for image in images]
    assert ours["predicted"].tolist() == evaluated["predicted"].tolist()
    np.testing.assert_allclose(ours[SHARES].to_numpy(), evaluated[SHARES].to_numpy(), rtol=0, atol=SUMS)
    assert ours[["face", "x", "y", "w", "h"]].to_numpy().tolist() == [[1, 0, 0, 100, 120]] * len(images)
    assert set(ours["detection_score"]) == {""}


def test_a_found_face_is_what_its_crop_is(predictor: Predictor, group: Path, tmp_path: Path) -> None:
    picture = np.asarray(Image.open(group / "three.png"))
    crops = []
    for number, face in enumerate(FaceDetector().find(picture)):
        crops.append(tmp_path / f"{number}.png")
        Image.fromarray(crop_face(picture, face, 1.2)).save(crops[-1])
    assert len(crops) == 3
    predict_files(predictor, crops, tmp_path / "crops", crop="none", overlays=0)
    predict_files(predictor, [group / "three.png"], tmp_path / "found", margin=1.2, overlays=0)
    np.testing.assert_allclose(predicted(tmp_path / "found"), predicted(tmp_path / "crops"), rtol=0, atol=SUMS)


def test_every_face_has_a_row_and_a_picture_without_one_a_reason(
    predictor: Predictor, group: Path, tmp_path: Path
) -> None:
    summary = predict_files(predictor, find_inputs([group]).files, tmp_path / "out")
    rows = table(tmp_path / "out")
    assert rows["path"].tolist() == [str(group / "none.png"), *[str(group / "three.png")] * 3]
    assert rows["reason"].tolist() == [NO_FACE, "", "", ""]
    assert (rows.iloc[0][[*SHARES, "predicted", "overlay"]] == "").all()
    faces = rows.iloc[1:]
    assert faces["face"].tolist() == [1, 2, 3]
    middles = (faces["x"] + faces["w"].astype(float) / 2).tolist()
    np.testing.assert_allclose(middles, [100, 310, 510], atol=25)  # of heads 160 wide: hair is no part of a box
    shares = faces[SHARES].astype(float)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=SUMS)
    assert faces["predicted"].tolist() == shares.idxmax(axis=1).str.removeprefix("p_").tolist()
    assert (
        faces[["part_plausibility", "landmark_agreement", "segmentation_entropy"]]
        .astype(float)
        .stack()
        .between(0, 1)
        .all()
    )
    assert (summary.pictures, summary.with_prediction, summary.faces) == (2, 1, 3)
    assert summary.text() == "3 faces in 1 of 2 pictures; not predicted: 1 (1 x no face found)"


def test_a_name_that_a_spreadsheet_would_compute_is_marked_in_the_table_and_plain_in_the_json(
    predictor: Predictor, heads: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "-2.png", "@a.png", "plain.png"]
    for name in names:
        heads[0].save(name)
    predict_files(predictor, names, "out", crop="none", overlays=0)
    cells = table(tmp_path / "out")["path"].tolist()
    assert cells == ["'=1+1.png", "'-2.png", "'@a.png", "plain.png"]
    assert [unmarked(cell) for cell in cells] == names
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["path"] for entry in content["predictions"]] == names


def test_the_json_says_what_the_table_says(predictor: Predictor, group: Path, tmp_path: Path) -> None:
    predict_files(predictor, find_inputs([group]).files, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["checkpoint"] == json.loads(predictor.crops.identity.model_dump_json())
    assert (content["crop"], content["margin"], content["frames_per_second"]) == ("auto", 1.0, None)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == columns(predictor.classes)
    assert len(rows) == len(content["predictions"]) == 4
    for row, entry in zip(rows, content["predictions"], strict=True):
        flat: dict[str, Any] = {name: entry[name] for name in ("path", "frame", "time_s", "face", "detection_score")}
        flat |= {name: entry[name] for name in ("predicted", "overlay", "reason")}
        flat |= dict(zip("xywh", entry["box"] or [None] * 4, strict=True))
        flat |= {f"p_{name}": (entry["probabilities"] or {}).get(name) for name in predictor.classes}
        quality = ("part_plausibility", "landmark_agreement", "segmentation_entropy")
        flat |= {name: (entry["prior_quality"] or {}).get(name) for name in quality}
        assert row == {name: "" if value is None else str(value) for name, value in flat.items()}


def test_rows_depend_neither_on_the_batches_nor_on_how_many_pictures_are_looked_at(
    predictor: Predictor, group: Path, heads: list[Image.Image], tmp_path: Path
) -> None:
    files = find_inputs([group]).files
    for number, head in enumerate(heads[:2]):
        head.save(tmp_path / f"{number}.png")
        files += [tmp_path / f"{number}.png", group / "none.png"]
    for size in (2, 50):
        predict_files(predictor, files, tmp_path / f"out{size}", batch_size=size, overlays=0)
    whole, other = table(tmp_path / "out50"), table(tmp_path / "out2")
    assert whole["path"].drop_duplicates().tolist() == list(dict.fromkeys(map(str, files)))
    pd.testing.assert_frame_equal(other.drop(columns=SHARES), whole.drop(columns=SHARES))
    faces = whole["reason"] == ""
    shares = [rows[faces][SHARES].astype(float) for rows in (other, whole)]
    np.testing.assert_allclose(*shares, rtol=0, atol=SUMS)


def test_only_a_few_pictures_are_in_memory(heads: list[Image.Image]) -> None:
    drawn = 0

    def endless() -> Iterator[InputPicture]:
        nonlocal drawn
        while True:
            drawn += 1
            yield InputPicture(Path("x"), drawn, 0.0, np.asarray(heads[0]))

    ahead = look_ahead(Looker("auto", 1.0), endless(), lambda: False, threads=2)
    for taken in range(1, 4):
        assert next(ahead).picture.rgb is None
        assert drawn <= taken + 4
    ahead.close()


def test_each_of_the_awkward_files_has_a_row(predictor: Predictor, shared: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, shared / "bad_inputs" / "make_bad_inputs.py", tmp_path, "--fifo"],
        check=True,
        capture_output=True,
    )
    folder = tmp_path / "files"
    below = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    assert len(below) >= 65
    predict_files(predictor, find_inputs([folder]).files, tmp_path / "out", overlays=3)
    rows = table(tmp_path / "out")
    assert len(rows["path"].unique()) == len(below)
    assert ((rows["predicted"] == "") == (rows["reason"] != "")).all()
    reason = {Path(path).name: reason for path, reason in zip(rows["path"], rows["reason"], strict=True)}
    assert reason["ok_rgb.jpg"] == reason["new\nline.jpg"] == reason["latin1_\\xe9.jpg"] == ""
    assert reason["fifo.jpg"] == "not a regular file"
    assert "Git LFS pointer" in reason["lfs_pointer.jpg"]
    assert "No such file" in reason["link_dangling.jpg"]
    assert reason["link_loop"] != ""
    drawn = rows.loc[rows["overlay"] != "", "overlay"]
    assert len(drawn) == 3
    assert sorted(drawn) == sorted(f"overlays/{path.name}" for path in (tmp_path / "out" / "overlays").iterdir())


def write_video(path: Path, head: Image.Image, frames: int, rate: int = 10) -> Path:
    """Motion JPEG; the head moves to the right by a pixel a frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (320, 240))
    assert writer.isOpened()
    for number in range(frames):
        picture = Image.new("RGB", (320, 240), (110, 120, 130))
        picture.paste(head, (20 + number, 40))
        writer.write(np.asarray(picture)[..., ::-1])
    writer.release()
    return path


def test_a_video_is_a_frame_a_second_with_number_and_time(
    predictor: Predictor, heads: list[Image.Image], tmp_path: Path
) -> None:
    video = write_video(tmp_path / "film.avi", heads[0], 35)
    predict_files(predictor, [video], tmp_path / "out", overlays=1)
    rows = table(tmp_path / "out")
    assert rows["frame"].tolist() == [0, 10, 20, 30]
    assert rows["time_s"].tolist() == [0, 1, 2, 3]
    # As the head moves; the box is found anew in every frame, to a few pixels. Were red and blue exchanged, or frames: no.
    np.testing.assert_allclose(np.diff(rows["x"]), 10, atol=4)
    assert rows["overlay"].tolist() == ["overlays/00001-film-frame0.jpg", "", "", ""]
    (first,) = [picture.rgb for picture in pictures([video], 0.01)]
    assert first is not None
    np.testing.assert_allclose(first[5, 5], (110, 120, 130), atol=3)  # JPEG's rounding
    assert len(list(pictures([video], 5))) == 18
    assert len(list(pictures([video], 1000))) == 35


@pytest.mark.parametrize("rate", [24, 25, 30, 60, 120])
def test_at_the_rate_of_a_video_whose_time_stamps_are_whole_milliseconds_every_frame_is_taken(
    heads: list[Image.Image], tmp_path: Path, rate: int
) -> None:
    video = write_video(tmp_path / "film.mkv", heads[0], 30, rate)
    taken = list(pictures([video], rate))
    assert [picture.frame for picture in taken] == list(range(30))
    assert any(picture.time != pytest.approx(n / rate, abs=1e-5) for n, picture in enumerate(taken)) == (
        1000 % rate > 0
    )
    assert [picture.frame for picture in pictures([video], rate / 2)] == list(range(0, 30, 2))


@pytest.mark.parametrize("name", ["a.3gp", "a.MTS", "a.m2ts", "a.flv", "a.ogv", "a.mp4"])
def test_what_cameras_and_phones_record_is_a_video(name: str) -> None:
    assert is_video(Path(name))


def test_a_broken_video_says_so_and_how_far_it_could_be_seen(heads: list[Image.Image], tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.avi", heads[0], 40).read_bytes()
    (tmp_path / "half.avi").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.MOV").write_text("not a video")
    os.mkfifo(tmp_path / "pipe.mp4")
    broken = {name: list(pictures([tmp_path / name], 1)) for name in ("half.avi", "empty.mp4", "text.MOV", "pipe.mp4")}
    *seen, last = broken.pop("half.avi")
    assert [picture.reason for picture in seen] == ["", ""]
    assert last.reason == f"the video ends here, after {last.frame} of 40 expected frames"
    assert last.frame is not None
    assert 15 <= last.frame <= 20  # half of them, less what the index at the end takes
    reasons = {name: [picture.reason for picture in of] for name, of in broken.items()}
    unreadable = ["not a video that FFmpeg can read, or damaged"]
    assert reasons == {"empty.mp4": unreadable, "text.MOV": unreadable, "pipe.mp4": ["not a regular file"]}


def test_overlays_are_drawn_for_as_many_pictures_as_asked_for(
    predictor: Predictor, group: Path, heads: list[Image.Image], tmp_path: Path
) -> None:
    crowd = Image.new("RGB", (5 * 170, 3 * 170), (110, 120, 130))
    for number in range(15):
        crowd.paste(heads[number % 3], (170 * (number % 5), 170 * (number // 5)))
    crowd.save(tmp_path / "crowd.png")
    heads[0].save(tmp_path / "one.png")
    files = [tmp_path / "crowd.png", group / "three.png", tmp_path / "one.png"]
    summary = predict_files(predictor, files, tmp_path / "out", overlays=parse_overlays("2"))
    assert (summary.overlays, summary.faces) == (2, 15 + 3 + 1)
    crowded, *_ = summary.found().splitlines()
    assert crowded.endswith(", and 3 more faces")
    assert crowded.count("face ") == MAX_FACES
    names = [f"overlays/{file_name(n + 1, files[n], None)}" for n in range(2)]
    assert table(tmp_path / "out")["overlay"].tolist() == [*[names[0]] * 15, *[names[1]] * 3, ""]
    heights = []
    for name in names:
        with Image.open(tmp_path / "out" / name) as drawn:
            heights.append(drawn.height - 936 * (3 if name == names[0] else 9) // (5 if name == names[0] else 16))
    tile = 224 + 8  # of tiles.py, with the gap
    assert MAX_FACES * tile < heights[0] < 15 * 1.25 * tile  # with titles
    assert 3 * tile < heights[1] < 5 * tile


@pytest.mark.parametrize("letter", ["a", "é", "\u4e2d", "\U00020000"])
def test_an_overlay_has_a_name_that_a_file_system_takes(tmp_path: Path, letter: str) -> None:
    name = file_name(12345, Path(letter * (250 // len(letter.encode())) + ".mp4"), 1234567)
    assert len(name.encode()) <= 143
    assert name == f"12345-{letter * (120 // len(letter.encode()))}-frame1234567.jpg"
    (tmp_path / name).touch()


def test_how_many_overlays_is_a_number_or_a_word() -> None:
    assert [parse_overlays(text) for text in ("none", "7", "all")] == [0, 7, math.inf]
    for text in ("some", "-1", "2.5", ""):
        with pytest.raises(OrsanetError, match=f"--overlays {text}: give none, all or a number of pictures"):
            parse_overlays(text)


def test_a_folder_with_something_in_it_is_left_alone(predictor: Predictor, group: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OrsanetError, match="is not empty; choose a new folder with --out"):
        predict_files(predictor, [group / "three.png"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_another_command_writes_is_refused(predictor: Predictor, group: Path, tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(OrsanetError, match=f"^{tmp_path}: another command is writing this folder"):
        predict_files(predictor, [group / "three.png"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_earlier_predicts_folder_is_left_out_and_named(
    world, predictor: Predictor, run: Path, group: Path, heads: list[Image.Image], tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    (photos / "overlays").mkdir(parents=True)  # the user's own
    for place in (photos / "three.png", photos / "overlays" / "one.png"):
        place.hardlink_to(group / "three.png")
    predict_files(predictor, find_inputs([photos]).files, photos / "said", overlays=1)
    interrupted = photos / "interrupted"
    (interrupted / "overlays").mkdir(parents=True)
    heads[0].save(interrupted / "overlays" / "00001-head.jpg")
    (interrupted / "predictions.csv.partial").touch()
    found = find_inputs([photos])
    assert found.files == [photos / "overlays" / "one.png", photos / "three.png"]
    assert sorted(found.left_out) == [interrupted, photos / "said"]
    (overlay,) = (photos / "said" / "overlays").iterdir()
    assert find_inputs([overlay]).files == [overlay]  # asked for by name
    with pytest.raises(OrsanetError, match=r"no file in .*said except the output of an earlier predict"):
        find_inputs([photos / "said"])
    result = invoke(run, photos, *networks(world), "--out", tmp_path / "out", "--crop", "none")
    assert result.exit_code == 0, result.output
    for folder in (interrupted, photos / "said"):
        assert f"\n  {folder}\n" in result.output
    assert len(table(tmp_path / "out")) == 2


def test_a_refusal_leaves_no_folder(world, run: Path, group: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "new" / "out", group / "three.png"
    refusals: list[tuple[str, list[object]]] = [
        (f"{group} is not a run folder: it has no best.safetensors; pass one that", [group, picture, *networks(world)]),
        (f"{run} has no last.safetensors, only best", [run, picture, *networks(world), "--checkpoint", "last"]),
        ("needs the SegFace", [run, picture]),
        ("not available here", [run, picture, *networks(world), "--device", "cuda:99"]),
    ]
    for sentence, arguments in refusals:
        assert sentence in refusal(*arguments, "--out", out)
        assert not out.parent.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--fps", "inf"], "'--fps': inf is not in the range 0<x<=1000"),
        (["--fps", "nan"], "'--fps': 'nan' is not a finite number"),
        (["--margin", "nan"], "'--margin': 'nan' is not a finite number"),
        (["--crop", "none", "--margin", "1"], "--crop none does not crop pictures, so --margin has no effect"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_sentence(
    run: Path, group: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    assert sentence in refusal(run, group, *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    check_new_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OrsanetError, match=r"file: is not a folder; choose another folder with --out"):
            check_new_folder(path)


def test_too_little_memory_is_a_sentence_with_what_to_do(world, run: Path, heads: list[Image.Image]) -> None:
    predictor = load(world, run).crops
    view = np.array(heads[0].resize((224, 224)))[None]
    said = predictor.predict(view)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("as a GPU would")

    hook = predictor._model.ir_back.register_forward_pre_hook(full)
    with pytest.raises(OrsanetError, match="1 faces do not fit in the memory of cpu; lower --batch-size"):
        predictor.predict(view)
    with pytest.raises(OrsanetError, match="does not fit in the memory of cpu; pass --overlays none"):
        predictor.attention(said)
    hook.remove()
    assert predictor.attention(said).shape == (1, 14, 14)


def test_an_answer_that_is_not_finite_is_a_reason(
    world, predictor: Predictor, run: Path, heads: list[Image.Image], tmp_path: Path
) -> None:
    frozen = world.load_priors()
    with torch.no_grad():
        for parameter in frozen.landmark_network.parameters():
            parameter.mul_(1e4)  # float32 holds its features, float16 does not
    model, identity = load_weights(run / "best.safetensors")
    heads[0].save(tmp_path / "head.png")
    with pytest.raises(OrsanetError, match="nothing could be predicted"):
        predict_files(Predictor(CropPredictor(model, identity, frozen, CPU)), [tmp_path / "head.png"], tmp_path / "out")
    (row,) = table(tmp_path / "out").to_dict("records")
    assert row["reason"] == "the networks' outputs for this face are not finite"
    assert row["predicted"] == row["p_anger"] == ""
    assert row["w"] != ""


def test_the_command_from_a_folder_to_rows(world, run: Path, group: Path, tmp_path: Path) -> None:
    result = command(run, group, *networks(world), "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    without, three, *rest = result.stdout.splitlines()
    assert without == f"{group / 'none.png'}: {NO_FACE}"
    (head,) = set(table(tmp_path / "out")["path"]) - {str(group / "none.png")}
    faces = table(tmp_path / "out").iloc[1:]
    shares = faces[SHARES].astype(float).max(axis=1)
    said = [
        f"face {n}: {name} {100 * share:.0f} %"
        for n, (name, share) in enumerate(zip(faces["predicted"], shares, strict=True), 1)
    ]
    assert three == f"{head}: {', '.join(said)}"
    assert rest[0] == "3 faces in 1 of 2 pictures; not predicted: 1 (1 x no face found)"
    assert f"wrote {tmp_path / 'out'}" in result.stdout
    assert "img/s" in result.stderr
    assert "Error" not in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "overlays",
        "predictions.csv",
        "predictions.json",
    ]


def test_where_nothing_can_be_predicted_that_is_an_error_and_the_reasons_stay(
    predictor: Predictor, group: Path, tmp_path: Path
) -> None:
    with pytest.raises(OrsanetError, match=r"nothing could be predicted; see the reasons in .*1 x no face found"):
        predict_files(predictor, [group / "none.png"], tmp_path / "out")
    assert table(tmp_path / "out")["reason"].tolist() == [NO_FACE]


def test_the_first_pictures_are_printed_and_the_others_counted(
    predictor: Predictor, heads: list[Image.Image], tmp_path: Path
) -> None:
    heads[0].save(tmp_path / "head.png")
    files = [tmp_path / f"{number:02}\n\x1b[31m.png" for number in range(12)]
    for file in files:
        file.hardlink_to(tmp_path / "head.png")
    found = predict_files(predictor, files, tmp_path / "out", crop="none", overlays=0).found()
    assert all(letter.isprintable() or letter == "\n" for letter in found)  # whatever a name would do to a terminal
    lines = found.splitlines()
    assert [line.partition(": ")[0] for line in lines[:10]] == [
        str(tmp_path / f"{n:02}\\n\\x1b[31m.png") for n in range(10)
    ]
    assert lines[10:] == ["and 2 more pictures"]


def test_what_does_not_exist_ends_the_command_before_it_begins(world, run: Path, group: Path, tmp_path: Path) -> None:
    result = command(run, group, tmp_path / "absent.jpg", *networks(world), "--out", tmp_path / "out")
    assert result.returncode == 1
    assert f"no such file or folder; nothing was predicted:\n  {tmp_path / 'absent.jpg'}" in result.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "bare").mkdir()
    with pytest.raises(OrsanetError, match=r"no file in .*bare; pass images"):
        find_inputs([tmp_path / "bare"])


def test_links_are_followed_and_those_that_lead_out_are_counted(world, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "own").mkdir(parents=True)
    (photos / "own/a.png").write_bytes(b"")
    (photos / "elsewhere").symlink_to(world.folder / "images")
    (photos / "again.png").symlink_to("own/a.png")
    (photos / "own/up").symlink_to("..")
    found = find_inputs([photos])
    images = sorted(path.name for path in (world.folder / "images").iterdir())
    assert [path.name for path in found.files if path.parent.name == "elsewhere"] == images
    assert {path.relative_to(photos).as_posix() for path in found.files if path.parent.name != "elsewhere"} == {
        "again.png", "own/a.png", "own/up",  # the last, which would never end, is answered with a reason
    }  # fmt: skip
    assert found.outside == [path for path in found.files if path.parent.name == "elsewhere"]


def test_a_picture_is_found_in_the_other_form_of_its_accents(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "Zoé.png")).write_bytes(b"")
    assert find_inputs([tmp_path / "Zoé.png"]).files == [tmp_path / unicodedata.normalize("NFD", "Zoé.png")]


def test_other_frozen_networks_than_the_runs_are_refused_by_name(world, run: Path, group: Path) -> None:
    with pytest.raises(OrsanetError, match=r"other frozen networks[\s\S]*segmenter"):
        Predictor.load(run, segmenter="demo", landmarks=world.landmarks, device=CPU)
    with pytest.raises(OrsanetError, match=r"--landmarks"):
        Predictor.load(run, segmenter=world.segmenter, device=CPU)


def test_an_interruption_leaves_the_rows_that_were_finished(
    world, programs: ForkServer, run: Path, group: Path, tmp_path: Path
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(2000):
        (many / f"{number:04}.png").hardlink_to(group / "three.png")
    out = tmp_path / "out"
    partial = out / "predictions.csv.partial"
    arguments = [run, many, *networks(world), "--out", out, "--overlays", "none", "--crop", "none"]
    process = programs.start("orsanet-train", "predict", *arguments)
    until = time.monotonic() + 60
    while not (partial.exists() and partial.read_text().count("\n") > 20):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"{out} has the rows that were finished" in said
    assert [path.name for path in out.iterdir()] == ["predictions.csv.partial"]
    rows = pd.read_csv(partial, keep_default_na=False)
    assert 20 <= len(rows) < 2000
    assert rows["path"].tolist() == [str(many / f"{number:04}.png") for number in range(len(rows))]
    assert (rows["predicted"] != "").all()


def frames_of(video: Path) -> tuple[list[NDArray[np.uint8]], float]:
    """RGB frames and their number a second."""
    opened = cv2.VideoCapture(str(video))
    frames = []
    while (read := opened.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames, opened.get(cv2.CAP_PROP_FPS)


def yellow(frame: NDArray[np.uint8]) -> int:
    """Pixels in the colour of boxes, give or take what the codec changes."""
    return int((np.abs(frame.astype(int) - BOX).max(axis=2) < 60).sum())


def test_an_annotated_copy_has_the_predicted_frames_with_boxes_at_the_pace_of_the_original(
    predictor: Predictor, heads: list[Image.Image], tmp_path: Path
) -> None:
    first, other = write_video(tmp_path / "film.avi", heads[0], 20), tmp_path / "no face.avi"
    writer = cv2.VideoWriter(str(other), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 240))
    for _ in range(10):
        writer.write(np.full((240, 320, 3), 110, np.uint8))
    writer.release()
    picture = tmp_path / "head.png"
    heads[0].save(picture)
    out = tmp_path / "out"
    summary = predict_files(
        predictor, [first, picture, other, first], out, per_second=5, overlays=0, annotate=True, batch_size=4
    )
    assert summary.annotated == 3
    copies = sorted(path.name for path in (out / "annotated").iterdir())
    assert copies == ["00001-film.mp4", "00002-no_face.mp4", "00003-film.mp4"]
    frames, rate = frames_of(out / "annotated" / copies[0])
    assert (len(frames), rate, frames[0].shape) == (10, 5, (240, 320, 3))
    assert min(map(yellow, frames)) > 500
    empty, _ = frames_of(out / "annotated" / copies[1])
    assert len(empty) == 5
    assert max(map(yellow, empty)) == 0
    assert (table(out)["path"] == str(first)).sum() == 20
    assert find_inputs([tmp_path]).left_out == [out]


def test_an_annotated_copy_bridges_what_is_not_there(tmp_path: Path) -> None:
    copy = _Copy(tmp_path / "a.mp4", (64, 64), 10.0, longest_gap=1.0)
    for time_s in (0.0, 0.1, 0.4, 100.0, 100.1):  # a gap of three frames, and one too long to be bridged
        copy.add(Image.new("RGB", (64, 64)), time_s)
    copy.finish()
    frames, rate = frames_of(tmp_path / "a.mp4")
    assert (len(frames), rate) == (2 + 3 + 11 + 1, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_annotated_copy_that_is_not_whole_is_an_error(tmp_path: Path) -> None:
    copy = _Copy(tmp_path / "a.mp4", (64, 64), 10.0, longest_gap=1.0)
    noise = np.random.default_rng(0)
    with full_disk(2000):
        for number in range(20):
            copy.add(Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)), number / 10)
        with pytest.raises(OrsanetError, match=r"a\.partial\.mp4: cannot be written \(\d+ of 20 frames"):
            copy.finish()
    assert not (tmp_path / "a.mp4").exists()


def test_a_webcam_has_rows_overlays_and_an_annotated_copy(
    predictor: Predictor, heads: list[Image.Image], tmp_path: Path
) -> None:
    """A file in the place of the camera."""
    film = write_video(tmp_path / "film.avi", heads[0], 6)
    summary = predict_files(
        predictor, [Webcam(film)], tmp_path / "out", per_second=1000, overlays=1, annotate=True, batch_size=2
    )
    rows = table(tmp_path / "out")
    assert set(rows["path"]) == {f"webcam {film}"}
    assert rows["reason"].tolist()[-1] == "the camera stopped sending pictures"
    assert (rows["predicted"] != "").sum() == summary.faces >= 1
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["frames_per_second"] == 1000
    assert [path.name for path in (tmp_path / "out" / "annotated").iterdir()] == ["00001-film.mp4"]


def test_class_names_that_no_font_has_are_numbers_that_the_json_and_the_terminal_explain(
    world, group: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_home(tmp_path / "home", monkeypatch)
    run = write_run(world, world.open_store(), tmp_path / "run", classes=("生气", "happy", "中性 脸"))
    result = command(run, group / "three.png", *networks(world), "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    said = "no installed font has the letters of some names, so pictures have numbers in their place: #0 生气, #2 中性 脸 ("
    assert result.stderr.count(said) == 1
    about = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert about["class_numbers_in_pictures"] == {"#0": "生气", "#2": "中性 脸"}
