"""The frozen networks as one: right inputs, always in evaluation mode, landmarks where the face is."""

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from orsanet_cache import FrozenPriors
from orsanet_cache.data.images import read_image, view_pixels
from orsanet_cache.frozen.pixels import unit_range

# iBUG order: index of each of the 68 points after a horizontal flip.
MIRRORED = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
     41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)  # fmt: skip


@pytest.fixture(scope="module")
def faces(shared: Path) -> list[np.ndarray]:
    """Every twentieth of the real face crops, decoded."""
    with (shared / "faces" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::20]
    return [read_image(shared / "faces" / row["image"]).rgb for row in rows]


@pytest.fixture(scope="module")
def landmarks(world, shared: Path, faces: list[np.ndarray]) -> Callable[[str, str], np.ndarray]:
    """By the real landmark weights, of an input and a view: [N, 68, 2] in units of the crop."""
    weights = shared / "landmark_weights" / "mobilefacenet_model_best.pth.tar"

    @cache
    def landmarks(landmark_input: str, view: str) -> np.ndarray:
        priors = FrozenPriors.load(world.segmenter, weights, landmark_input)
        return priors(torch.from_numpy(np.stack([view_pixels(face, view) for face in faces]))).landmarks.numpy()

    return landmarks


def eye_distance(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, 36:42].mean(axis=1) - points[:, 42:48].mean(axis=1), axis=1)


def test_landmarks_lie_like_a_face(landmarks: Callable[[str, str], np.ndarray]) -> None:
    """Brows above eyes above nose tip above mouth above chin, right eye left of the left one, on nearly every crop."""
    for view in ("clean", "hflip"):
        points = landmarks("native", view)
        height = [
            points[:, part, 1].mean(axis=1)
            for part in (slice(17, 27), slice(36, 48), slice(30, 31), slice(48, 68), slice(8, 9))
        ]
        ordered = np.all(np.diff(np.stack(height, axis=1), axis=1) > 0, axis=1)
        sided = points[:, 36:42, 0].mean(axis=1) < points[:, 42:48, 0].mean(axis=1)
        assert (ordered & sided).mean() >= 0.95  # a few heads of this set hang down or are turned away


def test_both_views_put_the_landmarks_on_the_same_places_of_the_face(
    landmarks: Callable[[str, str], np.ndarray],
) -> None:
    clean = landmarks("native", "clean")
    mirrored = landmarks("native", "hflip")[:, MIRRORED] * [-1, 1] + [1, 0]
    error = np.linalg.norm(clean - mirrored, axis=2).mean(axis=1) / eye_distance(clean)
    assert np.median(error) < 0.094  # the network's own median error on real faces, in eye distances


def test_the_native_input_gives_steadier_landmarks(landmarks: Callable[[str, str], np.ndarray]) -> None:
    """The views agree better with the input the network was trained on than with the published one."""
    disagreement = {}
    for landmark_input in ("native", "published"):
        clean = landmarks(landmark_input, "clean")
        mirrored = landmarks(landmark_input, "hflip")[:, MIRRORED] * [-1, 1] + [1, 0]
        disagreement[landmark_input] = np.median(
            np.linalg.norm(clean - mirrored, axis=2).mean(axis=1) / eye_distance(clean)
        )
    assert disagreement["native"] < disagreement["published"]


def test_the_native_input_is_the_bilinear_resize(world) -> None:
    priors = FrozenPriors.load(world.segmenter, world.landmarks, "native")
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8))
    resized = interpolate(unit_range(images), size=112, mode="bilinear", align_corners=False)
    with torch.no_grad():
        features, points = priors.landmark_network(resized)
    said = priors(images)
    torch.testing.assert_close(said.landmark_features, features, rtol=1e-4, atol=1e-5)  # sums in another order
    torch.testing.assert_close(said.landmarks, points, rtol=1e-4, atol=1e-5)


def test_nothing_brings_the_networks_into_training(world) -> None:
    priors = world.load_priors()
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8))
    before = priors(images)
    state = {name: value.clone() for name, value in priors.state_dict().items()}
    priors.train()
    after = priors(images)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in priors.state_dict().items())
    assert not any(parameter.requires_grad for parameter in priors.parameters())


def test_names_shapes_and_types(world) -> None:
    said = world.load_priors()(torch.zeros(2, 224, 224, 3, dtype=torch.uint8))
    assert {name: (tuple(value.shape), value.dtype) for name, value in said._asdict().items()} == {
        "segmentation_map": ((2, 224, 224), torch.uint8),
        "segmentation_entropy": ((2,), torch.float32),
        "segmentation_features": ((2, 128, 7, 7), torch.float32),
        "landmark_features": ((2, 512, 7, 7), torch.float32),
        "landmarks": ((2, 68, 2), torch.float32),
        "landmark_features_28": ((2, 64, 28, 28), torch.float32),
        "landmark_features_14": ((2, 128, 14, 14), torch.float32),
    }
    assert int(said.segmentation_map.max()) < 11
