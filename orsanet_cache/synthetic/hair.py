"""Hair: behind the head, over the forehead, and strands with a sheen."""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from orsanet_cache.synthetic.canvas import MARGIN, SIZE, UNIT, Canvas, Field, Points, lit, patch, shifted, spline
from orsanet_cache.synthetic.face import FaceGeometry
from orsanet_cache.synthetic.identity import Identity
from orsanet_cache.synthetic.light import Light

HAIR = 10  # LaPa class


_CROWN_Y = -0.02
_DOWN = ((np.arange(SIZE, dtype=np.float32) + 0.5) / UNIT - MARGIN - _CROWN_Y).astype(np.float32)
_ACROSS = ((np.arange(SIZE, dtype=np.float32) + 0.5) / UNIT - MARGIN - 0.5).astype(np.float32)


class _Crown(NamedTuple):
    """Values per pixel that all heads of hair share."""

    distance: Field
    strand: Field  # direction from the crown as a position in a profile of _STRANDS
    straight: Field  # cosine and sine of the direction, 0 straight down
    aside: Field
    band: Field  # strength of the sheen


_STRANDS = 1024


@cache
def _crown() -> _Crown:
    distance, angle = cv2.cartToPolar(_DOWN[:, None].repeat(SIZE, axis=1), _ACROSS[None].repeat(SIZE, axis=0))
    band = np.exp(-(((distance - 0.20) / 0.055) ** 2))
    fields = (distance, angle * (_STRANDS / (2 * np.pi)), np.cos(angle), np.sin(angle), band)
    return _Crown(*(np.asarray(values, np.float32) for values in fields))


@cache
def _wave(count: int) -> Field:
    return np.asarray(5 * np.sin(_crown().distance * count), np.float32)


def strands(identity: Identity, light: Light) -> Field:
    """Return the colours of hair: strands run from the crown, with a band of light across them."""
    rng = np.random.default_rng(identity.texture)
    crown = _crown()
    if identity.hair_style == "curly":
        coarse = rng.normal(0, 0.16, (64, 64)).astype(np.float32)
        tone = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    else:
        profile = rng.normal(0, 1, _STRANDS)
        locks = np.convolve(np.tile(profile, 3), np.hanning(9) / 4, "same")[_STRANDS : 2 * _STRANDS]
        bent = crown.strand + _wave(int(rng.integers(4, 10)))
        tone = (0.10 * profile + 0.22 * locks).astype(np.float32).take(bent.astype(np.int32), mode="wrap")
    towards = 0.87 * light.x
    sheen = (
        np.clip(crown.straight * np.float32(np.cos(towards)) + crown.aside * np.float32(np.sin(towards)), 0, 1) ** 2
        * crown.band
    )
    level = ((light.ambient + 0.62 * light.strength) * (1 - 0.25 * np.clip(_DOWN - 0.45, 0, 1)))[:, None]
    colour = np.array(identity.hair, np.float32)
    gloss = (0.05 + 0.30 * float(colour.mean())) * sheen * (1 + np.float32(1.5) * tone)
    bright = (1 + tone) * level.astype(np.float32)
    return lit(colour, bright) + gloss


def paint_behind(canvas: Canvas, identity: Identity, field: Field) -> None:
    """Paint the hair behind the head: long hair and curls."""
    width = identity.face_width
    rng = np.random.default_rng(identity.texture + 1)
    if identity.hair_style in ("long", "bob"):
        end = 1.08 if identity.hair_style == "long" else 0.78 + 0.05 * rng.random()
        flare = 1.28 if identity.hair_style == "bob" else 1.22
        right = np.array(
            [
                (0.0, 0.035),
                (0.62, 0.065),
                (1.02, 0.19),
                (1.14, 0.40),
                (flare, 0.62),
                (flare * 0.98, end - 0.03),
                (0.75, end),
            ]
        )
        right = right * (width, 1)
        _paint(canvas, spline(np.concatenate([right, right[:0:-1] * (-1, 1)]), closed=True), field * np.float32(0.72))
    elif identity.hair_style == "curly":
        angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        radius = 1 + 0.045 * np.sin(angle * 17 + rng.uniform(0, 6)) + 0.03 * np.sin(angle * 29)
        size = width * rng.uniform(1.22, 1.42)
        puff = np.stack([size * radius * np.cos(angle), 0.30 + 0.94 * size * radius * np.sin(angle)], axis=1)
        _paint(canvas, puff, field * np.float32(0.85), blur=0.004)


