"""Every public data set's folder becomes a manifest with its labels, splits and tags, and every wrong folder ends in one sentence.

The trees imitate the downloads: their names, lists and label numbers, with a few tiny pictures. Counts and list lines are the published ones.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from orsanet_cache import Manifest, OrsanetError, load_manifest
from orsanet_cache.commands.manifest import manifest as command
from orsanet_cache.layouts import affectnet_lists, affectnet_release, ferplus, occlu_fer, rafdb
from orsanet_cache.layouts.published import published_counts

ROOT = Path(__file__).resolve().parents[3]


def draw(path: Path, size: tuple[int, int] = (20, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = sum(path.name.encode()) % 256
    Image.new("RGB", size, (shade, 90, 255 - shade)).save(path)


def make(*arguments: object) -> Result:
    """The command as click runs it; a mistake stays an exception."""
    result = CliRunner().invoke(command, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, OrsanetError | SystemExit):
        raise result.exception
    return result


def made(*arguments: object) -> tuple[Manifest, str]:
    """The manifest that the command wrote, loaded as every other command loads it, and what was printed."""
    result = make(*arguments)
    assert result.exit_code == 0, result.exception or result.output
    return load_manifest(Path(str(arguments[arguments.index("--out") + 1]))), result.output


def refused(*arguments: object) -> str:
    """The one sentence of a command that refuses, which has written nothing."""
    result = make(*arguments)
    assert isinstance(result.exception, OrsanetError), result.output
    message = str(result.exception)
    assert "\n" not in message
    out = Path(str(arguments[arguments.index("--out") + 1]))
    assert not out.exists()
    assert not out.with_suffix(".csv").exists()
    return message


def labels(manifest: Manifest) -> dict[str, str]:
    return {Path(sample.image).stem: manifest.classes[sample.label] for sample in manifest.samples}


def tagged(manifest: Manifest, tag: str) -> set[str]:
    return {Path(sample.image).stem for sample in manifest.samples if tag in sample.tags}


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


# ---------------------------------------------------------------- RAF-DB


RAF_TRAIN, RAF_TEST = 14, 7


@pytest.fixture
def raf(tmp_path: Path) -> Path:
    """RAF-DB's folder `basic`: every label twice in train, once in test."""
    root = tmp_path / "basic"
    entries = [(f"train_{i:05d}", (i - 1) % 7 + 1) for i in range(1, RAF_TRAIN + 1)]
    entries += [(f"test_{i:04d}", i) for i in range(1, RAF_TEST + 1)]
    write_lines(root / "EmoLabel/list_patition_label.txt", (f"{name}.jpg {label}" for name, label in entries))
    for name, _ in entries:
        draw(root / "Image/aligned" / f"{name}_aligned.jpg", (100, 100))
    return root


def raf_list(raf: Path) -> Path:
    return raf / "EmoLabel/list_patition_label.txt"


def test_rafdb_labels_splits_and_classes(raf: Path, tmp_path: Path) -> None:
    manifest, printed = made("rafdb", raf, "--out", tmp_path / "rafdb.toml")
    assert manifest.name == "rafdb"
    assert [manifest.classes[label] for label in range(7)] == [
        "surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral",
    ]  # fmt: skip
    assert Counter(sample.split for sample in manifest.samples) == {"train": RAF_TRAIN, "test": RAF_TEST}
    assert labels(manifest)["train_00004_aligned"] == "happiness"
    assert labels(manifest)["train_00008_aligned"] == "surprise"
    assert labels(manifest)["test_0007_aligned"] == "neutral"
    assert "left out: nothing" in printed
    assert "published  12,271" in printed
    assert "published   3,068   -3,061" in printed


def test_rafdb_is_found_from_the_folder_above(raf: Path, tmp_path: Path) -> None:
    manifest, _ = made("rafdb", raf.parent, "--out", tmp_path / "rafdb.toml")
    assert manifest.samples[0].image == "basic/Image/aligned/train_00001_aligned.jpg"
    assert manifest.root.resolve() == tmp_path.resolve()


def test_pictures_that_no_list_names_are_left_out_by_name(raf: Path, tmp_path: Path) -> None:
    draw(raf / "Image/aligned/train_99999_aligned.jpg")
    manifest, printed = made("rafdb", raf, "--out", tmp_path / "rafdb.toml")
    assert len(manifest.samples) == RAF_TRAIN + RAF_TEST
    assert "left out, not in list_patition_label.txt: 1 (Image/aligned/train_99999_aligned.jpg)" in printed


