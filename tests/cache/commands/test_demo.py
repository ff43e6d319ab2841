"""The embedded default's commands as a user meets them, from drawn faces to a store with the shipped networks."""

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_lines import Ended, in_process

from orsanet_cache import FrozenPriors, PriorStore, load_manifest
from orsanet_cache.cli import main
from orsanet_cache.frozen.shipped import CARD, DEMO, WEIGHTS, card, weights_path
from orsanet_cache.store.schema import LAPA_CLASSES
from orsanet_cache.synthetic.picture import draw


def command(*arguments: object) -> Ended:
    return in_process(main, *arguments)


def test_a_card_needs_a_folder_of_ones_own() -> None:
    result = command("demo-quality", "--card", "--images", 20)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "Error: --card writes networks.toml into the folder of --weights; pass --weights too\n"


def test_the_faces_that_were_trained_on_are_no_measure() -> None:
    result = command("demo-quality", "--seed", 1, "--images", 20)
    assert (result.returncode, result.stdout) == (1, "")
    assert "was trained on the faces of seed 1; measure with another --seed" in result.stderr


def test_the_demo_landmark_network_takes_no_input_that_it_was_not_trained_on(tmp_path: Path) -> None:
    assert command("demo-faces", "--out", tmp_path / "faces", "--images", 20).returncode == 0
    options = ["--segmenter", "demo", "--landmarks", "demo", "--landmark-input", "native"]
    result = command("build", tmp_path / "faces" / "faces.toml", "--out", tmp_path / "store", *options)
    assert result.returncode == 1
    assert "--landmarks demo was trained on --landmark-input published" in result.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo-train", "--images", 63], "63 is not in the range 64<=x<="),
        (["demo-train", "--landmarks-steps", 0], "0 is not in the range 1<=x<="),
        (["demo-train", "--only", "eyes"], "'eyes' is not one of 'segmenter', 'landmarks'"),
        (["demo-quality", "--images", 19], "19 is not in the range 20<=x<="),
        (["demo-faces", "--images", 19], "draw at least 20"),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_written(
    arguments: list[object], said: str, tmp_path: Path
) -> None:
    out = [] if arguments[0] == "demo-quality" else ["--out", tmp_path / "out"]
    result = command(*arguments, *out)
    assert result.returncode in (1, 2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_quality_names_every_part_and_writes_the_card_of_the_folder(tmp_path: Path) -> None:
    for file_name in WEIGHTS.values():
        shutil.copy(weights_path(DEMO, "segmenter").with_name(file_name), tmp_path)
    result = command("demo-quality", "--weights", tmp_path, "--images", 20, "--seed", 5, "--card")
    assert result.returncode == 0, result.stderr
    written = tomllib.loads((tmp_path / CARD).read_text(encoding="utf-8"))
    assert result.stdout.splitlines()[-1] == f"wrote {tmp_path / CARD}"
    assert written["segmenter"] == card()["segmenter"]
    assert written["landmarks"] == card()["landmarks"]
    quality = written["quality"]
    assert quality["seed"] == 5
    assert quality["unoccluded"]["images"] + quality["occluded"]["images"] == 20
    rows = {line[:36].strip(): line.split()[-2:] for line in result.stdout.splitlines()[1:-1]}
    for part in LAPA_CLASSES[1:]:
        for shown, group in zip(rows[part], ("unoccluded", "occluded"), strict=True):
            assert float(shown) == pytest.approx(quality[group]["part_f1"][part], abs=6e-4)  # three places and four


def test_a_card_replaces_no_other_file(tmp_path: Path) -> None:
    for file_name in WEIGHTS.values():
        shutil.copy(weights_path(DEMO, "segmenter").with_name(file_name), tmp_path)
    (tmp_path / CARD).write_text("mine")
    result = command("demo-quality", "--weights", tmp_path, "--images", 20, "--seed", 5, "--card")
    assert (result.returncode, result.stdout) == (1, "")
    assert f"{tmp_path / CARD}: is not a card of `orsanet-cache demo-quality`, so it was not replaced" in result.stderr
    assert (tmp_path / CARD).read_text() == "mine"


def test_the_word_demo_builds_a_store_of_drawn_faces_with_the_shipped_networks(tmp_path: Path) -> None:
    faces, store = tmp_path / "faces", tmp_path / "store.zarr"
    drawn = command("demo-faces", "--out", faces, "--images", 20)
    assert drawn.returncode == 0, drawn.stderr
    advised = drawn.stdout.splitlines()[-1]
    assert advised == f"next: orsanet-cache build {faces / 'faces.toml'} --out STORE --segmenter demo --landmarks demo"
    arguments = advised.replace("STORE", str(store)).split()[2:]
    built = command(*arguments, "--views", "clean")
    assert built.returncode == 0, built.stderr
    assert "20 of 20 images usable" in built.stdout

    shipped = FrozenPriors.load(weights_path(DEMO, "segmenter"), weights_path(DEMO, "landmarks")).recipe()
    opened = PriorStore.open(store)
    assert {name: opened.recipe[name] for name in shipped} == shipped
    # And what lies there is about these very faces, in their order.
    manifest = load_manifest(faces / "faces.toml")
    errors = []
    for split in manifest.splits:
        said = opened.read(split, "clean", "landmarks", slice(None))
        for sample, landmarks in zip(manifest.split(split), said, strict=True):
            true = draw(0, int(Path(sample.image).stem)).landmarks
            errors.append(100 * np.linalg.norm(landmarks - true, axis=1).mean() / np.linalg.norm(true[36] - true[45]))
    expected = card()["quality"]
    # Most of these faces are unoccluded; sampled twenty times, the mean is within half of either group's.
    assert (
        0.5 * expected["unoccluded"]["landmark_error"] < np.mean(errors) < 1.5 * expected["occluded"]["landmark_error"]
    )
