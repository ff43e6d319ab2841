"""Every file gets pixels or a reason, the pixels are exactly the stated ones, and nothing is half read."""

import csv
import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from orsanet_cache import OrsanetError, load_manifest
from orsanet_cache.data.images import (
    ERASED_COLOUR,
    IMAGE_SIZE,
    MAX_BYTES,
    MAX_PIXELS,
    MIN_SIDE,
    Pixels,
    RejectedImage,
    decode,
    every_second_pixel,
    read_image,
    view_pixels,
)
from orsanet_cache.data.views import ERASED, UNSEEDED
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range

Transpose = Image.Transpose


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


# --- the shared bad inputs ---


@pytest.fixture(scope="module")
def bad_inputs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad") / "inputs"
    generator = shared / "bad_inputs" / "make_bad_inputs.py"
    subprocess.run([sys.executable, generator, folder, "--fifo"], check=True, timeout=120, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def expectations(bad_inputs: Path) -> dict[str, str]:
    """File name (as the file system has it) -> accept, reject or accept_or_reject."""
    with (bad_inputs / "expectations.csv").open(encoding="utf-8", newline="") as file:
        expected = {row["file"]: row["expect"] for row in csv.DictReader(file)}
    assert len(expected) >= 60
    raw_byte = next(name for name in expected if "raw byte 0xE9" in name)
    expected["latin1_\udce9.jpg"] = expected.pop(raw_byte)
    return expected


def answer(root: Path, name: str, folder: Path) -> Pixels | str:
    """Pixels, or the reason why the manifest or the decoder refuses the file `name` below `root`."""
    table = io.StringIO()
    csv.writer(table).writerows([("image", "label", "split"), (name, "anger", "train")])
    (folder / "one.csv").write_bytes(table.getvalue().encode("utf-8", "surrogateescape"))
    try:
        sample = load_manifest(folder / "one.csv", root=root, classes=["anger", "happiness"]).samples[0]
        return read_image(root / sample.image).rgb
    except OrsanetError as refusal:
        return str(refusal)


def test_each_bad_input_gets_the_expected_answer_and_the_same_one_twice(
    bad_inputs: Path, expectations: dict[str, str], tmp_path: Path
) -> None:
    root_reads_all = os.geteuid() == 0  # also files of mode 000: the row is tested below, for other users
    wrong = []
    for name, expected in expectations.items():
        if name == "unreadable.jpg" and root_reads_all:
            continue
        with within(30):
            first, second = (answer(bad_inputs / "files", name, tmp_path) for _ in range(2))
        if isinstance(first, str):
            if expected == "accept" or first != second:
                wrong.append(f"{name!r} should be {expected}: {first!r}, then {second!r}")
        elif expected == "reject" or not np.array_equal(first, second):
            wrong.append(f"{name!r} should be {expected}: pixels")
        else:
            assert first.dtype == np.uint8
            assert first.ndim == 3
            assert first.shape[2] == 3
    assert wrong == []


def test_a_file_name_that_is_not_utf8_is_refused_by_its_line(bad_inputs: Path, tmp_path: Path) -> None:
    assert os.fsencode("latin1_\udce9.jpg") in os.listdir(os.fsencode(bad_inputs / "files"))
    assert "line 2 is not UTF-8" in str(answer(bad_inputs / "files", "latin1_\udce9.jpg", tmp_path))


def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with within(10), pytest.raises(RejectedImage, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read a file of mode 000")
def test_a_file_that_may_not_be_read_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(IMAGE, "PNG"))
    path.chmod(0)
    with pytest.raises(RejectedImage, match="cannot be read"):
        read_image(path)


@pytest.mark.parametrize("name", ["missing.jpg", "folder.jpg", "x" * 300 + ".jpg", "file.jpg/below.jpg"])
def test_what_is_no_readable_file_is_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "file.jpg").write_bytes(b"")
    with pytest.raises(RejectedImage, match="cannot be read"):
        read_image(tmp_path / name)