def test_the_compound_list_is_refused_by_name(raf: Path, tmp_path: Path) -> None:
    with raf_list(raf).open("a") as file:
        file.write("train_00099.jpg 11\n")
    assert "compound expressions" in refused("rafdb", raf, "--out", tmp_path / "rafdb.toml")


def replace_first(table: Path, old: str, new: str) -> None:
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda raf: raf_list(raf).unlink(), "list_patition_label.txt"),
        (lambda raf: shutil.rmtree(raf / "Image"), "no folder Image/aligned"),
        (lambda raf: (raf / "Image/aligned/test_0003_aligned.jpg").unlink(), "1 of 21 pictures of list_patition_label.txt are missing: Image/aligned/test_0003_aligned.jpg;"),
        (lambda raf: replace_first(raf_list(raf), "train_00002.jpg 2", "train_00002.jpg two"), "line 2"),
        (lambda raf: replace_first(raf_list(raf), "train_00002.jpg 2", "train_00002.jpg 0"), "label 0"),
        (lambda raf: replace_first(raf_list(raf), "train_00002.jpg", "valid_00002.jpg"), "line 2"),
        (lambda raf: replace_first(raf_list(raf), "train_00002.jpg", "train_00001.jpg"), "already on line 1"),
        (lambda raf: raf_list(raf).write_bytes(b"train_00001.jpg 5\n\xff\n"), "line 2 is not UTF-8"),
        (lambda raf: raf_list(raf).write_text("test_0001.jpg 1\n"), "1 images in test but only 0 in train"),
        (lambda raf: raf_list(raf).write_text(""), "no images for training"),
    ],
)  # fmt: skip
def test_every_wrong_rafdb_is_named(raf: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(raf)
    assert said in refused("rafdb", raf, "--out", tmp_path / "rafdb.toml")


# ---------------------------------------------------------------- lists of occluded and posed pictures


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
    assert "tag pose-45: 2 lines, 2 images, first line 'name of the picture' taken for a header" in printed


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


# ---------------------------------------------------------------- AffectNet


def hashed(index: int) -> str:
    """A file name as AffectNet's first release has them."""
    return f"{index * 2654435761 % 16**8:08x}" * 7


AFFECTNET_EXPRESSIONS = [expression for expression in range(8) for _ in range(3)] + [
    8,
    9,
    10,
    8,
]  # of the training list


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """AffectNet's first release: three training pictures of each class and four without one; one of each class to validate."""
    root = tmp_path / "AffectNet"
    header = ",".join(affectnet_lists.COLUMNS)

    def row(index: int, expression: int) -> str:
        name = f"{index % 3}/{hashed(index)}.jpg"
        draw(root / "Manually_Annotated_Images" / name)
        return f"{name},4,5,12,12,1.0;2.0;3.0;4.0,{expression},-0.5,0.25"

    folder = root / "Manually_Annotated_file_lists"
    training = [row(index, expression) for index, expression in enumerate(AFFECTNET_EXPRESSIONS)]
    validation = [row(100 + expression, expression) for expression in range(8)]
    write_lines(folder / "training.csv", [header, *training])
    write_lines(folder / "validation.csv", validation)  # circulates without a header
    return root


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """AffectNet's later release, with annotations as text and as numbers."""
    root = tmp_path / "AffectNet2021"

    def add(folder: str, number: int, expression: int) -> None:
        draw(root / folder / "images" / f"{number}.jpg", (224, 224))
        annotations = root / folder / "annotations"
        annotations.mkdir(parents=True, exist_ok=True)
        np.save(annotations / f"{number}_exp.npy", np.array(str(expression) if number % 2 else expression))
        np.save(annotations / f"{number}_aro.npy", np.array(0.5))

    for number, expression in enumerate(AFFECTNET_EXPRESSIONS):
        add("train_set", number, expression)
    for expression in range(8):
        add("val_set", expression, expression)  # its numbers begin again
    return root


AFFECTNET_ORDER = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]


