"""Geometry: outlines of the face's parts and 68 landmarks, from a person and an expression.

The face is frontal; the pose is applied later. As in a photograph, the subject's right is the
picture's left (side -1). iBUG order counts from the picture's left. The LaPa classes "left brow"
and "left eye" are the subject's left, the picture's right (side +1).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.synthetic.canvas import Points, shifted, stroke
from orsanet_cache.synthetic.expression import Movements
from orsanet_cache.synthetic.identity import Identity

SIDES = (-1, 1)


@dataclass(frozen=True)
class Eye:
    """An eye's lids, crease and iris.

    The outline runs from the inner corner over the upper lid to the outer corner and back.
    """

    outline: Points
    upper: Points  # inner to outer
    lower: Points
    crease: Points
    iris: Points  # centre, [2]
    iris_radius: float
    centre: Points  # [2]
    half_width: float


@dataclass(frozen=True)
class FaceGeometry:
    """Outlines, each a polygon [N, 2] unless its comment is `line`.

    Pairs are (subject's right, subject's left).
    """

    outline: Points
    jaw: Points  # line, from ear to ear
    chin: float
    eyes: tuple[Eye, Eye]
    brows: tuple[Points, Points]
    brow_lines: tuple[Points, Points]  # inner to outer
    nose: Points
    nose_tip: Points  # [2]
    wings: tuple[Points, Points]  # lines: the folds around the nostrils
    nostrils: tuple[Points, Points]  # centres, [2]
    upper_lip: Points
    lower_lip: Points
    inner_mouth: Points
    mouth: Points  # the lips' outer outline
    mouth_corners: tuple[Points, Points]  # [2]
    mouth_opening: float
    landmarks: Points  # [68, 2]


def face_geometry(identity: Identity, movements: Movements, lopsided: float = 0.0, gaze: float = 0.0) -> FaceGeometry:
    """Apply the movements to the person's resting face."""
    jaw, outline, chin = _outline(identity, movements)
    eyes = tuple(_eye(identity, movements, side, 1 + 0.15 * side * lopsided, gaze) for side in SIDES)
    brow_lines = tuple(_brow_line(identity, movements, side, 1 + 0.25 * side * lopsided) for side in SIDES)
    thickness = identity.brow_thickness * np.interp(np.linspace(0, 1, 17), [0, 0.25, 0.6, 1], [0.75, 1, 0.85, 0.16])
    nose, bridge, base, wings, nostrils = _nose(identity, movements)
    mouth = _Mouth(identity, movements, lopsided)
    u = np.linspace(-1, 1, 33)
    inner = u[np.abs(u) <= _INNER]
    upper_outer, upper_inner = mouth.upper_outer(u), mouth.upper_inner(inner)
    lower_outer, lower_inner = mouth.lower_outer(u), mouth.lower_inner(inner)
    right_eye, left_eye = (_eye_landmarks(eye) for eye in eyes)
    landmarks = np.concatenate(
        [
            jaw[:: (len(jaw) - 1) // 16],
            brow_lines[0][::-4],
            brow_lines[1][::4],
            bridge,
            base,
            right_eye[[3, 2, 1, 0, 5, 4]],  # 36 is the outer corner: the picture's left
            left_eye[[0, 1, 2, 3, 4, 5]],
            mouth.upper_outer(np.array([-1, -0.6, -0.2, 0, 0.2, 0.6, 1])),
            mouth.lower_outer(np.array([0.58, 0.25, 0, -0.25, -0.58])),
            mouth.upper_inner(np.array([-0.86, -0.32, 0, 0.32, 0.86])),
            mouth.lower_inner(np.array([0.32, 0, -0.32])),
        ]
    )
    return FaceGeometry(
        outline=outline,
        jaw=jaw,
        chin=chin,
        eyes=(eyes[0], eyes[1]),
        brows=(stroke(brow_lines[0], thickness), stroke(brow_lines[1], thickness)),
        brow_lines=(brow_lines[0], brow_lines[1]),
        nose=nose,
        nose_tip=bridge[-1],
        wings=wings,
        nostrils=nostrils,
        upper_lip=np.concatenate([upper_outer, upper_inner[::-1]]),
        lower_lip=np.concatenate([lower_outer, lower_inner[::-1]]),
        inner_mouth=np.concatenate([upper_inner, lower_inner[::-1]]),
        mouth=np.concatenate([upper_outer, lower_outer[::-1]]),
        mouth_corners=(upper_outer[0], upper_outer[-1]),
        mouth_opening=float(mouth.lower_inner(np.zeros(1))[0, 1] - mouth.upper_inner(np.zeros(1))[0, 1]),
        landmarks=landmarks,
    )


def _outline(identity: Identity, movements: Movements) -> tuple[Points, Points, float]:
    """Return the jaw line from ear to ear (65 points), the whole outline, and the chin's height."""
    chin = identity.chin + 0.062 * movements.jaw_drop - 0.006 * movements.chin_raise
    top = 0.10
    ears = identity.eye_height + 0.01
    angle = np.linspace(0, np.pi, 65)
    down = np.sin(angle) ** 0.92
    across = -np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** identity.jaw_square
    width = identity.face_width * (1 - identity.jaw_taper * down**2.5 + 0.03 * np.sin(2 * np.pi * down.clip(0, 0.5)))
    jaw = np.stack([width * across, ears + (chin - ears) * down], axis=1)
    over = np.linspace(0, np.pi, 40)[1:-1]
    skull = np.stack([identity.face_width * np.cos(over) ** 1, ears - (ears - top) * np.sin(over) ** 0.85], axis=1)
    return jaw, np.concatenate([jaw, skull]), chin


def _eye(identity: Identity, movements: Movements, side: int, strength: float, gaze: float) -> Eye:
    centre_y = identity.eye_height
    half = identity.eye_width
    up = identity.eye_opening * (
        1 + strength * (0.62 * movements.lid_raise - 0.30 * movements.lid_tighten - 0.62 * movements.lid_droop)
        - 0.20 * movements.cheek_raise - 0.2 * movements.nose_wrinkle
    )  # fmt: skip
    low = 0.62 * identity.eye_opening * (
        1 + 0.25 * movements.lid_raise - strength * (0.55 * movements.lid_tighten + 0.55 * movements.cheek_raise)
        - 0.25 * movements.nose_wrinkle
    )  # fmt: skip
    up, low = max(up, 0.0065), max(low, -0.004)
    u = np.linspace(-1, 1, 25)  # inner to outer
    x = side * (identity.eye_spacing + half * u)
    # Sad brows lift the inner end of the upper lid; angry brows press it down.
    slant = 0.006 * (movements.brow_inner_raise - movements.brow_outer_raise) - 0.009 * movements.brow_lower
    line = centre_y - identity.eye_tilt * u
    bulge = (1 - np.abs(u) ** 2.2) ** 0.85
    upper = np.stack([x, line - up * bulge + slant * u * bulge], axis=1)
    lower = np.stack([x, line + low * (1 - u**2) * (1 + 0.15 * u)], axis=1)
    crease_y = line - (up + 0.010 + 0.008 * (1 - movements.brow_lower)) * (1 - np.abs(u) ** 3) ** 0.6
    crease = np.stack([x * 1.0, crease_y + slant * u * 1.3], axis=1)
    radius = 0.0265
    centre = np.array([side * identity.eye_spacing, centre_y])
    iris = shifted(centre, 0.016 * gaze, -0.004 + 0.012 * movements.gaze_down)
    return Eye(np.concatenate([upper, lower[::-1]]), upper, lower, crease[2:-1], iris, radius, centre, half)


def _eye_landmarks(eye: Eye) -> Points:
    """Return inner corner, upper inner, upper outer, outer corner, lower outer, lower inner."""
    return np.stack([eye.upper[0], eye.upper[8], eye.upper[16], eye.upper[-1], eye.lower[16], eye.lower[8]])


def _brow_line(identity: Identity, movements: Movements, side: int, strength: float) -> Points:
    """Return 17 points along the middle of a brow, inner to outer."""
    v = np.linspace(0, 1, 17)
    inner, outer = 0.052 - 0.014 * movements.brow_lower, identity.eye_spacing + identity.eye_width * 1.32
    x = side * (inner + (outer - inner) * v)
    y = identity.eye_height - identity.brow_distance - identity.brow_arch * np.sin(np.pi * v**0.8) * 1.2 + 0.012 * v
    y = y - strength * (
        0.040 * movements.brow_inner_raise * (1 - v) ** 1.4
        + 0.044 * movements.brow_outer_raise * np.sin(np.pi * np.clip(0.12 + 0.72 * v, 0, 1)) ** 0.8
    )
    y = y + strength * movements.brow_lower * (0.036 * (1 - v) ** 1.2 + 0.010 * np.sin(np.pi * v) - 0.006 * v)
    y = y + 0.008 * movements.nose_wrinkle * (1 - v) + 0.004 * movements.cheek_raise * v
    return np.stack([x, y], axis=1)


def _nose(
    identity: Identity, movements: Movements
) -> tuple[Points, Points, Points, tuple[Points, Points], tuple[Points, Points]]:
    """Return outline, bridge (landmarks 27 … 30), base (31 … 35), wing folds, nostril centres."""
    lift = 0.017 * movements.nose_wrinkle + 0.004 * movements.upper_lip_raise
    width = identity.nose_width * (1 + 0.14 * movements.nose_wrinkle + 0.08 * movements.corner_raise)
    top, tip = identity.eye_height - 0.008, identity.nose_tip - 0.5 * lift
    base_y = identity.nose_tip + 0.030 - lift
    bridge = np.stack([np.zeros(4), np.linspace(top, tip, 4)], axis=1)
    base_x = width * np.array([-0.62, -0.32, 0, 0.32, 0.62])
    base = np.stack([base_x, base_y + np.array([-0.004, 0.002, 0.006, 0.002, -0.004])], axis=1)
    half = np.array(
        [
            (identity.nose_bridge * 0.85, top - 0.012), (identity.nose_bridge * 0.9, top + 0.05),
            (identity.nose_bridge * 1.15, tip - 0.055), (width * 0.75, tip - 0.030 - 0.2 * lift),
            (width, base_y - 0.026), (width * 0.98, base_y - 0.010), (width * 0.74, base_y + 0.005),
            (width * 0.34, base_y + 0.009), (0.0, base_y + 0.013),
        ]
    )  # fmt: skip
    outline = np.concatenate([half, half[-2::-1] * (-1, 1)])
    fold = np.array(
        [
            (width * 0.86, tip - 0.030),
            (width * 1.04, base_y - 0.028),
            (width * 1.03, base_y - 0.008),
            (width * 0.78, base_y + 0.004),
        ]
    )
    nostril = np.array([width * 0.46, base_y - 0.001])
    return outline, bridge, base, (fold * (-1, 1), fold), (nostril * (-1, 1), nostril)


_INNER = 0.88  # position u at which the lips part


class _Mouth:
    """The four lip lines as functions of u, -1 at the picture's left corner … 1 at its right."""

    def __init__(self, identity: Identity, movements: Movements, lopsided: float) -> None:
        m = movements
        self.half = identity.mouth_width * (
            1 + 0.30 * m.corner_raise + 0.24 * m.lip_stretch - 0.34 * m.lip_pucker - 0.07 * m.jaw_drop
            - 0.04 * m.lip_tighten - 0.05 * m.corner_lower
        )  # fmt: skip
        self.middle = identity.mouth_height + 0.004 * m.jaw_drop
        corners = 0.040 * m.corner_raise - 0.033 * m.corner_lower - 0.012 * m.jaw_drop + 0.006 * m.upper_lip_raise
        self.corner = {side: self.middle - corners * (1 + 0.3 * side * lopsided) for side in SIDES}
        self.centre_lift = 0.021 * m.upper_lip_raise + 0.012 * m.chin_raise - 0.006 * m.corner_raise
        self.lopsided = lopsided * m.upper_lip_raise
        self.gap_up = 0.013 * m.lip_part + 0.004 * m.jaw_drop + 0.008 * m.lip_part * m.upper_lip_raise
        self.gap_low = 0.015 * m.lip_part + 0.078 * m.jaw_drop
        thin = (
            (1 - 0.62 * m.lip_tighten)
            * (1 - 0.18 * m.corner_raise)
            * (1 - 0.15 * m.lip_stretch)
            * (1 + 0.2 * m.lip_pucker)
        )
        self.upper_thickness = identity.upper_lip * thin * (1 - 0.15 * m.upper_lip_raise)
        self.lower_thickness = identity.lower_lip * thin * (1 - 0.1 * m.jaw_drop) * (1 + 0.2 * m.chin_raise)

    def _line(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        corner = np.where(u < 0, self.corner[-1], self.corner[1])
        lift = self.centre_lift * (1 - u**2) * (1 + 0.35 * np.sign(u) * self.lopsided * np.abs(u))
        return self.middle + (corner - self.middle) * np.abs(u) ** 1.6 - lift

    def _gap(self, u: NDArray[np.float64], power: float) -> NDArray[np.float64]:
        return np.clip(1 - (u / _INNER) ** 2, 0, 1) ** power

    def upper_inner(self, u: NDArray[np.float64]) -> Points:
        return np.stack([self.half * u, self._line(u) - self.gap_up * self._gap(u, 0.6)], axis=1)

    def lower_inner(self, u: NDArray[np.float64]) -> Points:
        return np.stack([self.half * u, self._line(u) + self.gap_low * self._gap(u, 0.7)], axis=1)

    def upper_outer(self, u: NDArray[np.float64]) -> Points:
        bow = 1 - 0.22 * np.exp(-((u / 0.10) ** 2)) + 0.14 * np.exp(-(((np.abs(u) - 0.24) / 0.16) ** 2))
        inner = self.upper_inner(u)
        inner[:, 1] -= self.upper_thickness * (1 - np.abs(u) ** 1.7) * bow
        return inner

    def lower_outer(self, u: NDArray[np.float64]) -> Points:
        inner = self.lower_inner(u)
        inner[:, 1] += self.lower_thickness * (1 - np.abs(u) ** 2.2) ** 0.9
        return inner
