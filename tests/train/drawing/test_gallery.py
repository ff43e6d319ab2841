"""Sheets show the images they claim, in their places and with the right words, whatever a name holds."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache import load_manifest
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.inspection.tiles import ABOVE_TITLE, GAP, LINE, TILE, Row, enlarged, sheet, with_landmarks, with_map
from orsanet_train.drawing.attention import Attention
from orsanet_train.drawing.gallery import (
    Seeing,
    StoredImages,
    attention_columns,
    attention_side_by_side,
    batch_mosaic,
    mistakes,
    said,
    with_attention,
    worst_priors,
)
from orsanet_train.feed.feed import PriorBatch

CLASSES = ("anger", "happiness", "neutral")
LABELS = np.array([0, 0, 0, 2, 2, 0])
HOSTILE = (
    '"><img src=x onerror=alert(1)>',
    "two\nlines\tand\x00",
    "\ud800\udcff",
    "表情 😀 שלום",
    "$\\frac{",
    "a" * 5000,
    "",
    "%s%",
)


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture)


def tile_at(picture: Image.Image, left: int, top: int) -> NDArray[np.uint8]:
    return pixels(picture)[top : top + TILE, left : left + TILE]


@pytest.fixture(scope="module")
def images(world) -> StoredImages:
    """The six of the test split, out of order."""
    return StoredImages(world.open_store(), "test", "clean", np.array([4, 2, 0, 5, 1, 3]))


def probabilities(predicted: list[int], certainty: list[float]) -> NDArray[np.float32]:
    """The rest is shared by the other two classes."""
    table = np.repeat((1 - np.array(certainty, np.float32))[:, None] / 2, 3, axis=1)
    table[np.arange(len(predicted)), predicted] = certainty
    return table


@pytest.mark.parametrize("text", HOSTILE)
def test_a_sheet_has_the_same_size_whatever_its_words_are(text: str) -> None:
    tile = np.zeros((TILE, TILE, 3), np.uint8)
    assert sheet([Row(text, [tile], [text])], 1).size == sheet([Row("name", [tile], ["name"])], 1).size or not text


def test_mistakes_are_the_surest_of_every_class_the_surest_first(images: StoredImages) -> None:
    said_of = probabilities([1, 2, 1, 2, 2, 0], [0.5, 0.9, 0.7, 0.99, 0.6, 0.8])
    stored = images.store.read("test", "clean", "image", np.arange(6))
    expected = sheet(
        [
            # Positions 1 and 2 are rows 2 and 0 of the store; the third mistake is one too many, position 5 is right.
            Row(
                "true anger: 3 of 4 wrong",
                [enlarged(stored[2]), enlarged(stored[0])],
                ["neutral 90 %", "happiness 70 %"],
            ),
            Row("true happiness: no image"),
            Row("true neutral: none of 2 wrong"),
        ],
        columns=2,
    )
    picture = mistakes(images, LABELS, said_of, CLASSES, per_class=2)
    assert np.array_equal(pixels(picture), pixels(expected))
    assert np.array_equal(tile_at(picture, GAP, GAP + ABOVE_TITLE + LINE), enlarged(stored[2]))


def test_the_columns_are_image_landmarks_map_and_attention(images: StoredImages) -> None:
    some = StoredImages(images.store, "test", "clean", images.rows[:2])
    maps = torch.from_numpy(np.random.default_rng(0).random((4, 14, 14), dtype=np.float32))
    said_of = probabilities([1, 0], [0.934, 0.5])
    picture = attention_columns(some, LABELS[:2], said_of, CLASSES, Attention(maps[:2], maps[2:]))
    rows = [Row(captions=["image", "landmarks", "segmentation", "attention", "… without prior"])]
    titles = ("true anger, predicted happiness 93 %", "true anger, predicted anger 50 %")
    for n, (row, title) in enumerate(zip((4, 2), titles, strict=True)):
        image, landmarks, segmentation_map = (
            images.store.read("test", "clean", field, np.array([row]))[0]
            for field in ("image", "landmarks", "segmentation_map")
        )
        heat = (with_attention(image, maps[n].numpy()), with_attention(image, maps[2 + n].numpy()))
        rows.append(
            Row(title, [enlarged(image), with_landmarks(image, landmarks), with_map(image, segmentation_map), *heat])
        )
    assert np.array_equal(pixels(picture), pixels(sheet(rows, 5)))


def test_a_model_without_the_prior_has_one_column_of_attention(images: StoredImages) -> None:
    some = StoredImages(images.store, "test", "clean", images.rows[:1])
    picture = attention_columns(
        some, LABELS[:1], probabilities([0], [0.5]), CLASSES, Attention(torch.ones(1, 14, 14), None)
    )
    assert picture.width == 4 * (TILE + GAP) + GAP


def test_the_attention_of_several_models_stands_side_by_side_each_with_its_prediction(images: StoredImages) -> None:
    some = StoredImages(images.store, "test", "clean", images.rows[:2])
    maps = np.random.default_rng(0).random((2, 2, 14, 14), dtype=np.float32)
    runs = [
        Seeing("first", probabilities([1, 0], [0.934, 0.5]), maps[0]),
        Seeing("second", probabilities([0, 2], [0.7, 0.8]), maps[1]),
    ]
    picture = attention_side_by_side(some, LABELS[:2], CLASSES, runs)
    rows = [Row(captions=["image", "first", "second"])]
    captions = (["", "happiness 93 %", "anger 70 %"], ["", "anger 50 %", "neutral 80 %"])
    for n, (row, caption) in enumerate(zip((4, 2), captions, strict=True)):
        image = images.store.read("test", "clean", "image", np.array([row]))[0]
        tiles = [enlarged(image), *(with_attention(image, of_run[n]) for of_run in maps)]
        rows.append(Row("true anger", tiles, caption))
    assert np.array_equal(pixels(picture), pixels(sheet(rows, 3)))


def test_the_worst_priors_come_first(images: StoredImages) -> None:
    score = np.array([0.5, 0.125, np.float64(1), 0.75, 0.0, 0.25])
    ids = images.store.sample_ids("test")
    tiles, captions = [], []
    for row, words in ((1, "score 0.00"), (2, "score 0.12"), (3, "score 0.25")):  # positions 4, 1 and 5
        image, landmarks, segmentation_map = (
            images.store.read("test", "clean", field, np.array([row]))[0]
            for field in ("image", "landmarks", "segmentation_map")
        )
        tiles += [with_landmarks(image, landmarks), with_map(image, segmentation_map)]
        captions += [words, ids[row].removeprefix("images/")]
    expected = sheet([Row(tiles=tiles[:4], captions=captions[:4]), Row(tiles=tiles[4:], captions=captions[4:])], 4)
    assert np.array_equal(pixels(worst_priors(images, score, count=3)), pixels(expected))


def test_fewer_images_than_asked_for_are_all_shown(images: StoredImages) -> None:
    assert worst_priors(images, np.arange(6.0), count=100).size == worst_priors(images, np.arange(6.0), count=6).size


def test_hostile_names_of_files_and_classes_are_drawn(world, tmp_path: Path) -> None:
    names = ['"><img src=x onerror=alert(1)>.png', "‮gnp.txt 表情 😀.png"]
    for number, name in enumerate(names):
        Image.fromarray(np.full((20, 20, 3), 90 * number, np.uint8)).save(tmp_path / name)
    rows = (
        ",".join(["image", "label", "split"])
        + "\n"
        + "".join(
            '"' + name.replace('"', '""') + f'",{label},test\n' for name, label in zip(names, ("a", "b"), strict=True)
        )
    )
    (tmp_path / "samples.csv").write_text(rows, encoding="utf-8")
    (tmp_path / "set.toml").write_text('name = "s"\nclasses = ["a", "b"]\nsamples = "samples.csv"\n', encoding="utf-8")
    manifest = load_manifest(tmp_path / "set.toml")
    build(manifest, tmp_path / "store.zarr", world.load_priors(), ["clean"], device=torch.device("cpu"))
    store = type(world.open_store()).open(tmp_path / "store.zarr")
    images = StoredImages(store, "test", "clean", np.arange(2))
    labels, said_of = np.array([0, 1]), np.array([[0.1, 0.9], [0.6, 0.4]], np.float32)
    worst_priors(images, np.array([0.3, 0.1]))
    for name in HOSTILE:
        classes = (name, "b")
        assert mistakes(images, labels, said_of, classes).height > 2 * TILE  # both are wrong
        maps = Attention(torch.ones(2, 14, 14), None)
        assert attention_columns(images, labels, said_of, classes, maps).height > 2 * TILE


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 11), (13, 6)])
def test_attention_is_drawn_where_it_is(row: int, column: int) -> None:
    """One hot cell of 16 pixels' side lights its own pixels, most of all its middle; the colours elsewhere are the dimmed picture's."""
    attention = np.zeros((14, 14), np.float32)
    attention[row, column] = 1
    drawn = with_attention(np.full((112, 112, 3), 100, np.uint8), attention).astype(int)
    heat = np.abs(drawn - 70).sum(axis=2)  # 0.7 of 100
    middle = np.array([row, column]) * 16 + 7.5
    brightest = np.argwhere(heat == heat.max())
    assert (np.abs(brightest - middle) < 8).all()
    assert heat[np.abs(np.indices((TILE, TILE)) - middle[:, None, None]).max(axis=0) > 40].max() == 0


def test_without_attention_a_picture_is_grey_and_dimmed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    drawn = with_attention(image, np.zeros((14, 14), np.float32))
    assert np.ptp(drawn, axis=2).max() == 0
    grey = cv2.cvtColor(enlarged(image), cv2.COLOR_RGB2GRAY)
    assert np.abs(drawn[..., 0] - 0.7 * grey).max() <= 0.5  # rounding to bytes


def test_stronger_attention_is_brighter_on_black() -> None:
    levels = np.broadcast_to(np.linspace(0, 1, 14, dtype=np.float32), (14, 14)).copy()
    light = with_attention(np.zeros((112, 112, 3), np.uint8), levels).astype(int).sum(axis=2)[100, 8:-8]
    assert (np.diff(light) >= 0).all()
    assert light[-1] > light[0] + 200


def test_a_mosaic_shows_the_batch_as_the_backbone_sees_it() -> None:
    stored = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, 112, 112, 3), dtype=np.uint8))
    nothing = torch.zeros(0)
    batch = PriorBatch(imagenet_normalised(unit_range(stored)), nothing, nothing, torch.arange(30) % 3, nothing)
    tiles = [enlarged(image) for image in stored.numpy()]
    rows = [
        Row(tiles=tiles[n : n + 4], captions=[CLASSES[label % 3] for label in range(n, n + 4)]) for n in range(0, 24, 4)
    ]
    assert np.array_equal(pixels(batch_mosaic(batch, CLASSES)), pixels(sheet(rows, 4)))


@pytest.mark.parametrize("count", [1, 3])
def test_a_mosaic_of_few_images_is_as_wide_as_they_are(count: int) -> None:
    nothing = torch.zeros(0)
    batch = PriorBatch(
        torch.zeros(count, 3, 112, 112), nothing, nothing, torch.zeros(count, dtype=torch.int64), nothing
    )
    assert batch_mosaic(batch, CLASSES).size == (count * (TILE + GAP) + GAP, TILE + LINE + 2 * GAP)


def test_a_prediction_is_said_in_per_cent() -> None:
    assert [said("100%", share) for share in (0.934, 1.0, 0.0)] == ["100% 93 %", "100% 100 %", "100% 0 %"]
