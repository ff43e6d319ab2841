"""Find the faces of a picture, and crop them like the data sets' pictures.

    picture ─┬─ whole, 480 pixels ────────────────┬─ YuNet ─▶ boxes, five points ─▶ one box a face ─▶ upright square crops
             └─ in tiles, at most 1152 pixels ────┘

The detector is OpenCV's FaceDetectorYN with the YuNet weights in face_detector/ (MIT). Its input is
always 640x640 pixels. It rarely finds a face that nearly fills the input, or one of less than 40
pixels. So the whole picture is scaled down to find large faces, and tiles at a larger scale are
used to find small ones.

Boxes and points are in pixels of the upright picture, x to the right, y down.
"""

import hashlib
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache.data.images import Pixels
from orsanet_cache.errors import OrsanetError, refuse_shortage

MODEL = Path(__file__).parent / "face_detector" / "face_detection_yunet_2023mar.onnx"
MODEL_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

INPUT = 640  # pixels, width and height: fixed in the model since OpenCV 5
# Of 959 face crops of this width, 99.9 % are found. If they fill the input, 93 % are found, some of
# them twice.
WHOLE = 480
FINE = 1152  # two tiles with their overlap
OVERLAP = 128
SCORE = 0.6
SAME_FACE = 0.3  # two boxes with at least this intersection over union belong to one face

# A crop's side and offset in units of the box's longest side: the medians of 959 real faces' crops
# (1.00 and 0.03).
SIDE, RAISED = 1.0, 0.03
LARGEST = 1000  # pixels, a crop's side: more than four times the networks' input, and 3 MB


@dataclass(frozen=True)
class DetectedFace:
    """A face in a picture. Its box may reach beyond the picture."""

    x: float
    y: float
    width: float
    height: float
    score: float  # 0 … 1
    points: NDArray[np.float32]  # [5, 2]: eyes (the picture's left one first), nose, corners of the mouth

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x, y, width, height."""
        return self.x, self.y, self.width, self.height

    def scaled(self, scale: float) -> "DetectedFace":
        """The same face in the picture resized by `scale`."""
        x, y, width, height = (scale * value for value in self.box)
        return replace(self, x=x, y=y, width=width, height=height, points=self.points * np.float32(scale))

    @property
    def tilt(self) -> float:
        """Clockwise rotation of the face in the picture's plane, in degrees.

        It is computed from the line through the eyes and the line from the eyes to the mouth
        together. In a profile the eyes are too near each other for the first line alone.
        """
        left_eye, right_eye, _, left_corner, right_corner = self.points.astype(np.float64)
        down = (left_corner + right_corner - left_eye - right_eye) / 2
        x, y = (right_eye - left_eye + (down[1], -down[0])).tolist()
        return math.degrees(math.atan2(y, x))


class FaceDetector:
    """Finds faces.

    Threads may share it. Raises OrsanetError if the package's model is missing or damaged.
    """

    def __init__(self) -> None:
        try:
            intact = hashlib.sha256(MODEL.read_bytes()).hexdigest() == MODEL_SHA256
        except OSError as error:
            refuse_shortage(error, MODEL)
            intact = False
        if not intact:
            raise OrsanetError(f"{MODEL}: the face detector is missing or damaged; install the package again")
        self._local = threading.local()

    def find(self, rgb: Pixels) -> list[DetectedFace]:
        """The faces of a picture, uint8 [H, W, 3], from left to right.

        Nine in ten faces are found if their side is at least 48 pixels and a twentieth of the
        picture's longer side, and they are turned by at most 30 degrees.
        """
        found = [face for part in _parts(rgb) for face in self._in_part(part)]
        if not found:
            return []
        kept = cv2.dnn.NMSBoxes([face.box for face in found], [face.score for face in found], SCORE, SAME_FACE)
        return sorted((found[int(number)] for number in np.ravel(kept)), key=lambda face: face.x + face.width / 2)

    def _in_part(self, part: "_Part") -> Iterator[DetectedFace]:
        canvas = np.zeros((INPUT, INPUT, 3), np.uint8)
        height, width = part.pixels.shape[:2]
        canvas[:height, :width] = part.pixels[..., ::-1]
        _, found = self._yunet().detect(canvas)
        for x, y, box_width, box_height, *points, score in [] if found is None else found.tolist():
            box = (x, y, box_width, box_height)
            if part.accepts(box):
                placed = np.array(points, np.float32).reshape(5, 2) / part.scale + (part.left, part.top)
                left, top = x / part.scale + part.left, y / part.scale + part.top
                yield DetectedFace(
                    left, top, box_width / part.scale, box_height / part.scale, score, placed.astype(np.float32)
                )

    def _yunet(self) -> Any:
        """This thread's detector. A detector holds the intermediate results of one picture."""
        if not hasattr(self._local, "yunet"):
            self._local.yunet = _create()
        return self._local.yunet


