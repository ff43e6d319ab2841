"""From a file's bytes to the networks' input pixels.

bytes → hash → check of parts and header → one decode → upright RGB [H, W, 3] → view → 224x224 (→ 112x112 for two of the networks)

Every file yields either pixels or `RejectedImage` with the reason. A truncated file is rejected,
never filled with grey. A file whose decoding would take far longer than its pixels explain is
rejected before it is decoded (excess.py). The resize is Pillow's, as in the published pipeline;
torch's resize differs by one level on 18 % of the pixels. A view is applied before the resize, also
as published.

There are two readings of a file. `upright` is what a person sees: turned by the EXIF orientation,
alpha composited on black, 16 bits scaled to 8. `published` is what the published loader
(torchvision's ImageFolder) passes on: Pillow's conversion to RGB, which ignores the orientation,
drops alpha and clips 16 bits at 255. For all other pictures the two are equal.
"""

import hashlib
import io
import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image

from orsanet_cache.data.augmentation import augmentations
from orsanet_cache.data.excess import MAX_METADATA, excess
from orsanet_cache.data.formats import unread_by_content
from orsanet_cache.data.views import AUGMENTED, ERASED, HFLIP, View
from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.paths import StrPath, as_path
from orsanet_cache.reading import NotRegularError, open_regular

Pixels = NDArray[np.uint8]
ImageReading = Literal["upright", "published"]

IMAGE_SIZE = 224
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MIN_SIDE = 16  # a smaller picture cannot show a face
MAX_PIXELS = 64 * 1024**2  # 64 Mpx, 192 MB as RGB: above the usual size of phone pictures, below decompression bombs
MAX_BYTES = 256 * 1024**2

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags

# EXIF orientation -> the operation that makes the picture upright. ImageOps.exif_transpose also
# rewrites the EXIF block, and fails on a damaged one.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The settings that determine the networks' input, of the reading `upright`; part of a store's recipe.
PREPROCESSING = {
    "decoder": "Pillow",  # its version is in the provenance: decoding has been bit-stable across releases
    "orientation": "exif",
    "alpha": "black",
    "resize": f"{IMAGE_SIZE}x{IMAGE_SIZE} bilinear antialiased",
    "erase": "square in the ImageNet mean colour, placed by the SHA-256 of the pixels",
}


def preprocessing(reading: ImageReading) -> dict[str, str]:
    """The entry `preprocessing` of the recipe of a store whose images are read in this way."""
    if reading == "upright":
        return dict(PREPROCESSING)
    return {**PREPROCESSING, "orientation": "ignored", "alpha": "dropped", "16 bits": "clipped at 255"}


def image_reading(recipe: Mapping[str, Any]) -> ImageReading:
    """The reading that a store's recipe states."""
    return "published" if recipe.get("preprocessing") == preprocessing("published") else "upright"


class RejectedImage(OrsanetError):
    """This file cannot be used as an image. The message is the reason, without the file's name."""


@dataclass(frozen=True)
class Decoded:
    """An image and the digest of its file."""

    rgb: Pixels  # [H, W, 3]
    sha256: str


def read_image(path: StrPath, reading: ImageReading = "upright") -> Decoded:
    """Read, hash and decode one image file.

    `reading` is "upright" or "published", as for `orsanet-cache build --image-reading`. Raises
    RejectedImage with the reason if the file cannot be used.
    """
    data = read_file(as_path(path, "image"))
    return Decoded(rgb=decode(data, reading), sha256=hashlib.sha256(data).hexdigest())


def decode(data: bytes, reading: ImageReading = "upright") -> Pixels:
    """Encoded bytes -> RGB, uint8 [H, W, 3].

    Upright: turned by the EXIF orientation, 16 bits scaled to 8, alpha composited on black.
    Published: the pixels as they are stored, 16 bits clipped at 255, alpha dropped. Grey is
    replicated in both. Raises RejectedImage with the reason if the image cannot be used.
    """
    if not data:
        raise RejectedImage("the file is empty")
    if data.startswith(b"version https://git-lfs"):
        raise RejectedImage("this is a Git LFS pointer, not the image: run `git lfs pull`")
    if why := excess(data):
        raise RejectedImage(why)
    # Pillow's warnings about odd metadata appear once and without the file's name; here each file
    # has its own result.
    with NO_WARNINGS:
        try:
            return _decode_quietly(data, reading)
        except PIL.UnidentifiedImageError:
            unread = unread_by_content(data)
            raise RejectedImage(unread or f"not an image in one of the formats {', '.join(FORMATS)}") from None
        except Image.DecompressionBombError:
            raise RejectedImage(f"far more than the {MAX_PIXELS:,} pixels an image may have") from None
        except (RejectedImage, MemoryError):
            raise
        except Exception as error:  # on damaged or hostile bytes Pillow's plug-ins raise nearly every exception type
            refuse_shortage(error)
            raise RejectedImage(f"damaged image ({type(error).__name__}: {error})") from error


