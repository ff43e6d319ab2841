"""Data for trying out: a small scene of mixed materials, and pictures in CIFAR-10's layout.

    OUT/scene/cube.mat, labels.mat, train.mat      the public form: cube, labels, training pixels
    OUT/scene/input-TR-TE.mat                      the same scene in the form of SpectralFormer's files
    OUT/cifar-10-batches-py/                       its seven files, and a card that tells them from CIFAR-10

Scene: a material's spectrum is smooth, with absorption bands. Fields of one material each have soft
edges, and every pixel is a mixture of its surroundings' materials, under light of its own and with
noise. Its label is the material with the largest share. Picture: a shape on a plain ground, both of
random colours, place and size, under noise; its label is the shape.

The same arguments give the same values. Nothing follows from them for real scenes or pictures.
"""

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from orsanet_cache.outputs import output_folder
from orsanet_train.general.cifar import BATCHES, CARD, FOLDER, META, SIDE, TEST

SHAPES = ("disk", "ring", "square", "frame", "triangle", "cross", "diagonal cross", "bar", "column", "checks")
BATCHES_NAMED = len(BATCHES)


class Size(NamedTuple):
    """The size of a scene."""

    rows: int
    columns: int
    bands: int
    classes: int
    training: int  # pixels of a class, at most half of it


SIZES = {
    "small": Size(40, 40, 40, 6, 20),
    "indian-pines": Size(145, 145, 200, 16, 50),  # of the public scenes, for measuring how long a training takes
    "pavia-university": Size(610, 340, 103, 9, 435),
}


class Scene(NamedTuple):
    """A drawn scene."""

    cube: NDArray[np.uint16]  # [H, W, N]
    labels: NDArray[np.uint8]  # [H, W]; 0 at the edges of fields, which have no label
    train: NDArray[np.uint8]


def write_demo(out: Path, seed: int = 0, pictures: int = 200, size: str = "small") -> tuple[Scene, int]:
    """Draw both into the new folder OUT.

    Args:
        out: must not exist.
        seed: of scene and pictures.
        pictures: in each of the six files.
        size: of the scene, of SIZES.

    Returns the scene and the number of training pictures. Raises OrsanetError if `out` exists.
    """
    scene = draw_scene(SIZES[size], seed)
    with output_folder(out, None) as staged:
        folder = staged / "scene"
        folder.mkdir()
        test = np.where(scene.train > 0, 0, scene.labels)
        for name, content in {
            "cube": {"cube": scene.cube},
            "labels": {"labels": scene.labels},
            "train": {"train": scene.train},
            "input-TR-TE": {"input": scene.cube, "TR": scene.train, "TE": test},
        }.items():
            scipy.io.savemat(folder / f"{name}.mat", content, do_compression=True)
        write_pictures(staged / FOLDER, seed, pictures)
    return scene, BATCHES_NAMED * pictures