@pytest.mark.parametrize("release", ["lists", "annotated"])
@pytest.mark.parametrize("classes", [7, 8])
def test_both_releases_of_affectnet_give_the_same_labels(
    release: str, classes: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root: Path = request.getfixturevalue(release)
    manifest, printed = made("affectnet", root, "--classes", classes, "--out", tmp_path / "a.toml")
    assert manifest.name == f"affectnet{classes}"
    assert list(manifest.classes) == AFFECTNET_ORDER[:classes]
    counts = Counter((sample.split, sample.label) for sample in manifest.samples)
    assert counts == {
        (split, label): 3 if split == "train" else 1 for split in ("train", "valid") for label in range(classes)
    }
    assert "left out, labelled 8 none: 2" in printed
    assert "left out, labelled 9 uncertain: 1" in printed
    assert "left out, labelled 10 no face: 1" in printed
    assert ("left out, labelled 7 contempt: 4" in printed) is (classes == 7)
    expected = {hashed(index): expression for index, expression in enumerate(AFFECTNET_EXPRESSIONS)}
    if release == "annotated":
        expected = {str(number): expression for number, expression in enumerate(AFFECTNET_EXPRESSIONS)}
        assert [Path(sample.image).stem for sample in manifest.split("train")] == [str(n) for n in range(3 * classes)]
    for sample in manifest.split("train"):
        assert sample.label == expected[Path(sample.image).stem]


def test_only_the_first_release_warns_of_pictures_that_are_not_cropped(
    lists: Path, annotated: Path, tmp_path: Path
) -> None:
    assert "face boxes are not applied" in made("affectnet", lists, "--classes", 8, "--out", tmp_path / "a.toml")[1]
    assert "note:" not in made("affectnet", annotated, "--classes", 8, "--out", tmp_path / "b.toml")[1]


@pytest.mark.parametrize("release", ["lists", "annotated"])
def test_a_cap_keeps_the_same_training_pictures_of_each_class_wherever_the_data_lies(
    release: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root: Path = request.getfixturevalue(release)
    arguments = ("--classes", 8, "--cap-per-class", 2)
    manifest, printed = made("affectnet", root, *arguments, "--out", tmp_path / "a.toml")
    counts = Counter((sample.split, sample.label) for sample in manifest.samples)
    assert counts == {
        (split, label): 2 if split == "train" else 1 for split in ("train", "valid") for label in range(8)
    }
    assert "left out, beyond 2 a class in train: 8" in printed
    if release == "lists":  # in the other of the two folders that the release is found in
        (root / "Manually_Annotated").mkdir()
        (root / "Manually_Annotated_Images").rename(root / "Manually_Annotated/Manually_Annotated_Images")
        table = root / "Manually_Annotated_file_lists/training.csv"
        header, *rows = table.read_text().splitlines()
        write_lines(table, [header, *reversed(rows)])
    moved, _ = made("affectnet", root, *arguments, "--out", tmp_path / "b.toml")
    assert set(labels(moved)) == set(labels(manifest))


def test_affectnet_pictures_listed_twice_are_counted_and_contradictions_left_out(lists: Path, tmp_path: Path) -> None:
    table = lists / "Manually_Annotated_file_lists/training.csv"
    rows = table.read_text().splitlines()
    contradiction = rows[2].replace(",0,-0.5,0.25", ",6,-0.5,0.25")
    assert contradiction != rows[2]
    write_lines(table, [*rows, rows[1], contradiction])
    manifest, printed = made("affectnet", lists, "--classes", 8, "--out", tmp_path / "a.toml")
    assert hashed(0) in labels(manifest)
    assert hashed(1) not in labels(manifest)
    assert "left out, a further line of the same picture, alike: 1" in printed
    assert "left out, annotated several times, with other labels, face boxes or splits: 1" in printed


def test_a_cap_is_compared_with_the_capped_published_counts(lists: Path, tmp_path: Path) -> None:
    _, printed = made("affectnet", lists, "--classes", 8, "--cap-per-class", 5000, "--out", tmp_path / "a.toml")
    assert "published  37,553" in printed
    _, printed = made("affectnet", lists, "--classes", 7, "--out", tmp_path / "b.toml")
    assert [line.split()[0] for line in printed.splitlines() if "published" in line] == ["valid"]  # none without a cap


def test_affectnet_lists_of_occluded_pictures_may_name_pictures_that_are_left_out(lists: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "occlusion_affectnet_list.txt", [f"val/3/{hashed(103)}/", f"val/7/{hashed(107)}/"])
    manifest, printed = made(
        "affectnet", lists, "--classes", 7, "--out", tmp_path / "a.toml", "--tag-list", f"occluded={path}"
    )
    assert tagged(manifest, "occluded") == {hashed(103)}
    assert "tag occluded: 2 lines, 1 images, 1 of images that are left out" in printed


@pytest.fixture
def photographs(lists: Path) -> Path:
    """The first release with a face of one colour, and everything else of another, in every picture."""
    for path in (lists / "Manually_Annotated_Images").rglob("*.jpg"):
        photograph = Image.new("RGB", (90, 70), (20, 20, 160))
        photograph.paste((200, 150, 120), (30, 24, 30 + 32, 24 + 40))
        photograph.save(path, quality=100, subsampling=0)
    for table in (lists / "Manually_Annotated_file_lists").iterdir():
        table.write_text(table.read_text().replace(",4,5,12,12,", ",30,24,32,40,"))
    return lists


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


def test_the_later_release_is_not_cropped_again(annotated: Path, tmp_path: Path) -> None:
    said = refused("affectnet", annotated, "--classes", 8, "--crops", tmp_path / "faces", "--out", tmp_path / "a.toml")
    assert "faces already" in said
    assert not (tmp_path / "faces").exists()


def exchange(first: Path, second: Path) -> None:
    first.rename(first.with_suffix(".away"))
    second.rename(first)
    first.with_suffix(".away").rename(second)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: exchange(root / "Manually_Annotated_file_lists/training.csv", root / "Manually_Annotated_file_lists/validation.csv"), "look exchanged"),
        (lambda root: (root / "Manually_Annotated_file_lists/validation.csv").unlink(), "no file validation.csv"),
        (lambda root: (root / f"Manually_Annotated_Images/1/{hashed(1)}.jpg").unlink(), f"1 of 32 pictures of the annotations are missing: Manually_Annotated_Images/1/{hashed(1)}.jpg;"),
        (lambda root: replace_first(root / "Manually_Annotated_file_lists/training.csv", "4.0,0,-0.5", "4.0,11,-0.5"), "line 2: unknown expression '11'"),
        (lambda root: replace_first(root / "Manually_Annotated_file_lists/training.csv", "expression", "emotion"), "no column expression"),
        (lambda root: replace_first(root / "Manually_Annotated_file_lists/validation.csv", ",0.25", ""), "line 1"),
        (lambda root: replace_first(root / "Manually_Annotated_file_lists/training.csv", ",0.25", ",0.25,9"), "line 2: 10 cells"),
        (lambda root: (root / "Manually_Annotated_file_lists/validation.csv").write_bytes(b"a\xff"), "not UTF-8"),
        (lambda root: replace_first(root / "Manually_Annotated_file_lists/training.csv", "1.0;2.0", "1.0;" * 40_000), "line 2: not valid CSV: field larger"),
        (lambda root: (root / "train_set").mkdir(), "both releases are here"),
        (lambda root: shutil.rmtree(root / "Manually_Annotated_file_lists"), "neither release is here"),
        (lambda root: shutil.rmtree(root / "Manually_Annotated_Images"), "no folder Manually_Annotated_Images"),
    ],
)  # fmt: skip
def test_every_wrong_first_release_of_affectnet_is_named(
    lists: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(lists)
    assert said in refused("affectnet", lists, "--classes", "8", "--out", tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: exchange(root / "train_set", root / "val_set"), "look exchanged"),
        (lambda root: shutil.rmtree(root / "val_set"), "no folder val_set/images"),
        (lambda root: (root / "train_set/images/5.jpg").unlink(), "1 of 32 pictures of the annotations are missing: train_set/images/5.jpg;"),
        (lambda root: np.save(root / "train_set/annotations/5_exp.npy", np.array(11)), "unknown expression 11"),
        (lambda root: np.save(root / "train_set/annotations/5_exp.npy", np.arange(2)), "not an annotation of one number"),
        (lambda root: (root / "train_set/annotations/5_exp.npy").write_bytes(b""), "5_exp.npy: not an annotation"),
        (lambda root: (root / "train_set/annotations/b_exp.npy").write_bytes(b""), "not of the form N_exp.npy: b"),
        (lambda root: [path.unlink() for path in (root / "val_set/annotations").iterdir()], "no file N_exp.npy"),
    ],
)  # fmt: skip
def test_every_wrong_later_release_of_affectnet_is_named(
    annotated: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(annotated)
    assert said in refused("affectnet", annotated, "--classes", "8", "--out", tmp_path / "a.toml")


def test_a_later_release_with_one_picture_less_counts_it(annotated: Path, tmp_path: Path) -> None:
    # as the validation set of 2021, which has 3,999 of 4,000
    (annotated / "val_set/images/7.jpg").unlink()
    (annotated / "val_set/annotations/7_exp.npy").unlink()
    manifest, printed = made("affectnet", annotated, "--classes", 8, "--out", tmp_path / "a.toml")
    assert len(manifest.split("valid")) == 7
    assert "published   4,000   -3,993" in printed


# ---------------------------------------------------------------- class folders


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    for split, count in {"train": 3, "valid": 1, "test": 2}.items():
        for name in ("anger", "happiness", "neutral"):
            for number in range(1, count + 1):
                draw(root / split / name / f"{split}-{name}-{number}.png")
    return root


def test_class_folders_take_the_order_that_is_said(class_folders: Path, tmp_path: Path) -> None:
    manifest, _ = made("folders", class_folders, "--classes", "neutral,anger,happiness", "--out", tmp_path / "own.toml")
    assert manifest.name == "own"
    assert list(manifest.classes) == ["neutral", "anger", "happiness"]
    assert Counter(sample.split for sample in manifest.samples) == {"train": 9, "valid": 3, "test": 6}
    for sample in manifest.samples:
        assert manifest.classes[sample.label] == Path(sample.image).parent.name


def test_numbered_class_folders_get_names_and_ten_is_not_before_two(tmp_path: Path) -> None:
    root = tmp_path / "numbered"
    for folder in range(1, 11):
        draw(root / "train" / str(folder) / f"{folder}.png")
    order = ",".join(f"{folder}=class-{folder}" for folder in range(1, 11))
    manifest, _ = made("folders", root, "--classes", order, "--name", "ten", "--out", tmp_path / "numbered.toml")
    assert manifest.name == "ten"
    assert {Path(sample.image).stem: sample.label for sample in manifest.samples} == {
        str(n): n - 1 for n in range(1, 11)
    }


def test_files_that_are_no_labelled_pictures_are_left_out_by_name(class_folders: Path, tmp_path: Path) -> None:
    (class_folders / "train/anger/Thumbs.db").write_bytes(b"")
    draw(class_folders / "train/stray.png")
    draw(class_folders / "train/anger/.ipynb_checkpoints/train-anger-1-checkpoint.png")
    draw(class_folders / "train/anger/._train-anger-1.png")
    (class_folders / "valid/neutral/valid-neutral-1.png").unlink()  # an empty class folder is allowed and counted
    manifest, printed = made(
        "folders", class_folders, "--classes", "anger,happiness,neutral", "--out", tmp_path / "own.toml"
    )
    assert len(manifest.samples) == 17
    assert "left out, not a picture by its suffix: 1 (train/anger/Thumbs.db)" in printed
    assert "left out, hidden, a name that begins with a dot: 2 " in printed
    assert "left out, beside the class folders, so without a class: 1 (train/stray.png)" in printed
    assert any(line.split() == ["valid", "neutral", "0"] for line in printed.splitlines())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: shutil.rmtree(root / "valid/happiness"), "valid: no folder of class happiness. Unpack it completely, or make an empty folder"),
        (
            lambda root: [(root / "train" / name).mkdir() for name in ("contempt", "disgust", "fear", "sadness", "surprise")],
            "train: folders that are no class: contempt, disgust, fear, sadness, surprise. Name them in --classes, or move them out",
        ),
        (lambda root: (root / "test/anger").rename(root / "test/Anger"), "no folder of class anger; folders that are no class: Anger"),
        (lambda root: (root / "train").rename(root / "training"), "no folder train among test, training, valid"),
        (lambda root: (root / "train").rename(root / "my train"), "my train where split folders should be"),
        (lambda root: [shutil.rmtree(root / split) for split in ("train", "valid", "test")], "no folders where split folders"),
        (lambda root: [path.unlink() for path in root.rglob("*.png")], "no pictures"),
        (lambda root: [shutil.move(root / "train" / name, root / name) for name in ("anger", "happiness", "neutral")], "class folders (anger, happiness, neutral) where split folders"),
    ],
)  # fmt: skip
def test_every_wrong_tree_of_class_folders_is_named(
    class_folders: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(class_folders)
    assert said in refused(
        "folders", class_folders, "--classes", "anger,happiness,neutral", "--out", tmp_path / "own.toml"
    )


@pytest.mark.parametrize("classes", ["anger", "anger,anger", "1=anger,2=anger", "anger,,neutral", "1=,2=anger"])
def test_a_list_of_classes_that_has_no_order_is_refused(class_folders: Path, tmp_path: Path, classes: str) -> None:
    result = make("folders", class_folders, "--classes", classes, "--out", tmp_path / "own.toml")
    assert result.exit_code == 2
    assert "Invalid value for '--classes'" in result.output
    assert not (tmp_path / "own.toml").exists()


# ---------------------------------------------------------------- Occlu-FER


@pytest.fixture
def occlu(tmp_path: Path) -> Path:
    root = tmp_path / "Occlu-FER"
    for split, count in {"train": 2, "valid": 1}.items():
        for folder in ("AN", "CO", "DI", "FE", "HA", "NE", "SA", "SU"):
            for number in range(count):
                draw(root / split / folder / f"{folder}{number}.jpg")
    return root


@pytest.mark.parametrize("valid", ["valid", "val"])
def test_occlu_fer_has_the_order_of_the_published_script(occlu: Path, tmp_path: Path, valid: str) -> None:
    (occlu / "valid").rename(occlu / valid)
    manifest, printed = made("occlu-fer", occlu, "--out", tmp_path / "occlu-fer.toml")
    assert manifest.name == "occlu-fer"
    assert {Path(s.image).parent.name: s.label for s in manifest.samples} == dict(zip(("AN", "CO", "DI", "FE", "HA", "NE", "SA", "SU"), range(8), strict=True))  # fmt: skip
    assert manifest.splits == ("train", "valid")
    assert "published   6,838" in printed
    assert "published     880" in printed


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: shutil.rmtree(root / "valid/CO"), "valid: no folder of class CO"),
        (lambda root: exchange(root / "train", root / "valid"), "look exchanged"),
        (
            lambda root: (root / "valid").rename(root / "test"),
            "test where split folders should be (train or valid or val)",
        ),
        (lambda root: shutil.copytree(root / "valid", root / "val"), "mean the same split"),
    ],
)
def test_every_wrong_occlu_fer_is_named(
    occlu: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(occlu)
    assert said in refused("occlu-fer", occlu, "--out", tmp_path / "occlu-fer.toml")


# ---------------------------------------------------------------- FERPlus

FERPLUS_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
FERPLUS_ROWS = [
    "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0",
    "Training,fer0000001.png,0,10,0,0,0,0,0,0,0,0",
    "Training,fer0000002.png,4,0,0,4,1,0,0,0,1,0",  # a tie
    "Training,fer0000003.png,0,0,6,0,0,0,4,0,0,0",
    "Training,fer0000004.png,1,0,0,0,0,0,0,0,9,0",  # unknown
    "Training,fer0000005.png,1,0,0,0,0,0,0,0,0,9",  # not a face
    "Training,,0,0,0,0,0,0,0,0,0,10",
    "PublicTest,fer0028638.png,0,0,0,0,0,0,0,8,2,0",
    "PrivateTest,fer0032220.png,0,0,0,0,0,7,3,0,0,0",
]


@pytest.fixture
def fer(tmp_path: Path) -> Path:
    root = tmp_path / "FERPlus"
    write_lines(root / "fer2013new.csv", [FERPLUS_HEADER, *FERPLUS_ROWS])
    folder = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
    for row in FERPLUS_ROWS:
        usage, name = row.split(",")[:2]
        if name:
            draw(root / "data" / folder[usage] / name, (48, 48))
    return root


@pytest.mark.parametrize("base", ["data", "."])
def test_ferplus_takes_the_class_with_most_votes_and_counts_the_rest(fer: Path, tmp_path: Path, base: str) -> None:
    if base == ".":
        for folder in (fer / "data").iterdir():
            folder.rename(fer / folder.name)
    manifest, printed = made("ferplus", fer, "--out", tmp_path / "ferplus.toml")
    assert labels(manifest) == {
        "fer0000000": "neutral", "fer0000001": "happiness", "fer0000003": "surprise", "fer0028638": "contempt", "fer0032220": "disgust",
    }  # fmt: skip
    assert {sample.split for sample in manifest.samples} == {"train", "valid", "test"}
    assert "left out, no single expression with the most votes: 1" in printed
    assert "left out, most votes for unknown: 1" in printed
    assert "left out, most votes for NF: 1" in printed
    assert "left out, a row without a picture (not a face): 1 (line 8)" in printed


def test_ferplus_lists_name_pictures_with_a_label_before_or_another_suffix(fer: Path, tmp_path: Path) -> None:
    occluded = write_lines(tmp_path / "jianfei_occlusion_list.txt", ["5_fer0032220.png 8 3"])
    posed = write_lines(tmp_path / "pose_30_ferplus_list.txt", ["5/fer0032220.jpg"])
    manifest, _ = made(
        "ferplus", fer, "--out", tmp_path / "f.toml", "--tag-list", f"occluded={occluded}", "--tag-list", f"pose-30={posed}"
    )  # fmt: skip
    assert tagged(manifest, "occluded") == tagged(manifest, "pose-30") == {"fer0032220"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "fer2013new.csv").unlink(), "no file fer2013new.csv"),
        (lambda root: shutil.rmtree(root / "data"), "no folder FER2013Train"),
        (lambda root: shutil.rmtree(root / "data/FER2013Test"), "no folder data/FER2013Test"),
        (lambda root: (root / "data/FER2013Train/fer0000003.png").unlink(), "1 of 5 pictures of fer2013new.csv are missing: data/FER2013Train/fer0000003.png;"),
        (lambda root: replace_first(root / "fer2013new.csv", "contempt", "scorn"), "missing column(s) contempt"),
        (lambda root: replace_first(root / "fer2013new.csv", "PublicTest", "Valid"), "unknown usage 'Valid'"),
        (lambda root: replace_first(root / "fer2013new.csv", "0,10,0", "0,ten,0"), "line 3: 'ten' is not a number of votes"),
        (lambda root: replace_first(root / "fer2013new.csv", "0,10,0", "0,10,0,0"), "line 3: 13 cells"),
        (lambda root: replace_first(root / "fer2013new.csv", "fer0000001", "fer0000000"), "line 3: fer0000000.png is there twice"),
        (lambda root: write_lines(root / "fer2013new.csv", [FERPLUS_HEADER, *(row.replace("Training,", "PrivateTest,") for row in FERPLUS_ROWS[-1:])]), "look exchanged"),
    ],
)  # fmt: skip
def test_every_wrong_ferplus_is_named(fer: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(fer)
    assert said in refused("ferplus", fer, "--out", tmp_path / "ferplus.toml")


# ---------------------------------------------------------------- what is written


def test_the_same_command_again_changes_nothing_and_other_content_is_kept(raf: Path, tmp_path: Path) -> None:
    out = tmp_path / "rafdb.toml"
    made("rafdb", raf, "--out", out)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (out, out.with_suffix(".csv"))}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "basic",
        "rafdb.csv",
        "rafdb.toml",
    ]  # and no temporaries
    assert "nothing to do" in made("rafdb", raf, "--out", out)[1]
    raf_list(raf).write_text(raf_list(raf).read_text().replace("train_00002.jpg 2", "train_00002.jpg 3"))
    result = make("rafdb", raf, "--out", out)
    assert "exists with other content" in str(result.exception)
    assert {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (out, out.with_suffix(".csv"))
    } == before


