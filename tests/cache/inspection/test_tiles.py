"""What is drawn on a tile is where it belongs, and tiles and words are where their row and column say."""

import numpy as np
import pytest

from orsanet_cache.inspection.tiles import (
    ABOVE_TITLE,
    GAP,
    LINE,
    PALETTE,
    PARTS,
    TILE,
    Row,
    map_legend,
    sheet,
    with_landmarks,
    with_map,
)


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


def test_tiles_are_where_their_row_and_column_say() -> None:
    tiles = list(np.random.default_rng(0).integers(0, 256, (5, TILE, TILE, 3), dtype=np.uint8))
    picture = np.asarray(
        sheet([Row("first", tiles[:3], ["a", "b", "c"]), Row(tiles=tiles[3:]), Row("last")], columns=3)
    )
    first, second = GAP + ABOVE_TITLE + LINE, GAP + ABOVE_TITLE + LINE + TILE + LINE + GAP
    below = second + TILE + GAP
    assert picture.shape == (below + ABOVE_TITLE + LINE + GAP, 3 * (TILE + GAP) + GAP, 3)
    places = [(column, first) for column in range(3)] + [(column, second) for column in range(2)]
    lefts = [GAP + column * (TILE + GAP) for column in range(3)]
    for tile, (column, top) in zip(tiles, places, strict=True):
        assert np.array_equal(picture[top : top + TILE, lefts[column] : lefts[column] + TILE], tile)
    assert (picture[second : second + TILE, lefts[2] : lefts[2] + TILE] == 255).all()  # there is no sixth
    for top in (GAP + ABOVE_TITLE, first + TILE, below + ABOVE_TITLE):
        assert picture[top : top + LINE].min() < 50, "a line of text is missing"


def test_words_stay_in_their_column() -> None:
    picture = np.asarray(sheet([Row(captions=["w" * 100, "", "w" * 100])], columns=3))
    assert (picture[:, GAP + TILE : 2 * (TILE + GAP)] == 255).all()
    assert (picture[:, -GAP:] == 255).all()


@pytest.mark.parametrize("width", [160, 400, 2000])
def test_the_legend_has_every_colour_and_stays_in_its_width(width: int) -> None:
    legend = np.asarray(map_legend(width, 16))
    assert legend.shape[1] == width
    there = {tuple(colour) for colour in legend.reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in PALETTE.tolist()} <= there
    assert (legend[:, -GAP:] == 255).all()
    assert len(PARTS) == len(PALETTE)