def _create() -> Any:
    with opencv_errors_only():  # OpenCV 5 warns that it ignores a target, although no target was passed
        return cv2.FaceDetectorYN.create(str(MODEL), "", (INPUT, INPUT), SCORE, SAME_FACE)


_LOG_LEVEL = threading.Lock()


@contextmanager
def opencv_errors_only() -> Iterator[None]:
    """Suppress OpenCV's warnings on standard error, not its errors.

    The log level belongs to the process, so one thread at a time holds this context.
    """
    log = getattr(cv2.utils, "logging", None)
    if log is None:  # OpenCV 4.10 has no such module
        yield
        return
    with _LOG_LEVEL:
        level = log.getLogLevel()
        log.setLogLevel(min(level, log.LOG_LEVEL_ERROR))
        try:
            yield
        finally:
            log.setLogLevel(level)


class _Part(NamedTuple):
    """The scaled picture, or a tile of it, for the detector: at most INPUT pixels high and wide."""

    pixels: Pixels
    scale: float  # of these pixels relative to the picture's
    left: float  # its left edge, in the picture's pixels
    top: float
    # left, top, right, bottom: whether the picture continues there; None for the whole picture
    cut: tuple[bool, bool, bool, bool] | None

    def accepts(self, box: tuple[float, float, float, float]) -> bool:
        """Whether a face found in this part is kept: in a tile only a small face that is not cut.

        Other faces are complete in a neighbouring tile, or found in the whole picture.
        """
        if self.cut is None:
            return True
        x, y, width, height = box
        bottom, right = self.pixels.shape[:2]
        beyond = (x <= 1, y <= 1, x + width >= right - 1, y + height >= bottom - 1)
        return max(width, height) <= OVERLAP and not any(
            cut and over for cut, over in zip(self.cut, beyond, strict=True)
        )


def _parts(rgb: Pixels) -> Iterator[_Part]:
    """The whole picture, and its tiles if the picture is larger than WHOLE."""
    whole, scale = _shrunk(rgb, WHOLE)
    yield _Part(whole, scale, 0, 0, None)
    if scale == 1:
        return
    fine, scale = _shrunk(rgb, FINE)
    height, width = fine.shape[:2]
    for top in _starts(height):
        for left in _starts(width):
            tile = fine[top : top + INPUT, left : left + INPUT]
            cut = (left > 0, top > 0, left + INPUT < width, top + INPUT < height)
            yield _Part(tile, scale, left / scale, top / scale, cut)


def _shrunk(rgb: Pixels, longest: float) -> tuple[Pixels, float]:
    """The picture with sides of at most `longest` pixels, and the scale.

    It uses Pillow's resize, which does not alias.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, longest / max(height, width))
    if scale == 1:
        return rgb, scale
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR)), scale


def _starts(length: int) -> list[int]:
    """First pixels of tiles that cover `length` pixels and overlap by at least OVERLAP."""
    count = max(1, math.ceil((length - OVERLAP) / (INPUT - OVERLAP)))
    return np.linspace(0, max(0, length - INPUT), count).round().astype(int).tolist()


def crop_face(rgb: Pixels, face: DetectedFace, margin: float = SIDE) -> Pixels:
    """The square around a face, turned so that it is upright: uint8 [S, S, 3].

    S is `margin` times the longest side of the box, in the picture's own pixels. The crop is never
    enlarged; it is scaled down only if S exceeds LARGEST. Outside the picture, the crop repeats the
    picture's edge.
    """
    longest = max(face.width, face.height)
    side = max(1, round(margin * longest))
    if side > LARGEST:
        small, scale = _shrunk(rgb, max(rgb.shape[:2]) * LARGEST / side)
        return crop_face(small, face.scaled(scale), margin)
    angle = math.radians(face.tilt)
    along = np.array([math.cos(angle), math.sin(angle)])  # the crop's x and y axes in the picture
    down = np.array([-math.sin(angle), math.cos(angle)])
    centre = np.array([face.x + face.width / 2, face.y + face.height / 2]) - RAISED * longest * down
    # The crop's first pixel, counted in whole pixels of the picture.
    first = centre - (side - 1) / 2 * (along + down) - 0.5
    corners = np.array([first, first + side * along, first + side * down, first + side * (along + down)])
    # Only the part that is needed, because OpenCV accepts no side of more than 32,767 pixels. At
    # least one pixel, because a box may lie beside the picture.
    size = np.array(rgb.shape[1::-1])
    left, top = np.clip(np.floor(corners.min(axis=0)) - 1, 0, size - 1).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(axis=0)) + 2, 1, size).astype(int).tolist()
    back = np.column_stack([along, down, first - (left, top)])
    cropped = cv2.warpAffine(
        rgb[top:bottom, left:right], back, (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return np.asarray(cropped, np.uint8)
