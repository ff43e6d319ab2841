"""Image files, videos and webcams as pictures in a fixed order.

Nothing is left out silently: a file that is not a picture, or a video that ends early, becomes a
picture with the reason.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.faces import opencv_errors_only
from orsanet_cache.data.images import MAX_PIXELS, too_many_pixels
from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_train.predict.clock import Clock
from orsanet_train.predict.video_end import missing_end

VIDEOS = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv",
}  # fmt: skip
ROUNDING = 1e-3  # seconds: Matroska and WebM round time stamps to whole milliseconds
ATTEMPTS = 16  # to go on behind damage: OpenCV gives up after 64 packets that cannot be decoded


@dataclass(frozen=True)
class InputPicture:
    """An image file that is still to be read, or a frame of a video."""

    path: Path
    frame: int | None = None  # of a video, counted from 0
    time: float | None = None  # of a video, seconds
    rgb: NDArray[np.uint8] | None = None  # [H, W, 3]; None: to be read from the path
    reason: str = ""  # why it cannot be predicted
    rate: float | None = None  # of a video: pictures taken of it a second


@dataclass(frozen=True)
class Webcam:
    """A camera, by its number in the system. It ends after `seconds`, or with Ctrl-C.

    In place of a number it may be a video file, which is then read like a camera: its pictures have
    the times at which they are read.
    """

    device: int | Path
    seconds: float = math.inf

    def __str__(self) -> str:
        return f"webcam {self.device}"


def is_video(path: Path | Webcam) -> bool:
    """Whether the file name is that of a video; a webcam is one."""
    return isinstance(path, Webcam) or path.suffix.lower() in VIDEOS


def pictures(inputs: Sequence[Path | Webcam], per_second: float) -> Iterator[InputPicture]:
    """The inputs in order; of a video `per_second` frames a second, or all if it has fewer.

    Raises OrsanetError for a webcam that cannot be opened.
    """
    for one in inputs:
        if isinstance(one, Webcam):
            yield from _live(one, per_second)
        elif is_video(one):
            yield from _frames(one, per_second)
        else:
            yield InputPicture(one)


def _live(webcam: Webcam, per_second: float) -> Iterator[InputPicture]:
    """The pictures of a camera, until its time is over or Ctrl-C is pressed; a second Ctrl-C interrupts."""
    name = Path(str(webcam))
    with opencv_errors_only():
        if isinstance(webcam.device, Path):
            video = cv2.VideoCapture(str(webcam.device), cv2.CAP_FFMPEG)
        else:
            video = cv2.VideoCapture(webcam.device, cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY)
    try:
        if not video.isOpened():
            raise OrsanetError(
                f"{webcam} cannot be opened: it does not exist, another program uses it, or you may not read it "
                f"(on Linux: /dev/video{webcam.device}, group video)"
            )
        clock, began = Clock(_number(video, cv2.CAP_PROP_FPS)), time.monotonic()
        with FirstInterrupt() as interrupt:
            read = _sampled(
                video, name, per_second, clock, lambda: time.monotonic() - began,
                goes_on=lambda: not interrupt.came and time.monotonic() - began < webcam.seconds, attempts=1,
            )  # fmt: skip
            seen = yield from read
        if not interrupt.came and time.monotonic() - began < webcam.seconds:
            yield InputPicture(name, seen, clock.time, reason="the camera stopped sending pictures")
    finally:
        video.release()


class FirstInterrupt:
    """While this context is entered, the first Ctrl-C is only noted; the next has its usual effect.

    Outside the main thread, where Python delivers no signals, the context has no effect.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.came = True
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


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
        seen = yield from _sampled(video, path, per_second, clock, lambda: video.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    finally:
        video.release()
    if not seen:
        yield InputPicture(path, reason="the video has no frame that can be decoded")
    elif why := missing_end(path, seen, clock.time, announced, rate):
        yield InputPicture(path, seen, clock.time, reason=why)


def _sampled(
    video: cv2.VideoCapture,
    path: Path,
    per_second: float,
    clock: Clock,
    stamp: Callable[[], float],
    goes_on: Callable[[], bool] = lambda: True,
    attempts: int = ATTEMPTS,
) -> Generator[InputPicture, None, int]:
    """The frames that are due, and as the generator's value the number of all frames.

    Args:
        video: An open video or camera.
        path: Its name in the pictures.
        per_second: Frames to take a second.
        clock: Tells the time of each frame.
        stamp: Returns the time stamp of the frame just grabbed, in seconds.
        goes_on: Returns whether to grab another frame.
        attempts: How often to try to grab a frame before the video counts as ended.
    """
    seen, taken = 0, -1
    while goes_on() and any(video.grab() for _ in range(attempts)):
        in_order = clock.tick(stamp())
        due = math.floor((clock.time + ROUNDING) * per_second)
        if due > taken or (not in_order and per_second * clock.step >= 1 - ROUNDING):
            taken = due
            rate = min(per_second, 1 / clock.step)
            decoded, bgr = video.retrieve()
            if decoded:
                yield InputPicture(path, seen, clock.time, np.ascontiguousarray(bgr[..., ::-1]), rate=rate)
            else:
                yield InputPicture(path, seen, clock.time, reason="this frame is damaged", rate=rate)
        seen += 1
    return seen


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
