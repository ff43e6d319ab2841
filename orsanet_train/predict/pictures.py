"""The inputs of predict: image files, folders and videos, as pictures in a fixed order.

Nothing is left out silently: a file that is not a picture, or a video that ends early, becomes a
picture with the reason. Output folders of predict are skipped and named.
"""

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.faces import opencv_errors_only
from orsanet_cache.data.files import lying_outside, on_disk, walk
from orsanet_cache.data.images import MAX_PIXELS, too_many_pixels
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.shortage import refuse_shortage
from orsanet_train.predict.names import are_predictions
from orsanet_train.predict.video_end import missing_end

VIDEOS = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv",
}  # fmt: skip
ROUNDING = 1e-3  # seconds: Matroska and WebM round time stamps to whole milliseconds
ATTEMPTS = 16  # to go on behind damage: OpenCV gives up after 64 packets that cannot be decoded
FASTEST = 300  # frames a second; a file that states more states the unit of its time stamps
USUAL_RATE = 25.0  # frames a second, of a video that states none; FFmpeg supposes the same
DISORDER = 16  # frames that may have each other's time stamps; codecs reorder at most as many


@dataclass(frozen=True)
class InputPicture:
    """An image file that is still to be read, or a frame of a video."""

    path: Path
    frame: int | None = None  # of a video, counted from 0
    time: float | None = None  # of a video, seconds
    rgb: NDArray[np.uint8] | None = None  # [H, W, 3]; None: to be read from the path
    reason: str = ""  # why it cannot be predicted


class Found(NamedTuple):
    """The files to predict."""

    files: list[Path]
    left_out: list[Path]  # output folders of predict: their overlays also have faces
    outside: list[Path]  # of the files, those that lie outside the given folder, behind links


def find_files(given: Sequence[Path]) -> Found:
    """The given files, and instead of every folder all files below it, sorted.

    Links are followed, except those to a folder that they lie in. Raises OrsanetError if a path does
    not exist, or if no file is found.
    """
    given = [on_disk(path.parent, path.name) for path in given]
    if missing := [str(path) for path in given if not path.exists()]:
        raise OrsanetError(f"no such file or folder; nothing was predicted:\n{listed(missing)}")
    left_out: list[Path] = []
    files, outside = [], []
    for path in given:
        below = _below(path, left_out) if path.is_dir() else [path]
        files += below
        outside += lying_outside(path, below) if path.is_dir() else []
    if not files:
        but = " except the output of an earlier predict" if left_out else ""
        raise OrsanetError(f"no file in {', '.join(map(str, given))}{but}; pass images, folders of images, or videos")
    return Found(files, left_out, outside)


def _below(folder: Path, left_out: list[Path]) -> list[Path]:
    found: list[Path] = []
    unlisted: list[OSError] = []
    loops: list[Path] = []
    for where, folders, files in walk(folder, unlisted.append, loops):
        if are_predictions(folders, files):
            left_out.append(where)
            folders.clear()  # so that `walk` does not descend
            continue
        found += [where / name for name in files]
    for error in unlisted:
        refuse_shortage(error, error.filename)
    # A folder that cannot be listed, or leads back to itself, is kept as a file: reading it gives the reason.
    found += [*(Path(error.filename) for error in unlisted), *loops]
    return sorted(found)


def is_video(path: Path) -> bool:
    """Whether the file name is that of a video."""
    return path.suffix.lower() in VIDEOS


def pictures(files: Sequence[Path], per_second: float) -> Iterator[InputPicture]:
    """The files in order; of a video `per_second` frames a second, or all if it has fewer."""
    for path in files:
        if is_video(path):
            yield from _frames(path, per_second)
        else:
            yield InputPicture(path)


