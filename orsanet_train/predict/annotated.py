"""Annotated copies of videos and webcams: the predicted frames with boxes, classes and probabilities.

    OUT/annotated/00001-film.mp4     MPEG-4, as fast as the original; named .partial.mp4 until it is whole

A copy has the frames that were predicted (--fps). A frame that could not be decoded, or is not
there, is bridged by the one before, so that the copy keeps the original's time.
"""

import math
import os
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache.data.faces import opencv_errors_only
from orsanet_cache.errors import OrsanetError
from orsanet_train.predict.names import ANNOTATED
from orsanet_train.predict.overlay import portable_stem
from orsanet_train.predict.results import PictureResult

LEAST_RATE = 1.0  # frames a second of a file; slower ones repeat their frames
LONGEST_GAP = 10.0  # seconds to bridge where frames are missing


class AnnotatedVideos:
    """Writes the copies of all videos among the results, one after the other.

    `add` takes every result in its order; `finish` gives the last copy its final name. Leaving the
    context without `finish` leaves the unfinished copy under its partial name.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / ANNOTATED
        self.count = 0
        self._copy: _Copy | None = None
        self._of: tuple[Path, int] | None = None  # the video, and its last frame

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._copy is not None:
            self._copy.close()

    def add(self, result: PictureResult) -> None:
        """Write the frame of a video, and nothing for a picture. Raises OrsanetError if it cannot be written."""
        picture = result.seen.picture
        if self._of is not None and (picture.path != self._of[0] or (picture.frame or 0) <= self._of[1]):
            self.finish()
        if picture.frame is None or picture.time is None or picture.rate is None:
            return
        self._of = picture.path, picture.frame
        drawn = result.annotated()
        if drawn is None:
            return
        if self._copy is None:
            self.count += 1
            self.folder.mkdir(exist_ok=True)
            path = self.folder / f"{self.count:05}-{portable_stem(picture.path)}.mp4"
            self._copy = _Copy(path, drawn.size, max(picture.rate, LEAST_RATE), max(LONGEST_GAP, 2 / picture.rate))
        self._copy.add(drawn, picture.time)

    def finish(self) -> None:
        """Complete the present copy. Raises OrsanetError if it is not whole on the disk."""
        if self._copy is not None:
            self._copy.finish()
        self._copy = self._of = None


class _Copy:
    """One file. `longest_gap` is the longest time without a frame that is bridged, in seconds."""

    def __init__(self, path: Path, size: tuple[int, int], rate: float, longest_gap: float) -> None:
        self.path = path
        self.partial = path.with_suffix(".partial.mp4")
        self.size = size
        self.rate = rate
        self.most_repeats = math.ceil(longest_gap * rate)
        self.frames = 0
        self._began: float | None = None
        self._last: NDArray[np.uint8] | None = None
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # no messages of FFmpeg: ours name the file
        with opencv_errors_only():
            self._writer = cv2.VideoWriter(
                str(self.partial), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), rate, size
            )
        if not self._writer.isOpened():
            raise OrsanetError(
                f"{self.partial}: cannot be written as a video; leave out --annotate, or choose another --out"
            )

    def add(self, picture: Image.Image, time: float) -> None:
        """Write a frame at its time, after the one before was repeated up to there."""
        if picture.size != self.size:  # a video may change its size
            picture = picture.resize(self.size)
        if self._began is None:
            self._began = time
        missing = round((time - self._began) * self.rate) - self.frames
        if missing > self.most_repeats:
            self._began += (missing - self.most_repeats) / self.rate
        if self._last is not None:
            for _ in range(min(missing, self.most_repeats)):
                self._write(self._last)
        self._last = np.ascontiguousarray(np.asarray(picture)[..., ::-1])
        self._write(self._last)

    def _write(self, bgr: NDArray[np.uint8]) -> None:
        self._writer.write(bgr)
        self.frames += 1

    def close(self) -> None:
        self._writer.release()

    def finish(self) -> None:
        """OpenCV reports no error of writing, so the file is opened again and its frames are counted."""
        self.close()
        with opencv_errors_only():
            written = cv2.VideoCapture(str(self.partial), cv2.CAP_FFMPEG)
        there = written.get(cv2.CAP_PROP_FRAME_COUNT) if written.isOpened() else 0
        written.release()
        if there != self.frames:
            raise OrsanetError(
                f"{self.partial}: cannot be written ({there:.0f} of {self.frames} frames are on the disk); is it full? "
                "make room, or leave out --annotate"
            )
        os.replace(self.partial, self.path)