def paint_front(canvas: Canvas, identity: Identity, face: FaceGeometry, field: Field) -> None:
    """Paint the hair in front of the forehead, and its shadow."""
    if identity.hair_style == "bald":
        return
    shape = _front(identity)
    if identity.hair_style == "buzzed":
        canvas.fill(patch(shape, blur=0.010, opacity=0.80), field, label=HAIR)
        return
    shadow = patch(shifted(shape, 0.0, 0.018), blur=0.014, within=face.outline, opacity=0.45)
    canvas.darken(shadow, (0.55, 0.48, 0.46))
    _paint(canvas, shape, field, blur=0.0025)


def _paint(canvas: Canvas, shape: Points, field: Field, blur: float = 0.0) -> None:
    canvas.paint(shape, field, blur=blur, label=HAIR)


def _front(identity: Identity) -> Points:
    """Return the outline: over the skull from the picture's left to its right temple, and back.

    The way back is the hairline.
    """
    width, line = identity.face_width, identity.hairline
    rng = np.random.default_rng(identity.texture + 2)
    style = identity.hair_style
    volume = {"buzzed": 0.0, "short": 0.035, "curly": 0.035}.get(style, 0.045) + 0.012 * rng.random()
    side = {"buzzed": 1.0, "short": 1.035, "parted": 1.06, "fringe": 1.06, "curly": 1.08}.get(style, 1.10)
    ends = {"long": 0.66, "bob": 0.62, "fringe": 0.47, "parted": 0.42, "curly": 0.36}.get(style, 0.42)
    over = np.array(
        [
            (-side * 1.0, ends),
            (-side * 1.03, 0.34),
            (-side * 0.86, 0.17),
            (-side * 0.48, 0.095 - volume),
            (0, 0.075 - volume),
        ]
    )
    over = np.concatenate([over, over[-2::-1] * (-1, 1)])
    part = 0.30 * (1 if rng.random() < 0.5 else -1)
    hairline: list[tuple[float, float]]
    if style == "fringe":
        low = line + 0.085
        steps = np.linspace(0.86, -0.86, 12)
        jags = low - 0.02 * np.abs(steps) ** 2 + 0.012 * rng.uniform(-1, 1, 12)
        hairline = [
            (0.97, ends),
            (0.93, low + 0.04),
            *zip(steps, jags, strict=True),
            (-0.93, low + 0.04),
            (-0.97, ends),
        ]
    elif style == "parted":
        near, far = part, -part
        hairline = [
            (np.sign(near) * 0.985, ends), (np.sign(near) * 0.94, line + 0.09), (np.sign(near) * 0.70, line + 0.015),
            (near, line - 0.06), (far * 0.2, line - 0.01), (far * 1.6, line + 0.045), (np.sign(far) * 0.88, line + 0.11),
            (np.sign(far) * 0.985, ends),
        ]  # fmt: skip
        if part < 0:
            hairline = hairline[::-1]
    elif style in ("long", "bob"):
        inner = 0.88 + 0.06 * rng.random()
        hairline = [
            (inner * 1.08, ends), (inner * 1.02, 0.48), (inner * 0.98, line + 0.13), (0.70, line + 0.045), (part, line - 0.05),
            (-0.70, line + 0.045), (-inner * 0.98, line + 0.13), (-inner * 1.02, 0.48), (-inner * 1.08, ends),
        ]  # fmt: skip
    else:
        peak = 0.014 * rng.uniform(-1, 1)
        recede = 0.035 * max(0.0, identity.age - 0.3) * (1 - identity.feminine)
        hairline = [
            (0.985, ends), (0.94, line + 0.10), (0.82, line + 0.03), (0.55, line - 0.005 - recede), (0, line + peak),
            (-0.55, line - 0.005 - recede), (-0.82, line + 0.03), (-0.94, line + 0.10), (-0.985, ends),
        ]  # fmt: skip
    return np.concatenate([spline(over * (width, 1)), spline(np.array(hairline) * (width, 1), 5)])
