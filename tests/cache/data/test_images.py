"""Every file gets pixels or a reason, the pixels are exactly the stated ones, and nothing is half read."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from encoded_pictures import (
    IMAGE,
    PICTURE,
    WHOLE_FILES,
    encoded,
    grey_tiff,
    orientation,
    picture,
    pixels_or_none,
    png,
    png_rows,
    reason,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from orsanet_cache.data.images import (
    decode,
    read_image,
)

Transpose = Image.Transpose


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


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_the_digest_is_of_the_file_and_the_pixels_are_of_the_same_bytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(WHOLE_FILES[kind])
    read = read_image(path)
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(read.rgb, decode(WHOLE_FILES[kind]))
