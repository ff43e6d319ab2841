"""Contact sheets show what the store holds, where it is."""

import numpy as np

from orsanet_cache.inspection.sheet import CAPTION, contact_sheet, prior_sheet
from orsanet_cache.inspection.tiles import TILE, with_landmarks


def test_tiles_keep_their_order_and_captions_fit() -> None:
    tiles = [np.full((TILE, TILE, 3), shade, np.uint8) for shade in (10, 20, 30)]
    sheet = np.asarray(contact_sheet(tiles, ["a" * 500, "two\nlines", "表情"], columns=2))
    assert sheet.shape == (2 * (TILE + CAPTION), 2 * TILE, 3)
    assert (sheet[:TILE, :TILE] == 10).all()
    assert (sheet[:TILE, TILE:] == 20).all()
    assert (sheet[TILE + CAPTION : -CAPTION, :TILE] == 30).all()


def test_a_sheet_is_drawn_from_accepted_rows_of_every_view(world) -> None:
    sheet = np.asarray(prior_sheet(world.open_store(), "valid", 100))  # more than there are: all six
    assert sheet.shape == (3 * (TILE + CAPTION), 8 * TILE, 3)
    store = world.open_store()
    image = store.read("valid", "hflip", "image", np.array([0]))[0]
    points = store.read("valid", "hflip", "landmarks", np.array([0]))[0]
    assert np.array_equal(sheet[:TILE, 2 * TILE : 3 * TILE], with_landmarks(image, points))
