"""A picture that is different in every corner, encoded as files are, and what reading one says."""

import io
import signal
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
import pytest
from PIL import Image

from orsanet_cache.data.images import (
    Pixels,
    RejectedImage,
    decode,
)


def picture(seed: int = 0, height: int = 32, width: int = 40) -> Pixels:
    """Smooth blobs of random colours: different in every corner, under a flip and under every turn."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


PICTURE = picture()
IMAGE = Image.fromarray(PICTURE)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes, before_data: bytes = b"") -> bytes:
    """A PNG written by hand, for what Pillow cannot write. `rows`: each begins with its filter byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    if before_data:
        before_data = chunk(before_data[:4], before_data[4:])
    return b"\x89PNG\r\n\x1a\n" + header + before_data + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def png_rows(samples: np.ndarray) -> bytes:
    """[H, ...] -> big-endian rows, unfiltered."""
    return b"".join(b"\0" + row.astype(samples.dtype.newbyteorder(">")).tobytes() for row in samples)


def grey_tiff(data: bytes, width: int, height: int, bits: int, photometric: int) -> bytes:
    """An uncompressed grey TIFF written by hand. Photometric 1: zero is black; 0: zero is white."""
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, photometric),
        (273, 8), (277, 1), (278, height), (279, len(data)),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail, instead of hanging the whole run, when the block takes longer."""

    def fail(signum: int, frame: FrameType | None) -> None:
        pytest.fail(f"no answer within {seconds} s")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def reason(data: bytes) -> str:
    with pytest.raises(RejectedImage) as rejected:
        decode(data)
    return str(rejected.value)


def pixels_or_none(data: bytes) -> Pixels | None:
    """None where rejected; anything else that escapes fails the test."""
    try:
        return decode(data)
    except RejectedImage:
        return None


WHOLE_FILES = {
    "jpeg": encoded(IMAGE, "JPEG"),
    "progressive": encoded(IMAGE, "JPEG", progressive=True),
    "cmyk": encoded(IMAGE.convert("CMYK"), "JPEG"),
    "png": encoded(IMAGE, "PNG"),
    "palette": encoded(IMAGE.quantize(16), "PNG"),
    "webp": encoded(IMAGE, "WEBP"),
    "lossless webp": encoded(IMAGE, "WEBP", lossless=True),
    "bmp": encoded(IMAGE, "BMP"),
    "tiff": encoded(IMAGE, "TIFF"),
    "lzw tiff": encoded(IMAGE, "TIFF", compression="tiff_lzw"),
}
