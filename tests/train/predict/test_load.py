"""`load(run)` gives from Python what the predict command writes, for pictures in any form."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from object_server import Proxy
from PIL import Image, ImageOps

from orsanet_cache import OrsanetError
from orsanet_cache.paths import Url
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.synthetic.picture import draw
from orsanet_train.config import load_config
from orsanet_train.model.checkpoint import Identity, save_weights
from orsanet_train.predict.load import Predictor, load
from orsanet_train.predict.predict import predict_files
from orsanet_train.predict.seen import NO_FACE

SMALL = (
    "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]",
    "model.multi_scale=false",
)  # fmt: skip
SUMS = 1e-6  # of a probability: a batch of another size is summed in another order


@pytest.fixture(scope="module")
def run(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with weights as training begins with them, and its frozen networks in it."""
    out, store = tmp_path_factory.mktemp("load") / "run", world.open_store()
    fields = store.fields("test", "clean")
    identity = Identity(
        classes=world.load_manifest().classes, model=load_config("small", SMALL).model,
        segmentation_channels=fields["segmentation_features"].shape[1], landmark_channels=fields["landmark_features"].shape[1],
        store_recipe=store.recipe, ir50_sha256=None, epoch=1, data_set="small", train_split="train",
        selection="best", selection_split="valid", selection_accuracy=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = identity.build()
    out.mkdir()
    save_weights(out / "best.safetensors", model, identity)
    for name, path in (("segmenter", world.segmenter), ("landmarks", world.landmarks)):
        (out / f"{name}.safetensors").symlink_to(path)
    return out


@pytest.fixture(scope="module")
def model(run: Path) -> Predictor:
    return load(str(run), device="cpu")


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of two faces, one of none, and a file that is no picture, in a folder."""
    folder = tmp_path_factory.mktemp("group")
    picture = Image.new("RGB", (480, 300), (110, 120, 130))
    for index, place in enumerate([(280, 60), (40, 40)]):
        picture.paste(Image.fromarray(draw(5, index, ()).image), place)
    picture.save(folder / "two.png")
    Image.new("RGB", (300, 200), (90, 120, 60)).save(folder / "none.png")
    (folder / "text.jpg").write_text("no picture")
    return folder


def shares(result) -> np.ndarray:
    return np.array([list(face.probability.values()) for face in result.faces])


def test_a_run_at_a_url_predicts_the_same(
    world,
    run: Path,
    model: Predictor,
    group: Path,
    bucket: Proxy,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OrsanetError, match=rf"{url}/best.safetensors: no such file; there is no run at this URL"):
        load(url, device="cpu")
    Bucket.open(Url(url)).write("best.safetensors", (run / "best.safetensors").read_bytes())
    with pytest.raises(OrsanetError) as raised:
        load(url, device="cpu", segmenter="demo", landmarks=world.landmarks)
    assert f"{url} was trained on priors of other frozen networks" in str(raised.value)
    there = load(url, device="cpu", segmenter=world.segmenter, landmarks=world.landmarks)
    assert np.array_equal(shares(there(group / "two.png")), shares(model(group / "two.png")))
    assert list(tmp_path.iterdir()) == []


def test_a_picture_has_what_the_command_writes(model: Predictor, group: Path, tmp_path: Path) -> None:
    predict_files(model, [group / "two.png"], tmp_path / "out", overlays=1)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
    result = model(group / "two.png")
    assert result.name == str(group / "two.png")
    assert len(result.faces) == len(entries) == 2
    for face, entry in zip(result.faces, entries, strict=True):
        assert face.number == entry["face"]
        assert [round(value, 1) for value in (face.box.x, face.box.y, face.box.width, face.box.height)] == entry["box"]
        assert face.label == entry["predicted"]
        assert face.probability == entry["probabilities"]
        assert {name: round(value, 4) for name, value in face.quality.items()} == entry["prior_quality"]
        assert face.reason == ""
        assert (face.pixels.shape, face.segmentation_map.shape, face.landmarks.shape) == (
            (112, 112, 3),
            (224, 224),
            (68, 2),
        )
    assert str(result) == f"{group / 'two.png'}: {result.faces[0]}, {result.faces[1]}"
    best = result.faces[0].label
    assert str(result.faces[0]) == f"face 1: {best} {100 * result.faces[0].probability[best]:.0f} %"


def test_attention_and_overlay_are_made_when_they_are_asked_for(model: Predictor, group: Path, tmp_path: Path) -> None:
    predict_files(model, [group / "two.png"], tmp_path / "out", overlays=1)
    (path,) = (tmp_path / "out" / "overlays").iterdir()
    result = model(group / "two.png")
    heat = result.faces[0].attention
    assert heat.shape == (14, 14)
    assert 0 <= heat.min() <= heat.max() <= 1
    assert result.faces[0].attention is heat
    for drawn in (result.overlay(), model(Image.open(group / "two.png")).overlay()):
        drawn.save(tmp_path / "ours.jpg", quality=90)
        assert (tmp_path / "ours.jpg").read_bytes() == path.read_bytes()
    crop = model(group / "two.png", crop="none").overlay()
    assert crop.height < result.overlay().height
    with pytest.raises(OrsanetError, match=rf"none.png: no overlay without a face \({NO_FACE}\)"):
        model(group / "none.png").overlay()


def test_a_picture_may_be_a_path_an_image_or_an_array(model: Predictor, group: Path) -> None:
    expected = shares(model(group / "two.png"))
    with Image.open(group / "two.png") as image:
        array = np.asarray(image)
    bgr = np.ascontiguousarray(array[..., ::-1])
    for given in (str(group / "two.png"), Image.fromarray(array), array, bgr[..., ::-1]):
        np.testing.assert_allclose(shares(model(given)), expected, rtol=0, atol=SUMS)
    assert model(array).name == "picture 1"


def test_an_image_is_turned_upright_as_its_file_is(model: Predictor, group: Path, tmp_path: Path) -> None:
    with Image.open(group / "two.png") as upright:
        exif = upright.getexif()
        exif[0x0112] = 6  # to be turned by a quarter
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert ImageOps.exif_transpose(image).size == (480, 300)
        np.testing.assert_allclose(shares(model(image)), shares(model(group / "two.png")), rtol=0, atol=SUMS)


def test_several_pictures_have_a_result_each_in_their_order(model: Predictor, group: Path) -> None:
    with Image.open(group / "two.png") as image:
        array = np.asarray(image)
    results = model([group / "none.png", array, str(group / "text.jpg"), group / "two.png"])
    assert [len(result.faces) for result in results] == [0, 2, 0, 2]
    assert results[0].reason == NO_FACE
    assert "not an image" in results[2].reason
    np.testing.assert_allclose(shares(results[1]), shares(results[3]), rtol=0, atol=SUMS)
    assert model([]) == []
    two = model(np.stack([array, array]), crop="none")
    assert [str(one).partition(":")[0] for one in two] == ["picture 1", "picture 2"]
    assert two[0].faces[0].box.width == 480
    assert two[0].faces[0].box.score is None


def test_a_stream_takes_pictures_and_videos_one_after_the_other(model: Predictor, group: Path, tmp_path: Path) -> None:
    import cv2

    with Image.open(group / "two.png") as image:
        frame = np.asarray(image)[..., ::-1].copy()
    video = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (480, 300))
    for _ in range(20):
        video.write(frame)
    video.release()
    results = model.stream([group / "none.png", tmp_path / "film.avi"])
    first, *frames = results
    assert (first.frame, first.reason) == (None, NO_FACE)
    assert [(one.frame, len(one.faces)) for one in frames] == [(0, 2), (10, 2)]
    assert frames[1].overlay().height > frames[1].seen.preview.pixels.shape[0]
    assert str(frames[1]).startswith(f"{tmp_path / 'film.avi'}, frame 10: face 1: ")
    with pytest.raises(OrsanetError, match=r"film.avi is a video: take its frames from `for result in model.stream"):
        model(tmp_path / "film.avi")


def test_crop_and_margin_are_as_loaded_unless_given(run: Path, group: Path) -> None:
    crops = load(run, crop="none", device="cpu")
    assert len(crops(group / "two.png").faces) == 1
    assert len(crops(group / "two.png", crop="auto").faces) == 2
    wide = load(run, margin=2.0, device="cpu")
    np.testing.assert_allclose(
        shares(wide(group / "two.png")), shares(crops(group / "two.png", crop="auto", margin=2.0)), rtol=0, atol=SUMS
    )
    assert not np.array_equal(
        wide(group / "two.png").faces[0].pixels, crops(group / "two.png", crop="auto").faces[0].pixels
    )


def test_what_is_no_picture_is_refused_with_what_was_expected(model: Predictor, run: Path, group: Path) -> None:
    for wrong in (np.zeros((50, 50, 3)), np.zeros((50, 50), np.uint8), np.zeros((50, 50, 4), np.uint8)):
        with pytest.raises(TypeError, match=r"picture: expected RGB uint8 \[H, W, 3\], not"):
            model(wrong)
    with pytest.raises(OrsanetError, match="picture of 50x9 pixels: each side needs at least 16"):
        model(np.zeros((9, 50, 3), np.uint8))
    with pytest.raises(TypeError, match="picture: expected a path"):
        model(7)
    with pytest.raises(OrsanetError, match=r"absent.jpg: no such file; nothing was predicted"):
        model([group / "two.png", group / "absent.jpg"])
    with pytest.raises(OrsanetError, match="is a folder; give its pictures"):
        model(group)
    with pytest.raises(OrsanetError, match="crop 'all': give auto or none"):
        model(group / "two.png", crop="all")
    with pytest.raises(OrsanetError, match=r"margin 9: give a number from 0.5 to 4"):
        load(run, margin=9)
    with pytest.raises(OrsanetError, match=r"has no last.safetensors, only best.safetensors"):
        load(run, checkpoint="last")


def test_a_damaged_image_is_a_result_with_a_reason(model: Predictor, group: Path, tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes((group / "two.png").read_bytes()[:2000])
    with Image.open(tmp_path / "half.png") as image:
        result = model(image)
    assert result.faces == ()
    assert "damaged" in result.reason
