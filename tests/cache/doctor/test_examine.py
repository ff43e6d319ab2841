"""The doctor names every trap that is in a data set, with its pictures, and is silent about data sets that have none.

The command on real files: drawn ones, and where the reference material is, real faces and broken files.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from doctor_cases import (
    doctor,
    face,
    mirror,
    said,
    save,
    write_table,
)
from PIL import Image

from orsanet_cache.cli import main


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces of several people: two classes, two splits."""
    folder = tmp_path_factory.mktemp("healthy")
    rows = []
    for seed in range(16):
        split, label = ("train", "test")[seed % 8 > 5], ("anger", "neutral")[seed % 2]
        image = save(face(seed), folder / f"{split}/{label}/{seed}.png").relative_to(folder).as_posix()
        rows.append((image, label, split, f"person-{seed}"))
    write_table(folder / "faces.csv", rows, ("image", "label", "split", "identity"))
    (folder / "faces.toml").write_text('name = "faces"\nclasses = ["anger", "neutral"]\nsamples = "faces.csv"\n')
    return folder


def test_a_healthy_data_set_has_no_finding_and_exit_code_zero(healthy: Path, tmp_path: Path) -> None:
    printed, _ = doctor(healthy / "faces.toml", "--out", tmp_path / "found.json")
    assert "nothing found" in printed
    assert json.loads((tmp_path / "found.json").read_text())["counts"] == {
        "train": {"anger": 6, "neutral": 6},
        "test": {"anger": 2, "neutral": 2},
    }


def test_every_planted_fault_is_named_with_all_its_pictures(healthy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ill"
    shutil.copytree(healthy, folder)
    text = (folder / "faces.csv").read_text()

    def plant(name: str, picture: Image.Image | Path, label: str, split: str, person: str = "", **options: Any) -> str:
        nonlocal text
        if isinstance(picture, Path):
            shutil.copy(picture, folder / name)
        else:
            save(picture, folder / name, **options)
        text += f"{name},{label},{split},{person}\n"
        return name

    first, second = folder / "train/anger/0.png", folder / "train/neutral/1.png"
    leaked = plant("leaked.png", first, "anger", "test", "person-0")
    relabelled = plant("relabelled.png", second, "anger", "train")
    mirrored = plant("mirrored.jpg", mirror(Image.open(folder / "train/anger/2.png")), "anger", "test", quality=70)
    small = plant("small.png", face(100).resize((64, 64)), "neutral", "train")
    wide = plant("wide.png", face(101).resize((300, 150)), "neutral", "train")
    blank = plant("blank.png", Image.new("RGB", (160, 160), (90, 90, 90)), "neutral", "train")
    broken = plant("broken.png", face(102), "neutral", "train")
    (folder / broken).write_bytes((folder / broken).read_bytes()[:-500])
    text += "missing.png,anger,train,\n"
    (folder / "faces.csv").write_text(text)

    printed, _ = doctor(folder / "faces.toml", "--out", tmp_path / "found.json", code=1)
    found = said(tmp_path / "found.json")
    assert found["same-file-several-splits"] == {"train/anger/0.png", leaked}
    assert found["same-file-several-labels"] == {"train/neutral/1.png", relabelled}
    assert found["near-copies-several-splits"] == {"train/anger/2.png", mirrored}
    assert found["tiny"] == {small}
    assert found["far-from-square"] == {wide}
    assert found["blank"] == {blank}
    assert found["unusable"] == {broken, "missing.png"}
    assert found["person-in-several-splits"] == {"train/anger/0.png", leaked}
    assert set(found) == {
        "same-file-several-splits", "same-file-several-labels", "near-copies-several-splits", "tiny", "far-from-square", "blank", "unusable",
        "person-in-several-splits",
    }  # fmt: skip
    assert "'missing.png' does not exist" in printed
    assert printed.index("error:") < printed.index("warning:")
    assert "3 errors, 5 warnings" in printed


def test_nothing_in_the_data_set_is_changed_and_the_answer_is_the_same_again(healthy: Path, tmp_path: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in healthy.rglob("*")}
    doctor(healthy / "faces.toml", "--out", tmp_path / "one.json")
    doctor(healthy / "faces.csv", "--root", healthy, "--classes", "anger,neutral", "--out", tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in healthy.rglob("*")} == before
    assert sorted(os.listdir(tmp_path)) == ["one.json", "two.json"]


def test_a_data_set_without_one_usable_picture_ends_with_their_names(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [("a.png", "a", "train"), ("b.png", "b", "train")])
    doctor(tmp_path / "t.csv", "--root", tmp_path, "--classes", "a,b", "--out", tmp_path / "found.json", code=1)
    assert said(tmp_path / "found.json") == {"unusable": {"a.png", "b.png"}}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["t.csv", "--classes", "a,b"], "a CSV alone needs --root"),
        (["t.csv", "--root", "."], "a CSV alone needs"),
        (["t.csv", "--root", ".", "--classes", "a,c"], "unknown class 'b'"),
        (["absent.toml"], "cannot be read"),
        (["t.csv", "--root", ".", "--classes", "a,b", "--out", "nowhere/found.json"], "does not exist; create it"),
        (
            ["t.csv", "--root", ".", "--classes", "a,b", "--out", "t.csv"],
            "--out t.csv: already exists and is not overwritten",
        ),
        (["t.csv", "--root", ".", "--classes", "a,b", "--out", "dangling"], "--out dangling: already exists"),
        (
            ["t.csv", "--root", ".", "--classes", "a,b", "--out", "."],
            "--out .: is a folder; name a new file, such as findings.json",
        ),
    ],
)
def test_a_manifest_that_cannot_be_read_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    table = write_table(tmp_path / "t.csv", [("a.png", "a", "train"), ("b.png", "b", "train")])
    (tmp_path / "dangling").symlink_to("nothing")
    before = table.read_bytes()
    monkeypatch.chdir(tmp_path)
    printed, complaint = doctor(*arguments, code=1)
    assert printed == ""
    assert complaint.startswith("Error: ")  # before the progress bar of a picture
    assert sentence in complaint
    assert table.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["dangling", "t.csv"]


