"""Contact sheets: pictures that show at once whether the priors make sense."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from orsanet_cache.data.images import Pixels
from orsanet_cache.errors import OrsanetError
from orsanet_cache.store.reader import PriorStore

TILE = 224
CAPTION = 16

# One colour per LaPa class, in label order.
PALETTE = np.array(
    [
        (0, 0, 0), (244, 196, 160), (150, 75, 0), (205, 133, 63), (30, 144, 255), (0, 206, 209),
        (255, 215, 0), (220, 20, 60), (255, 255, 255), (255, 105, 180), (106, 90, 205),
    ],
    dtype=np.uint8,
)  # fmt: skip


def contact_sheet(tiles: Sequence[Pixels], captions: Sequence[str], columns: int) -> Image.Image:
    """Equal tiles, uint8 [H, W, 3], row by row with a caption below each."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = index % columns * width, index // columns * (height + CAPTION)
        sheet.paste(Image.fromarray(tile), (left, top))
        draw.text((left + 3, top + height + 2), shortened(caption, width - 6, draw.textlength), fill="black")
    return sheet


def prior_sheet(store: PriorStore, split: str, count: int) -> Image.Image:
    """`count` accepted samples spread evenly over the split; for each sealed view the picture with its 68 landmarks, and the
    coloured segmentation map over it."""
    views = store.views(split)
    if not views:
        raise OrsanetError(
            f"{store.path}: no view of split '{split}' is finished; run the same `orsanet-cache build` again"
        )
    accepted = np.flatnonzero(np.all([store.accepted(split, view) for view in views], axis=0))
    if not len(accepted):
        raise OrsanetError(f"{store.path}: every image of split '{split}' was rejected; see `orsanet-cache info`")
    rows = accepted[np.linspace(0, len(accepted) - 1, min(count, len(accepted))).round().astype(int)]
    ids = store.sample_ids(split)
    tiles: list[Pixels] = []
    captions: list[str] = []
    read = {
        view: [store.read(split, view, field, rows) for field in ("image", "segmentation_map", "landmarks")]
        for view in views
    }
    for position, row in enumerate(rows):
        for view in views:
            image, segmentation_map, landmarks = (values[position] for values in read[view])
            tiles += [with_landmarks(image, landmarks), with_map(image, segmentation_map)]
            captions += [ids[row].rsplit("/", 1)[-1], view]
    per_sample = 2 * len(views)
    return contact_sheet(tiles, captions, columns=per_sample * max(1, 8 // per_sample))


def with_landmarks(image: Pixels, landmarks: NDArray[np.float32]) -> Pixels:
    """Picture [112, 112, 3] with its landmarks [68, 2] (units of the crop) as dots, [224, 224, 3]."""
    picture = _enlarged(image)
    draw = ImageDraw.Draw(picture)
    for x, y in landmarks * TILE:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(0, 255, 0), outline=(0, 90, 0))
    return np.asarray(picture)


def with_map(image: Pixels, segmentation_map: NDArray[np.uint8]) -> Pixels:
    """Picture [112, 112, 3] under its coloured segmentation map [224, 224], [224, 224, 3]."""
    return np.asarray(Image.blend(_enlarged(image), Image.fromarray(PALETTE[segmentation_map]), 0.55))


def _enlarged(image: Pixels) -> Image.Image:
    return Image.fromarray(image).resize((TILE, TILE), Image.Resampling.BILINEAR)


def printable(text: str) -> str:
    """With a question mark for every character that cannot be drawn: a file's name may hold anything."""
    return "".join(character if character.isprintable() else "?" for character in text)


def shortened(text: str, width: float, length: Callable[[str], float]) -> str:
    """The printable text, or as much of its end as `length` says fits into `width`."""
    text = printable(text)
    if length(text) <= width:
        return text
    cuts = range(1, len(text))  # found by halving: drawing a long text to measure it takes its time
    return "…" + text[1 + bisect_left(cuts, True, key=lambda cut: length("…" + text[cut:]) <= width) :]