def test_the_reason_helps_with_empty_files_and_lfs_pointers() -> None:
    assert "empty" in reason(b"")
    assert "git lfs pull" in reason(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


# --- which pixels ---


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_give_the_very_pixels(file_format: str, options: dict[str, object]) -> None:
    assert np.array_equal(decode(encoded(IMAGE, file_format, **options)), PICTURE)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:1:1"}, {"quality": 30}])
def test_jpeg_decodes_as_pillow_does(options: dict[str, object]) -> None:
    data = encoded(IMAGE, "JPEG", **options)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


# The stored picture is the upright one turned by the inverse of what the tag asks for.
TURNS = {
    1: (None, None),
    2: (Transpose.FLIP_LEFT_RIGHT, Transpose.FLIP_LEFT_RIGHT),
    3: (Transpose.ROTATE_180, Transpose.ROTATE_180),
    4: (Transpose.FLIP_TOP_BOTTOM, Transpose.FLIP_TOP_BOTTOM),
    5: (Transpose.TRANSPOSE, Transpose.TRANSPOSE),
    6: (Transpose.ROTATE_90, Transpose.ROTATE_270),
    7: (Transpose.TRANSVERSE, Transpose.TRANSVERSE),
    8: (Transpose.ROTATE_270, Transpose.ROTATE_90),
}


def turned(image: Image.Image, turn: Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


@pytest.mark.parametrize("value", TURNS)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_every_exif_orientation_is_made_upright(file_format: str, value: int) -> None:
    stored = turned(IMAGE, TURNS[value][0])
    assert np.array_equal(decode(encoded(stored, file_format, exif=orientation(value))), PICTURE)


@pytest.mark.parametrize("value", TURNS)
def test_a_jpeg_with_an_orientation_is_the_untagged_one_turned(value: int) -> None:
    """Both hold the same stored pixels and turning is lossless, so no tolerance for JPEG's loss is needed."""
    stored, upright = TURNS[value]
    image = turned(IMAGE, stored)
    plain = Image.fromarray(decode(encoded(image, "JPEG")))
    assert np.array_equal(decode(encoded(image, "JPEG", exif=orientation(value))), np.asarray(turned(plain, upright)))


def test_orientation_applies_to_sixteen_bit_grey() -> None:
    grey = np.arange(32 * 40, dtype=np.uint16).reshape(32, 40) * 51
    stored = Image.fromarray(grey).transpose(Transpose.ROTATE_90)
    assert np.array_equal(decode(encoded(stored, "PNG", exif=orientation(6)))[:, :, 0], grey >> 8)


@pytest.mark.parametrize("value", [0, 9, 99])
def test_an_invalid_orientation_is_ignored(value: int) -> None:
    assert np.array_equal(decode(encoded(IMAGE, "JPEG", exif=orientation(value))), decode(encoded(IMAGE, "JPEG")))


def camera_exif() -> bytes:
    exif = orientation(6)
    exif[0x010F] = "Maker"
    exif[0x011A] = 72.0
    exif[0x0131] = "software"
    return exif.tobytes()


CAMERA_JPEG = encoded(IMAGE, "JPEG", exif=camera_exif())
CAMERA_EXIF_START = CAMERA_JPEG.index(b"Exif\0\0") + 6
CAMERA_EXIF_LENGTH = len(camera_exif()) - 6
ALL_TURNS = [np.asarray(turned(Image.open(io.BytesIO(CAMERA_JPEG)), upright)) for _, upright in TURNS.values()]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, CAMERA_EXIF_LENGTH - 1), st.integers(0, 255)), min_size=1, max_size=4))
@example([(11, 0)])  # the orientation stays readable, but Pillow cannot write this block again
def test_a_corrupt_exif_block_never_costs_the_picture(changes: list[tuple[int, int]]) -> None:
    data = bytearray(CAMERA_JPEG)
    for position, value in changes:
        data[CAMERA_EXIF_START + position] = value
    rgb = decode(bytes(data))
    assert any(np.array_equal(rgb, turn) for turn in ALL_TURNS)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    every_level = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    rgb = decode(encoded(Image.fromarray(every_level), "PNG"))
    assert np.array_equal(rgb, np.repeat((every_level >> 8).astype(np.uint8)[:, :, None], 3, axis=2))
    assert rgb[0, 0].tolist() == [0, 0, 0]
    assert rgb[-1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_agrees_with_the_eight_bit_picture(file_format: str) -> None:
    eight = PICTURE[:, :, 0]
    assert np.array_equal(decode(encoded(Image.fromarray(eight * np.uint16(257)), file_format))[:, :, 0], eight)


def test_sixteen_bit_rgb_takes_the_high_byte() -> None:
    levels = (np.arange(20 * 24 * 3, dtype=np.uint16) * 45).reshape(20, 24, 3)
    assert np.array_equal(decode(png(24, 20, 16, 2, png_rows(levels))), levels >> 8)


def test_twelve_bit_grey_is_not_taken_for_sixteen_bit_darkness() -> None:
    """White is 4095 there; reading it on the 16-bit scale would give a nearly black picture."""
    white = grey_tiff(b"\xff" * (24 * 20 * 12 // 8), 24, 20, bits=12, photometric=1)
    rgb = pixels_or_none(white)
    assert rgb is None or rgb.min() == 255


def test_a_sixteen_bit_tiff_with_white_as_zero_is_not_read_as_a_negative() -> None:
    black = grey_tiff(b"\xff\xff" * (24 * 20), 24, 20, bits=16, photometric=0)
    rgb = pixels_or_none(black)
    assert rgb is None or rgb.max() == 0


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_rejected_because_their_white_is_unknown(mode: str) -> None:
    assert "32-bit" in reason(encoded(Image.new(mode, (32, 32)), "TIFF"))


def test_alpha_is_composited_on_black() -> None:
    columns = np.array([[200, 100, 50, 0], [200, 100, 50, 128], [200, 100, 50, 255]], dtype=np.uint8)
    rgba = np.repeat(np.repeat(columns[None], 16, axis=0), 8, axis=1)
    rgb = decode(encoded(Image.fromarray(rgba), "PNG"))
    assert rgb[0, ::8].tolist() == [[0, 0, 0], [100, 50, 25], [200, 100, 50]]  # colour · alpha / 255, rounded


def test_grey_with_alpha_is_composited_on_black_and_replicated() -> None:
    grey_alpha = Image.merge("LA", [Image.new("L", (20, 20), 200), Image.new("L", (20, 20), 128)])
    assert np.unique(decode(encoded(grey_alpha, "PNG"))).tolist() == [100]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_grey_level_becomes_black_at_every_depth(bits: int) -> None:
    white = np.full((20, 24), 2**bits - 1, dtype=f"u{bits // 8}")
    data = png(24, 20, bits, 0, png_rows(white), before_data=b"tRNS" + (2**bits - 1).to_bytes(2, "big"))
    rgb = pixels_or_none(data)
    assert rgb is None or rgb.max() == 0


def test_a_palette_is_looked_up_and_its_transparent_entry_is_black() -> None:
    indices = (np.arange(20 * 24) % 3).astype(np.uint8).reshape(20, 24)
    colours = np.array([[250, 10, 20], [30, 240, 40], [50, 60, 230]], dtype=np.uint8)
    image = Image.new("P", (24, 20))
    image.putdata(indices.ravel().tolist())
    image.putpalette(colours.tobytes())
    assert np.array_equal(decode(encoded(image, "PNG")), colours[indices])
    transparent = colours.copy()
    transparent[1] = 0
    assert np.array_equal(decode(encoded(image, "PNG", transparency=1)), transparent[indices])


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(file_format: str) -> None:
    cyan = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    options = {"quality": 100} if file_format == "JPEG" else {}  # one colour at quality 100 has no loss
    rgb = decode(encoded(cyan, file_format, **options))
    assert rgb.shape == (32, 32, 3)
    assert np.unique(rgb.reshape(-1, 3), axis=0).tolist() == [[0, 255, 255]]


def test_bilevel_becomes_black_and_white() -> None:
    pattern = PICTURE[:, :, 0] > 127
    rgb = decode(encoded(Image.fromarray(pattern), "PNG"))
    assert np.array_equal(rgb, np.repeat(np.where(pattern, 255, 0)[:, :, None], 3, axis=2))


def test_grey_is_replicated() -> None:
    grey = PICTURE[:, :, 0]
    assert np.array_equal(decode(encoded(Image.fromarray(grey), "PNG")), np.repeat(grey[:, :, None], 3, axis=2))


def test_a_photo_with_embedded_previews_is_its_first_picture() -> None:
    second = Image.fromarray(picture(1))
    data = encoded(IMAGE, "MPO", save_all=True, append_images=[second])
    assert np.array_equal(decode(data), decode(encoded(IMAGE, "JPEG")))


# --- what is rejected ---


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_an_animation_or_a_file_of_several_pages_is_rejected(file_format: str) -> None:
    frames = [Image.fromarray(picture(seed)) for seed in range(3)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert "animation" in reason(data)


def test_a_format_outside_the_list_is_rejected_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(encoded(IMAGE, "GIF"))
    with pytest.raises(RejectedImage, match="JPEG, PNG, WEBP, BMP, TIFF"):
        read_image(tmp_path / "image.jpg")


@pytest.mark.parametrize(("width", "height"), [(MIN_SIDE - 1, 64), (64, MIN_SIDE - 1), (1, 1), (1, 5000)])
def test_too_small_is_rejected_naming_the_limit(width: int, height: int) -> None:
    message = reason(encoded(Image.new("RGB", (width, height)), "PNG"))
    assert f"{width}x{height}" in message
    assert str(MIN_SIDE) in message


def test_the_smallest_side_is_accepted() -> None:
    assert decode(encoded(Image.new("RGB", (MIN_SIDE, MIN_SIDE)), "PNG")).shape == (MIN_SIDE, MIN_SIDE, 3)


@pytest.mark.parametrize(("width", "height"), [(8193, 8192), (12_000, 12_000), (20_000, 20_000), (50_000, 50_000)])
def test_too_many_pixels_is_rejected_naming_the_limit(width: int, height: int) -> None:
    message = reason(png(width, height, 8, 2, b""))
    assert f"more than the {MAX_PIXELS:,}" in message


def test_the_largest_size_passes_the_header_check() -> None:
    assert "damaged" in reason(png(8192, MAX_PIXELS // 8192, 1, 0, b""))


def test_too_many_bytes_is_rejected_unread_naming_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.write(encoded(IMAGE, "PNG"))
        file.truncate(MAX_BYTES + 1)  # sparse: takes no room on the disk
    with within(5), pytest.raises(RejectedImage, match=f"{MAX_BYTES + 1:,} bytes, more than the {MAX_BYTES:,}"):
        read_image(tmp_path / "huge.png")


PEAK_GROWTH = """
import resource, sys
from pathlib import Path
from orsanet_cache.data.images import RejectedImage, read_image

def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

for path in sys.argv[1:]:
    before = peak_kib()
    try:
        read_image(Path(path))
    except RejectedImage as reason:
        print(peak_kib() - before, reason)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_a_bomb_is_rejected_by_its_header_without_its_memory(tmp_path: Path) -> None:
    side = 12_000  # 144 MB when decoded at one byte per pixel, 432 MB as RGB
    rows = (b"\0" + b"\xff" * (side // 8)) * side
    (tmp_path / "warm.png").write_bytes(encoded(Image.new("RGB", (8, 8)), "PNG"))  # so that the plug-ins are loaded
    (tmp_path / "bomb.png").write_bytes(png(side, side, 1, 0, rows))
    paths = [tmp_path / "warm.png", tmp_path / "bomb.png"]
    child = subprocess.run(
        [sys.executable, "-c", PEAK_GROWTH, *paths], check=True, timeout=60, capture_output=True, text=True
    )
    growth, message = child.stdout.splitlines()[1].split(" ", 1)
    assert f"more than the {MAX_PIXELS:,}" in message
    assert int(growth) < 16 * 1024  # KiB; a ninth of the smallest way to decode it


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


@pytest.mark.parametrize("kind", WHOLE_FILES)
def test_a_cut_file_is_rejected_or_complete_never_half_read(kind: str) -> None:
    data = WHOLE_FILES[kind]
    whole = decode(data)
    step = 1 + len(data) // 400
    lengths = [*range(0, len(data), step), *range(max(0, len(data) - 40), len(data))]
    answers = {length: pixels_or_none(data[:length]) for length in lengths}
    assert [n for n, rgb in answers.items() if rgb is not None and not np.array_equal(rgb, whole)] == []
    assert answers[lengths[len(lengths) // 4]] is None


# --- hostile bytes ---


def assert_definite(data: bytes) -> None:
    """RGB or RejectedImage, within seconds."""
    with within(20):
        rgb = pixels_or_none(data)
    if rgb is not None:
        assert rgb.dtype == np.uint8
        assert rgb.ndim == 3
        assert rgb.shape[2] == 3


SIGNATURES = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8 ", b"BM", b"II*\0\x08\0\0\0"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SIGNATURES), st.binary(max_size=200))
@example(b"\x89PNG\r\n\x1a\n", b"\0\0\0\x0dIHDR\xff\xff\xff\xff\xff\xff\xff\xff\x08\x02\0\0\0\0\0\0\0")
def test_random_bytes_get_a_definite_answer(signature: bytes, rest: bytes) -> None:
    assert_definite(signature + rest)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(WHOLE_FILES)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    kept=st.floats(0, 1) | st.just(1.0),
)
def test_damaged_images_get_a_definite_answer(kind: str, changes: list[tuple[float, int]], kept: float) -> None:
    data = bytearray(WHOLE_FILES[kind])
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    assert_definite(bytes(data[: int(kept * len(data))]))


# --- identity and views ---


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_the_digest_is_of_the_file_and_the_pixels_are_of_the_same_bytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(WHOLE_FILES[kind])
    read = read_image(path)
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(read.rgb, decode(WHOLE_FILES[kind]))


@pytest.mark.parametrize(("height", "width"), [(100, 120), (224, 224), (500, 333), (16, 400)])
def test_a_view_is_pillows_resize_of_the_whole_picture(height: int, width: int) -> None:
    rgb = picture(3, height, width)
    bilinear = Image.fromarray(rgb).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    clean = view_pixels(rgb, "clean")
    assert clean.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert clean.dtype == np.uint8
    assert np.array_equal(clean, np.asarray(bilinear))


def test_hflip_is_the_resize_of_the_flipped_picture() -> None:
    rgb = picture(4, 100, 121)
    mirrored = Image.fromarray(rgb).transpose(Transpose.FLIP_LEFT_RIGHT)
    expected = mirrored.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    assert np.array_equal(view_pixels(rgb, "hflip"), np.asarray(expected))
    assert not np.array_equal(view_pixels(rgb, "hflip"), view_pixels(rgb, "clean"))


def test_the_flipped_view_of_the_mirrored_picture_is_the_clean_view() -> None:
    mirrored = np.asarray(IMAGE.transpose(Transpose.FLIP_LEFT_RIGHT))
    assert not np.array_equal(mirrored, PICTURE)
    assert np.array_equal(view_pixels(mirrored, "hflip"), view_pixels(PICTURE, "clean"))


def test_the_views_of_the_picture_alone_are_these() -> None:
    assert [*UNSEEDED, *ERASED] == ["clean", "hflip", *SIDES]


@pytest.mark.parametrize("view", [*UNSEEDED, *ERASED])
@pytest.mark.parametrize("size", [(32, 40), (IMAGE_SIZE, IMAGE_SIZE)])  # the second needs no resize
def test_views_leave_their_input_alone(view: str, size: tuple[int, int]) -> None:
    original = picture(0, *size)
    rgb = original.copy()
    view_pixels(rgb, view)
    assert np.array_equal(rgb, original)


# Side of a square of that share of 224 x 224 pixels: 224 times the root of the share, rounded.
SIDES = {"erase-10": 71, "erase-20": 100, "erase-30": 123}


def square(pixels: Pixels, clean: Pixels) -> tuple[int, int, int, int]:
    """Top, left, height and width of the box around all pixels that differ."""
    rows, columns = np.nonzero((pixels != clean).any(axis=2))
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left


def plain(number: int) -> Pixels:
    """One of many plain pictures, each of a colour that differs from the erased one in every pixel."""
    return np.full((IMAGE_SIZE, IMAGE_SIZE, 3), (number % 256, number // 256, 255), dtype=np.uint8)


@given(
    view=st.sampled_from(sorted(SIDES)),
    seed=st.integers(0, 1000),
    height=st.integers(MIN_SIDE, 300),
    width=st.integers(MIN_SIDE, 300),
)
@settings(max_examples=60, deadline=None)
def test_erasing_is_one_square_of_one_colour_and_leaves_every_other_pixel(
    view: str, seed: int, height: int, width: int
) -> None:
    """Of smooth pictures a border pixel may have the erased colour by chance: the box is then one of those that hold it."""
    rgb, side = picture(seed, height, width), SIDES[view]
    clean, erased = view_pixels(rgb, "clean"), view_pixels(rgb, view)
    top, left, *size = square(erased, clean)
    assert max(size) <= side
    places = [
        (y, x)
        for y in range(max(0, top + size[0] - side), min(top, IMAGE_SIZE - side) + 1)
        for x in range(max(0, left + size[1] - side), min(left, IMAGE_SIZE - side) + 1)
    ]
    expected = []
    for y, x in places:
        expected.append(clean.copy())
        expected[-1][y : y + side, x : x + side] = ERASED_COLOUR
    assert any(np.array_equal(erased, one) for one in expected)


@pytest.mark.parametrize("view", SIDES)
def test_erased_views_have_the_stated_share_and_are_the_same_every_time(view: str) -> None:
    side = SIDES[view]
    assert abs(side - (int(view.removeprefix("erase-")) / 100) ** 0.5 * IMAGE_SIZE) <= 0.5  # whole pixels
    for number in range(20):
        erased = view_pixels(plain(number), view)
        assert square(erased, plain(number))[2:] == (side, side)
        assert (erased == ERASED_COLOUR).all(axis=2).sum() == side**2
        assert np.array_equal(view_pixels(plain(number), view), erased)


def test_the_place_depends_on_the_picture_and_on_the_share() -> None:
    """A pixel of one level more is another picture. One draw scaled to the room that each square has would agree within 0.01."""
    other = plain(0)
    other[0, 0, 0] += 1
    places = [
        np.array(square(view_pixels(rgb, view), rgb)[:2]) / (IMAGE_SIZE - side)
        for view, side in SIDES.items()
        for rgb in (plain(0), other)
    ]
    assert all(np.abs(one - two).max() > 0.02 for one, two in combinations(places, 2))


@pytest.mark.parametrize("view", SIDES)
def test_over_many_pictures_the_square_goes_everywhere_evenly(view: str) -> None:
    """Tops and lefts are independent and uniform, so corners are reached as often as any place."""
    room, count = IMAGE_SIZE - SIDES[view], 1200
    places = np.array([square(view_pixels(plain(n), view), plain(n))[:2] for n in range(count)])
    # At most 154 places along an axis: 1200 draws miss a given one with a probability of 4e-4, and these pictures are fixed.
    assert places.min(axis=0).tolist() == [0, 0]
    assert places.max(axis=0).tolist() == [room, room]
    thirds = 3 * places // (room + 1)
    cells = np.bincount(thirds[:, 0] * 3 + thirds[:, 1], minlength=9)
    # Nine cells of nearly equal chance: within 5 binomial standard deviations, and 3 % for thirds of whole pixels.
    np.testing.assert_allclose(cells, count / 9, rtol=5 * (8 / count) ** 0.5 + 0.03)


def test_the_erased_colour_is_the_nearest_to_zero_after_normalisation() -> None:
    levels = torch.arange(256, dtype=torch.uint8)[None, :, None, None].expand(1, 256, 1, 3).numpy()
    away = imagenet_normalised(unit_range(torch.from_numpy(levels.copy())))[0, :, :, 0].abs()  # [3, 256]
    assert tuple(away.argmin(dim=1).tolist()) == ERASED_COLOUR
    assert away.min(dim=1).values.max() < 0.009


def test_the_small_image_of_a_flip_is_not_the_flip_of_the_small_image() -> None:
    """The trap: every second pixel keeps the even columns, and a flip of an even width makes them the odd ones."""
    rgb = picture(5, 100, 120)
    clean, flipped = view_pixels(rgb, "clean"), view_pixels(rgb, "hflip")
    assert np.array_equal(every_second_pixel(flipped), flipped[::2, ::2])
    assert not np.array_equal(every_second_pixel(flipped), every_second_pixel(clean)[:, ::-1])


def test_every_second_pixel_is_the_published_nearest_resize() -> None:
    batch = np.stack([view_pixels(picture(seed), "clean") for seed in range(2)])
    planes = torch.from_numpy(batch).movedim(-1, 1).float()
    nearest = torch.nn.functional.interpolate(planes, size=IMAGE_SIZE // 2, mode="nearest").movedim(1, -1)
    assert np.array_equal(every_second_pixel(batch), nearest.numpy())
