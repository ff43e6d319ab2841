"""Every frame of a video has its place in time, also where its time stamps begin anew, run back or are missing."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from orsanet_cache.data.images import MAX_PIXELS
from orsanet_train.predict.clock import Clock
from orsanet_train.predict.pictures import pictures

STEP = 0.04


def times(stamps: list[float], rate: float = 25) -> list[float]:
    clock = Clock(rate)
    found = []
    for stamp in stamps:
        clock.tick(stamp)
        found.append(round(clock.time, 6))
    assert found == sorted(found)
    return found


def line(count: int, begin: float = 0.0) -> list[float]:
    return [round(begin + STEP * number, 6) for number in range(count)]


@pytest.mark.parametrize("pieces", [(100, 100, 100), (5, 5, 5, 5), (10, 100), (100, 10), (1, 1, 1, 1)])
def test_where_a_time_stamp_begins_anew_time_goes_on_by_a_frame(pieces: tuple[int, ...]) -> None:
    assert times([stamp for piece in pieces for stamp in line(piece)]) == line(sum(pieces))


@pytest.mark.parametrize("begin", [-3.0, 36_000.0])
def test_a_piece_that_begins_anywhere_is_followed(begin: float) -> None:
    found = times([*line(50), *line(50, begin), *line(50)])
    assert np.diff(found).min() > 0
    assert found[-1] - found[100] == pytest.approx(49 * STEP)


def test_stamps_that_run_backwards_or_are_missing_are_a_frame_apart() -> None:
    assert times(line(50)[::-1]) == [round(49 * STEP + STEP * number, 6) for number in range(50)]
    assert times([0.0] * 50) == line(50)
    assert times([math.nan] * 50) == line(50)
    assert times([0.0] * 50, rate=0) == line(50)


def test_a_varying_rate_is_kept() -> None:
    stamps = [0.0, 0.03, 0.08, 0.2, 5.0, 5.01, 5.2, 60.0]
    assert times(stamps) == stamps


@pytest.mark.parametrize("order", [(1, 0), (3, 1, 2, 0), (0, 3, 1, 2), (4, 2, 1, 3, 0)])
def test_frames_that_have_each_others_stamps_move_nothing_behind_them(order: tuple[int, ...]) -> None:
    """As in files whose frames are stamped in the order of decoding."""
    stamps = line(80)
    mixed = [stamps[16 * (n // 16) + order[n % 16]] if n % 16 < len(order) else stamps[n] for n in range(80)]
    assert sorted(mixed) == stamps
    found = times(mixed)
    assert found[15::16] == stamps[15::16]


@pytest.mark.parametrize("order", [(1, 0), (0, 3, 1, 2)])
def test_a_whole_video_of_such_frames_is_as_long_as_it_is(order: tuple[int, ...]) -> None:
    stamps = line(96)
    mixed = [stamps[n - n % len(order) + order[n % len(order)]] for n in range(96)]
    assert times(mixed)[-1] == pytest.approx(95 * STEP, abs=3 * STEP)


@pytest.mark.parametrize("rate", [50, 1000, 0])
def test_the_usual_step_counts_where_the_stated_rate_is_wrong(rate: float) -> None:
    """Interlaced videos state fields; a recorder's files state the unit of their stamps, or nothing."""
    assert times([stamp for _ in range(5) for stamp in line(30)], rate) == line(150)


def write(path: Path, frames: int) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mpg1"), 25, (64, 64))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((64, 64, 3), number % 256, np.uint8))
    writer.release()
    return path.read_bytes()


@pytest.mark.parametrize(("frames", "pieces"), [(100, 3), (12, 10)])
def test_every_due_frame_of_joined_pieces_has_its_row(tmp_path: Path, frames: int, pieces: int) -> None:
    video = tmp_path / "all.ts"
    video.write_bytes(write(tmp_path / "piece.ts", frames) * pieces)
    everything = list(pictures([video], 25))
    assert [picture.frame for picture in everything] == list(range(frames * pieces))
    assert [picture.reason for picture in everything] == [""] * frames * pieces
    assert [round(picture.time or 0, 3) for picture in everything] == [
        round(STEP * n, 3) for n in range(frames * pieces)
    ]
    a_second = list(pictures([video], 1))
    assert [round(picture.time or 0, 3) for picture in a_second] == list(range(math.ceil(frames * pieces * STEP)))
    assert len(list(pictures([video], 1000))) == frames * pieces


def test_a_video_of_enormous_frames_is_rejected_before_one_is_decoded(tmp_path: Path) -> None:
    side = 8208
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25, (side, side))
    assert writer.isOpened()
    writer.write(np.zeros((side, side, 3), np.uint8))
    writer.release()
    (row,) = pictures([tmp_path / "v.avi"], 1)
    assert row.reason == f"{side}x{side} pixels, more than the {MAX_PIXELS:,} an image may have"
