"""A hyperspectral scene from the files that users have: a cube, and which pixels train and test.

    --cube FILE                                      the cube `input` and the maps `TR` and `TE`, as SpectralFormer's files have them
    --cube FILE --labels FILE                        the labels' file has two maps, TR and TE
    --cube FILE --train-map FILE --test-map FILE     a map in each file
    --cube FILE --labels FILE --train-map FILE       the labelled pixels that do not train test
    --cube FILE --labels FILE --training-pixels N    N pixels of each class, drawn, train; the others test

A map has 0 where a pixel does not belong to it, otherwise its class, 1 … K.

Shapes: H x W pixels, N bands, K classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.errors import OrsanetError, few
from orsanet_train.general.mat_files import MatFile, Variable

CUBES = (
    "input", "cube", "data", "img", "image", "hsi", "indian_pines_corrected", "indian_pines", "paviau", "pavia",
    "salinas_corrected", "salinas",
)  # fmt: skip
LABELS = (
    "labels", "label", "gt", "groundt", "groundtruth", "ground_truth", "map", "indian_pines_gt", "paviau_gt", "pavia_gt", "salinas_gt",
)  # fmt: skip
TRAIN = ("tr", "train", "train_map", "trainmap", "trlabel", "tr_label", "train_label", "trainlabel", "train_gt")
TEST = ("te", "test", "test_map", "testmap", "telabel", "te_label", "tslabel", "test_label", "testlabel", "test_gt")
MOST_CLASSES = 1000  # more is a file of something else
COUNT_DIGITS = 9

WHERE_CUBES = (
    "the public scenes are on the page 'Hyperspectral Remote Sensing Scenes' of the Computational Intelligence Group, "
    "University of the Basque Country (Indian_pines_corrected.mat, PaviaU.mat); SpectralFormer's own files, with the split, "
    "are linked in its repository"
)
WHERE_MAPS = (
    "a map of labels comes beside the public cube (Indian_pines_gt.mat, PaviaU_gt.mat); maps of training and test pixels "
    "come with SpectralFormer's files and in the repository IEEE_TGRS_GCN"
)


@dataclass(frozen=True)
class Scene:
    """A cube and its pixels: those that train and those that test."""

    cube: NDArray[Any]  # [H, W, N]
    train: NDArray[np.int64]  # [H, W]; 0 none, 1 … K
    test: NDArray[np.int64]
    origin: tuple[str, ...]  # the files and variables, for people

    @property
    def classes(self) -> int:
        return int(self.train.max())

    def counts(self, pixels: NDArray[np.int64]) -> list[int]:
        """Pixels of each class of a map, from class 1 on."""
        return np.bincount(pixels.ravel(), minlength=self.classes + 1)[1:].tolist()

    def sha256(self) -> str:
        """Of everything that a training sees."""
        digest = hashlib.sha256()
        for array in (self.cube, self.train, self.test):
            digest.update(f"{array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def parse_counts(text: str) -> list[int]:
    """`50` or `50,50,15` -> numbers. Raises OrsanetError for any other text."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= COUNT_DIGITS for part in parts):
        raise OrsanetError(
            f"--training-pixels {text}: write a number, or one for each class separated by commas: 50,50,15"
        )
    return [int(part) for part in parts]


def read_scene(
    cube: Path, labels: Path | None = None, train_map: Path | None = None, test_map: Path | None = None,
    training_pixels: Sequence[int] | None = None, split_seed: int = 0, keys: Sequence[str] = (),
) -> Scene:  # fmt: skip
    """Read a scene in one of the forms above.

    Args:
        cube: the file with the cube.
        labels: the file with a map of labels, or with the maps of training and test pixels.
        train_map: the file with the map of training pixels.
        test_map: the file with the map of test pixels.
        training_pixels: how many pixels of each class to draw: one number, or one for each class.
        split_seed: of the draw.
        keys: names of variables to prefer where several fit.

    Raises OrsanetError for files and options that are none of these forms, and for a cube or map that
    cannot be used.
    """
    file = MatFile(cube, WHERE_CUBES)
    if (found := file.find(3, CUBES, keys, "the cube")) is None:
        raise OrsanetError(
            f"{cube}: no cube [rows, columns, bands] in it, only {_listed(file.variables)}; {WHERE_CUBES}"
        )
    values = file.read(found)
    _check_cube(values, f"{cube}: {found.name}")
    origin = [f"{cube.name}: {found}"]
    if labels is None and train_map is None and test_map is None:
        train, test = _both_maps(file, origin)
    elif labels is not None and train_map is None and test_map is None and training_pixels is None:
        train, test = _both_maps(MatFile(labels, WHERE_MAPS), origin)
    elif labels is None and train_map is not None and test_map is not None and training_pixels is None:
        train, test = _map(train_map, TRAIN, keys, origin), _map(test_map, TEST, keys, origin)
    elif labels is not None and train_map is not None and test_map is None and training_pixels is None:
        train, every = _map(train_map, TRAIN, keys, origin), _map(labels, LABELS, keys, origin)
        _check_same_size({"training pixels": train, "labels": every}, values)
        test = np.where(train > 0, 0, every)
    elif labels is not None and train_map is None and test_map is None and training_pixels is not None:
        train, test = _drawn(_map(labels, LABELS, keys, origin), training_pixels, split_seed, labels)
        origin.append(f"{', '.join(map(str, training_pixels))} training pixels a class, drawn with seed {split_seed}")
    else:
        raise OrsanetError(
            "these options name no training and test pixels: pass --cube alone for a file with TR and TE, or with --labels "
            "and one of --train-map and --training-pixels, or with --train-map and --test-map"
        )
    scene = Scene(values, train, test, tuple(origin))
    _check_maps(scene)
    return scene