def test_a_table_of_another_origin_is_not_overwritten_and_no_descriptor_joins_it(raf: Path, tmp_path: Path) -> None:
    (tmp_path / "rafdb.csv").write_text("image,label,split\n")
    result = make("rafdb", raf, "--out", tmp_path / "rafdb.toml")
    assert "rafdb.csv: exists with other content" in str(result.exception)
    assert (tmp_path / "rafdb.csv").read_text() == "image,label,split\n"
    assert not (tmp_path / "rafdb.toml").exists()


def test_what_an_interrupted_call_left_is_completed(raf: Path, tmp_path: Path) -> None:
    out = tmp_path / "rafdb.toml"
    made("rafdb", raf, "--out", out)
    out.unlink()  # the descriptor is written last
    manifest, printed = made("rafdb", raf, "--out", out)
    assert len(manifest.samples) == RAF_TRAIN + RAF_TEST
    assert "wrote" in printed


def test_the_root_moves_with_the_manifest_where_they_lie_together_and_is_absolute_elsewhere(
    raf: Path, tmp_path: Path
) -> None:
    def root(out: Path) -> str:
        made("rafdb", raf, "--out", out)
        return str(tomllib.loads(out.read_text())["root"])

    assert root(tmp_path / "rafdb.toml") == "basic"
    assert root(raf / "rafdb.toml") == "."
    assert root(raf / "manifests/rafdb.toml") == ".."
    assert root(tmp_path / "elsewhere/rafdb.toml") == str(raf.resolve())


