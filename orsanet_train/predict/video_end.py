"""Whether a video file holds what it announces, by the structure of the file itself.

    MP4, MOV, 3GP   the number of samples, less what an edit list leaves out; fragments: the sizes of the boxes
    AVI             the number of frames
    MKV, WebM, FLV, WMV, OGV, TS, M2TS   the sizes of their parts: the last one must end with the file

The number of frames that a player shows is an estimate for all but the first two: length times
rate, as the recorder guessed them. A whole recording may announce half as much again. MPEG program
streams say nothing about their end.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MISSING = 0.02  # of the frames that a header counts exactly; decoders leave out some at the ends
_BEGINNINGS = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"}  # types of an MP4's first box
_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_ASF, _ASF_DATA = (
    bytes.fromhex(name) for name in ("3026b2758e66cf11a6d900aa0062ce6c", "3626b2758e66cf11a6d900aa0062ce6c")
)


def missing_end(path: Path, seen: int, time: float, announced: float, rate: float) -> str:
    """How the video's end is missing; empty if it is there, or if the file does not tell.

    Args:
        path: The file.
        seen: Number of decoded frames.
        time: Of the last one, in seconds.
        announced: Number of frames as the container states or estimates it; 0: unknown.
        rate: Frames a second; 0: unknown.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        magic = file.read(400)
        file.seek(0)
        if magic[4:8] in _BEGINNINGS:
            boxes = list(_boxes(file, 0, size))
            if any(kind == b"moof" for kind, _, _ in boxes):
                return _cut(boxes[-1][2] > size, seen)
            edited = _edited_seconds(file, boxes, size)
            return _short(seen, time, announced if edited is None else min(announced, edited * rate), rate)
        if magic.startswith(b"RIFF"):
            return _short(seen, time, announced, rate)
        if magic.startswith(_EBML.to_bytes(4, "big")):
            return _cut(_matroska_end(file, size) > size, seen)
        if magic.startswith(b"FLV"):
            return _cut(_flash_end(file, size) > size, seen)
        if magic.startswith(_ASF):
            return _cut(_windows_media_end(file, size) > size, seen)
        if magic.startswith(b"OggS"):
            return _cut(_ogg_end(file, size) > size, seen)
        for packet, first in ((188, 0), (192, 4)):  # MPEG transport streams; a camera's have four bytes more
            if magic[first::packet][:2] == b"GG":
                file.seek(size - size % packet + first)
                return _cut(size % packet > 0 and file.read(1) in (b"G", b""), seen)
    return ""


def _cut(cut: bool, seen: int) -> str:
    return f"the video ends here, after {seen:,} frames: the file is cut off" if cut else ""


def _short(seen: int, time: float, expected: float, rate: float) -> str:
    """Frames may be missing in the middle; the end is missing if the last frame is also too early."""
    if expected * (1 - MISSING) - 1 <= max(seen, time * rate + 1):
        return ""
    return f"the video ends here, after {seen:,} of {expected:,.0f} expected frames"


def _boxes(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of an MP4 between two positions: type, begin of the content, end (maybe beyond `end`)."""
    while at + 8 <= end:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        content = at + 8
        if length == 1:
            content, length = at + 16, int.from_bytes(file.read(8), "big")
        stop = end if length == 0 else at + length
        if stop < content:  # not a box
            return
        yield kind, content, stop
        at = stop


def _edited_seconds(file: BinaryIO, boxes: list[tuple[bytes, int, int]], size: int) -> float | None:
    """The length of the video track that its edit list shows; None without a list."""
    moov = next((box for box in boxes if box[0] == b"moov" and box[2] <= size), None)
    if moov is None:
        return None
    inside = list(_boxes(file, *moov[1:]))
    scale = next((_timescale(file, begin) for kind, begin, _ in inside if kind == b"mvhd"), 0)
    for kind, begin, end in inside:
        if kind == b"trak" and scale:
            parts = {name: (first, last) for name, first, last in _boxes(file, begin, end)}
            media = {name: first for name, first, _ in _boxes(file, *parts.get(b"mdia", (end, end)))}
            file.seek(media.get(b"hdlr", size) + 8)
            if file.read(4) == b"vide" and b"edts" in parts:
                lists = [first for name, first, _ in _boxes(file, *parts[b"edts"]) if name == b"elst"]
                return _shown(file, lists[0]) / scale if lists else None
    return None


def _timescale(file: BinaryIO, at: int) -> int:
    """Units a second, of a movie header."""
    file.seek(at)
    header = file.read(32)
    return int.from_bytes(header[20:24] if header[:1] == b"\1" else header[12:16], "big")


def _shown(file: BinaryIO, at: int) -> float:
    """The length of an edit list's parts that show the media, in units of the movie."""
    file.seek(at)
    version, count = struct.unpack(">B3xI", file.read(8))
    form = struct.Struct(">Qqi" if version else ">Iii")
    entries = file.read(min(count, 10_000) * form.size)  # a list of 10,000 cuts is none that a person made
    whole = entries[: len(entries) // form.size * form.size]
    return float(sum(length for length, begin, _ in form.iter_unpack(whole) if begin >= 0))


def _matroska_end(file: BinaryIO, size: int) -> int:
    """Where the last element ends. A segment or cluster of unknown size is as long as its elements."""
    at = 0
    while at < size:
        file.seek(at)
        identifier, _ = _number(file, keep_marker=True)
        length, unknown = _number(file, keep_marker=False)
        content = file.tell()
        if identifier == 0:  # no element: what follows the last one
            return at
        at = content if identifier in (_SEGMENT, _CLUSTER) and unknown else content + length
    return at


def _number(file: BinaryIO, keep_marker: bool) -> tuple[int, bool]:
    """A Matroska number of variable length, and whether all its bits are set: unknown. 0 if there is none."""
    first = file.read(1)
    if not first or first == b"\0":
        return 0, False
    more = 8 - first[0].bit_length()
    value = int.from_bytes(first + file.read(more), "big")
    bits = 7 * (more + 1)
    return value if keep_marker else value & ((1 << bits) - 1), value & ((1 << bits) - 1) == (1 << bits) - 1


def _flash_end(file: BinaryIO, size: int) -> int:
    """Each tag has a header of 11 bytes with its size, and its size again behind it."""
    file.seek(5)
    at = int.from_bytes(file.read(4), "big") + 4
    while at < size:
        file.seek(at)
        tag = file.read(11)
        if tag[:1] not in (b"\x08", b"\x09", b"\x12"):  # neither sound nor video nor data: what follows the last one
            return at
        at += 11 + int.from_bytes(tag[1:4], "big") + 4
    return at


def _windows_media_end(file: BinaryIO, size: int) -> int:
    """Where the data object ends. A stream that was recorded live may state no length."""
    file.seek(0)
    header = file.read(24)
    at = int.from_bytes(header[16:24], "little")
    if at >= size:
        return at
    file.seek(at)
    data = file.read(24)
    return at + int.from_bytes(data[16:24], "little") if data.startswith(_ASF_DATA) else 0


def _ogg_end(file: BinaryIO, size: int) -> int:
    at = 0
    while at < size:
        file.seek(at)
        page = file.read(27)
        if not page.startswith(b"OggS"[: len(page)]):
            return at
        if len(page) < 27:
            return size + 1
        segments = file.read(page[26])
        at += 27 + page[26] + sum(segments)
    return at