def test_the_tree_of_a_public_data_set_is_compared_with_what_is_published(tmp_path: Path) -> None:
    lines = []
    for number in range(1, 15):
        name = f"{'test' if number % 7 == 0 else 'train'}_{number:05d}"
        save(face(number).resize((100, 100)), tmp_path / f"basic/Image/aligned/{name}_aligned.jpg")
        lines.append(f"{name}.jpg {number % 7 + 1}")
    (tmp_path / "basic/EmoLabel").mkdir()
    (tmp_path / "basic/EmoLabel/list_patition_label.txt").write_text("\n".join(lines))
    made = CliRunner().invoke(
        main, ["manifest", "rafdb", str(tmp_path / "basic"), "--out", str(tmp_path / "rafdb.toml")]
    )
    assert made.exit_code == 0, made.output
    printed, _ = doctor(tmp_path / "rafdb.toml", "--out", tmp_path / "found.json", code=1)
    found = said(tmp_path / "found.json")
    assert {"class-missing-in-split", "other-number-of-pictures", "small-as-published"} <= set(found)
    assert "train has no picture of surprise" in printed  # 7 and 14 are the test split, with label 1
    assert "train has 12 pictures, the published runs of RAF-DB used 12,271 (-12,259)" in printed
    assert len(found["small-as-published"]) == 14


def test_ctrl_c_ends_it_with_one_line_and_no_output(tmp_path: Path) -> None:
    first = save(Image.effect_noise((700, 700), 60), tmp_path / "images/0.png")
    rows = [("images/0.png", "a", "train")]
    for number in range(1, 2_000):  # other names of the same file: half a minute of work, and no disk
        os.link(first, tmp_path / f"images/{number}.png")
        rows.append((f"images/{number}.png", ("a", "b")[number % 2], "train"))
    write_table(tmp_path / "t.csv", rows)
    words = [sys.executable, "-m", "orsanet_cache", "doctor", "t.csv", "--root", ".", "--classes", "a,b", "--out", "found.json"]  # fmt: skip
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        begun = b""
        while b"pictures" not in begun:
            begun += process.stderr.read(16)
        process.send_signal(signal.SIGINT)
        printed, complaint = process.communicate(timeout=120)  # seconds that no command needs
    assert process.returncode == 130
    assert printed == b""
    assert b"Interrupted." in complaint
    assert b"Traceback" not in complaint
    assert sorted(os.listdir(tmp_path)) == ["images", "t.csv"]


def test_of_959_real_faces_the_doctor_says_what_is_known_of_them(shared: Path, tmp_path: Path) -> None:
    faces = shared / "faces"
    classes = "surprise,fear,disgust,happiness,sadness,anger,neutral"
    printed, _ = doctor(faces / "manifest.csv", "--root", faces, "--classes", classes, "--out", tmp_path / "found.json")
    rows = pd.read_csv(faces / "manifest.csv")
    share = (rows.source == "imfdb").groupby(rows.label).mean()  # all film frames are in colour, all photographs grey
    assert f"share of coloured: disgust {share.disgust:.0%}, sadness {share.sadness:.0%}" in printed
    found = said(tmp_path / "found.json")
    assert set(found) == {
        "confound-class",
        "imbalance",
        "near-copies",
        "near-copies-several-labels",
        "rare-tag",
    }  # and no error, no leak: splits are drawn by person
    copies = found["near-copies"] | found["near-copies-several-labels"]
    assert set(rows[rows.image.isin(copies)].source) == {"imfdb"}  # frames of one scene; no two photographs are alike


def test_every_broken_file_that_is_to_be_rejected_is_named_with_a_reason(shared: Path, tmp_path: Path) -> None:
    script = shared / "bad_inputs/make_bad_inputs.py"
    subprocess.run([sys.executable, script, tmp_path / "bad", "--fifo"], check=True, capture_output=True, timeout=60)
    with (shared / "bad_inputs/expectations.csv").open(encoding="utf-8", newline="") as file:
        expected = {f"files/{row['file']}": row["expect"] for row in csv.DictReader(file)}
    if os.geteuid() == 0:  # root reads every file
        del expected["files/unreadable.jpg"]
    expected = {name: expect for name, expect in expected.items() if "raw byte" not in name}  # not a name for UTF-8
    assert len(expected) >= 63
    rows = [(name, ("a", "b")[number % 2], "train") for number, name in enumerate(sorted(expected))]
    write_table(tmp_path / "bad/t.csv", rows)
    doctor(tmp_path / "bad/t.csv", "--root", tmp_path / "bad", "--classes", "a,b", "--out", tmp_path / "f.json", code=1)
    findings = json.loads((tmp_path / "f.json").read_text())["findings"]
    reasons = {
        place["images"][0]: place["remark"]
        for finding in findings if finding["topic"] == "unusable"
        for place in finding["where"]
    }  # fmt: skip
    assert all(reasons.values())
    assert {name for name, expect in expected.items() if expect == "reject"} <= set(reasons)
    accepted = {name for name, expect in expected.items() if expect == "accept"}
    # Two names of one file: the manifest refuses the second.
    assert accepted & set(reasons) == {"files/ok_rgb.jpg"}
    assert "same file as 'files/link_inside.jpg'" in reasons["files/ok_rgb.jpg"]
