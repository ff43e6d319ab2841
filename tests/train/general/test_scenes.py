"""Every documented form of a scene is read, whatever the variables are called; what cannot be used is answered in a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from written_mat import mat, mat_7_3

from orsanet_cache.errors import OrsanetError
from orsanet_train.general.hyperspectral import SpectralTask, Tokens
from orsanet_train.general.recipes import SPECTRAL, changed
from orsanet_train.general.scenes import parse_counts, read_scene

ROWS, COLUMNS, BANDS = 6, 5, 4
RNG = np.random.default_rng(0)
CUBE = RNG.integers(0, 9000, (ROWS, COLUMNS, BANDS)).astype(np.uint16)
LABELS = np.tile(np.arange(ROWS, dtype=np.uint8)[:, None] % 4, COLUMNS)  # rows of 0, 1, 2, 3, 0, 1
TRAIN = np.where(np.arange(COLUMNS) < 2, LABELS, 0).astype(np.uint8)
TEST = LABELS - TRAIN


def spectralformer(folder: Path) -> dict[str, Any]:
    return {"cube": mat(folder / "scene.mat", input=CUBE, TR=TRAIN, TE=TEST)}


def spectralformer_7_3(folder: Path) -> dict[str, Any]:
    return {"cube": mat_7_3(folder / "scene.mat", input=CUBE, TR=TRAIN, TE=TEST)}


def maps_in_the_labels_file(folder: Path) -> dict[str, Any]:
    return {
        "cube": mat(folder / "cube.mat", indian_pines_corrected=CUBE),
        "labels": mat(folder / "maps.mat", train=TRAIN, test=TEST),
    }


def two_maps(folder: Path) -> dict[str, Any]:
    return {
        "cube": mat(folder / "cube.mat", paviaU=CUBE), "train_map": mat(folder / "a.mat", TRLabel=TRAIN.astype(np.float64)),
        "test_map": mat(folder / "b.mat", TSLabel=TEST),
    }  # fmt: skip


def public_pair_and_map(folder: Path) -> dict[str, Any]:
    return {
        "cube": mat(folder / "cube.mat", paviaU=CUBE), "labels": mat(folder / "gt.mat", paviaU_gt=LABELS),
        "train_map": mat(folder / "train.mat", anything=TRAIN),
    }  # fmt: skip


FORMS = (spectralformer, spectralformer_7_3, maps_in_the_labels_file, two_maps, public_pair_and_map)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_is_the_same_scene(form: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    scene = read_scene(**form(tmp_path))
    assert np.array_equal(scene.cube, CUBE)
    assert np.array_equal(scene.train, TRAIN)
    assert np.array_equal(scene.test, TEST)
    assert scene.classes == 3
    assert scene.counts(scene.train) == [4, 2, 2]


@pytest.mark.parametrize(
    "names",
    [
        ("indian_pines_corrected", "indian_pines_gt"),
        ("paviaU", "paviaU_gt"),
        ("salinas_corrected", "salinas_gt"),
        ("data", "map"),
        ("x", "y"),
    ],
)
def test_drawn_pixels_train_and_all_other_labelled_ones_test(names: tuple[str, str], tmp_path: Path) -> None:
    files = mat(tmp_path / "cube.mat", **{names[0]: CUBE}), mat(tmp_path / "gt.mat", **{names[1]: LABELS})
    scene = read_scene(*files, training_pixels=[3, 2, 1])
    assert scene.counts(scene.train) == [3, 2, 1]
    assert np.array_equal(scene.train + scene.test, LABELS)
    again, other = (read_scene(*files, training_pixels=[3, 2, 1], split_seed=seed) for seed in (0, 1))
    assert np.array_equal(again.train, scene.train)
    assert not np.array_equal(other.train, scene.train)
    assert again.sha256() == scene.sha256() != other.sha256()


def test_a_variable_is_chosen_by_key_where_several_fit(tmp_path: Path) -> None:
    labels = mat(tmp_path / "gt.mat", gt=LABELS)
    both = mat(tmp_path / "both.mat", first=CUBE, second=CUBE + 1)
    with pytest.raises(
        OrsanetError, match=r"first \[6, 5, 4\], second \[6, 5, 4\] could each be the cube; name .* --key"
    ):
        read_scene(both, labels, training_pixels=[1])
    assert np.array_equal(read_scene(both, labels, training_pixels=[1], keys=["second"]).cube, CUBE + 1)
    known = mat(tmp_path / "known.mat", first=CUBE, input=CUBE + 2)
    assert np.array_equal(read_scene(known, labels, training_pixels=[1]).cube, CUBE + 2)


def constant_band() -> np.ndarray:
    return np.where(np.arange(BANDS) == 2, 7, CUBE).astype(np.uint16)


def not_finite() -> np.ndarray:
    return np.where(CUBE.max() == CUBE, np.nan, CUBE.astype(np.float64))


@pytest.mark.parametrize(
    ("cube", "train", "test", "named"),
    [
        (CUBE[:, :, 0], TRAIN, TEST, "no cube [rows, columns, bands] in it, only input [6, 5]"),
        (constant_band(), TRAIN, TEST, "the same value in all pixels of band 3 (of 4)"),
        (not_finite(), TRAIN, TEST, "values that are not finite"),
        (CUBE, TRAIN.T, TEST.T, "training pixels has 5 x 6 pixels and the cube 6 x 5 of 4 bands; it seems to be transposed"),
        (CUBE, TRAIN[:4], TEST, "training pixels has 4 x 5 pixels and the cube 6 x 5"),
        (CUBE, TRAIN, TEST[:, :3], "test pixels has 6 x 3 pixels"),
        (CUBE, LABELS, TEST, "12 pixels train and test"),
        (CUBE, np.where(TRAIN == 2, 0, TRAIN), TEST, "no training pixel of class 2 (of 3)"),
        (CUBE, TRAIN, np.where(TEST == 1, 0, TEST), "no test pixel of class 1 (of 3)"),
        (CUBE, np.minimum(TRAIN, 2), np.where(TEST > 2, 9, TEST), "test pixels of class 9, but training pixels of 1 … 2 alone"),
        (CUBE, TRAIN + 0.5, TEST, "a map has whole numbers, 0 for no label and 1 … K for the classes; this one has values from 0.5 to 3.5"),
        (CUBE, np.minimum(TRAIN, 1), np.minimum(TEST, 1), "has 1 class(es); a classifier needs two or more"),
    ],
)  # fmt: skip
def test_a_cube_or_map_that_cannot_be_used_is_answered_in_a_sentence(
    cube, train, test, named: str, tmp_path: Path
) -> None:
    with pytest.raises(OrsanetError) as caught:
        read_scene(mat(tmp_path / "scene.mat", input=cube, TR=train, TE=test))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "options", "named"),
    [
        ({"cube": CUBE}, {}, "no maps TR and TE in it, only cube [6, 5, 4]"),
        ({"cube": CUBE, "gt": LABELS}, {"labels": "scene.mat", "training_pixels": [1, 2]}, "2 numbers for the 3 classes"),
        ({"cube": CUBE, "gt": LABELS}, {"labels": "scene.mat", "training_pixels": [5]}, "5 of class 2, which has 5 pixels"),
        ({"cube": CUBE, "gt": LABELS}, {"labels": "absent.mat", "training_pixels": [1]}, "absent.mat: does not exist; a map of labels comes"),
        ({"cube": CUBE, "gt": LABELS}, {"train_map": "scene.mat"}, "these options name no training and test pixels"),
        ({"words": "none"}, {}, "no cube [rows, columns, bands] in it, only no numeric array"),
    ],
)  # fmt: skip
def test_files_and_options_that_are_no_form_are_answered_in_a_sentence(
    variables: dict[str, Any], options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    path = mat(tmp_path / "scene.mat", **variables)
    given = {key: tmp_path / value if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(OrsanetError) as caught:
        read_scene(path, **given)
    assert named in str(caught.value)


def test_a_missing_cube_and_one_that_is_no_mat_file_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        OrsanetError, match=r"does not exist; the public scenes are on the page 'Hyperspectral Remote Sensing"
    ):
        read_scene(tmp_path / "Indian_pines_corrected.mat")
    for content in (
        b"",
        b"<html>not found</html>" * 20,
        (tmp_path / "x").name.encode() * 300,
        b"MATLAB 7.3" + bytes(600),
    ):
        (tmp_path / "cube.mat").write_bytes(content)
        with pytest.raises(OrsanetError, match=r"no \.mat file that can be read"):
            read_scene(tmp_path / "cube.mat")


@pytest.mark.parametrize("text", ["", "x", "5,", "1.5", "9" * 400])
def test_counts_are_numbers_separated_by_commas(text: str) -> None:
    assert parse_counts("50, 15") == [50, 15]
    with pytest.raises(OrsanetError, match="write a number, or one for each class"):
        parse_counts(text)


@pytest.mark.parametrize(
    ("patch", "group", "named"),
    [
        (2, 3, "both must be odd"),
        (1, 5, "group = 5: the cube has 4 bands"),
        (13, 3, "patch = 13: the scene has 6 x 5 pixels"),
    ],
)
def test_windows_that_do_not_fit_are_refused(patch: int, group: int, named: str) -> None:
    with pytest.raises(OrsanetError) as caught:
        Tokens(CUBE, patch, group, torch.device("cpu"))
    assert named in str(caught.value)


def test_a_window_is_what_lies_around_its_pixel_and_mirrored_beyond_the_edge(tmp_path: Path) -> None:
    tokens = Tokens(CUBE, 3, 1, torch.device("cpu"))
    scaled = (CUBE - CUBE.min(axis=(0, 1))) / (CUBE.max(axis=(0, 1)) - CUBE.min(axis=(0, 1)))
    inner, corner = tokens.at(torch.tensor([2, 0]), torch.tensor([3, 0]))
    for band in range(BANDS):
        np.testing.assert_allclose(inner[band].reshape(3, 3), scaled[1:4, 2:5, band], atol=1e-7)
        np.testing.assert_allclose(corner[band].reshape(3, 3), scaled[:, :, band][[0, 0, 1]][:, [0, 0, 1]], atol=1e-7)


def test_an_epoch_has_every_training_pixel_once_with_its_own_label(tmp_path: Path) -> None:
    recipe = changed(SPECTRAL["indian-pines", "pixel"], ["batch_size=3"])
    task = SpectralTask(read_scene(**spectralformer(tmp_path)), recipe, torch.device("cpu"))
    steps = task.epoch(0, 0)
    assert [len(step) for step in steps] == [3, 3, 2]
    assert sorted(np.concatenate(steps)) == list(range(8))
    assert not np.array_equal(np.concatenate(steps), np.concatenate(task.epoch(0, 1)))
    where = np.argwhere(TRAIN > 0)
    for positions, (tokens, labels) in zip(steps[1:], task.batches(0, 0, steps, 1), strict=True):
        rows, columns = torch.from_numpy(where[positions].T.copy())
        assert torch.equal(tokens, task.tokens.at(rows, columns))
        assert labels.first.tolist() == [TRAIN[row, column] - 1 for row, column in where[positions]]
