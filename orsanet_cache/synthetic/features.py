"""The features of a face, painted on the lit skin: nose, eyes, brows, mouth.

Each function also labels the pixels of its feature.
"""

import numpy as np

from orsanet_cache.synthetic.canvas import (
    SIZE,
    Canvas,
    Field,
    Points,
    ellipse,
    lit,
    patch,
    pixels,
    shifted,
    spline,
    stroke,
)
from orsanet_cache.synthetic.expression import Movements
from orsanet_cache.synthetic.face import SIDES, Eye, FaceGeometry
from orsanet_cache.synthetic.identity import Identity
from orsanet_cache.synthetic.light import Light

# LaPa classes; left is the subject's left, the picture's right.
NOSE, UPPER_LIP, INNER_MOUTH, LOWER_LIP = 6, 7, 8, 9
BROWS, EYES = (3, 2), (5, 4)  # by side: (picture's left, picture's right)

TEETH = (0.93, 0.90, 0.84)


def paint_nose(canvas: Canvas, face: FaceGeometry) -> None:
    """Paint shaded flanks, wings, nostrils and a light on the tip. The relief shades the rest."""
    deep = (0.60, 0.45, 0.42)
    under = np.array([face.wings[0][-1], (0, face.landmarks[33, 1] + 0.010), face.wings[1][-1]])
    canvas.darken(patch(stroke(spline(under), 0.020, taper=0.8), blur=0.009, opacity=0.55), deep)
    for side, wing, nostril in zip(SIDES, face.wings, face.nostrils, strict=True):
        canvas.darken(patch(stroke(spline(wing), 0.009, taper=0.9), blur=0.004, opacity=0.7), deep)
        canvas.darken(
            patch(ellipse(nostril[0], nostril[1] + 0.001, 0.0155, 0.0075), blur=0.003, opacity=0.92), (0.28, 0.16, 0.14)
        )
        flank = stroke(
            np.array(
                [
                    (side * 0.030, face.landmarks[27, 1]),
                    (side * 0.034, face.nose_tip[1] - 0.05),
                    (side * 0.045, face.nose_tip[1] - 0.015),
                ]
            ),
            0.022,
        )
        canvas.darken(patch(flank, blur=0.011, opacity=0.22), deep)
    canvas.darken(
        patch(ellipse(0, face.nose_tip[1] - 0.004, 0.012, 0.012), blur=0.008, opacity=0.7), (1.13, 1.13, 1.13)
    )
    area = patch(face.nose)
    canvas.labels[area.rows, area.columns][area.cover > 0.5] = NOSE


def paint_eye(canvas: Canvas, identity: Identity, eye: Eye, bright: Field, light: Light, label: int) -> None:
    """Paint one eye with its crease, iris, lid and lashes.

    Args:
        canvas: The canvas to paint on.
        identity: The person, for colours and lashes.
        eye: The eye's geometry.
        bright: Brightness of the skin [3, SIZE, SIZE].
        light: The lamp, for the iris and its gleam.
        label: LaPa class of the eye.
    """
    shape = eye.outline
    lash = np.array(identity.hair) * 0.25
    crease = stroke(eye.crease, 0.007, taper=1)
    canvas.darken(patch(crease, blur=0.0025, opacity=0.75), (0.55, 0.42, 0.40))
    white = lit((0.94, 0.92, 0.90), np.minimum(bright, 1))
    canvas.paint(shape, white, label=label)
    pink = ellipse(eye.upper[0, 0], eye.upper[0, 1], 0.010, 0.008)
    canvas.paint(pink, (0.80, 0.52, 0.48), blur=0.003, within=shape, opacity=0.8)
    x, y = eye.iris
    radius = eye.iris_radius
    level = light.ambient + 0.6 * light.strength
    iris = np.array(identity.iris) * level
    canvas.paint(ellipse(x, y, radius * 1.06, radius * 1.06), iris * 0.35, within=shape, blur=0.0015)
    canvas.paint(ellipse(x, y, radius * 0.86, radius * 0.86), iris, within=shape, blur=0.003)
    canvas.paint(
        ellipse(x, y + radius * 0.42, radius * 0.62, radius * 0.40),
        np.clip(iris * 1.7, 0, 1),
        within=shape,
        blur=0.004,
        opacity=0.7,
    )
    canvas.paint(ellipse(x, y, radius * 0.42, radius * 0.42), (0.02, 0.02, 0.025), within=shape, blur=0.0015)
    # The upper lid shades the eyeball below it.
    shade = np.concatenate([eye.upper - (0, 0.01), (shifted(eye.upper, 0, 0.008))[::-1]])
    canvas.darken(patch(shade, blur=0.005, within=shape, opacity=0.65), (0.42, 0.38, 0.40))
    gleam = x + radius * 0.36 * np.sign(light.x + 1e-6), y - radius * 0.36
    canvas.paint(ellipse(gleam[0], gleam[1], 0.0062, 0.0062), (1, 1, 1), within=shape, blur=0.0012, opacity=0.95)
    canvas.paint(
        ellipse(x - radius * 0.3, y + radius * 0.4, 0.0035, 0.0035), (1, 1, 1), within=shape, blur=0.0015, opacity=0.5
    )
    canvas.darken(
        patch(stroke(shifted(eye.lower, 0, 0.002), 0.005, taper=0.6), blur=0.002, opacity=0.65), (0.50, 0.36, 0.34)
    )
    thickness = (0.0065 + 0.0055 * identity.feminine) * (0.55 + 0.45 * np.linspace(0, 1, len(eye.upper)))
    lid = stroke(eye.upper - (0, 0.0015), thickness)
    canvas.paint(lid, lash, opacity=0.92, blur=0.0009)
    if identity.feminine > 0.6:
        outer, side = eye.upper[-1], np.sign(eye.centre[0])
        wing = stroke(np.array([eye.upper[-4], outer, shifted(outer, side * 0.016, -0.010)]), [0.008, 0.008, 0.001])
        canvas.paint(wing, lash, opacity=0.85, blur=0.001)


