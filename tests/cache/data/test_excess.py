"""A picture that would take its decoder minutes is rejected with a reason in a fraction of a second; no usual file is."""

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from encoded_pictures import IMAGE, WHOLE_FILES, encoded, picture, reason
from PIL import Image

from orsanet_cache import examine
from orsanet_cache.data.excess import MAX_METADATA, MAX_PARTS, MAX_RUNS, MAX_SCANS, excess
from orsanet_cache.data.images import decode

MANY = MAX_PARTS + 1


def scans(count: int, side: int = 64, **options: object) -> bytes:
    """A JPEG whose last scan is there `count` times more."""
    data = encoded(Image.new("RGB", (side, side)), "JPEG", **options)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


def segments(segment: bytes, count: int) -> bytes:
    data = encoded(IMAGE, "JPEG")
    return data[:2] + segment * count + data[2:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunks(kind: bytes, count: int) -> bytes:
    """A PNG with `count` empty chunks before its pixels."""
    data = encoded(IMAGE, "PNG")
    at = data.index(b"IDAT") - 4
    return data[:at] + chunk(kind, b"") * count + data[at:]


def strips(count: int, header: bytes = b"II*\0") -> bytes:
    """A TIFF of one row a strip, which all have the same bytes in the file."""
    order, first = ("<", 8) if header[:2] == b"II" else (">", 8)
    begin = first + 2 + 9 * 12 + 4
    tags = [
        (256, 16), (257, count), (258, 8), (259, 1), (262, 1), (273, begin), (277, 1), (278, 1), (279, begin + 4 * count),
    ]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 4, count if tag in (273, 279) else 1) + struct.pack(f"{order}I", value)
        for tag, value in tags
    )
    offsets = struct.pack(f"{order}I", begin + 8 * count) * count + struct.pack(f"{order}I", 16) * count
    return (
        header
        + struct.pack(f"{order}I", first)
        + struct.pack(f"{order}H", 9)
        + entries
        + bytes(4)
        + offsets
        + bytes(16)
    )


def runs(size: int) -> bytes:
    """A run-length encoded BMP of runs of one pixel."""
    row = b"\1\5" * 1024 + b"\0\0"
    body = row * (size // len(row) + 1)
    palette = bytes(1024)
    return (
        b"BM" + struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078)
        + struct.pack("<IiiHHIIiiII", 40, 1024, size // len(row) + 1, 1, 8, 1, len(body), 0, 0, 256, 0) + palette + body
    )  # fmt: skip


TOO_MUCH = {
    "scans": (lambda: scans(3000, 2000, progressive=True, quality=10), f"a JPEG of more than {MAX_SCANS} scans"),
    "scans, just too many": (lambda: scans(MAX_SCANS + 1, progressive=True), f"more than {MAX_SCANS} scans"),
    "scans of a plain JPEG": (lambda: scans(MAX_SCANS), f"more than {MAX_SCANS} scans"),
    "comments": (lambda: segments(b"\xff\xfe\0\2", MANY), f"a JPEG of more than {MAX_PARTS:,} segments"),
    "fill bytes": (lambda: segments(b"\xff", 3 * MANY), f"a JPEG of more than {MAX_PARTS:,} segments"),
    "bytes between segments": (lambda: segments(b"\xff\xfe\0\2" + bytes(3 * MANY), 1), f"more than {MAX_PARTS:,} segments"),
    "EXIF in pieces": (lambda: segments(b"\xff\xe1\xff\xffExif\0\0" + bytes(65527), 400), f"{MAX_METADATA:,} bytes of metadata"),
    "EXIF in one piece": (
        lambda: encoded(IMAGE, "PNG", exif=b"Exif\0\0" + bytes(MAX_METADATA)), f"{MAX_METADATA:,} bytes of metadata"
    ),
    "chunks": (lambda: chunks(b"prVt", MANY), f"a PNG of more than {MAX_PARTS:,} chunks"),
    "empty pixels": (lambda: chunks(b"IDAT", MANY), f"a PNG of more than {MAX_PARTS:,} chunks"),
    "strips": (lambda: strips(MANY), f"a TIFF of more than {MAX_PARTS:,} strips"),
    "strips, big-endian": (lambda: strips(MANY, b"MM\0*"), f"a TIFF of more than {MAX_PARTS:,} strips"),
    "strips, odd header": (lambda: strips(MANY, b"MM*\0"), f"a TIFF of more than {MAX_PARTS:,} strips"),
    "tags": (lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, MANY) + bytes(20 * MANY), f"a TIFF of more than {MAX_PARTS:,} tags"),
    "runs": (lambda: runs(MAX_RUNS), f"a run-length encoded BMP of more than {MAX_RUNS:,} bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOO_MUCH)
def test_what_would_take_minutes_is_rejected_by_name_at_once(case: str) -> None:
    make, said = TOO_MUCH[case]
    data = make()
    began = time.process_time()
    assert said in reason(data)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_usual_files_are_not_concerned(name: str) -> None:
    assert excess(WHOLE_FILES[name]) == ""


def test_many_parts_below_the_limits_are_decoded_as_ever() -> None:
    few = {
        "scans": scans(50, progressive=True),
        "comments": segments(b"\xff\xfe\0\2", 1000),
        "chunks": chunks(b"prVt", 1000),
        "strips": strips(1000),
        "runs": runs(60_000),
    }
    for name, data in few.items():
        assert excess(data) == "", name
        assert decode(data).ndim == 3, name


def test_scans_outside_the_picture_do_not_count() -> None:
    """A preview inside the metadata, and another picture after the end, as phones append them."""
    other = scans(200, 16)
    inside = segments(b"\xff\xfe" + struct.pack(">H", len(other) + 2) + other, 1)
    for data in (inside, encoded(IMAGE, "JPEG") + other):
        assert data.count(b"\xff\xda") > MAX_SCANS
        np.testing.assert_array_equal(decode(data), decode(encoded(IMAGE, "JPEG")))


def test_a_small_file_of_a_large_picture_costs_its_pixels_and_no_more() -> None:
    """Whatever is behind the last pixel is not decompressed."""
    header = encoded(IMAGE, "PNG")[:33]
    bomb = header + chunk(b"IDAT", zlib.compress(bytes(100_000_000), 9)) + chunk(b"IEND", b"")
    began = time.process_time()
    assert decode(bomb).shape == (32, 40, 3)
    assert time.process_time() - began < 1


def test_the_doctor_names_it_and_looks_at_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(scans(3000, 2000, progressive=True, quality=10))
    Image.fromarray(picture(1)).save(tmp_path / "b.png")
    (tmp_path / "t.csv").write_text("image,label,split\na.jpg,a,train\nb.png,b,train\n")
    _, findings = examine(tmp_path / "t.csv", tmp_path, ["a", "b"])
    (unusable,) = [finding for finding in findings if finding.topic == "unusable"]
    assert [(place.images, place.remark) for place in unusable.where] == [
        (("a.jpg",), f"a JPEG of more than {MAX_SCANS} scans: save it again")
    ]
