"""The folder: complete or drawn again, never someone else's; the same bytes however it is drawn."""

import hashlib
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from command_lines import in_process
from failing_disk import full_disk

from orsanet_cache import OrsanetError, load_manifest
from orsanet_cache.cli import main
from orsanet_cache.data.images import read_image
from orsanet_cache.outputs import held
from orsanet_cache.synthetic.dataset import MIN_IMAGES, image_name, write_dataset
from orsanet_cache.synthetic.expression import CLASSES
from orsanet_cache.synthetic.picture import draw
from orsanet_cache.synthetic.plan import plan


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "faces"
    assert write_dataset(out, seed=4, images=24, truth=True, processes=1).drawn
    return out


def test_the_manifest_says_what_was_planned(folder: Path) -> None:
    manifest = load_manifest(folder / "faces.toml")
    assert manifest.classes == CLASSES
    assert set(manifest.splits) == {"train", "valid", "test"}
    assert len(manifest.samples) == 24
    for index, sample in enumerate(manifest.samples):
        planned = plan(4, index)
        assert sample.image == image_name(index)
        assert (manifest.classes[sample.label], sample.split) == (planned.label, planned.split)
        assert sample.tags == frozenset(planned.tags)


def test_pictures_and_truth_are_what_draw_gives(folder: Path) -> None:
    truth = np.load(folder / "truth.npz")
    for index in (0, 17, 23):
        face = draw(4, index)
        assert np.array_equal(read_image(folder / image_name(index)).rgb, face.image)
        assert np.array_equal(truth["landmarks"][index], face.landmarks)
        assert np.array_equal(truth["segmentation_map"][index], face.segmentation_map)
        assert np.array_equal(truth["covered"][index], face.covered)


def test_two_processes_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "again", seed=4, images=24, truth=True, processes=2)
    assert digests(tmp_path / "again") == digests(folder)


def test_a_longer_data_set_begins_with_the_shorter_one(folder: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "longer", seed=4, images=28, processes=1)
    longer, shorter = digests(tmp_path / "longer"), digests(folder)
    pictures = [name for name in shorter if name.endswith(".jpg")]
    assert len(pictures) == 24
    assert all(longer[name] == shorter[name] for name in pictures)


def test_a_complete_folder_is_left_alone_and_an_interrupted_one_finished(folder: Path) -> None:
    before = digests(folder)
    assert not write_dataset(folder, seed=4, images=24, truth=True).drawn
    (folder / "faces.toml").rename(folder / "faces.toml.begun")  # it gets its name last: what an interruption leaves
    (folder / image_name(11)).write_bytes(b"half a pict")
    assert write_dataset(folder, seed=4, images=24, truth=True, processes=1).drawn
    assert digests(folder) == before


def test_other_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="holds another data set"):
        write_dataset(folder, seed=5, images=24)
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(OrsanetError, match=r"already holds letters\.txt"):
        write_dataset(tmp_path, seed=4, images=24)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "samples.csv").write_text("image,label,split")  # someone's own, in spite of its name
    with pytest.raises(OrsanetError, match=r"already holds samples\.csv"):
        write_dataset(tmp_path / "other", seed=4, images=24)
    shutil.copy(folder / "faces.toml", tmp_path / "other" / "faces.toml.begun")
    with pytest.raises(OrsanetError, match="holds a part of another data set"):
        write_dataset(tmp_path / "other", seed=5, images=24)
    assert (tmp_path / "other" / "samples.csv").read_text() == "image,label,split"
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(OrsanetError, match="a file, not a folder"):
        write_dataset(tmp_path / "letters.txt", seed=4, images=24)
    with pytest.raises(OrsanetError, match="at least 20"):
        write_dataset(tmp_path / "few", seed=4, images=MIN_IMAGES - 1)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_the_smallest_data_set_has_every_split() -> None:
    assert set(Counter(plan(0, index).split for index in range(MIN_IMAGES))) == {"train", "valid", "test"}


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "faces"
    arguments = ["demo-faces", "--out", str(out), "--seed", "9", "--images", "20"]
    command = [sys.executable, "-m", "orsanet_cache.cli", *arguments]
    first = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert first.returncode == 0, first.stderr
    assert "20 pictures of 5 people (train 12, test 4, valid 4)" in first.stdout
    assert f"next: orsanet-cache build {out / 'faces.toml'}" in first.stdout
    assert "img/s" in first.stderr
    again = in_process(main, *arguments)
    assert "nothing to do" in again.stdout
    other = in_process(main, *arguments[:-1], 24)
    assert other.returncode == 1
    assert "holds another data set" in other.stderr
    assert "Traceback" not in other.stderr


def test_after_a_full_disk_the_same_call_draws_and_what_was_complete_is_untouched(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces"
    for limit in (0, 2000):  # the mark; a picture
        with full_disk(limit), pytest.raises(OrsanetError, match=r"cannot be written .File too large"):
            write_dataset(out, seed=4, images=24, processes=1)
    assert write_dataset(out, seed=4, images=24, processes=1).drawn
    before = digests(out)
    assert before.items() <= digests(folder).items()
    with full_disk(20_000), pytest.raises(OrsanetError, match=r"truth\.npz: cannot be written"):
        write_dataset(out, seed=4, images=24, truth=True, processes=1)
    assert digests(out) == before
    assert write_dataset(out, seed=4, images=24, truth=True, processes=1).drawn
    assert digests(out) == digests(folder)


def test_a_folder_in_which_another_command_draws_is_refused(tmp_path: Path) -> None:
    with held(tmp_path / "faces"), pytest.raises(OrsanetError, match="faces: another command is writing this folder"):
        write_dataset(tmp_path / "faces", seed=4, images=40)
