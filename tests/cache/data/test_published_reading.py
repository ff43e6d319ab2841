"""The published reading gives the pixels of the published code's loader, torchvision's; the upright one those that a person sees."""

import io
from pathlib import Path

import numpy as np
import pytest
from encoded_pictures import IMAGE, PICTURE, WHOLE_FILES, encoded, grey_tiff, orientation, png, png_rows
from PIL import Image
from torchvision.datasets.folder import pil_loader

from orsanet_cache.data.images import PREPROCESSING, decode, image_pixels, image_reading, preprocessing, read_image

LEVELS = np.linspace(0, 65535, 24 * 20).astype(np.uint16).reshape(20, 24)
ALPHA = np.dstack([PICTURE, np.arange(PICTURE.shape[0] * PICTURE.shape[1]).reshape(PICTURE.shape[:2]) % 256])
RGBA = Image.fromarray(ALPHA.astype(np.uint8))
# What the two readings see differently.
AWKWARD = {
    **{f"exif {value}": encoded(IMAGE, "JPEG", exif=orientation(value)) for value in range(2, 9)},
    "exif of a png": encoded(IMAGE, "PNG", exif=orientation(6)),
    "alpha": encoded(RGBA, "PNG"),
    "alpha of a webp": encoded(RGBA, "WEBP", lossless=True, exact=True),
    "alpha of a tiff": encoded(RGBA, "TIFF"),
    "grey with alpha": encoded(RGBA.convert("LA"), "PNG"),
    "palette with a transparent colour": encoded(IMAGE.quantize(16), "PNG", transparency=3),
    "palette with alpha": encoded(IMAGE.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
    "16 bits": encoded(Image.fromarray(LEVELS), "PNG"),
    "16 bits of a tiff": encoded(Image.fromarray(LEVELS), "TIFF"),
    "16 bits and exif": encoded(Image.fromarray(LEVELS), "PNG", exif=orientation(3)),
}
# What only the published reading takes: the levels have no known white, and are clipped at 255.
WITHOUT_WHITE = {
    "32 bits": encoded(Image.fromarray(LEVELS.astype(np.int32)), "TIFF"),
    "floats": encoded(Image.fromarray((LEVELS / 200).astype(np.float32)), "TIFF"),
    "12 bits": grey_tiff(bytes(range(36)) * 16, 24, 16, 12, 1),
}
ALIKE = {
    **WHOLE_FILES,
    "1 bit": encoded(IMAGE.convert("1"), "PNG"),
    "grey": encoded(IMAGE.convert("L"), "PNG"),
    "exif 1": encoded(IMAGE, "JPEG", exif=orientation(1)),
    "16 bits of three colours": png(24, 20, 16, 2, png_rows(np.dstack([LEVELS, LEVELS.T.reshape(20, 24), LEVELS]))),
}


def loaded(data: bytes, folder: Path) -> np.ndarray:
    """The pixels that the published loader gives for these bytes."""
    path = folder / "picture"
    path.write_bytes(data)
    return np.asarray(pil_loader(str(path)))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # the loader's own
@pytest.mark.parametrize("kind", [*AWKWARD, *WITHOUT_WHITE, *ALIKE])
def test_the_published_reading_gives_the_pixels_of_the_published_loader(kind: str, tmp_path: Path) -> None:
    data = {**AWKWARD, **WITHOUT_WHITE, **ALIKE}[kind]
    expected = loaded(data, tmp_path)
    assert np.array_equal(decode(data, "published"), expected)
    assert np.array_equal(read_image(tmp_path / "picture", "published").rgb, expected)


@pytest.mark.parametrize("kind", AWKWARD)
def test_the_two_readings_differ_where_the_documents_say(kind: str) -> None:
    upright, published = decode(AWKWARD[kind]), decode(AWKWARD[kind], "published")
    assert upright.shape != published.shape or not np.array_equal(upright, published)


@pytest.mark.parametrize("kind", ALIKE)
def test_the_two_readings_agree_on_all_other_pictures(kind: str) -> None:
    assert np.array_equal(decode(ALIKE[kind]), decode(ALIKE[kind], "published"))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_an_opened_image_is_read_as_its_file() -> None:
    for data in AWKWARD.values():
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(image_pixels(image, "published"), decode(data, "published"))


def test_a_recipe_states_the_reading() -> None:
    assert preprocessing("upright") == PREPROCESSING  # of every store that was built before there were two
    for reading in ("upright", "published"):
        assert image_reading({"preprocessing": preprocessing(reading)}) == reading
    assert image_reading({"preprocessing": {"decoder": "of another version"}}) == image_reading({}) == "upright"
