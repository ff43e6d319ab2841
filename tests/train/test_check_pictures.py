"""The pictures that an export is checked on are those named, and the same every time."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orsanet_cache import OrsanetError, read_image, view_pixels
from orsanet_train.export.check_pictures import check_pictures


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
    with pytest.raises(OrsanetError, match="fewer than two pictures"):
        check_pictures(tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(OrsanetError, match=r"b\.jpg: .*take it out of what --check names"):
        check_pictures(tmp_path)
