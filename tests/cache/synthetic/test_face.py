"""Geometry: symmetric where the movements are, and every movement goes where its name says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orsanet_cache.synthetic.expression import CLASSES, NAMES, PATTERNS, Movements, pattern
from orsanet_cache.synthetic.face import FaceGeometry, face_geometry
from orsanet_cache.synthetic.identity import Identity, draw_identity

# iBUG order: index of each of the 68 points after a horizontal flip.
MIRRORED = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
     41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)  # fmt: skip

people = st.integers(0, 2**32 - 1).map(lambda seed: draw_identity(np.random.default_rng(seed)))
few = settings(max_examples=40)
amounts = st.floats(0, 1)
movements = st.builds(Movements, **dict.fromkeys(NAMES, amounts))


def eye_opening(face: FaceGeometry) -> float:
    points = face.landmarks
    return float((points[[41, 40, 47, 46], 1] - points[[37, 38, 43, 44], 1]).mean())


def inner_brow_height(face: FaceGeometry) -> float:
    return float(face.landmarks[[39, 42], 1].mean() - face.landmarks[[21, 22], 1].mean())


def corner_height(face: FaceGeometry) -> float:
    """Mouth corners above the middle of the lips."""
    return float(face.landmarks[[51, 57], 1].mean() - face.landmarks[[48, 54], 1].mean())


def mouth_opening(face: FaceGeometry) -> float:
    return float(face.landmarks[66, 1] - face.landmarks[62, 1])


def nose_base_height(face: FaceGeometry) -> float:
    return float(-face.landmarks[33, 1])


@few
@given(people, movements, st.floats(-1, 1), st.floats(-1, 1))
def test_the_mirrored_face_is_the_face_of_mirrored_movements(
    identity: Identity, moved: Movements, lopsided: float, gaze: float
) -> None:
    one = face_geometry(identity, moved, lopsided, gaze).landmarks
    other = face_geometry(identity, moved, -lopsided, -gaze).landmarks
    np.testing.assert_allclose(one[MIRRORED] * (-1, 1), other, atol=1e-9)


@few
@given(people, movements)
def test_landmarks_lie_like_a_face(identity: Identity, moved: Movements) -> None:
    """Brows above eyes above nose tip above mouth above chin; the subject's right on the picture's left; lids do not cross."""
    face = face_geometry(identity, moved)
    points = face.landmarks
    parts = (slice(17, 27), slice(36, 48), slice(30, 31), slice(48, 68), slice(8, 9))
    assert (np.diff([points[part, 1].mean() for part in parts]) > 0).all()
    assert (np.diff(points[1:16, 0]) > 0).all()
    assert (points[36:42, 0] < 0).all()
    assert (points[42:48, 0] > 0).all()
    assert eye_opening(face) > 0
    assert mouth_opening(face) >= 0
    assert face.mouth[:, 1].max() < face.chin


@pytest.mark.parametrize(
    ("label", "measure", "sign"),
    [
        ("surprise", mouth_opening, 1), ("surprise", inner_brow_height, 1), ("surprise", eye_opening, 1),
        ("fear", eye_opening, 1), ("happiness", corner_height, 1), ("happiness", eye_opening, -1),
        ("sadness", corner_height, -1), ("sadness", inner_brow_height, 1), ("sadness", eye_opening, -1),
        ("anger", inner_brow_height, -1), ("disgust", nose_base_height, 1), ("disgust", eye_opening, -1),
    ],
)  # fmt: skip
@few
@given(identity=people, weak=st.floats(0, 0.9), more=st.floats(0.05, 0.5))
def test_more_intensity_moves_further(label, measure, sign, identity: Identity, weak: float, more: float) -> None:
    strong = min(weak + more, 1.0)
    before, after = (measure(face_geometry(identity, pattern(label, level))) for level in (weak, strong))
    assert sign * (after - before) > 0


@few
@given(people, st.sampled_from(NAMES))
def test_every_movement_moves_something(identity: Identity, name: str) -> None:
    assume(name != "gaze_down")  # moves the irises, which have no landmarks
    rest = face_geometry(identity, Movements()).landmarks
    acted = face_geometry(identity, replace(Movements(), **{name: 1.0})).landmarks
    assert np.abs(acted - rest).max() > 0.003


def test_the_classes_have_patterns_of_their_own() -> None:
    assert set(PATTERNS) == set(CLASSES)
    assert pattern("neutral", 1) == pattern("anger", 0) == Movements()
    everyone = [movement for variants in PATTERNS.values() for movement in variants]
    assert len(set(everyone)) == len(everyone)