def _listed(variables: Sequence[Variable]) -> str:
    return few([str(one) for one in variables], 8) or "no numeric array"


def _both_maps(file: MatFile, origin: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    maps = [file.named(TRAIN, 2), file.named(TEST, 2)]
    if None in maps:
        raise OrsanetError(
            f"{file.path}: no maps TR and TE in it, only {_listed(file.variables)}; name the pixels' files with --labels and "
            f"--train-map or --training-pixels, or with --train-map and --test-map ({WHERE_MAPS})"
        )
    read = []
    for one in maps:
        assert one is not None
        origin.append(f"{file.path.name}: {one}")
        read.append(_whole_numbers(file.read(one), f"{file.path}: {one.name}"))
    return read[0], read[1]


def _map(path: Path, names: Sequence[str], keys: Sequence[str], origin: list[str]) -> NDArray[np.int64]:
    file = MatFile(path, WHERE_MAPS)
    if (found := file.find(2, names, keys, "the map")) is None:
        raise OrsanetError(f"{path}: no map [rows, columns] in it, only {_listed(file.variables)}; {WHERE_MAPS}")
    origin.append(f"{path.name}: {found}")
    return _whole_numbers(file.read(found), f"{path}: {found.name}")


def _whole_numbers(values: NDArray[Any], where: str) -> NDArray[np.int64]:
    """A map as int64. Raises OrsanetError unless it has the whole numbers 0 … MOST_CLASSES."""
    whole = np.isfinite(values).all() and (values == np.round(values)).all()
    if not whole or values.min() < 0 or values.max() > MOST_CLASSES:
        raise OrsanetError(
            f"{where}: a map has whole numbers, 0 for no label and 1 … K for the classes; this one has values from "
            f"{np.min(values):g} to {np.max(values):g}"
        )
    return values.astype(np.int64)


def _check_cube(cube: NDArray[Any], where: str) -> None:
    if not np.isfinite(cube).all():
        raise OrsanetError(f"{where}: has values that are not finite; replace them, or leave their bands out")
    flat = cube.reshape(-1, cube.shape[2])
    if len(constant := np.flatnonzero(flat.min(axis=0) == flat.max(axis=0))):
        raise OrsanetError(
            f"{where}: the same value in all pixels of band {few([str(1 + band) for band in constant.tolist()])} (of "
            f"{cube.shape[2]}), which cannot be scaled; leave these bands out, as the corrected public cubes do"
        )


def _check_same_size(maps: dict[str, NDArray[np.int64]], cube: NDArray[Any]) -> None:
    for name, values in maps.items():
        if values.shape != cube.shape[:2]:
            turned = "; it seems to be transposed" if values.shape == cube.shape[1::-1] else ""
            raise OrsanetError(
                f"the map of {name} has {values.shape[0]} x {values.shape[1]} pixels and the cube {cube.shape[0]} x "
                f"{cube.shape[1]} of {cube.shape[2]} bands{turned}: pass files of one scene"
            )


def _check_maps(scene: Scene) -> None:
    _check_same_size({"training pixels": scene.train, "test pixels": scene.test}, scene.cube)
    if both := int(((scene.train > 0) & (scene.test > 0)).sum()):
        raise OrsanetError(f"{both:,} pixels train and test; a test pixel must not have been trained on")
    if scene.classes < 2:
        raise OrsanetError(f"the map of training pixels has {scene.classes} class(es); a classifier needs two or more")
    if scene.test.max() > scene.classes:
        raise OrsanetError(
            f"test pixels of class {int(scene.test.max())}, but training pixels of 1 … {scene.classes} alone: pass maps of one split"
        )
    for name, counts in (("training", scene.counts(scene.train)), ("test", scene.counts(scene.test))):
        if empty := [str(1 + label) for label, count in enumerate(counts) if not count]:
            raise OrsanetError(
                f"no {name} pixel of class {few(empty)} (of {scene.classes}); number the classes 1 … K without a gap, and give each "
                f"some training and some test pixels"
            )


def _drawn(
    labels: NDArray[np.int64], pixels: Sequence[int], seed: int, path: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the training pixels of each class."""
    classes = int(labels.max())
    wanted = list(pixels) * classes if len(pixels) == 1 else list(pixels)
    if len(wanted) != classes:
        raise OrsanetError(
            f"--training-pixels: {len(wanted)} numbers for the {classes} classes of {path}; pass one, or {classes}"
        )
    generator = np.random.default_rng(seed)
    train = np.zeros_like(labels)
    for label, count in enumerate(wanted, 1):
        there = np.flatnonzero(labels == label)
        if not 1 <= count < len(there):
            raise OrsanetError(
                f"--training-pixels {count} of class {label}, which has {len(there):,} pixels in {path}: at least one must train and "
                f"one test; pass a smaller number, or one for each class"
            )
        train.flat[generator.choice(there, count, replace=False)] = label
    return train, np.where(train > 0, 0, labels)
