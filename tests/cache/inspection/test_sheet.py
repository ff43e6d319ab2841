"""Contact sheets show what the store holds, where it is."""

from pathlib import Path

import numpy as np
import pytest
from command_lines import Ended, in_process
from drawn_fonts import bare_home
from failing_disk import full_disk
from PIL import Image

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.cli import main
from orsanet_cache.inspection.sheet import (
    CAPTION,
    LINE,
    TEXT,
    TILE_GAP,
    VIEW_GAP,
    _shown_names,
    contact_sheet,
    prior_sheet,
)
from orsanet_cache.inspection.tiles import GAP, TILE, map_legend, with_landmarks


def test_tiles_keep_their_order_and_captions_fit() -> None:
    tiles = [np.full((TILE, TILE, 3), shade, np.uint8) for shade in (10, 20, 30)]
    sheet = np.asarray(contact_sheet(tiles, ["a" * 500, "two\nlines", "表情"], columns=2))
    assert sheet.shape == (2 * (TILE + CAPTION), 2 * TILE, 3)
    assert (sheet[:TILE, :TILE] == 10).all()
    assert (sheet[:TILE, TILE:] == 20).all()
    assert (sheet[TILE + CAPTION : -CAPTION, :TILE] == 30).all()


def test_a_sheet_has_a_row_for_each_accepted_image_and_two_columns_for_each_view(world) -> None:
    store = world.open_store()
    sheet = np.asarray(prior_sheet(store, "valid", 100))  # more than there are: all six
    width = 2 * GAP + 2 * (2 * TILE + TILE_GAP) + VIEW_GAP
    head = GAP + map_legend(width, TEXT).height + LINE
    assert sheet.shape == (head + 6 * (LINE + TILE + GAP), width, 3)
    image = store.read("valid", "hflip", "image", np.array([4]))[0]
    points = store.read("valid", "hflip", "landmarks", np.array([4]))[0]
    top, left = head + 4 * (LINE + TILE + GAP) + LINE, GAP + 2 * TILE + TILE_GAP + VIEW_GAP
    assert np.array_equal(sheet[top : top + TILE, left : left + TILE], with_landmarks(image, points))
    for title in (sheet[head - LINE : head, :left], sheet[head - LINE : head, left:], sheet[head : head + LINE]):
        assert title.min() < 50, "a title or a name is missing"


def test_a_sheet_is_as_narrow_as_it_must_be(world) -> None:
    store = world.open_store()
    assert prior_sheet(store, "test", 2, width=500).width <= 500
    assert prior_sheet(store, "test", 2, width=5000).width == prior_sheet(store, "test", 2).width
    with pytest.raises(OrsanetError, match=r"2 views do not fit into 100 pixels; pass a --width of at least \d+"):
        prior_sheet(store, "test", 2, width=100)


def test_names_that_no_font_has_are_numbers_which_the_command_explains(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_home(tmp_path, monkeypatch)
    for name in ("a", "生气"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a" / "高兴.png")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "生气" / "plain.png")
    (tmp_path / "m.csv").write_text("image,label,split\na/高兴.png,a,train\n生气/plain.png,b,train\n")
    built = in_process(
        main, "build", tmp_path / "m.csv", "--root", tmp_path, "--classes", "a,b", "--out", tmp_path / "s",
        "--segmenter", world.segmenter, "--landmarks", world.landmarks, "--views", "clean",
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    shown = in_process(main, "show", tmp_path / "s", "--split", "train", "--out", tmp_path / "sheet.png")
    assert shown.returncode == 0, shown.stderr
    assert "so pictures have numbers in their place: #1 高兴.png (" in shown.stderr
    assert _shown_names(PriorStore.open(tmp_path / "s"), "train", np.array([0, 1])) == ["#1", "plain.png"]


def test_a_sheet_replaces_an_earlier_one_whole_and_no_other_picture(world, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"

    def shown(count: int) -> Ended:
        return in_process(main, "show", world.store, "--split", "test", "-n", count, "--out", out)

    assert shown(1).returncode == 0
    before = out.read_bytes()
    with full_disk(len(before)):
        assert f"Error: {out}: cannot be written (File too large)" in shown(4).stderr
    assert out.read_bytes() == before
    (tmp_path / "link.png").symlink_to(out)
    out = tmp_path / "link.png"
    assert shown(4).returncode == 0
    assert out.is_symlink()
    assert len(out.read_bytes()) > len(before)
    Image.open(out).load()
    out = tmp_path / "photo.png"
    Image.open(tmp_path / "sheet.png").save(out)  # without the mark
    mine = out.read_bytes()
    refused = shown(1)
    assert refused.returncode == 1
    assert f"{out}: is not a contact sheet of `orsanet-cache show`, so it was not replaced" in refused.stderr
    assert out.read_bytes() == mine
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.png", "photo.png", "sheet.png"]