def draw_scene(size: Size, seed: int) -> Scene:
    """A scene of mixed materials.

    Fields are where one of the materials' smooth random maps is the highest. Shares are a softmax of
    these maps, so that materials mix over some pixels at every border. A tenth of the pixels, where
    the largest share is least, have no label.
    """
    generator = np.random.default_rng([seed, 0])
    spectra = _spectra(size, generator)
    height = np.stack([
        gaussian_filter(generator.standard_normal((size.rows, size.columns)), max(2.0, size.rows / 16), mode="wrap")
        for _ in range(size.classes)
    ])  # fmt: skip
    height /= height.std(axis=(1, 2), keepdims=True)
    height = height - height.mean(axis=(1, 2), keepdims=True)
    shares = np.exp(2.0 * height)
    shares /= shares.sum(axis=0)
    light = 1 + 0.15 * gaussian_filter(generator.standard_normal((size.rows, size.columns)), 3) * 6
    mixed = np.einsum("khw,kn->hwn", shares, spectra) * light[..., None]
    noisy = mixed + 0.03 * generator.standard_normal(mixed.shape)
    cube = np.clip(np.round(4000 * noisy), 0, 65535).astype(np.uint16)
    labels = (1 + shares.argmax(axis=0)).astype(np.uint8)
    labels[shares.max(axis=0) < np.quantile(shares.max(axis=0), 0.1)] = 0
    train = np.zeros_like(labels)
    for label in range(1, size.classes + 1):
        there = np.flatnonzero(labels == label)
        train.flat[generator.choice(there, min(size.training, len(there) // 2), replace=False)] = label
    return Scene(cube, labels, train)


def _spectra(size: Size, generator: np.random.Generator) -> NDArray[np.float64]:
    """[K, N] reflectances: one slope for all, and every material's own absorption bands."""
    place = np.linspace(0, 1, size.bands)
    spectra = np.repeat((0.3 + 0.4 * place)[None], size.classes, axis=0)
    for spectrum in spectra:
        for centre, width, depth in zip(
            generator.uniform(0, 1, 4), generator.uniform(0.02, 0.12, 4), generator.uniform(-0.12, 0.12, 4), strict=True
        ):
            spectrum += depth * np.exp(-0.5 * ((place - centre) / width) ** 2)
    return spectra


def write_pictures(folder: Path, seed: int, count: int) -> None:
    """Write `count` pictures of shapes into each of CIFAR-10's six files, with the class names and the card."""
    folder.mkdir()
    for number, name in enumerate((*BATCHES, TEST)):
        pictures, labels = draw_pictures(count, np.random.default_rng([seed, 1, number]))
        planes = pictures.transpose(0, 3, 1, 2).reshape(count, -1)
        names = [f"{SHAPES[label].replace(' ', '_')}_{number}_{row}.png" for row, label in enumerate(labels.tolist())]
        content = {"data": planes, "labels": labels.tolist(), "filenames": names, "batch_label": f"demo batch {name}"}
        (folder / name).write_bytes(_pickled(content))
    (folder / META).write_bytes(
        _pickled({"label_names": list(SHAPES), "num_cases_per_batch": count, "num_vis": 3 * SIDE**2})
    )
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    card = {"what": "shapes drawn by `orsanet-train dare demo-data`, not CIFAR-10", "seed": seed, "sha256": digests}
    (folder / CARD).write_text(json.dumps(card, indent=2), encoding="utf-8")


def _pickled(content: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    pickle.dump(content, file, protocol=2)  # CIFAR-10's
    return file.getvalue()


def draw_pictures(count: int, generator: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures uint8 [count, 32, 32, 3] of SHAPES, as many of each as possible, and their labels."""
    labels = generator.permutation(np.arange(count) % len(SHAPES)).astype(np.int64)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    centre = generator.uniform(12, 20, (2, count, 1, 1))
    radius = generator.uniform(5, 10, (count, 1, 1))
    across, down = (x - centre[0]) / radius, (y - centre[1]) / radius
    covered = np.zeros((count, SIDE, SIDE), bool)
    for label in range(len(SHAPES)):
        of_class = labels == label
        covered[of_class] = _covered(SHAPES[label], across[of_class], down[of_class])
    ground, colour = generator.uniform(40, 215, (2, count, 1, 1, 3))
    picture = np.where(covered[..., None], colour, ground) + generator.normal(0, 32, (count, SIDE, SIDE, 3))
    return np.clip(np.round(picture), 0, 255).astype(np.uint8), labels


def _covered(shape: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a shape of radius 1 around the origin lies."""
    far, reach = np.hypot(x, y), np.maximum(abs(x), abs(y))
    inside = {
        "disk": far < 1,
        "ring": (far < 1) & (far > 0.6),
        "square": reach < 0.9,
        "frame": (reach < 0.9) & (reach > 0.55),
        "triangle": (y < 0.8) & (y > 2 * abs(x) - 0.9),
        "cross": (np.minimum(abs(x), abs(y)) < 0.25) & (reach < 1),
        "diagonal cross": (abs(abs(x) - abs(y)) < 0.35) & (reach < 0.9),
        "bar": (abs(y) < 0.35) & (abs(x) < 1),
        "column": (abs(x) < 0.35) & (abs(y) < 1),
        "checks": (x * y > 0) & (reach < 0.9),
    }
    return inside[shape]
