"""The pose: one smooth warp of the frontal drawing for picture, map and landmarks.

A point at depth d moves by d · (sin yaw, sin pitch). Then the plane is turned, scaled and shifted.
Depth is a smooth dome with the nose on it. So the far side of a turned face narrows and the nose
moves across it, as on a real head.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from orsanet_cache.synthetic.canvas import MARGIN, SIZE, UNIT, Points, shifted
from orsanet_cache.synthetic.face import FaceGeometry

GRID = SIZE // 2  # half the canvas's resolution is enough, because depth and light are smooth
PIVOT = np.array([0.0, 0.52])
_SOLVER_STEPS = 4
_SOLVER_SIZE = 80

Grid = NDArray[np.float32]  # [GRID, GRID]
_CENTRES = (np.arange(_SOLVER_SIZE) + 0.5) / _SOLVER_SIZE
_PLACES = np.stack(np.meshgrid(_CENTRES - 0.5, _CENTRES), axis=-1)
_X = ((np.arange(GRID) + 0.5) / GRID * SIZE / UNIT - MARGIN - 0.5).astype(np.float32)
_Y = ((np.arange(GRID) + 0.5) / GRID * SIZE / UNIT - MARGIN).astype(np.float32)


@dataclass(frozen=True)
class Pose:
    """Angles in radians. A positive yaw turns the nose to the picture's right, a pitch down."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)


def draw_pose(rng: np.random.Generator) -> Pose:
    """Return a random pose, mostly frontal, like those of detected faces."""
    yaw, pitch, roll = np.clip(rng.normal(size=3), -2, 2) * np.radians([13, 5, 5])
    shift = np.clip(rng.normal(size=2), -2, 2) * 0.012
    return Pose(
        float(yaw), float(pitch), float(roll), float(rng.uniform(0.97, 1.13)), (float(shift[0]), float(shift[1]))
    )


def bump(x: float, y: float, radius_x: float, radius_y: float, height: float) -> Grid:
    """Return a Gaussian hill [GRID, GRID] on the half-size grid.

    Args:
        x: Centre, in crop units.
        y: Centre, in crop units.
        radius_x: Horizontal distance at which the hill has 1/e of its height, in crop units.
        radius_y: The same distance, vertically.
        height: Height at the centre.
    """
    rows = np.exp(-(((_Y - np.float32(y)) / np.float32(radius_y)) ** 2))
    columns = np.exp(-(((_X - np.float32(x)) / np.float32(radius_x)) ** 2))
    return np.float32(height) * rows[:, None] * columns[None]


def grid_axes() -> tuple[Grid, Grid]:
    """Return x [1, GRID] and y [GRID, 1] of the half-size grid, in crop units."""
    return _X[None], _Y[:, None]


def depth(face: FaceGeometry) -> Grid:
    """Return the frontal drawing's depth towards the camera [GRID, GRID], in crop units."""
    nose_x, nose_y = face.nose_tip
    return (
        bump(0, 0.50, 0.34, 0.50, 0.24)
        + bump(nose_x, nose_y, 0.055, 0.055, 0.050)
        + bump(nose_x, nose_y - 0.09, 0.045, 0.09, 0.025)
    )


def project(points: Points, depths: Grid, pose: Pose) -> Points:
    """Frontal points [N, 2] -> their places in the picture, in crop units, x from -0.5 to 0.5."""
    cells = ((shifted(points, 0.5 + MARGIN, MARGIN)) * UNIT * GRID / SIZE - 0.5).astype(np.float32)
    at = cv2.remap(depths, cells[:, None, 0], cells[:, None, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    moved = points + at.reshape(-1, 1) * _direction(pose) - PIVOT
    return pose.scale * moved @ _turn(pose).T + PIVOT + pose.shift


def sampling(depths: Grid, pose: Pose) -> NDArray[np.float32]:
    """Return the inverse of `project`: canvas pixels [80, 80, 2] for places of the picture."""
    start = ((_PLACES - PIVOT - pose.shift) @ _turn(pose) / pose.scale + PIVOT).astype(np.float32)
    direction = _direction(pose).astype(np.float32)
    found = start
    to_cells = np.float32(UNIT * GRID / SIZE)
    for _ in range(_SOLVER_STEPS):  # a contraction: each step at least halves the error
        cells = (found + np.array([0.5 + MARGIN, MARGIN], np.float32)) * to_cells - np.float32(0.5)
        at = cv2.remap(depths, cells[..., 0], cells[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        found = start - at[..., None].astype(np.float32) * direction
    return (found + np.array([0.5 + MARGIN, MARGIN], np.float32)) * np.float32(UNIT) - np.float32(0.5)


def sampled(source: NDArray[Any], places: NDArray[np.float32], size: int, nearest: bool = False) -> NDArray[Any]:
    """Sample the canvas `source`, [SIZE, SIZE] or [3, SIZE, SIZE], at `places` (see `sampling`).

    Returns a picture `size` pixels wide and high.
    """
    grid = cv2.resize(places, (size, size), interpolation=cv2.INTER_LINEAR)
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    planes = source if source.ndim == 3 else source[None]
    seen = [cv2.remap(plane, grid[..., 0], grid[..., 1], how, borderMode=cv2.BORDER_REPLICATE) for plane in planes]
    return np.stack(seen) if source.ndim == 3 else seen[0]


def _direction(pose: Pose) -> Points:
    return np.sin([pose.yaw, pose.pitch])


def _turn(pose: Pose) -> Points:
    cosine, sine = np.cos(pose.roll), np.sin(pose.roll)
    return np.array([[cosine, -sine], [sine, cosine]])
