"""Contact sheets: pictures that show at once whether the priors make sense."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from orsanet_cache.data.images import Pixels
from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError
from orsanet_cache.inspection.tiles import shortened, with_landmarks, with_map
from orsanet_cache.outputs import check_file
from orsanet_cache.store.reader import PriorStore

CAPTION = 16
MARK = "orsanet-cache show"  # in a sheet's PNG file, as the Software that wrote it
_BEGINS = rb"\x89PNG\r\n\x1a\n.{25}.{4}tEXtSoftware\0" + MARK.encode()  # IHDR comes first


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
    """Return a sheet of `count` accepted samples, spread evenly over the split.

    For each sealed view it has the picture with its 68 landmarks, and the picture under its
    coloured segmentation map. Raises OrsanetError if the split has no finished view or no accepted
    sample.
    """
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


def check_sheet(out: Path) -> None:
    """Raises OrsanetError if `out` is anything but a sheet that `write_sheet` wrote."""
    check_file(out, _BEGINS, f"a contact sheet of `{MARK}`")


def write_sheet(sheet: Image.Image, out: Path) -> None:
    """Write a PNG file whole, in place of an earlier sheet. Raises OrsanetError if it cannot."""
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", MARK)
    check_sheet(out)
    write_whole(out.resolve(), lambda path: sheet.save(path, format="PNG", pnginfo=mark))
