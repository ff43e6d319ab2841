"""Pictures whose decoding takes longer than their number of pixels explains, found by their bytes alone.

A decoder's time also grows with the number of parts of a file: scans, segments, chunks, strips. A
part may have a few bytes and cost a microsecond of Python, or have ten bytes and cost a pass over
all pixels. No camera and no encoder writes as many parts as the limits here allow. A file at every
limit is decoded in a few seconds on one core, a file beyond one is refused in a fraction of one.
"""

import re

# As libtiff's limit for JPEG. Encoders write up to about 20 scans; each is a pass over the pixels.
MAX_SCANS = 100
MAX_PARTS = 100_000  # segments of a JPEG, chunks of a PNG, strips of a TIFF: up to 4 µs of Pillow's time each
MAX_METADATA = 16 * 1024**2  # bytes before a JPEG's pixels, or of an EXIF block
MAX_RUNS = 4 * 1024**2  # bytes of a BMP whose runs Pillow decodes in Python

_SOS, _EOI, _STANDALONE = 0xDA, 0xD9, {0x01, *range(0xD0, 0xD9)}  # JPEG markers; the last without a length
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # inside a scan: neither a stuffed byte nor a restart
_STRIPS, _TILES = 273, 324  # TIFF tags, of the offsets


def excess(data: bytes) -> str:
    """Why decoding these bytes would take too long; empty if it would not."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"BM"):
        return _bmp(data)
    if data[:2] in (b"II", b"MM") and data[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+"):  # as Pillow accepts them
        return _tiff(data, "little" if data[:2] == b"II" else "big")
    return ""


def _jpeg(data: bytes) -> str:
    at, parts = 2, 0
    while True:
        found = data.find(b"\xff", at)
        if found < 0 or found + 1 >= len(data) or data[found + 1] == _SOS:
            break
        parts += 1 + found - at  # Pillow skips bytes that belong to no segment one by one
        at = found + 1 if data[found + 1] == 0xFF else _after(data, found)
        if parts > MAX_PARTS:
            return f"a JPEG of more than {MAX_PARTS:,} segments: save it again"
        if at > MAX_METADATA:
            return f"a JPEG with more than {MAX_METADATA:,} bytes of metadata: save it again without them"
    if data.count(b"\xff\xda") > MAX_SCANS and _scans(data, found) > MAX_SCANS:
        return f"a JPEG of more than {MAX_SCANS} scans: save it again"
    return ""


def _scans(data: bytes, at: int) -> int:
    """The number of scans from the one at `at` to the end of the picture; counted up to MAX_SCANS + 1."""
    scans = 0
    while (marker := _MARKER.search(data, at)) and data[marker.end() - 1] != _EOI and scans <= MAX_SCANS:
        scans += data[marker.end() - 1] == _SOS
        at = _after(data, marker.end() - 2)
    return scans


def _after(data: bytes, at: int) -> int:
    """The end of the segment whose marker is at `at`."""
    if data[at + 1] in _STANDALONE or data[at + 1] == 0:
        return at + 2
    return at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))


def _png(data: bytes) -> str:
    at, parts = 8, 0
    while at < len(data):
        parts += 1
        if parts > MAX_PARTS:
            return f"a PNG of more than {MAX_PARTS:,} chunks: save it again"
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return ""


def _bmp(data: bytes) -> str:
    header, compression = (int.from_bytes(data[at : at + 4], "little") for at in (14, 30))
    if header >= 40 and compression in (1, 2) and len(data) > MAX_RUNS:
        return f"a run-length encoded BMP of more than {MAX_RUNS:,} bytes: save it without compression"
    return ""


def _tiff(data: bytes, order: str) -> str:
    """Check the first directory, the only one that is decoded."""
    big = data[2:3] == b"+"
    word, size, long = (8, 20, 8) if big else (2, 12, 4)  # bytes of the count, of an entry, of an offset

    def number(at: int, length: int) -> int:
        return int.from_bytes(data[at : at + length], order)  # type: ignore[arg-type]

    first = number(8, 8) if big else number(4, 4)
    entries = number(first, word)
    if entries > MAX_PARTS:
        return f"a TIFF of more than {MAX_PARTS:,} tags: save it again"
    for at in range(first + word, min(first + word + size * entries, len(data)), size):
        if number(at, 2) in (_STRIPS, _TILES) and number(at + 4, long) > MAX_PARTS:
            return f"a TIFF of more than {MAX_PARTS:,} strips or tiles: save it again in larger ones"
    return ""
