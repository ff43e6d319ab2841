"""Pictures to crops for the networks, in threads that work ahead.

picture ─ decode ─ faces found ─ cropped ─ the clean view ─▶ uint8 [F, 224, 224, 3]
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache.data.faces import FaceDetector, crop_face
from orsanet_cache.data.images import ImageReading, RejectedImage, read_image, view_pixels
from orsanet_cache.data.views import CLEAN
from orsanet_train.predict.pictures import InputPicture

Crop = Literal["auto", "none"]
NO_FACE = "no face found"
IN_FLIGHT = 2  # pictures for every thread, in memory at a time
PREVIEW = (936, 700)  # pixels, width and height: as wide as a sheet of four columns
ENLARGED = 3.0  # at most
FRAME = (1920, 1080)  # pixels, the largest size of an annotated video


@dataclass(frozen=True)
class Box:
    """Where a face is, in pixels of the upright picture; with --crop none the whole picture, and no score."""

    x: float
    y: float
    width: float
    height: float
    score: float | None


@dataclass(frozen=True)
class Preview:
    """A picture at the size of its overlay, or of its annotated video."""

    pixels: NDArray[np.uint8]  # [H, W, 3]
    scale: float  # these pixels per pixel of the picture


@dataclass(frozen=True)
class Seen:
    """A picture and its faces, from left to right."""

    picture: InputPicture  # without its pixels
    boxes: tuple[Box, ...]
    pixels: NDArray[np.uint8]  # [F, 224, 224, 3]
    reason: str  # why there is no face
    preview: Preview | None
    frame: Preview | None = None  # of a video, for its annotated copy


class Looker:
    """Finds and crops the faces of pictures.

    `margin` is the side of a crop as a multiple of the longest side of the face's box.
    `reading` is how image files are read. With `keeps_frames` the frames of videos are kept for
    annotated copies.
    """

    def __init__(
        self, crop: Crop, margin: float, reading: ImageReading = "upright", keeps_frames: bool = False
    ) -> None:
        self.crop = crop
        self.margin = margin
        self.reading: ImageReading = reading
        self.keeps_frames = keeps_frames
        self._detector = FaceDetector() if crop == "auto" else None

    def look(self, picture: InputPicture, preview: bool) -> Seen:
        """Read a picture, unless it has been read, and find its faces."""
        known = replace(picture, rgb=None, reason="")
        frame = None
        try:
            if picture.reason:
                raise RejectedImage(picture.reason)
            rgb = read_image(picture.path, self.reading).rgb if picture.rgb is None else picture.rgb
            if self.keeps_frames and picture.frame is not None:
                frame = frame_of(rgb)
            if self._detector is None:
                height, width = rgb.shape[:2]
                return Seen(known, (Box(0, 0, width, height, None),), view_pixels(rgb, CLEAN)[None], "", None, frame)
            faces = self._detector.find(rgb)
            if not faces:
                raise RejectedImage(NO_FACE)
        except RejectedImage as reason:
            return Seen(known, (), np.empty((0, 224, 224, 3), np.uint8), str(reason), None, frame)
        return Seen(
            known, tuple(Box(*face.box, face.score) for face in faces),
            np.stack([view_pixels(crop_face(rgb, face, self.margin), CLEAN) for face in faces]), "",
            preview_of(rgb) if preview else None, frame,
        )  # fmt: skip


def look_ahead(
    looker: Looker, pictures: Iterable[InputPicture], wants_preview: Callable[[], bool], threads: int | None = None
) -> Iterator[Seen]:
    """Pictures with their faces, in order; threads process the next pictures meanwhile.

    After the iterator is closed, the threads end once they have finished their present pictures.
    """
    count = threads or len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(count, "look")
    waiting: deque[Future[Seen]] = deque()
    try:
        for picture in pictures:
            waiting.append(pool.submit(looker.look, picture, wants_preview()))
            if len(waiting) >= IN_FLIGHT * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def frame_of(rgb: NDArray[np.uint8]) -> Preview:
    """A frame, uint8 [H, W, 3], at the size of an annotated video: even numbers of pixels, as codecs need them."""
    height, width = rgb.shape[:2]
    scale = min(FRAME[0] / width, FRAME[1] / height, 1.0)
    size = max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2)
    if size == (width, height):
        return Preview(rgb, 1.0)
    return Preview(np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR)), scale)


def preview_of(rgb: NDArray[np.uint8]) -> Preview:
    """A picture, uint8 [H, W, 3], at the size of an overlay."""
    height, width = rgb.shape[:2]
    scale = min(PREVIEW[0] / width, PREVIEW[1] / height, ENLARGED)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Preview(np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR)), scale)
