"""A video that is cut off has a row that says so, and a whole one has none, whatever length its header states."""

import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from orsanet_train.predict.pictures import pictures
from orsanet_train.predict.video_end import missing_end

FRAMES, RATE = 100, 25
CODECS = {
    "mkv": "mp4v",
    "webm": "VP80",
    "flv": "FLV1",
    "wmv": "WMV2",
    "avi": "MJPG",
    "mp4": "mp4v",
    "ts": "mp4v",
    "mpg": "mpg1",
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A video of four seconds in every container that OpenCV writes here, by suffix."""
    folder = tmp_path_factory.mktemp("videos")
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (96, 96))
    for suffix, codec in CODECS.items():
        writer = cv2.VideoWriter(
            str(folder / f"a.{suffix}"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), RATE, (96, 96)
        )
        assert writer.isOpened(), suffix
        for number in range(FRAMES):
            writer.write(np.roll(picture, 3 * number, axis=1))
        writer.release()
    return {suffix: (folder / f"a.{suffix}").read_bytes() for suffix in CODECS}


def ends(tmp_path: Path, suffix: str, content: bytes) -> tuple[int, list[str]]:
    """The number of frames, and the reasons in rows of their own."""
    (tmp_path / f"v.{suffix}").write_bytes(content)
    rows = list(pictures([tmp_path / f"v.{suffix}"], RATE))
    return sum(not row.reason for row in rows), [row.reason for row in rows if row.reason]


@pytest.mark.parametrize("suffix", CODECS)
def test_a_whole_video_has_no_such_row(videos: dict[str, bytes], tmp_path: Path, suffix: str) -> None:
    assert ends(tmp_path, suffix, videos[suffix]) == (FRAMES, [])


@pytest.mark.parametrize("suffix", ["mkv", "webm", "flv", "wmv", "avi"])
def test_a_video_that_is_cut_off_has_one(videos: dict[str, bytes], tmp_path: Path, suffix: str) -> None:
    frames, reasons = ends(tmp_path, suffix, videos[suffix][: len(videos[suffix]) * 6 // 10])
    assert 50 <= frames < 70
    (reason,) = reasons
    assert reason.startswith(f"the video ends here, after {frames} ")


def longer_duration(data: bytes) -> bytes:
    """Matroska whose header announces half as much again."""
    at = data.index(b"\x44\x89\x88") + 3
    return data[:at] + struct.pack(">d", 1.5 * struct.unpack(">d", data[at : at + 8])[0]) + data[at + 8 :]


def live(data: bytes) -> bytes:
    """Matroska as a browser records it: the sizes of the segment and its clusters are unknown."""
    at = data.index(b"\x18\x53\x80\x67") + 4
    assert data[at] == 1
    data = data[:at] + b"\x01" + b"\xff" * 7 + data[at + 8 :]
    at = data.index(b"\x1f\x43\xb6\x75") + 4
    more = 8 - data[at].bit_length()
    return data[:at] + bytes([(1 << (8 - more)) - 1]) + b"\xff" * more + data[at + more + 1 :]


@pytest.mark.parametrize("change", [longer_duration, live])
@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_an_estimated_length_is_not_taken_for_the_truth(
    videos: dict[str, bytes], tmp_path: Path, suffix: str, change: Callable[[bytes], bytes]
) -> None:
    whole = change(videos[suffix])
    assert ends(tmp_path, suffix, whole) == (FRAMES, [])
    frames, reasons = ends(tmp_path, suffix, whole[: len(whole) * 6 // 10])
    assert reasons == [f"the video ends here, after {frames} frames: the file is cut off"]


def test_what_an_edit_list_leaves_out_is_not_missing(videos: dict[str, bytes], tmp_path: Path) -> None:
    """A telephone trims a video so, without writing the frames anew."""
    data = videos["mp4"]
    at = data.index(b"elst") + 12
    length, begin = struct.unpack(">Ii", data[at : at + 8])
    trimmed = data[:at] + struct.pack(">Ii", length // 2, begin) + data[at + 8 :]
    frames, reasons = ends(tmp_path, "mp4", trimmed)
    assert frames <= FRAMES // 2 + 1
    assert reasons == []


def test_damage_in_the_middle_is_not_the_end(videos: dict[str, bytes], tmp_path: Path) -> None:
    for suffix in ("mkv", "mpg"):
        data = bytearray(videos[suffix])
        begin, size = len(data) * 3 // 10, len(data) // 2
        data[begin : begin + size] = bytes(size)
        (tmp_path / f"v.{suffix}").write_bytes(data)
        rows = list(pictures([tmp_path / f"v.{suffix}"], RATE))
        assert rows[-1].time == pytest.approx((FRAMES - 1) / RATE)
        assert [row.reason for row in rows if "ends here" in row.reason] == []


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("fragmented.mp4", box(b"ftyp", b"isom") + box(b"moov", b"") + box(b"moof", b"") + box(b"mdat", bytes(99))),
        ("a.ogv", b"OggS" + bytes(22) + b"\1\x50" + bytes(80)),
        ("a.ts", (b"G" + bytes(187)) * 9),
        ("a.m2ts", (bytes(4) + b"G" + bytes(187)) * 9),
    ],
)
def test_containers_that_are_not_written_here_end_where_their_parts_end(
    tmp_path: Path, name: str, whole: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(whole)
    assert missing_end(path, 10, 0.4, 1000, 25) == ""
    path.write_bytes(whole[:-20])
    assert missing_end(path, 10, 0.4, 1000, 25) == "the video ends here, after 10 frames: the file is cut off"


@pytest.mark.parametrize("beginning", [b"\0\0\0\x18ftypisom", b"RIFF", b"\x1aE\xdf\xa3", b"FLV\1", bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), b"OggS", b"G" * 400])  # fmt: skip
def test_any_bytes_behind_a_known_beginning_are_read_without_a_bug(tmp_path: Path, beginning: bytes) -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 5, 13, 40, 500):
        for content in (rng.bytes(size), b"\xff" * size, bytes(size)):
            (tmp_path / "v").write_bytes(beginning + content)
            missing_end(tmp_path / "v", 1, 0.0, 0, 25)
