"""Each documented file layout by the command: one epoch and a table. A layout that is none: one sentence."""

import re
from pathlib import Path

import numpy as np
import pytest
from command_lines import in_process
from written_mat import mat, mat_7_3

from orsanet_train.cli import main
from orsanet_train.general.cifar import FOLDER
from orsanet_train.general.demo_data import SIZES, Scene, draw_scene, write_pictures
from orsanet_train.general.scenes import read_scene

ONE_EPOCH = ("--set", "epochs=1", "--weights", "0,0.1", "--forms", "published", "--seeds", "0", "--device", "cpu")
NUMBER = r"\d+\.\d\d"


def other_pixels(scene: Scene) -> np.ndarray:
    return np.where(scene.train > 0, 0, scene.labels)


def public_pair(scene: Scene, folder: Path) -> list[object]:
    return [
        "--cube", mat(folder / "PaviaU.mat", paviaU=scene.cube), "--labels", mat(folder / "PaviaU_gt.mat", paviaU_gt=scene.labels),
    ]  # fmt: skip


def drawn(scene: Scene, folder: Path) -> list[object]:
    return [*public_pair(scene, folder), "--training-pixels", "12,9,6"]


def with_a_map(scene: Scene, folder: Path) -> list[object]:
    return [*public_pair(scene, folder), "--train-map", mat(folder / "train.mat", TRLabel=scene.train)]


def two_maps(scene: Scene, folder: Path) -> list[object]:
    maps = [
        "--train-map",
        mat(folder / "a.mat", TR=scene.train),
        "--test-map",
        mat(folder / "b.mat", TE=other_pixels(scene)),
    ]
    return [*public_pair(scene, folder)[:2], *maps]


def spectralformer(scene: Scene, folder: Path) -> list[object]:
    return [
        "--cube",
        mat(folder / "IndianPine.mat", input=scene.cube, TR=scene.train, TE=other_pixels(scene)),
        "--input",
        "patch",
    ]


def spectralformer_7_3(scene: Scene, folder: Path) -> list[object]:
    return [
        "--cube",
        mat_7_3(folder / "Pavia.mat", input=scene.cube, TR=scene.train, TE=other_pixels(scene)),
        "--scene",
        "pavia-university",
    ]


@pytest.mark.parametrize(
    "form", [drawn, with_a_map, two_maps, spectralformer, spectralformer_7_3], ids=lambda form: form.__name__
)
def test_a_scene_becomes_a_table(form, tiny: Scene, tmp_path: Path) -> None:
    ended = in_process(main, "dare", "hyperspectral", *form(tiny, tmp_path), *ONE_EPOCH, "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    head, columns, _, plain, other, *_ = ended.stdout[ended.stdout.index("24 x 20") :].replace("\n  ", " ").splitlines()
    assert head.startswith("24 x 20 pixels, 12 bands, 3 classes: training pixels ")
    assert columns == "| loss | seeds | OA | − CE | AA | − CE | kappa | − CE |"
    assert re.fullmatch(rf"\| CE \| 1 \|(?: -?{NUMBER} \|  \|){{3}}", plain), plain
    assert re.fullmatch(rf"\| CE \+ 0.1 DARE, published \| 1 \|(?: -?{NUMBER} \| [+-]{NUMBER} \|){{3}}", other), other


@pytest.mark.parametrize(("network", "variant"), [("gfnet", "gfnet-ti"), ("crossvit", "crossvit-tiny")])
def test_cifars_folder_becomes_a_table(network: str, variant: str, tmp_path: Path) -> None:
    """One step of a small batch: CrossViT enlarges them to its 240 pixels."""
    write_pictures(tmp_path / FOLDER, seed=0, count=10)
    small = [part for key in (f"variant={variant}", "image_size=32", "batch_size=26") for part in ("--set", key)]
    ended = in_process(
        main, "dare", "images", "--data", tmp_path / FOLDER, "--network", network, *small, *ONE_EPOCH[:2], "--weights", "0.1",
        *ONE_EPOCH[4:], "--out", tmp_path / "out",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "pictures of `dare demo-data`, not CIFAR-10: 50 training and 10 test pictures" in ended.stdout
    assert "| loss | seeds | top-1 | − CE | top-5 | − CE |" in ended.stdout
    assert re.search(rf"\| CE \+ 0.1 DARE, published \| 1 \|(?: {NUMBER} \|  \|){{2}}", ended.stdout)


def test_what_the_demo_writes_are_both_forms_of_one_scene(demo: Path) -> None:
    scene = demo / "scene"
    published = read_scene(scene / "input-TR-TE.mat")
    public = read_scene(scene / "cube.mat", scene / "labels.mat", scene / "train.mat")
    assert published.sha256() == public.sha256()
    assert published.counts(published.train) == [20] * 6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["hyperspectral", "--cube", "absent.mat"], "absent.mat: does not exist; the public scenes are on the page"),
        (["hyperspectral", "--cube", "absent.mat", "--training-pixels", "x"], "--training-pixels x: write a number"),
        (["hyperspectral", "--cube", "absent.mat", "--set", "epoch=1"], "epoch: unknown key; did you mean 'epochs'?"),
        (["images", "--data", "absent", "--network", "gfnet"], "absent: no folder with CIFAR-10; download"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], named: str, tmp_path: Path) -> None:
    ended = in_process(main, "dare", *arguments, "--out", tmp_path / "out")
    assert ended.returncode == 1
    assert named in ended.stderr
    assert ended.stderr.count("Error: ") == 1
    assert not (tmp_path / "out").exists()


def test_the_demos_data_is_the_same_for_the_same_seed_and_never_replaces_a_folder(demo: Path, tmp_path: Path) -> None:
    arguments = ("dare", "demo-data", "--pictures", 20, "--out", tmp_path / "again")
    drawn = in_process(main, *arguments)
    assert drawn.returncode == 0, drawn.stderr
    assert "40 x 40 pixels, 40 bands, 6 materials, 120 training pixels" in drawn.stdout
    for file in ("data_batch_1", "test_batch", "batches.meta"):
        assert (tmp_path / "again" / FOLDER / file).read_bytes() == (demo / FOLDER / file).read_bytes()
    refused = in_process(main, *arguments)
    assert refused.returncode == 1
    assert "already exists" in refused.stderr


def test_the_demos_pixels_are_mixtures_that_no_threshold_tells_apart() -> None:
    """Every material occurs, a tenth of the pixels have no label, and the nearest mean spectrum is often wrong."""
    size = SIZES["small"]
    scene = draw_scene(size, 0)
    assert set(np.unique(scene.labels)) == set(range(size.classes + 1))
    assert (scene.labels == 0).mean() == pytest.approx(0.1, abs=0.01)
    spectra = np.stack([scene.cube[scene.train == label].mean(axis=0) for label in range(1, size.classes + 1)])
    test = (scene.labels > 0) & (scene.train == 0)
    nearest = 1 + ((scene.cube[test].astype(float)[:, None] - spectra) ** 2).sum(axis=2).argmin(axis=1)
    assert 0.3 < (nearest == scene.labels[test]).mean() < 0.95