def test_an_out_that_is_no_descriptor_is_refused(raf: Path, tmp_path: Path) -> None:
    assert ".toml" in refused("rafdb", raf, "--out", tmp_path / "rafdb")


@pytest.mark.parametrize("value", ["list.txt", "=list.txt", "a tag=list.txt", "a@b=list.txt", "occluded="])
def test_a_tag_list_without_a_usable_tag_is_refused(raf: Path, tmp_path: Path, value: str) -> None:
    result = make("rafdb", raf, "--out", tmp_path / "rafdb.toml", "--tag-list", value)
    assert result.exit_code == 2
    assert "is not TAG=FILE" in result.output


def test_commas_quotes_and_line_ends_in_file_names_survive(tmp_path: Path) -> None:
    root = tmp_path / "odd"
    names = ["a,b.png", 'say "cheese".png', "ü ñ.png"]
    for label in ("anger", "neutral"):
        for name in names:
            draw(root / "train" / label / name)
    manifest, _ = made("folders", root, "--classes", "anger,neutral", "--out", tmp_path / "odd.toml")
    assert {Path(sample.image).name for sample in manifest.samples} == set(names)


def test_a_file_name_that_is_not_utf8_is_named(class_folders: Path, tmp_path: Path) -> None:
    shutil.copy(class_folders / "train/anger/train-anger-1.png", bytes(class_folders / "train/anger") + b"/\xff.png")
    said = refused("folders", class_folders, "--classes", "anger,happiness,neutral", "--out", tmp_path / "own.toml")
    assert "not UTF-8" in said


