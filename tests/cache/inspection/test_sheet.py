"""Contact sheets show what the store holds, where it is."""

from pathlib import Path

import numpy as np
from command_lines import Ended, in_process
from failing_disk import full_disk
from PIL import Image

from orsanet_cache.cli import main
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