class _NoWarnings:
    """Suppress warnings while at least one thread is inside.

    warnings.catch_warnings alone changes state that all threads share: the first thread to leave
    would enable the warnings of the others, and the last would restore the suppressed state
    permanently.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.__exit__(None, None, None)


NO_WARNINGS = _NoWarnings()


def read_file(path: Path) -> bytes:
    """A file's bytes.

    Raises RejectedImage if it cannot be read, is not a regular file, or exceeds MAX_BYTES.
    """
    try:
        with open(open_regular(path), "rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                raise RejectedImage(f"{size:,} bytes, more than the {MAX_BYTES:,} an image may have")
            return file.read()
    except NotRegularError as error:
        raise RejectedImage("not a regular file") from error
    except OSError as error:
        refuse_shortage(error, path)
        raise RejectedImage(f"cannot be read ({error.strerror})") from error


def _decode_quietly(data: bytes, reading: ImageReading) -> Pixels:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image_pixels(image, reading)


def image_pixels(image: Image.Image, reading: ImageReading = "upright") -> Pixels:
    """An opened Pillow image -> RGB, uint8 [H, W, 3], as `decode` returns for its file.

    Raises RejectedImage with the reason for an unusable image, and Pillow's own exceptions for a
    damaged file.
    """
    _check_header(image)
    if reading == "upright":
        _check_levels(image)
    image.load()
    return _to_rgb(_upright(image)) if reading == "upright" else np.asarray(image.convert("RGB"))


def _check_header(image: Image.Image) -> None:
    """Check size and kind by the header alone, before any pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RejectedImage(too_many_pixels(width, height))
    if min(width, height) < MIN_SIDE:
        raise RejectedImage(f"{width}x{height} pixels, each side needs at least {MIN_SIDE}")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photo with embedded previews
        raise RejectedImage("an animation or a file of several pages: extract the frame you mean")
    if len(image.info.get("exif") or b"") > MAX_METADATA:
        raise RejectedImage(f"more than {MAX_METADATA:,} bytes of metadata: save it again without them")


def _check_levels(image: Image.Image) -> None:
    """Check by the header that white has a known level; the published reading clips instead."""
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})  # TIFF only: 12-bit images also have this mode, and white may be zero
        plain = tags.get(_BITS_PER_SAMPLE, (16,)) == (16,) and tags.get(_PHOTOMETRIC, 1) == 1
        if not plain or image.has_transparency_data:
            raise RejectedImage("grey pixels neither of 8 nor of plain 16 bits: convert to 8 bits")
    if image.mode in ("I", "F"):
        raise RejectedImage("32-bit pixels have no fixed white level: convert to 8 or 16 bits")


def too_many_pixels(width: int, height: int) -> str:
    """The reason why a picture of that size is rejected."""
    return f"{width}x{height} pixels, more than the {MAX_PIXELS:,} an image may have"


def _upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation.

    A damaged EXIF block is ignored, as image viewers do.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:  # the EXIF parser reads the same untrusted bytes as the decoder
        refuse_shortage(error)
        return image
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16"):  # Pillow's own conversion saturates to white; its 16-bit RGB takes the high byte
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(image.convert("RGB"))


ERASED_COLOUR = (124, 116, 104)  # 255 times the ImageNet mean, rounded; within 0.009 of zero after normalisation


def view_pixels(rgb: Pixels, name: str, sha256: str | None = None) -> Pixels:
    """Upright image [H, W, 3] -> the view's network input, uint8 [224, 224, 3].

    `sha256` is the digest of the picture's file, by which augmented views are drawn. The rectangle
    of an augmented view has the ERASED_COLOUR, the nearest to what the networks get there: zero once
    normalised.

    Raises OrsanetError for an unknown view, for an augmented view without a digest, and for a view
    that needs landmarks: only a build draws those.
    """
    view = View.parse(name)
    if view.is_placed:
        raise OrsanetError(
            f"view '{name}' is placed by the landmarks of the clean view and drawn by `orsanet-cache build` only; read it from a store"
        )
    flipped, (top, left, height, width) = view.kind == HFLIP, (0, 0, 0, 0)
    if view.kind == AUGMENTED:
        if sha256 is None:
            raise OrsanetError(f"view '{name}' is drawn by the digest of the picture's file; pass it as sha256")
        digest = np.frombuffer(bytes.fromhex(sha256), np.uint8)
        flips, rectangles = augmentations(digest[None], view.seed, IMAGE_SIZE)
        flipped, (top, left, height, width) = bool(flips[0]), rectangles[0].tolist()
    seen = Image.fromarray(np.ascontiguousarray(rgb[:, ::-1] if flipped else rgb))
    pixels = np.array(seen.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))
    pixels[top : top + height, left : left + width] = ERASED_COLOUR
    if view.kind in ERASED:
        _erase_square(pixels, int(view.kind.removeprefix("erase-")), view.seed)
    return pixels


def _erase_square(pixels: Pixels, per_cent: int, seed: int) -> None:
    """Erase a square in place, in the colour that ImageNet normalisation maps (nearly) to zero.

    The square's position is derived from the pixels, so the same picture always loses the same
    square.
    """
    side = round((per_cent / 100) ** 0.5 * IMAGE_SIZE)
    digest = hashlib.sha256(pixels.tobytes()).digest()
    entropy = [per_cent, seed, *digest] if seed else [per_cent, *digest]
    top, left = np.random.default_rng(entropy).integers(0, IMAGE_SIZE - side + 1, 2)
    pixels[top : top + side, left : left + side] = ERASED_COLOUR


def every_second_pixel(pixels: Pixels) -> Pixels:
    """[..., 224, 224, 3] -> [..., 112, 112, 3], exactly the published nearest resize.

    The even columns are kept, so the 112-pixel image of a flipped view is *not* the flip of the
    clean view's image. Each view stores its own.
    """
    return pixels[..., ::2, ::2, :]
