"""Tiles: pictures of faces enlarged to one size, drawings on them, and sheets with captions.

Text on a sheet stays readable if the whole sheet is shown 360 pixels wide.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from orsanet_cache.data.images import Pixels
from orsanet_cache.inspection.fonts import Typeface, printable

TILE = 224  # this and the following in pixels
GAP = 8
TEXT = 26  # 9 if a sheet of four columns is shown 360 wide
LINE = TEXT + 14  # room for what hangs below the line, as of a g
ABOVE_TITLE = 20
Tile = NDArray[np.uint8]  # [224, 224, 3]

# Name and colour of every LaPa class, in label order. Sources differ on the side that LaPa calls left.
PARTS = (
    "background", "face", "left brow", "right brow", "left eye", "right eye", "nose", "upper lip", "inner mouth", "lower lip", "hair",
)  # fmt: skip
PALETTE = np.array(
    [
        (0, 0, 0), (244, 196, 160), (150, 75, 0), (205, 133, 63), (30, 144, 255), (0, 206, 209),
        (255, 215, 0), (220, 20, 60), (255, 255, 255), (255, 105, 180), (106, 90, 205),
    ],
    dtype=np.uint8,
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A title over the whole width, tiles, and a caption below each; any of them may be empty."""

    title: str = ""
    tiles: Sequence[Tile] = ()
    captions: Sequence[str] = ()


def sheet(rows: Sequence[Row], columns: int) -> Image.Image:
    """Draw rows below each other on white. Text that does not fit loses its beginning."""
    typeface = Typeface(TEXT, [text for row in rows for text in (row.title, *row.captions)])
    heights = [
        (ABOVE_TITLE + LINE) * bool(row.title) + TILE * bool(row.tiles) + LINE * bool(row.captions) + GAP
        for row in rows
    ]
    width = columns * (TILE + GAP) + GAP
    picture = Image.new("RGB", (width, sum(heights) + GAP), "white")
    draw = ImageDraw.Draw(picture)

    def write(text: str, left: int, top: int, room: int) -> None:
        typeface.write(draw, left, top + 4, shortened(text, room, typeface.length))

    bottom = GAP
    for row, height in zip(rows, heights, strict=True):
        below = bottom + (ABOVE_TITLE if row.title else 0)
        if row.title:
            write(row.title, GAP, below, width - 2 * GAP)
            below += LINE
        for column, tile in enumerate(row.tiles):
            picture.paste(Image.fromarray(tile), (GAP + column * (TILE + GAP), below))
        below += TILE * bool(row.tiles)
        for column, caption in enumerate(row.captions):
            write(caption, GAP + column * (TILE + GAP), below, TILE)
        bottom += height
    return picture


def map_legend(width: int, size: int = TEXT) -> Image.Image:
    """The colours of segmentation maps with the names of the parts, in lines of at most `width` pixels.

    `size` is that of the text. The narrowest legend has one part a line.
    """
    typeface = Typeface(size, PARTS)
    line, swatch = size + 10, size
    places: list[tuple[int, int]] = []
    left, top = GAP, 0
    for name in PARTS:
        room = swatch + 6 + round(typeface.length(name)) + 2 * GAP
        if left + room > width and left > GAP:
            left, top = GAP, top + line
        places.append((left, top))
        left += room
    picture = Image.new("RGB", (width, top + line), "white")
    draw = ImageDraw.Draw(picture)
    for (left, top), name, colour in zip(places, PARTS, PALETTE.tolist(), strict=True):
        draw.rectangle((left, top + 4, left + swatch, top + 4 + swatch), fill=tuple(colour), outline=(120, 120, 120))
        typeface.write(draw, left + swatch + 6, top + 4, name)
    return picture


def enlarged(image: Pixels) -> Tile:
    """[112, 112, 3] -> [224, 224, 3]."""
    return np.asarray(Image.fromarray(image).resize((TILE, TILE), Image.Resampling.BILINEAR))


def with_landmarks(image: Pixels, landmarks: NDArray[np.float32]) -> Tile:
    """Picture [112, 112, 3] with its landmarks [68, 2] (units of the crop) as dots, [224, 224, 3]."""
    picture = Image.fromarray(enlarged(image))
    draw = ImageDraw.Draw(picture)
    for x, y in landmarks * TILE:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(0, 255, 0), outline=(0, 90, 0))
    return np.asarray(picture)


def with_map(image: Pixels, segmentation_map: NDArray[np.uint8]) -> Tile:
    """Picture [112, 112, 3] under its coloured segmentation map [224, 224], [224, 224, 3]."""
    return np.asarray(Image.blend(Image.fromarray(enlarged(image)), Image.fromarray(PALETTE[segmentation_map]), 0.55))


def shortened(text: str, width: float, length: Callable[[str], float]) -> str:
    """Return the printable text, or as much of its end as fits into `width` by `length`."""
    text = printable(text)
    if length(text) <= width:
        return text
    cuts = range(1, len(text))  # bisected, because measuring a long text is slow
    return "…" + text[1 + bisect_left(cuts, True, key=lambda cut: length("…" + text[cut:]) <= width) :]
