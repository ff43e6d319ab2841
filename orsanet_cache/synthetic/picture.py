"""One finished picture with its ground truth.

plan → person, expression, light → head → occluders → pose → background → camera → JPEG
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache.data.images import IMAGE_SIZE, Pixels, decode
from orsanet_cache.synthetic.canvas import MARGIN, UNIT, Canvas, Field, shifted
from orsanet_cache.synthetic.expression import draw_expression
from orsanet_cache.synthetic.identity import draw_identity
from orsanet_cache.synthetic.light import Light, draw_light
from orsanet_cache.synthetic.occluders import HELD, TAGS, WORN
from orsanet_cache.synthetic.plan import Plan, plan, stream, tags_of
from orsanet_cache.synthetic.pose import Pose, draw_pose, project, sampled, sampling
from orsanet_cache.synthetic.render import Head, paint_head

PICTURE_SIZE = 160
_CROP = slice(round(MARGIN * UNIT), round(MARGIN * UNIT) + UNIT)


@dataclass(frozen=True)
class SyntheticFace:
    """A picture and its complete ground truth. The subject's left is the picture's right."""

    image: Pixels  # [160, 160, 3]: exactly what `jpeg` decodes to
    jpeg: bytes
    label: str
    split: str
    identity: int
    intensity: float  # of the expression, 0 (neutral) … 1
    tags: tuple[str, ...]
    landmarks: NDArray[np.float32]  # [68, 2], iBUG order, in crop units; hidden ones included
    segmentation_map: NDArray[
        np.uint8
    ]  # [224, 224], LaPa classes of what is visible; ears, neck and occluders are background
    covered: NDArray[np.bool_]  # [224, 224], where an occluder is in front


def draw(seed: int, index: int, occluders: Sequence[str] | None = None) -> SyntheticFace:
    """Draw picture `index` of `seed`; the result is a pure function of both.

    `occluders` replaces the planned occluders: () draws the same face without any.
    """
    planned = plan(seed, index)
    if occluders is not None:
        planned = replace(planned, occluders=tuple(tag for tag in TAGS if tag in occluders))
    return draw_planned(seed, planned)


def draw_planned(seed: int, planned: Plan) -> SyntheticFace:
    """Draw the planned picture of a seed; the result is a pure function of both."""
    index, hidden_by = planned.index, planned.occluders
    identity = draw_identity(stream(seed, "identity", planned.identity))
    expression = draw_expression(stream(seed, "expression", index), planned.label, identity)
    light = draw_light(stream(seed, "light", index))
    pose = draw_pose(stream(seed, "pose", index))
    head = paint_head(identity, expression, light)
    for tag in hidden_by:
        if tag in WORN:
            WORN[tag](head, _look(seed, index, tag))
    places = sampling(head.depth, pose)
    scene = _ground(stream(seed, "ground", index), UNIT)
    _over(scene, sampled(head.canvas.rgb, places, UNIT), sampled(head.canvas.alpha, places, UNIT))
    segmentation_map = sampled(head.canvas.labels, places, IMAGE_SIZE, nearest=True)
    covered = sampled(head.canvas.covered, places, IMAGE_SIZE, nearest=True) > 0
    landmarks = project(head.face.landmarks, head.depth, pose)
    for tag in hidden_by:
        if tag in WORN:
            continue
        if tag == "face":
            rgb, alpha = _passer_by(seed, index, light)
        else:
            canvas = Canvas()
            HELD[tag](canvas, landmarks[[51, 57]].mean(axis=0), identity.skin, _look(seed, index, tag))
            level = light.ambient + 0.9 * light.strength
            rgb, alpha = canvas.rgb[:, _CROP, _CROP] * np.float32(level), canvas.alpha[_CROP, _CROP]
        _cast_shadow(scene, alpha, light)
        _over(scene, rgb, alpha)
        hides = cv2.resize(alpha, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_LINEAR) > 0.5
        segmentation_map[hides] = 0
        covered |= hides
    jpeg = _camera(scene, light, stream(seed, "camera", index))
    return SyntheticFace(
        image=decode(jpeg),
        jpeg=jpeg,
        label=planned.label,
        split=planned.split,
        identity=planned.identity,
        intensity=expression.intensity,
        tags=tags_of(hidden_by),
        landmarks=(shifted(landmarks, 0.5, 0)).astype(np.float32),
        segmentation_map=segmentation_map,
        covered=covered,
    )


def _look(seed: int, index: int, tag: str) -> np.random.Generator:
    return stream(seed, "occluder look", index, TAGS.index(tag))


def _over(scene: Field, rgb: Field, alpha: Field) -> None:
    scene *= 1 - alpha
    scene += rgb


def _cast_shadow(scene: Field, alpha: Field, light: Light) -> None:
    move = np.array([[1, 0, -0.02 * light.x * UNIT], [0, 1, 0.02 * UNIT]])
    shadow = cv2.warpAffine(cv2.GaussianBlur(alpha, (0, 0), 0.02 * UNIT), move, (UNIT, UNIT))
    scene *= 1 - np.float32(0.4) * shadow


def _passer_by(seed: int, index: int, light: Light) -> tuple[Field, Field]:
    """Return another person's head at the left or right border, as colour and opacity."""
    rng = stream(seed, "passer-by", index)
    identity = draw_identity(rng)
    head: Head = paint_head(identity, draw_expression(rng, ("neutral", "happiness")[rng.integers(2)], identity), light)
    shift = (float(rng.choice([-1, 1]) * rng.uniform(0.39, 0.47)), float(rng.uniform(-0.10, 0.16)))
    pose = Pose(float(rng.normal(0, 0.2)), 0.0, float(rng.normal(0, 0.12)), float(rng.uniform(0.85, 1.05)), shift)
    places = sampling(head.depth, pose)
    return sampled(head.canvas.rgb, places, UNIT), sampled(head.canvas.alpha, places, UNIT)


