"""Contact sheets show what the store holds, where it is."""

import numpy as np

from orsanet_cache.inspection.sheet import CAPTION, PALETTE, TILE, contact_sheet, prior_sheet, with_landmarks, with_map


def test_landmarks_are_drawn_where_they_are() -> None:
    points = np.full((68, 2), 0.25, dtype=np.float32)
    points[1:] = [0.5, 0.75]
    drawn = with_landmarks(np.zeros((112, 112, 3), np.uint8), points)
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert drawn[TILE // 4, TILE // 4].tolist() == [0, 255, 0]
    assert drawn[3 * TILE // 4, TILE // 2].tolist() == [0, 255, 0]
    near_first = (abs(rows - TILE // 4) <= 3) & (abs(columns - TILE // 4) <= 3)
    near_others = (abs(rows - 3 * TILE // 4) <= 3) & (abs(columns - TILE // 2) <= 3)
    assert (near_first | near_others).all()


def test_every_class_has_a_colour_of_its_own() -> None:
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == 11
    classes = np.repeat(np.arange(11, dtype=np.uint8), 224 * 224 // 11 + 1)[: 224 * 224].reshape(224, 224)
    drawn = with_map(np.zeros((112, 112, 3), np.uint8), classes)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 11


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
