"""Paints the frontal head: neck, skin under light, lines of age and movement, features, hair.

All parts are painted from back to front on one canvas. Each part is labelled when it is painted, so
the map has the visible parts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from orsanet_cache.synthetic.canvas import Canvas, Field, Points, ellipse, lit, patch, shifted, spline, stroke
from orsanet_cache.synthetic.expression import Expression, Movements
from orsanet_cache.synthetic.face import SIDES, FaceGeometry, face_geometry
from orsanet_cache.synthetic.features import EYES, paint_brow, paint_eye, paint_mouth, paint_nose
from orsanet_cache.synthetic.hair import paint_behind, paint_front, strands
from orsanet_cache.synthetic.identity import Identity
from orsanet_cache.synthetic.light import Light, relief, shading
from orsanet_cache.synthetic.pose import Grid, depth

FACE = 1  # LaPa class


@dataclass(frozen=True)
class Head:
    """A painted frontal head, with its data for occluders and pose."""

    canvas: Canvas
    face: FaceGeometry
    depth: Grid
    bright: Field  # [3, SIZE, SIZE]
    identity: Identity


def paint_head(identity: Identity, expression: Expression, light: Light) -> Head:
    """Paint a frontal head without occluders on a transparent background."""
    movements = expression.movements
    face = face_geometry(identity, movements, expression.lopsided, expression.gaze)
    bright, gloss = shading(relief(identity, movements, face), light)
    skin = lit(identity.skin, bright) + np.float32(0.16 * (1 - 0.4 * identity.age)) * gloss
    canvas = Canvas()
    hair = strands(identity, light) if identity.hair_style != "bald" else skin  # unused if bald
    paint_behind(canvas, identity, hair)
    _neck(canvas, identity, face, light)
    canvas.paint(face.outline, skin, label=FACE)
    _complexion(canvas, identity, movements, face)
    _creases(canvas, identity, movements, face)
    paint_nose(canvas, face)
    for eye, label in zip(face.eyes, EYES, strict=True):
        paint_eye(canvas, identity, eye, bright, light, label)
    for side in (0, 1):
        paint_brow(canvas, identity, face, side, bright)
    paint_mouth(canvas, identity, movements, face, bright)
    paint_front(canvas, identity, face, hair)
    return Head(canvas, face, depth(face), bright, identity)


def _neck(canvas: Canvas, identity: Identity, face: FaceGeometry, light: Light) -> None:
    width = identity.face_width
    level = light.ambient + 0.45 * light.strength
    skin = np.array(identity.skin) * level * (1.0, 0.95, 0.93)
    for side in SIDES if identity.hair_style not in ("long", "bob") else ():
        ear = ellipse(side * width * 1.015, identity.eye_height + 0.065, 0.036, 0.070, 2.2)
        canvas.paint(ear, skin * 1.02, label=0)
        canvas.paint(
            ellipse(side * width * 1.03, identity.eye_height + 0.06, 0.016, 0.040), skin * 0.62, blur=0.008, opacity=0.8
        )
    half = width * (0.66 - 0.10 * identity.feminine)
    neck = spline(
        [
            (-half, 0.70),
            (-half * 0.97, 0.93),
            (-half * 1.25, 1.02),
            (-0.75, 1.16),
            (0.75, 1.16),
            (half * 1.25, 1.02),
            (half * 0.97, 0.93),
            (half, 0.70),
        ]
    )
    canvas.paint(neck, skin, label=0)
    sides = [stroke(neck[:24], 0.06), stroke(neck[-24:], 0.06)]
    canvas.darken(patch(sides, blur=0.02, within=neck, opacity=0.5), (0.6, 0.55, 0.55))
    shadow = shifted(face.jaw, -0.03 * light.x, 0.045)
    canvas.darken(patch(shadow, blur=0.022, within=neck, opacity=0.9), (0.50, 0.43, 0.42))
    collar = spline(
        [
            (-0.80, 1.02),
            (-half * 1.5, 1.005),
            (-half * 0.8, 1.055),
            (0, 1.09),
            (half * 0.8, 1.055),
            (half * 1.5, 1.005),
            (0.80, 1.02),
        ]
    )
    clothes = np.concatenate([collar, [(0.80, 1.3), (-0.80, 1.3)]])
    canvas.darken(patch(stroke(collar - (0, 0.004), 0.02), blur=0.008, within=neck, opacity=0.5), (0.5, 0.5, 0.5))
    canvas.paint(clothes, np.array(identity.clothes) * level, label=0)


def _complexion(canvas: Canvas, identity: Identity, movements: Movements, face: FaceGeometry) -> None:
    """Paint warm cheeks and nose, shaded sockets, stubble, freckles, rings under the eyes."""
    outline = face.outline
    cheeks = [ellipse(side * 0.165, 0.60 - 0.02 * movements.cheek_raise, 0.075, 0.05) for side in SIDES]
    canvas.darken(patch(cheeks, blur=0.03, within=outline, opacity=0.5 + 0.3 * identity.feminine), (1.03, 0.86, 0.86))
    sockets = [ellipse(eye.centre[0] * 0.9, eye.centre[1] - 0.022, eye.half_width * 1.1, 0.024) for eye in face.eyes]
    canvas.darken(patch(sockets, blur=0.016, opacity=0.42), (0.72, 0.62, 0.62))
    bags = [stroke(shifted(eye.lower, 0, 0.016 + 0.004 * identity.age), 0.012, taper=1) for eye in face.eyes]
    canvas.darken(patch(bags, blur=0.005, opacity=0.12 + 0.4 * identity.age), (0.72, 0.62, 0.62))
    canvas.darken(patch(ellipse(0, face.nose_tip[1], 0.05, 0.035), blur=0.02, opacity=0.5), (1.03, 0.88, 0.87))
    if identity.stubble > 0.02:
        beard = np.concatenate(
            [face.jaw[6:-6], [(0.19, 0.68), (0.10, 0.655), (0, 0.662), (-0.10, 0.655), (-0.19, 0.68)]]
        )
        canvas.darken(
            patch(beard, blur=0.022, within=outline, opacity=min(0.75, 0.75 * identity.stubble)), (0.66, 0.66, 0.70)
        )
    if identity.freckles > 0.05:
        rng = np.random.default_rng(identity.texture + 3)
        places = np.clip(rng.normal(size=(5 + int(40 * identity.freckles), 2)), -2, 2) * (0.10, 0.03) + (0, 0.57)
        canvas.darken(patch([ellipse(x, y, 0.0035, 0.003) for x, y in places], opacity=0.35), (0.75, 0.6, 0.5))


def _creases(canvas: Canvas, identity: Identity, m: Movements, face: FaceGeometry) -> None:
    """Paint the lines of age and of movements."""
    age = identity.age

    def crease(amount: float, width: float, *lines: ArrayLike) -> None:
        if amount > 0.04:
            smooth = [spline(points, 5) for points in lines]
            deep = patch(
                [stroke(line, width, taper=0.9) for line in smooth], 0.0028, face.outline, 0.55 * min(1.0, amount)
            )
            lit = patch(
                [stroke(line - (0, width * 0.9), width, taper=0.9) for line in smooth],
                0.004,
                face.outline,
                0.4 * min(1.0, amount),
            )
            canvas.darken(deep, (0.62, 0.48, 0.45))
            canvas.darken(lit, (1.13, 1.12, 1.12))

    raised = max(m.brow_inner_raise, m.brow_outer_raise)
    wide = 0.15 if m.brow_outer_raise > 0.3 else 0.085
    wave = np.array([(-1, 0.006), (-0.5, -0.003), (0, 0.002), (0.5, -0.003), (1, 0.006)]) * (wide, 1)
    rows = [shifted(wave, 0, 0.262 + 0.030 * row - 0.008 * raised) for row in range(3)]
    crease(raised * (0.45 + 0.6 * age) + 0.35 * max(0, age - 0.4), 0.007, *rows)
    brow_y, eye_y = face.brow_lines[0][0, 1], identity.eye_height
    mirror = np.array([-1, 1])
    frown = np.array([(0.020, brow_y - 0.030), (0.017, brow_y), (0.021, brow_y + 0.022)])
    crease(m.brow_lower * 1.1 + 0.2 * age - 0.1, 0.008, frown, frown * mirror)
    folds: list[Points] = []
    hooks: list[Points] = []
    for side in SIDES:
        low = face.mouth_corners[(side + 1) // 2]
        top = np.array([side * identity.nose_width * 1.12, face.nostrils[0][1] - 0.028])
        bend = (side * (identity.nose_width + 0.052), (top[1] + low[1]) / 2 + 0.006)
        folds.append(np.array([top, bend, shifted(low, side * 0.030, 0.012)]))
        hooks.append(low + np.array([(0.004, 0.004), (0.012, 0.030), (0.010, 0.052)]) * (side, 1))
    crease(max(m.corner_raise * 0.95, m.nose_wrinkle, m.upper_lip_raise * 0.9) + 0.4 * age - 0.1, 0.011, *folds)
    crease(m.corner_lower * 0.8 + 0.5 * max(0, age - 0.4), 0.009, *hooks)
    eye_x = identity.eye_spacing + identity.eye_width * 1.12
    feet = [
        np.array([(eye_x, eye_y + tilt * 0.5), (eye_x + 0.02, eye_y + tilt), (eye_x + 0.036, eye_y + tilt * 1.8)])
        for tilt in (-0.014, 0.004, 0.022)
    ]
    crease(m.cheek_raise * (0.3 + 0.7 * age) + 0.5 * max(0, age - 0.5), 0.005, *feet, *(foot * mirror for foot in feet))
    root = [
        np.array([(0.008, eye_y + 0.025), (0.030, eye_y + 0.012), (0.044, eye_y + 0.028)]),
        np.array([(0.014, eye_y + 0.055), (0.034, eye_y + 0.045)]),
    ]
    across = [(-0.04, identity.nose_tip - 0.188), (0.04, identity.nose_tip - 0.188)]
    crease(m.nose_wrinkle, 0.008, *root, *(line * mirror for line in root), across)
    under = identity.eye_spacing + np.array([-0.05, 0, 0.05])
    pouch = np.stack([under, eye_y + np.array([0.045, 0.052, 0.036])], axis=1)
    crease(0.6 * m.cheek_raise + 0.3 * m.lid_tighten, 0.009, pouch, pouch * mirror)
    dent = face.mouth[:, 1].max() + 0.022
    crease(0.35 + 0.6 * m.chin_raise, 0.012, [(-0.045, dent + 0.006), (0, dent), (0.045, dent + 0.006)])
    if m.chin_raise > 0.15:
        rng = np.random.default_rng(identity.texture + 4)
        dimples = [
            ellipse(x, y, 0.005, 0.004) for x, y in rng.uniform(-1, 1, (10, 2)) * (0.04, 0.02) + (0, face.chin - 0.05)
        ]
        canvas.darken(patch(dimples, blur=0.003, within=face.outline, opacity=0.4 * m.chin_raise), (0.7, 0.6, 0.6))