def paint_brow(canvas: Canvas, identity: Identity, face: FaceGeometry, side: int, bright: Field) -> None:
    """Paint one brow with its hairs.

    Args:
        canvas: The canvas to paint on.
        identity: The person, for colour, thickness and hairs.
        face: The face's geometry.
        side: Index of the brow: 0 is the picture's left, 1 its right.
        bright: Brightness of the skin [3, SIZE, SIZE].
    """
    line, shape = face.brow_lines[side], face.brows[side]
    x, y = line[len(line) // 2]
    row, column = (int(value) for value in np.clip(pixels(np.array([x, y])), 0, SIZE - 1)[::-1])
    colour = np.array(identity.brow) * bright[:, row, column] * 0.8
    canvas.fill(patch(shape, blur=0.003, opacity=0.72), colour)
    rng = np.random.default_rng(identity.texture + 5 + side)
    at = np.linspace(0, len(line) - 2, 15)
    root = np.stack([np.interp(at, np.arange(len(line)), line[:, axis]) for axis in (0, 1)], axis=1)
    reach = identity.brow_thickness * np.interp(at, [0, 4, 16], [0.8, 0.95, 0.35])
    lean = np.interp(at, [0, 5, 16], [0.15, 0.8, 1.4]) + 0.15 * rng.normal(size=len(at))
    fall = line[-1, 1] - line[0, 1]
    end = root + np.stack([SIDES[side] * lean * reach * 0.7, -0.5 * reach + 0.25 * fall * lean], axis=1)
    foot = root + np.stack([np.full(len(at), -0.003 * SIDES[side]), 0.5 * reach], axis=1)
    # Each hair is a thin, nearly upright quadrilateral; its width is horizontal.
    hairs = list(
        np.stack(
            [foot - (0.0025, 0), end - (0.0008, 0), end + np.array([0.0008, 0]), foot + np.array([0.0025, 0])], axis=1
        )
    )
    canvas.fill(patch(hairs, opacity=0.75), colour * 0.75)
    area = patch(shape)
    canvas.labels[area.rows, area.columns][area.cover > 0.5] = BROWS[side]


def paint_mouth(canvas: Canvas, identity: Identity, m: Movements, face: FaceGeometry, bright: Field) -> None:
    """Paint lips, and teeth and tongue if the mouth is open.

    Args:
        canvas: The canvas to paint on.
        identity: The person, for colours and sizes.
        m: The movements, which determine the visible teeth.
        face: The face's geometry.
        bright: Brightness of the skin [3, SIZE, SIZE].
    """
    mouth, inner = face.mouth, face.inner_mouth
    lips = lit(identity.lips, bright)
    canvas.darken(patch(shifted(mouth, 0, 0.012), blur=0.010, opacity=0.35), (0.62, 0.5, 0.48))
    canvas.paint(mouth, lips * np.float32(0.9), blur=0.0015)
    upper = patch(face.upper_lip)
    canvas.darken(patch(face.upper_lip, blur=0.002, within=mouth, opacity=0.55), (0.78, 0.70, 0.70))
    lower_middle = face.lower_lip[: len(face.lower_lip) // 2]
    shine = ellipse(
        0,
        lower_middle[len(lower_middle) // 2, 1] - 0.4 * identity.lower_lip,
        identity.mouth_width * 0.42,
        identity.lower_lip * 0.22,
    )
    canvas.paint(
        shine, np.clip(lips * np.float32(1.25) + np.float32(0.10), 0, 1), blur=0.006, within=face.lower_lip, opacity=0.6
    )
    canvas.labels[upper.rows, upper.columns][upper.cover > 0.5] = UPPER_LIP
    lower = patch(face.lower_lip)
    canvas.labels[lower.rows, lower.columns][lower.cover > 0.5] = LOWER_LIP
    opening = face.mouth_opening
    if opening > 0.004:
        _inside(canvas, m, inner, opening)
    half = len(inner) // 2
    line = (inner[:half] + inner[: half - 1 : -1]) / 2 if opening <= 0.004 else inner[:half]
    canvas.darken(
        patch(stroke(line, 0.007 if opening <= 0.004 else 0.004, taper=0.5), blur=0.0018, opacity=0.85),
        (0.30, 0.18, 0.18),
    )
    for corner in face.mouth_corners:
        canvas.darken(patch(ellipse(corner[0], corner[1], 0.010, 0.008), blur=0.005, opacity=0.6), (0.5, 0.38, 0.36))


def _inside(canvas: Canvas, m: Movements, inner: Points, opening: float) -> None:
    """Paint the inside of the open mouth, tongue and teeth."""
    half = len(inner) // 2
    top, bottom = inner[:half], inner[half:][::-1]
    canvas.paint(inner, (0.16, 0.045, 0.05), label=INNER_MOUTH)
    middle = half // 2
    if opening > 0.045:
        tongue = ellipse(0, bottom[middle, 1] + 0.008, 0.050, min(0.045, 0.45 * opening))
        canvas.paint(tongue, (0.66, 0.27, 0.27), blur=0.006, within=inner, opacity=0.9)
        canvas.darken(
            patch(
                stroke(np.array([(0, bottom[middle, 1] - 0.30 * opening), (0, bottom[middle, 1])]), 0.008),
                blur=0.004,
                within=inner,
                opacity=0.5,
            ),
            (0.6, 0.5, 0.5),
        )
    shown = np.clip(
        0.35 + 0.55 * m.corner_raise + 0.4 * m.upper_lip_raise + 0.3 * m.lip_stretch - 0.5 * m.lip_pucker, 0.12, 1
    )
    height = min(0.030, 0.80 * opening) * shown
    _teeth(canvas, top, height, inner)
    if opening > 0.012 and m.lip_stretch + m.upper_lip_raise > 0.35 and m.corner_raise < 0.4:
        _teeth(canvas, bottom, -min(0.016, 0.40 * opening) * min(1.0, m.lip_stretch + m.upper_lip_raise), inner)
    rim = stroke(shifted(inner[:half], 0, 0.003), 0.010)
    canvas.darken(patch(rim, blur=0.004, within=inner, opacity=0.7), (0.45, 0.36, 0.36))
    canvas.darken(
        patch(stroke(np.concatenate([inner, inner[:1]]), 0.006), blur=0.003, within=inner, opacity=0.6), (0.5, 0.4, 0.4)
    )


def _teeth(canvas: Canvas, edge: Points, height: float, inner: Points) -> None:
    """Paint a row of teeth along an edge of the mouth; a negative height is for lower teeth."""
    narrow = edge * (0.86, 1)
    bulge = np.sqrt(np.clip(1 - np.linspace(-1, 1, len(edge)) ** 4, 0, 1))[:, None]
    row = np.concatenate([narrow - (0, 0.02 * np.sign(height)), (narrow + (0, height) * bulge)[::-1]])
    canvas.paint(row, TEETH, blur=0.0018, within=inner)
    gaps = []
    for x in np.linspace(-0.066, 0.066, 7):
        y = float(np.interp(x, edge[:, 0], edge[:, 1]))
        gaps.append(stroke(np.array([(x, y), (x, y + height)]), 0.003))
    canvas.darken(patch(gaps, within=inner, opacity=0.30), (0.55, 0.5, 0.48))
    sides = np.concatenate([edge[: len(edge) // 4], shifted(edge[: len(edge) // 4][::-1], 0, height)])
    canvas.darken(patch([sides, sides * (-1, 1)], blur=0.010, within=inner, opacity=0.55), (0.5, 0.44, 0.42))
