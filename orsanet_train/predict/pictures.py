"""The inputs of predict: image files, folders and videos, as pictures in a fixed order.

Nothing is left out silently: a file that is not a picture, or a video that ends early, becomes a
picture with the reason. Output folders of predict are skipped and named.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.faces import opencv_errors_only
from orsanet_cache.errors import OrsanetError, listed
from orsanet_train.predict.names import are_predictions

VIDEOS = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv",
}  # fmt: skip
ROUNDING = 1e-3  # seconds: Matroska and WebM round time stamps to whole milliseconds
MISSING = 0.02  # of the announced frames, which may be an estimate, that a whole video may lack


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


def find_files(given: Sequence[Path]) -> Found:
    """The given files, and instead of every folder all files below it, sorted.

    Links to folders are not followed. Raises OrsanetError if a path does not exist, or if no file
    is found.
    """
    if missing := [str(path) for path in given if not path.exists()]:
        raise OrsanetError(f"no such file or folder; nothing was predicted:\n{listed(missing)}")
    left_out: list[Path] = []
    files = [file for path in given for file in (_below(path, left_out) if path.is_dir() else [path])]
    if not files:
        but = " except the output of an earlier predict" if left_out else ""
        raise OrsanetError(f"no file in {', '.join(map(str, given))}{but}; pass images, folders of images, or videos")
    return Found(files, left_out)


def _below(folder: Path, left_out: list[Path]) -> list[Path]:
    found: list[Path] = []
    unlisted: list[OSError] = []
    for where, folders, files in os.walk(folder, onerror=unlisted.append):
        if are_predictions(folders, files):
            left_out.append(Path(where))
            folders.clear()  # so that os.walk does not descend
            continue
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        found += [Path(where, name) for name in files + links]
    # A folder that cannot be listed is kept as a file: reading it gives the reason.
    found += [Path(error.filename) for error in unlisted]
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
            yield InputPicture(path, reason="not a video that FFmpeg can read, or damaged")
            return
        announced, rate = _number(video, cv2.CAP_PROP_FRAME_COUNT), _number(video, cv2.CAP_PROP_FPS)
        seen, taken, time = 0, -1, 0.0
        while video.grab():
            # The time stamp, because phones film at a varying rate; without it, the frame's number.
            time = _number(video, cv2.CAP_PROP_POS_MSEC) / 1000 or (seen / rate if rate else 0.0)
            due = math.floor((time + ROUNDING) * per_second)
            if due > taken:
                taken = due
                decoded, bgr = video.retrieve()
                if decoded:
                    yield InputPicture(path, seen, time, np.ascontiguousarray(bgr[..., ::-1]))
                else:
                    yield InputPicture(path, seen, time, reason="this frame is damaged")
            seen += 1
    finally:
        video.release()
    if not seen:
        yield InputPicture(path, reason="the video has no frame that can be decoded")
    elif announced * (1 - MISSING) - 1 > seen:
        yield InputPicture(
            path, seen, time, reason=f"the video ends here, after {seen:,} of {announced:,.0f} expected frames"
        )


def _number(video: cv2.VideoCapture, name: int) -> float:
    """A property of the video; 0 if it is unknown."""
    value = video.get(name)
    return value if math.isfinite(value) and value > 0 else 0.0