def _frames(path: Path, per_second: float) -> Iterator[InputPicture]:
    if not path.is_file():  # OpenCV would wait for the writer of a pipe
        yield InputPicture(path, reason="not a regular file")
        return
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # no messages of FFmpeg: ours name the file
    with opencv_errors_only():
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not video.isOpened():
            _refuse_shortage(path)
            yield InputPicture(path, reason="not a video that FFmpeg can read, or damaged")
            return
        width, height = (_number(video, side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            yield InputPicture(path, reason=too_many_pixels(int(width), int(height)))
            return
        announced, rate = _number(video, cv2.CAP_PROP_FRAME_COUNT), _number(video, cv2.CAP_PROP_FPS)
        clock = Clock(rate)
        seen, taken = 0, -1
        while any(video.grab() for _ in range(ATTEMPTS)):
            in_order = clock.tick(video.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            due = math.floor((clock.time + ROUNDING) * per_second)
            if due > taken or (not in_order and per_second * clock.step >= 1 - ROUNDING):
                taken = due
                decoded, bgr = video.retrieve()
                if decoded:
                    yield InputPicture(path, seen, clock.time, np.ascontiguousarray(bgr[..., ::-1]))
                else:
                    yield InputPicture(path, seen, clock.time, reason="this frame is damaged")
            seen += 1
    finally:
        video.release()
    if not seen:
        yield InputPicture(path, reason="the video has no frame that can be decoded")
    elif why := missing_end(path, seen, clock.time, announced, rate):
        yield InputPicture(path, seen, clock.time, reason=why)


class Clock:
    """The time of each frame of a video, by its time stamps, because phones film at a varying rate.

    Time never runs back. Where a stamp is not later than the one before, as in files that were
    joined or have no stamps, time goes on by one frame and continues with the stamps from there.
    If the stamps then leap ahead of all before, only a few frames had each other's stamps: time
    continues as if they had not.
    """

    def __init__(self, rate: float) -> None:
        self.time = 0.0  # of the present frame, seconds
        self._stated = 1 / rate if 0 < rate <= FASTEST else math.inf  # seconds a frame
        self._steps: deque[float] = deque(maxlen=DISORDER)  # between the last frames that were in order
        self._stamp = -math.inf  # of the present frame
        self._offset = 0.0  # from stamps to times
        self._before = (math.inf, 0.0, 0)  # the largest stamp and the offset before stamps ran back, and frames since

    @property
    def step(self) -> float:
        """Seconds from a frame to the next: the usual step, as some files state fields and not frames.

        A usual step of many frames is one of stamps in disorder, and then the stated rate is right.
        """
        usual = median(self._steps) if self._steps else math.inf
        step = usual if usual <= 2.5 * self._stated else self._stated
        return step if math.isfinite(step) else 1 / USUAL_RATE

    def tick(self, stamp: float) -> bool:
        """Go on to the next frame. Returns whether its stamp is later than the one before.

        `stamp` is in seconds.
        """
        if not math.isfinite(stamp):
            stamp = self._stamp
        if self._stamp == -math.inf:
            self._stamp = stamp if math.isfinite(stamp) else 0.0
            self._offset = max(0.0, -self._stamp)
            self.time = self._stamp + self._offset
            return True
        largest, offset, frames = self._before
        in_order = stamp > self._stamp
        if not in_order:
            if frames > DISORDER or largest == math.inf:
                self._before = (self._stamp, self._offset, 0)
            self._offset = self.time + self.step - stamp
        elif frames <= DISORDER and stamp > largest and stamp - self._stamp > 1.5 * min(self.step, self._stated):
            self._before = (math.inf, 0.0, 0)
            self._offset = offset
        else:
            self._steps.append(stamp - self._stamp)
        largest, offset, frames = self._before
        self._before = (largest, offset, frames + 1)
        ahead = stamp + self._offset
        in_order = in_order and ahead > self.time
        self.time, self._stamp = max(self.time, ahead), stamp
        return in_order


def _refuse_shortage(path: Path) -> None:
    """Raise ShortageError if a lack of open files explains why OpenCV could not open the file."""
    try:
        path.open("rb").close()
    except OSError as error:
        refuse_shortage(error, path)


def _number(video: cv2.VideoCapture, name: int) -> float:
    """A property of the video; 0 if it is unknown."""
    value = video.get(name)
    return value if math.isfinite(value) and value > 0 else 0.0