def _ground(rng: np.random.Generator, size: int) -> Field:
    """Return an out-of-focus background [3, size, size]: gradient, light spots, upright shapes."""
    base = rng.uniform(0.15, 0.8) + rng.normal(0, 0.06, (1, 1, 3))
    coarse = (
        base
        + rng.normal(0, rng.uniform(0.03, 0.10), (5, 5, 1))
        + rng.normal(0, 0.03, (5, 5, 3))
        + np.linspace(-0.12, 0.12, 5)[:, None, None] * rng.normal()
    )
    if rng.random() < 0.35:
        columns = rng.normal(0, 0.12, (1, 9, 1)).repeat(5, axis=0)
        coarse = cv2.resize(coarse, (9, 5)) + columns
    planes = np.clip(coarse, 0.02, 1).astype(np.float32).transpose(2, 0, 1)
    rounded = [cv2.resize(plane, (40, 40), interpolation=cv2.INTER_CUBIC) for plane in planes]
    return np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_LINEAR) for plane in rounded])


def _camera(scene: Field, light: Light, rng: np.random.Generator) -> bytes:
    """Return the JPEG of a cheap camera: colour cast, exposure, blur, lost resolution, noise."""
    image: Any = cv2.resize(cv2.merge(list(scene)), (PICTURE_SIZE, PICTURE_SIZE), interpolation=cv2.INTER_AREA)
    cast = np.array([1 + light.warmth, 1.0, 1 - light.warmth], np.float32) * np.float32(np.exp(rng.normal(0.04, 0.10)))
    image = np.clip(image * cast, 0, None) ** np.float32(np.exp(rng.normal(0, 0.10)))
    sigma, factor = rng.uniform(0.0, 0.9), rng.uniform(0.45, 0.8)
    if rng.random() < 0.2:
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (PICTURE_SIZE, PICTURE_SIZE), interpolation=cv2.INTER_LINEAR)
    elif sigma > 0.35:
        image = cv2.GaussianBlur(image, (5, 5), sigma)
    image += np.float32(rng.uniform(0.004, 0.022)) * rng.standard_normal(image.shape, dtype=np.float32)
    buffer = io.BytesIO()
    picture = Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    picture.save(buffer, "JPEG", quality=int(rng.integers(60, 96)))
    return buffer.getvalue()
