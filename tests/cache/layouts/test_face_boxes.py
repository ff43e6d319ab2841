"""Faces cut out of AffectNet's photographs."""

from pathlib import Path

import numpy as np
from data_set_trees import hashed, labels, made, refused, write_lines
from PIL import Image


def test_crops_show_the_face_box_and_nothing_else(photographs: Path, tmp_path: Path) -> None:
    crops = tmp_path / "faces"
    manifest, printed = made("affectnet", photographs, "--classes", 8, "--crops", crops, "--out", tmp_path / "a.toml")
    assert manifest.root.resolve() == crops.resolve()
    assert len(manifest.samples) == 32
    assert "faces cut out" in printed
    assert "not applied" not in printed
    for sample in manifest.samples:
        with Image.open(crops / sample.image) as face:
            assert face.size == (32, 40)
            # two JPEGs of one colour each: a few levels of rounding
            assert np.abs(np.asarray(face, dtype=int) - (200, 150, 120)).max() <= 4
    assert labels(manifest)[hashed(3)] == "happiness"


def test_unusable_boxes_and_pictures_are_left_out_and_boxes_over_the_border_are_cut_there(
    photographs: Path, tmp_path: Path
) -> None:
    table = photographs / "Manually_Annotated_file_lists/training.csv"
    header, *rows = table.read_text().splitlines()
    boxes = ["-10,-10,50,50", "60,40,500,500", "NULL,NULL,NULL,NULL", "200,200,40,40", "30,24,-32,40"]
    for index, box in enumerate(boxes):
        rows[index] = rows[index].replace("30,24,32,40", box)
    write_lines(table, [header, *rows])
    (photographs / f"Manually_Annotated_Images/2/{hashed(5)}.jpg").write_bytes(b"")
    crops = tmp_path / "faces"
    manifest, printed = made("affectnet", photographs, "--classes", 8, "--crops", crops, "--out", tmp_path / "a.toml")
    images = {Path(sample.image).stem: crops / sample.image for sample in manifest.samples}
    assert len(images) == 28
    for index, size in {0: (40, 40), 1: (30, 30)}.items():
        with Image.open(images[hashed(index)]) as face:
            assert face.size == size
    assert "left out, a face box that is not four numbers: 1 " in printed
    assert "left out, a face box with less than 16 pixels a side inside the picture: 2 " in printed
    assert "left out, unusable picture: the file is empty: 1 " in printed


def test_crops_are_made_whole_again_and_never_in_a_folder_of_somebody_else(photographs: Path, tmp_path: Path) -> None:
    crops = tmp_path / "faces"
    arguments = ("affectnet", photographs, "--classes", 8, "--crops", crops, "--out", tmp_path / "a.toml")
    manifest, _ = made(*arguments)
    before = {sample.image: (crops / sample.image).read_bytes() for sample in manifest.samples}
    first, second, third = list(before)[:3]
    (crops / first).unlink()
    (crops / second).write_bytes(b"half a picture")
    untouched = (crops / third).stat().st_mtime_ns
    assert "nothing to do" in made(*arguments)[1]
    assert {image: (crops / image).read_bytes() for image in before} == before
    assert (crops / third).stat().st_mtime_ns == untouched
    assert not list(crops.rglob("*.tmp"))

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    said = refused("affectnet", photographs, "--classes", 8, "--crops", tmp_path / "mine", "--out", tmp_path / "b.toml")
    assert "is not a folder of face crops" in said
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