def test_as_a_process_a_mistake_is_one_message_and_exit_code_one(raf: Path, tmp_path: Path) -> None:
    program = (
        "import click\n"
        "from orsanet_cache.console import CommandGroup\n"
        "from orsanet_cache.commands.manifest import manifest\n"
        "CommandGroup('orsanet-cache', commands={'manifest': manifest})()\n"
    )

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", program, "manifest", *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    good = run("rafdb", raf, "--out", tmp_path / "rafdb.toml")
    assert good.returncode == 0, good.stderr
    assert "rafdb: 21 images" in good.stdout
    raf_list(raf).unlink()
    bad = run("rafdb", raf, "--out", tmp_path / "other.toml")
    assert bad.returncode == 1
    assert "Traceback" not in bad.stderr
    assert bad.stderr.startswith("Error: ")


def test_the_documented_commands_run(
    raf: Path,
    annotated: Path,
    photographs: Path,
    occlu: Path,
    fer: Path,
    class_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = tmp_path / "desk"
    desk.mkdir()
    names = ("basic", "AffectNet", "AffectNet2017", "Occlu-FER", "FERPlus", "my-faces")
    for name, folder in zip(names, (raf, annotated, photographs, occlu, fer, class_folders), strict=True):
        folder.rename(desk / f"{name}.moving")  # two of the names are those of fixtures
        (desk / f"{name}.moving").rename(desk / name)
    write_lines(desk / "rafdb_occlusion_list.txt", ["test_0003_aligned 3 4"])
    write_lines(desk / "val_raf_db_list.txt", ["0/test_0004_aligned.jpg"])
    write_lines(desk / "val_raf_db_list_45.txt", ["0/test_0004_aligned.jpg"])
    monkeypatch.chdir(desk)
    text = (ROOT / "docs/data-sets.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    seen = set()
    for line in lines:
        program, group, *arguments = shlex.split(line)
        assert (program, group) == ("orsanet-cache", "manifest")
        out = Path(arguments[arguments.index("--out") + 1])
        out.unlink(missing_ok=True)
        out.with_suffix(".csv").unlink(missing_ok=True)
        manifest, _ = made(*arguments)
        seen.add(arguments[0])
    assert seen == set(command.commands)
    assert tagged(manifest, "pose-45") == {"test_0004_aligned"}


# ---------------------------------------------------------------- descriptors and published counts


def test_shipped_descriptors_have_the_name_classes_and_splits_that_are_written() -> None:
    written = {
        "rafdb": (rafdb.CLASSES, rafdb.SPLITS),
        "affectnet7": (affectnet_release.CLASSES[:7], affectnet_release.SPLITS),
        "affectnet8": (affectnet_release.CLASSES, affectnet_release.SPLITS),
        "occlu-fer": (tuple(occlu_fer.CLASSES.values()), ("train", "valid")),
        "ferplus": (ferplus.CLASSES, ferplus.SPLITS),
    }
    shipped = {}
    for path in (ROOT / "manifests").glob("*.toml"):
        descriptor = tomllib.loads(path.read_text(encoding="utf-8"))
        assert descriptor["name"] == path.stem
        shipped[path.stem] = (tuple(descriptor["classes"]), tuple(descriptor["splits"]))
    assert shipped == written


@pytest.mark.parametrize(
    ("name", "cap", "totals"),
    [
        ("rafdb", None, {"train": 12271, "test": 3068}),
        ("affectnet7", 5000, {"train": 33803, "valid": 3500}),
        ("affectnet8", 5000, {"train": 37553, "valid": 4000}),
        ("affectnet8", None, {"valid": 4000}),
        ("affectnet8", 4999, {"valid": 4000}),
        ("occlu-fer", None, {"train": 6838, "valid": 880}),
        ("my-faces", None, {}),
    ],
)
def test_published_totals_are_those_of_the_same_cap(name: str, cap: int | None, totals: dict[str, int]) -> None:
    counts = published_counts(name, cap)
    assert {split: known.total for split, known in counts.items()} == totals
    assert all(sum(known.classes.values()) in (0, known.total) for known in counts.values())
