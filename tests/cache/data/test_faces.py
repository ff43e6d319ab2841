"""Faces are found once each, wherever and however large they are, and cropped upright, as the crops of a data set are."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache import FaceDetector, OrsanetError, crop_face, view_pixels
from orsanet_cache.data import faces
from orsanet_cache.data.faces import DetectedFace
from orsanet_cache.synthetic.picture import draw

Pixels = NDArray[np.uint8]
LEVEL = np.array([[0, 0], [4, 0], [2, 2], [0, 4], [4, 4]], np.float32)


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def portraits() -> list[Image.Image]:
    """Drawn heads of 160x160 pixels, not covered by anything."""
    return [Image.fromarray(draw(5, index, ()).image) for index in range(4)]


def scene(size: tuple[int, int], heads: Sequence[tuple[Image.Image, int, int, int]]) -> Pixels:
    """A smooth ground, width and height `size`, with heads at (left, top), `side` pixels each."""
    coarse = np.random.default_rng(1).integers(90, 170, (4, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    for head, left, top, side in heads:
        picture.paste(head.resize((side, side), Image.Resampling.LANCZOS), (left, top))
    return np.asarray(picture)


def middles(found: Sequence[DetectedFace]) -> NDArray[np.float64]:
    return np.array([(face.x + face.width / 2, face.y + face.height / 2) for face in found])


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


def face(x: float, y: float, side: float, points: NDArray[np.float32] = LEVEL) -> DetectedFace:
    return DetectedFace(x, y, side, side, 0.9, points)


def test_every_face_is_found_once_and_from_left_to_right(detector: FaceDetector, portraits: list[Image.Image]) -> None:
    placed = [(700, 40, 300), (20, 500, 80), (250, 90, 160), (1050, 300, 120)]
    heads = [(head, *place) for head, place in zip(portraits, placed, strict=True)]
    found = detector.find(scene((1280, 720), heads))
    expected = [(left + side / 2, top + side / 2) for left, top, side in sorted(placed)]
    sides = np.array([side for *_, side in sorted(placed)])
    assert len(found) == 4
    # The middle of a head's box is not that of its square: 15 % of it is hair or neck.
    assert (np.abs(middles(found) - expected).max(axis=1) < 0.15 * sides).all()
    assert all(faces.SCORE <= one.score <= 1 for one in found)


def test_a_picture_without_a_face_has_none(detector: FaceDetector) -> None:
    assert detector.find(scene((800, 600), [])) == []
    assert detector.find(noise(300, 400)) == []
    assert detector.find(np.zeros((16, 16, 3), np.uint8)) == []


def test_faces_too_small_to_be_seen_in_the_whole_are_found_in_tiles(
    detector: FaceDetector, portraits: list[Image.Image]
) -> None:
    heads = [(head, 300 + 400 * n, 200 + 250 * n, 64) for n, head in enumerate(portraits)]
    picture = scene((2200, 1500), heads)
    assert len(detector.find(picture)) == 4
    small, scale = faces._shrunk(picture, faces.WHOLE)
    assert len(list(detector._in_part(faces._Part(small, scale, 0, 0, None)))) < 4  # it is the tiles that find all


@pytest.mark.parametrize("side", [160, 700, 1600])
def test_a_face_that_fills_the_picture_is_found_once(
    detector: FaceDetector, portraits: list[Image.Image], side: int
) -> None:
    for head in portraits[:2]:
        assert len(detector.find(scene((side, side), [(head, 0, 0, side)]))) == 1


@pytest.mark.parametrize("place", [440, 480, 512, 550, 590, 640])
def test_a_face_across_the_border_of_two_tiles_is_one_face(
    detector: FaceDetector, portraits: list[Image.Image], place: int
) -> None:
    (found,) = detector.find(scene((faces.FINE, faces.FINE), [(portraits[0], place, place, 100)]))
    assert abs(middles([found]) - (place + 50)).max() < 15  # of 100, as above


def test_boxes_are_in_the_pixels_of_the_picture(detector: FaceDetector, portraits: list[Image.Image]) -> None:
    picture = scene((600, 400), [(portraits[0], 200, 100, 200)])
    (one,) = detector.find(picture)
    (larger,) = detector.find(np.asarray(Image.fromarray(picture).resize((1800, 1200), Image.Resampling.BICUBIC)))
    # The detector sees another picture of the face and is not exact: a tenth of its width.
    np.testing.assert_allclose(np.array(larger.box) / 3, one.box, atol=0.1 * one.width)
    assert (one.points > (one.x, one.y)).all()
    assert (one.points < (one.x + one.width, one.y + one.height)).all()
    left_eye, right_eye, nose, left_corner, right_corner = one.points.tolist()
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_corner[0] < right_corner[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_corner[1], right_corner[1])


@pytest.mark.parametrize("degrees", [-30, -15, 20])
def test_crops_of_turned_faces_are_upright(detector: FaceDetector, portraits: list[Image.Image], degrees: int) -> None:
    heads = scene((500, 500), [(portraits[1], 130, 130, 240)])
    turned = np.asarray(Image.fromarray(heads).rotate(-degrees, Image.Resampling.BICUBIC))  # Pillow's are anticlockwise
    (upright,), (found,) = detector.find(heads), detector.find(turned)
    # The points lag behind a turn by up to a third of it: the detector has seen mostly upright faces.
    assert 0.6 < (found.tilt - upright.tilt) / degrees < 1.2
    (after,) = detector.find(crop_face(turned, found, 1.5))
    assert abs(after.tilt) < 0.5 * abs(degrees)


def test_the_crop_of_a_level_face_is_the_picture_itself() -> None:
    picture = noise(200, 300)
    exact = face(50, 63, 100)
    np.testing.assert_array_equal(crop_face(picture, exact), picture[60:160, 50:150])  # raised by 3 of 100
    np.testing.assert_array_equal(crop_face(picture, exact, 1.2), picture[50:170, 40:160])


def test_a_face_on_its_side_is_turned() -> None:
    picture = noise(200, 300)
    on_its_side = np.array([[4, 0], [4, 4], [2, 2], [0, 0], [0, 4]], np.float32)  # its top to the right
    lying = face(50, 60, 100, on_its_side)
    assert lying.tilt == 90
    np.testing.assert_array_equal(crop_face(picture, lying), np.rot90(picture[60:160, 53:153]))


def test_a_profile_whose_eyes_are_in_one_place_is_turned_by_its_mouth() -> None:
    points = np.array([[10, 0], [10, 0], [12, 10], [0, 20], [0, 20]], np.float32)
    assert face(0, 0, 20, points).tilt == pytest.approx(np.degrees(np.arctan2(10, 20)), abs=1e-9)


def test_a_crop_beyond_the_picture_repeats_its_edge() -> None:
    picture = noise(80, 60)
    cropped = crop_face(picture, face(-20, 1.8, 60))  # raised by 1.8
    np.testing.assert_array_equal(cropped[:, 20:], picture[:60, :40])
    np.testing.assert_array_equal(cropped[:, :20], np.repeat(picture[:60, :1], 20, axis=1))


def test_a_box_beside_the_picture_is_its_edge() -> None:
    picture = noise(80, 60)
    np.testing.assert_array_equal(
        crop_face(picture, face(500, 10, 20))[:, 0], crop_face(picture, face(50, 10, 20))[:, -1]
    )
    assert (crop_face(picture, face(-90, -90, 20)) == picture[0, 0]).all()


def test_a_panorama_is_cropped_although_opencv_takes_no_side_so_long() -> None:
    picture = noise(40, 40_000)
    np.testing.assert_array_equal(crop_face(picture, face(39_000, 2.6, 20)), picture[2:22, 39_000:39_020])


def test_up_to_the_bound_a_crop_has_the_pixels_of_the_picture() -> None:
    picture = noise(faces.LARGEST + 100, faces.LARGEST + 100)
    exact = face(50, 50 + 0.03 * faces.LARGEST, faces.LARGEST)
    np.testing.assert_array_equal(crop_face(picture, exact), picture[50 : 50 + faces.LARGEST, 50 : 50 + faces.LARGEST])


@pytest.mark.parametrize("degrees", [0, 25])
def test_a_crop_beyond_the_bound_shows_the_same_shrunk(portraits: list[Image.Image], degrees: int) -> None:
    radians = np.radians(degrees)
    turned = LEVEL @ np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]])
    picture = scene((1500, 1200), [(portraits[0], 200, 100, 700)])
    one = face(250, 150, 600, turned.astype(np.float32))
    larger = np.asarray(Image.fromarray(picture).resize((3000, 2400), Image.Resampling.BICUBIC))
    cropped = crop_face(larger, one.scaled(2), 1.5)
    assert cropped.shape == (faces.LARGEST, faces.LARGEST, 3)
    views = [view_pixels(pixels, "clean").astype(float) for pixels in (cropped, crop_face(picture, one, 1.5))]
    # Resized once more, so a little softer: less than half a level on average. A shift by one pixel of the view is more than two.
    assert np.abs(views[0] - views[1]).mean() < 0.5
    assert np.abs(views[0][:, 1:] - views[1][:, :-1]).mean() > 2


def test_the_largest_crop_takes_little_memory() -> None:
    program = """
