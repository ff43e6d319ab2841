"""The pose carries points and pictures to the same places."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orsanet_cache.synthetic.canvas import SIZE, pixels
from orsanet_cache.synthetic.expression import Movements
from orsanet_cache.synthetic.face import face_geometry
from orsanet_cache.synthetic.identity import draw_identity
from orsanet_cache.synthetic.pose import Pose, depth, draw_pose, project, sampled, sampling

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=30)
@given(seeds, seeds)
def test_sampling_undoes_projection(person: int, turn: int) -> None:
    """Where a landmark lands, the picture shows the place of the canvas the landmark came from: within a pixel of 224."""
    face = face_geometry(draw_identity(np.random.default_rng(person)), Movements())
    depths, pose = depth(face), draw_pose(np.random.default_rng(turn))
    places = sampling(depths, pose)
    coordinates = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE))).astype(np.float32)
    landed = project(face.landmarks, depths, pose) + np.array([0.5, 0])
    inside = ((landed > 0.02) & (landed < 0.98)).all(axis=1)
    columns, rows = np.floor(landed[inside] * 224).astype(int).T
    seen = sampled(coordinates, places, 224)[:, rows, columns].T
    assert np.abs(seen - pixels(face.landmarks[inside])).max() < 2.2  # canvas pixels; half a picture pixel is rounding


def test_a_head_turned_to_the_right_shows_its_nose_right_of_the_middle_of_its_jaw() -> None:
    face = face_geometry(draw_identity(np.random.default_rng(0)), Movements())
    for yaw in (-0.3, 0.3):
        points = project(face.landmarks, depth(face), Pose(yaw=yaw))
        assert np.sign(points[30, 0] - points[[0, 16], 0].mean()) == np.sign(yaw)


def test_no_pose_moves_nothing() -> None:
    face = face_geometry(draw_identity(np.random.default_rng(1)), Movements())
    np.testing.assert_allclose(project(face.landmarks, depth(face), Pose()), face.landmarks, atol=1e-9)
