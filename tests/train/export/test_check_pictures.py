"""The pictures that an export is checked on are those named, and the same every time."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orsanet_cache import OrsanetError, read_image, view_pixels
from orsanet_train.export.check_pictures import BATCHES, check_pictures


def test_check_pictures_are_those_named_whole_and_in_order(world, tmp_path: Path) -> None:
    from_folder, said = check_pictures(world.folder / "images")
    paths = sorted((world.folder / "images").iterdir())
    assert said == "26 of the 26 pictures of images"
    assert np.array_equal(from_folder[3], view_pixels(read_image(paths[3]).rgb, "clean"))
    from_manifest, said = check_pictures(world.manifest)
    assert said == "26 of the 26 pictures of dataset.toml"
    first = world.load_manifest().samples[0].image
    assert np.array_equal(from_manifest[0], view_pixels(read_image(world.folder / first).rgb, "clean"))
    own, _ = check_pictures(None)
    assert np.array_equal(own, check_pictures(None)[0])
    assert len({picture.tobytes() for picture in own}) == len(own)
    assert own.std(axis=(1, 2, 3)).min() > 1  # none is one colour


def test_a_picture_that_cannot_be_read_or_too_few_are_named(tmp_path: Path) -> None:
    for number in range(max(BATCHES) - 1):
        Image.new("RGB", (64, 64)).save(tmp_path / f"a{number}.png")
    with pytest.raises(OrsanetError, match=r"has 6 pictures \(\.jpg, .*\), but the comparison needs 7"):
        check_pictures(tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(OrsanetError, match=r"b\.jpg: .*remove it from the folder or manifest of --check"):
        check_pictures(tmp_path)


def test_a_source_that_is_no_folder_and_no_manifest_is_told_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="nothing: does not exist; --check names a folder"):
        check_pictures(tmp_path / "nothing")
    (tmp_path / "table.csv").write_text("image,label,split\n")
    with pytest.raises(OrsanetError, match=r"table\.csv: --check needs a folder of pictures or a manifest's \.toml"):
        check_pictures(tmp_path / "table.csv")


def test_the_folder_one_stands_in_has_its_name_and_its_other_files_are_no_pictures(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((world.folder / "images").iterdir())[: max(BATCHES)]
    (tmp_path / "own").mkdir()
    for image in images:
        shutil.copy(image, tmp_path / "own")
    (tmp_path / "own" / "about.pdf").write_bytes(b"%PDF")  # Pillow writes these, and read_image takes none
    monkeypatch.chdir(tmp_path / "own")
    pictures, said = check_pictures(Path("."))
    assert said == "7 of the 7 pictures of own"
    assert len(pictures) == 7
