"""Contact sheets: pictures that show at once whether the priors make sense."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin

from orsanet_cache.data.images import Pixels
from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError
from orsanet_cache.inspection.fonts import Typeface, legend, numbered
from orsanet_cache.inspection.tiles import GAP, TILE, map_legend, shortened, with_landmarks, with_map
from orsanet_cache.outputs import check_file
from orsanet_cache.store.reader import PriorStore

CAPTION, SMALL_TEXT = 16, 10  # pixels: height of a caption and of its text
WIDTH = 2_000  # pixels: a sheet is at most as wide unless it is asked to be wider
TEXT, LINE = 16, 24
TILE_GAP, VIEW_GAP = 2, 12  # between the two tiles of a view, and between views
SMALLEST = 32  # side of a tile on which a face is still a face
MOST_PIXELS = 178_956_970  # Pillow and other programs refuse or warn of larger pictures
MARK = "orsanet-cache show"  # in a sheet's PNG file, as the Software that wrote it
_BEGINS = rb"\x89PNG\r\n\x1a\n.{25}.{4}tEXtSoftware\0" + MARK.encode()  # IHDR comes first


def contact_sheet(tiles: Sequence[Pixels], captions: Sequence[str], columns: int) -> Image.Image:
    """Equal tiles, uint8 [H, W, 3], row by row with a caption below each."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + CAPTION)), "white")
    draw, typeface = ImageDraw.Draw(sheet), Typeface(SMALL_TEXT, captions)
    for index, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = index % columns * width, index // columns * (height + CAPTION)
        sheet.paste(Image.fromarray(tile), (left, top))
        typeface.write(draw, left + 3, top + height + 2, shortened(caption, width - 6, typeface.length))
    return sheet


def prior_sheet(store: PriorStore, split: str, count: int, width: int = WIDTH) -> Image.Image:
    """Return a sheet with a row for each of the `shown_rows`, and two columns for each sealed view.

    The columns of a view are the picture with its 68 landmarks, and the picture under its coloured
    segmentation map; the legend of the colours is above them. Tiles shrink until the sheet is at
    most `width` pixels wide. Raises OrsanetError if they would be too small, if the sheet would be
    too large for a picture viewer, and as `shown_rows` does.
    """
    rows = shown_rows(store, split, count)
    views = store.views(split)
    side = min(TILE, ((width - 2 * GAP + VIEW_GAP) // len(views) - VIEW_GAP - TILE_GAP) // 2)
    if side < SMALLEST:
        least = 2 * GAP - VIEW_GAP + len(views) * (2 * SMALLEST + TILE_GAP + VIEW_GAP)
        raise OrsanetError(
            f"{store.path}: {len(views)} views do not fit into {width} pixels; pass a --width of at least {least}"
        )
    step = 2 * side + TILE_GAP + VIEW_GAP  # from view to view
    whole = 2 * GAP + len(views) * step - VIEW_GAP
    colours = map_legend(whole, TEXT)
    head, line = GAP + colours.height + LINE, LINE + side + GAP
    height = head + len(rows) * line
    if whole * height > MOST_PIXELS:
        raise OrsanetError(f"{store.path}: a sheet of {len(rows):,} images would be too large to look at; lower -n")
    names = _shown_names(store, split, rows)
    typeface = Typeface(TEXT, [*views, *names])
    sheet = Image.new("RGB", (whole, height), "white")
    sheet.paste(colours, (0, GAP))
    draw = ImageDraw.Draw(sheet)

    def write(text: str, left: int, top: int, room: int) -> None:
        typeface.write(draw, left, top + 3, shortened(text, room, typeface.length))

    for position, name in enumerate(names):
        write(name, GAP, head + position * line, whole - 2 * GAP)
    for column, view in enumerate(views):
        left = GAP + column * step
        write(view, left, head - LINE, 2 * side)
        fields = [store.read(split, view, field, rows) for field in ("image", "segmentation_map", "landmarks")]
        for position, (image, segmentation_map, landmarks) in enumerate(zip(*fields, strict=True)):
            top = head + position * line + LINE
            tiles = with_landmarks(image, landmarks), with_map(image, segmentation_map)
            for place, tile in enumerate(tiles):
                small = Image.fromarray(tile).resize((side, side), Image.Resampling.LANCZOS)
                sheet.paste(small, (left + place * (side + TILE_GAP), top))
    return sheet


def shown_rows(store: PriorStore, split: str, count: int) -> NDArray[np.int64]:
    """The rows of `count` accepted samples, spread evenly over the split.

    Raises OrsanetError if the split has no finished view or no accepted sample.
    """
    views = store.views(split)
    if not views:
        raise OrsanetError(
            f"{store.path}: no view of split '{split}' is finished; run the same `orsanet-cache build` again"
        )
    accepted = np.flatnonzero(np.all([store.accepted(split, view) for view in views], axis=0))
    if not len(accepted):
        raise OrsanetError(f"{store.path}: every image of split '{split}' was rejected; see `orsanet-cache info`")
    return accepted[np.linspace(0, len(accepted) - 1, min(count, len(accepted))).round().astype(int)]


def sheet_legend(store: PriorStore, split: str, count: int) -> str:
    """The file names that stand in `prior_sheet` as numbers, with their numbers; empty if there are none."""
    ids = store.sample_ids(split)
    return legend([PurePosixPath(ids[row]).name for row in shown_rows(store, split, count)], first=1)


def _shown_names(store: PriorStore, split: str, rows: NDArray[np.int64]) -> list[str]:
    """The sample's path; if no font has its letters, the file's name; if none has these either, a number."""
    paths = [store.sample_ids(split)[row] for row in rows]
    files = numbered([PurePosixPath(path).name for path in paths], first=1)
    return [
        path if drawn == path else file
        for path, drawn, file in zip(paths, numbered(paths, first=1), files, strict=True)
    ]


def check_sheet(out: Path) -> None:
    """Raises OrsanetError if `out` is anything but a sheet that `write_sheet` wrote."""
    check_file(out, _BEGINS, f"a contact sheet of `{MARK}`")


def write_sheet(sheet: Image.Image, out: Path) -> None:
    """Write a PNG file whole, in place of an earlier sheet. Raises OrsanetError if it cannot."""
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", MARK)
    check_sheet(out)
    write_whole(out.resolve(), lambda path: sheet.save(path, format="PNG", pnginfo=mark))
