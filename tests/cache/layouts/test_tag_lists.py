"""Lists of occluded and posed pictures."""

from pathlib import Path

import pytest
from data_set_trees import draw, hashed, made, make, refused, tagged, write_lines


def test_rafdb_occlusion_and_pose_lists_become_tags(raf: Path, tmp_path: Path) -> None:
    occluded = write_lines(
        tmp_path / "rafdb_occlusion_list.txt",
        ["test_0003_aligned 3 4", "test_0006_aligned 4 3", "test_0003_aligned 3 4"],
    )
    pose = write_lines(
        tmp_path / "val_raf_db_list_45.txt",
        ["name of the picture", "0/test_0004_aligned.jpg", "4/test_0006_aligned.jpg"],
    )
    manifest, printed = made(
        "rafdb", raf, "--out", tmp_path / "rafdb.toml", "--tag-list", f"occluded={occluded}", "--tag-list", f"pose-45={pose}"
    )  # fmt: skip
    assert tagged(manifest, "occluded") == {"test_0003_aligned", "test_0006_aligned"}
    assert tagged(manifest, "pose-45") == {"test_0004_aligned", "test_0006_aligned"}
    assert "tag occluded: 3 lines, 2 images, 1 named again" in printed
    assert "tag pose-45: 2 lines, 2 images, first line 'name of the picture' treated as a header" in printed


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["test_0003_aligned 3 4", "test_9999_aligned 1 1"], "1 of 2 lines name no picture of rafdb: test_9999_aligned 1 1;"),
        (["val/0/bc9ad400db82eca1/", "val/0/a0d5a9a7e4ae3551/"], "2 of 2 lines name no picture"),
        (["test_9999_aligned 1 1"], "1 of 1 lines"),
        ([], "is empty"),
    ],
)  # fmt: skip
def test_a_list_of_another_data_set_is_refused(raf: Path, tmp_path: Path, lines: list[str], said: str) -> None:
    path = write_lines(tmp_path / "list.txt", lines)
    assert said in refused("rafdb", raf, "--out", tmp_path / "rafdb.toml", "--tag-list", f"occluded={path}")


def test_a_list_line_that_fits_several_pictures_is_refused_and_a_path_is_not(
    class_folders: Path, tmp_path: Path
) -> None:
    draw(class_folders / "test/anger/0.png")
    draw(class_folders / "test/happiness/0.png")
    arguments = ("folders", class_folders, "--classes", "anger,happiness,neutral", "--out", tmp_path / "own.toml")
    short = write_lines(tmp_path / "short.txt", ["0.png"])
    assert "name several pictures" in refused(*arguments, "--tag-list", f"posed={short}")
    whole = write_lines(tmp_path / "whole.txt", ["test/anger/0.png"])
    manifest, _ = made(*arguments, "--tag-list", f"posed={whole}")
    assert [sample.image for sample in manifest.samples if "posed" in sample.tags] == ["test/anger/0.png"]


def test_affectnet_lists_of_occluded_pictures_may_name_pictures_that_are_left_out(lists: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "occlusion_affectnet_list.txt", [f"val/3/{hashed(103)}/", f"val/7/{hashed(107)}/"])
    manifest, printed = made(
        "affectnet", lists, "--classes", 7, "--out", tmp_path / "a.toml", "--tag-list", f"occluded={path}"
    )
    assert tagged(manifest, "occluded") == {hashed(103)}
    assert "tag occluded: 2 lines, 1 images, 1 of images that are left out" in printed


def test_ferplus_lists_name_pictures_with_a_label_before_or_another_suffix(fer: Path, tmp_path: Path) -> None:
    occluded = write_lines(tmp_path / "jianfei_occlusion_list.txt", ["5_fer0032220.png 8 3"])
    posed = write_lines(tmp_path / "pose_30_ferplus_list.txt", ["5/fer0032220.jpg"])
    manifest, _ = made(
        "ferplus", fer, "--out", tmp_path / "f.toml", "--tag-list", f"occluded={occluded}", "--tag-list", f"pose-30={posed}"
    )  # fmt: skip
    assert tagged(manifest, "occluded") == tagged(manifest, "pose-30") == {"fer0032220"}


@pytest.mark.parametrize("value", ["list.txt", "=list.txt", "a tag=list.txt", "a@b=list.txt", "occluded="])
def test_a_tag_list_without_a_usable_tag_is_refused(raf: Path, tmp_path: Path, value: str) -> None:
    result = make("rafdb", raf, "--out", tmp_path / "rafdb.toml", "--tag-list", value)
    assert result.exit_code == 2
    assert "is not TAG=FILE" in result.output