import resource, numpy as np
from orsanet_cache.data.faces import DetectedFace, crop_face
picture = np.zeros((8200, 1000, 3), np.uint8)
points = np.array([[0, 0], [4, 0], [2, 2], [0, 4], [4, 4]], np.float32)
crop_face(picture, DetectedFace(0, 0, 100, 100, 0.9, points))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert crop_face(picture, DetectedFace(0, 0, 1000, 8200, 0.9, points), 4).shape == (1000, 1000, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=120, text=True)
    assert (
        int(result.stdout) < 100_000
    )  # kB: the picture once more, at four bytes a pixel, and the crop; it would be 3 GB


def test_threads_may_share_a_detector(detector: FaceDetector, portraits: list[Image.Image]) -> None:
    pictures = [np.asarray(head) for head in portraits] * 2
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(detector.find, pictures))
    for found, picture in zip(together, pictures, strict=True):
        assert [one.box for one in found] == [one.box for one in detector.find(picture)]


def test_nothing_is_said_on_standard_error() -> None:
    program = "import numpy as np, orsanet_cache as c; c.FaceDetector().find(np.zeros((700, 700, 3), np.uint8))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=120)
    assert result.stderr == b""


def test_the_shipped_model_is_the_one_that_its_licence_is_of() -> None:
    licence = faces.MODEL.with_name("LICENSE").read_text()
    assert hashlib.sha256(faces.MODEL.read_bytes()).hexdigest() in licence
    assert "MIT License" in licence


def test_a_damaged_model_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / "model.onnx"
    for content in (None, b"\x08\x07"):
        if content is not None:
            damaged.write_bytes(content)
        monkeypatch.setattr(faces, "MODEL", damaged)
        with pytest.raises(OrsanetError, match=r"model\.onnx: the face detector is missing or damaged"):
            FaceDetector()


def test_crops_of_real_faces_are_framed_as_they_were(detector: FaceDetector, shared: Path) -> None:
    files = sorted((shared / "faces" / "faces").rglob("*.jpg"))[::16]
    assert len(files) >= 50
    sides, off = [], []
    for file in files:
        picture = np.asarray(Image.open(file).convert("RGB"))
        (one,) = detector.find(picture)  # in each of them
        longest = max(one.width, one.height)
        sides.append(faces.SIDE * longest / len(picture))
        centre = np.array([one.x + one.width / 2, one.y + one.height / 2 - faces.RAISED * longest])
        off.append(centre / len(picture) - 0.5)
    # Medians of all 959 are 1.00 and 0.00; those of 60 scatter by about 0.01.
    assert np.median(sides) == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(np.median(off, axis=0), 0, atol=0.02)
