"""Soft light on a face: a height field of hills and hollows, its normals, and their shading."""

from dataclasses import dataclass

import cv2
import numpy as np

from orsanet_cache.synthetic.canvas import SIZE, UNIT, Field
from orsanet_cache.synthetic.expression import Movements
from orsanet_cache.synthetic.face import FaceGeometry
from orsanet_cache.synthetic.identity import Identity
from orsanet_cache.synthetic.pose import GRID, Grid, bump, grid_axes


@dataclass(frozen=True)
class Light:
    """The lamp's place, strength and warmth.

    x and y point towards the lamp, in units of its distance in front of the face.
    """

    x: float
    y: float
    ambient: float
    strength: float
    warmth: float


def draw_light(rng: np.random.Generator) -> Light:
    return Light(
        x=float(rng.uniform(-1.0, 1.0)),
        y=float(-rng.uniform(0.25, 1.0)),
        ambient=float(rng.uniform(0.34, 0.50)),
        strength=float(rng.uniform(0.46, 0.62)),
        warmth=float(np.clip(rng.normal(0, 0.05), -0.1, 0.1)),
    )


def relief(identity: Identity, movements: Movements, face: FaceGeometry) -> Grid:
    """Return the height of the frontal head's surface, in crop units."""
    x, y = grid_axes()
    middle, tall = 0.5, max(face.chin - 0.5, 0.40) * 1.06
    above = np.where(y < middle, (y - middle) / 0.46, (y - middle) / tall)
    dome = 0.30 * np.sqrt(np.clip(1 - (x / (identity.face_width * 1.08)) ** 2 - above**2, 0.02, 1))
    tip_y = float(face.nose_tip[1])
    cheek = 0.020 + 0.022 * max(movements.cheek_raise, movements.corner_raise) - 0.008 * identity.age
    cheek_y = 0.605 - 0.025 * movements.cheek_raise
    height = dome.astype(np.float32)
    height += bump(0, tip_y + 0.004, 0.034, 0.030, 0.050)
    height += bump(0, tip_y - 0.075, 0.026, 0.095, 0.034)
    for side, eye, nostril in zip((-1, 1), face.eyes, face.nostrils, strict=True):
        eye_x, eye_y = eye.centre
        height += bump(eye_x * 0.93, eye_y - 0.01, 0.070, 0.042, -0.022)
        height += bump(eye_x, eye_y, 0.045, 0.026, 0.012)
        height += bump(eye_x * 0.95, eye_y - 0.065, 0.085, 0.028, 0.012 - 0.004 * identity.feminine)
        height += bump(side * 0.165, cheek_y, 0.075, 0.060, cheek)
        height += bump(nostril[0] * 1.55, nostril[1] - 0.018, 0.022, 0.020, 0.022)
        corner = face.mouth_corners[(side + 1) // 2]
        height += bump(corner[0] * 1.04, corner[1], 0.022, 0.026, -0.008 - 0.006 * movements.corner_raise)
        height += bump(side * 0.045, face.brow_lines[0][0, 1] + 0.01, 0.022, 0.022, 0.014 * movements.brow_lower)
    mouth_y = float(face.mouth[:, 1].mean())
    height += bump(0, mouth_y, 0.095, 0.070, 0.020)
    height += bump(0, face.chin - 0.055, 0.060, 0.040, 0.018 + 0.012 * movements.chin_raise)
    height += bump(0, face.chin - 0.110, 0.075, 0.018, -0.010)
    height += bump(0, 0.27, 0.16, 0.075, 0.012)
    return height


def shading(height: Grid, light: Light) -> tuple[Field, Field]:
    """Return the lit relief's (brightness per channel [3, SIZE, SIZE], gloss [SIZE, SIZE])."""
    scale = UNIT * GRID / SIZE / 8  # Sobel's weights sum to 8
    along = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=scale, borderType=cv2.BORDER_REPLICATE)
    down = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=scale, borderType=cv2.BORDER_REPLICATE)
    steep = np.float32(0.85)
    length = np.sqrt(1 + steep**2 * (along**2 + down**2))
    lamp = np.array([light.x, light.y, 1.15], np.float32)
    lamp /= np.linalg.norm(lamp)
    facing = (lamp[2] - steep * (lamp[0] * along + lamp[1] * down)) / length
    soft = np.clip(facing * 0.72 + 0.28, 0, 1)  # light wraps around skin
    half = lamp + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    towards = np.clip((half[2] - steep * (half[0] * along + half[1] * down)) / length, 0, 1)
    gloss = cv2.pow(towards, 22)
    # Shadows on skin are red, because skin absorbs blue light.
    red, green, blue = (
        cv2.pow(soft, power) * np.float32(light.strength) + np.float32(light.ambient * tint)
        for power, tint in ((0.85, 1.02), (1.05, 0.97), (1.15, 0.96))
    )
    bright = np.stack([cv2.resize(plane, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for plane in (red, green, blue)])
    return bright, cv2.resize(gloss, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
