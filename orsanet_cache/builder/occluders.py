"""Occluders drawn in front of a face at its landmarks: all occluded views except erased squares.

    pixels, landmarks, view → face's axes → polygons painted on a layer → the layer under the picture's light → over the picture

The result is a pure function of pixels, landmarks and view. Jitter and colours are derived from a
digest of the pixels, so the same picture always gets the same occluder at the same position.
Unpainted pixels do not change.

Positions: pixels [x, y] of the 224-pixel view. `left` and `right` are the picture's. Colours are
RGB in 0 … 1 under white light.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from orsanet_cache.data.images import IMAGE_SIZE, Pixels
from orsanet_cache.data.views import PLACED, View
from orsanet_cache.synthetic.canvas import MARGIN, SIZE, UNIT, Points, capsule, ellipse, spline, stroke
from orsanet_cache.synthetic.expression import draw_expression
from orsanet_cache.synthetic.identity import draw_identity
from orsanet_cache.synthetic.light import draw_light
from orsanet_cache.synthetic.render import paint_head

# Raise it whenever a drawn pixel changes, so also with the demo's GENERATOR_VERSION: that code
# draws the second face.
OCCLUDERS_VERSION = 1

# [224, 224], or colours first, [3, 224, 224]: numpy is several times faster on complete planes.
Plane = NDArray[np.float32]
Colour = NDArray[np.float64]  # [3]

_SUBPIXEL_BITS = 4
_FARTHEST = 3.0  # in crop sizes beyond the border; landmarks farther out are clipped: OpenCV has integer coordinates
_SHORTEST = 0.02 * IMAGE_SIZE  # shorter axes come from landmarks that form no face
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]
_GREY_SPREAD = 4  # colour levels; a photograph without colour stays below, including JPEG's rounding


@dataclass(frozen=True)
class FaceAxes:
    """The landmarks and the axes that they span."""

    points: Points  # [68, 2]
    eyes: Points  # [2], between the eyes
    across: Points  # [2], from `eyes` to the right eye's middle
    down: Points  # [2], from `eyes` to the mouth's middle

    def at(self, positions: ArrayLike) -> Points:
        """Positions [N, 2] in (across, down) -> pixels [N, 2], foreshortened like the face."""
        return self.eyes + np.asarray(positions, dtype=np.float64) @ np.stack([self.across, self.down])


class Layer:
    """A layer over the picture: colour times opacity [3, 224, 224], and opacity [224, 224]."""

    def __init__(self) -> None:
        self.rgb: Plane = np.zeros((3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
        self.alpha: Plane = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)

    def paint(
        self,
        shapes: Points | Sequence[Points],
        colour: ArrayLike,
        opacity: float = 1.0,
        blur: float = 0.0,
        within: Points | None = None,
    ) -> None:
        """Fill one polygon or several.

        Args:
            shapes: one polygon [N, 2] or several, in pixels.
            colour: RGB in 0 … 1.
            opacity: 0 … 1.
            blur: standard deviation in pixels of the Gaussian that softens the edge.
            within: polygon [N, 2] outside which nothing is painted.
        """
        polygons = [shapes] if isinstance(shapes, np.ndarray) else list(shapes)
        corners = np.concatenate(polygons)
        reach = 3 * blur + 2
        left, top = np.clip(np.floor(corners.min(axis=0) - reach), 0, IMAGE_SIZE - 1).astype(int).tolist()
        right, bottom = np.clip(np.ceil(corners.max(axis=0) + reach), 1, IMAGE_SIZE).astype(int).tolist()
        if right <= left or bottom <= top:
            return
        place, origin = (slice(top, bottom), slice(left, right)), np.array([left, top])
        cover = _cover([polygon - origin for polygon in polygons], right - left, bottom - top, blur)
        if within is not None:
            cover = cv2.multiply(cover, _cover([within - origin], right - left, bottom - top), scale=1 / 255)
        share = cover * np.float32(opacity / 255)
        under = self.rgb[:, *place]
        change = np.asarray(colour, dtype=np.float32)[:, None, None] - under
        change *= share
        under += change
        self.alpha[place] += (1 - self.alpha[place]) * share


def occluded(pixels: Pixels, landmarks: NDArray[np.floating], view: View) -> Pixels:
    """The pixels of `view`, one of PLACED: a face, uint8 [224, 224, 3], with an occluder over it.

    `landmarks` [68, 2] are the face's in iBUG order, in units of the crop. Any numbers are
    accepted; if they form no face, the occluder's position is arbitrary.
    """
    layer = occluder(pixels, landmarks, view)
    seen = pixels.transpose(2, 0, 1) * (1 - layer.alpha) + 255 * layer.rgb
    return np.ascontiguousarray(np.clip(np.rint(seen), 0, 255).astype(np.uint8).transpose(1, 2, 0))


def occluder(pixels: Pixels, landmarks: NDArray[np.floating], view: View) -> Layer:
    """The layer that `occluded` draws, under the picture's light.

    It has no colour if the picture has none.
    """
    face = _face(landmarks)
    rng = np.random.default_rng([PLACED.index(view.kind), view.seed, *hashlib.sha256(pixels.tobytes()).digest()])
    layer = Layer()
    illumination = _illumination(pixels, face)
    _DRAWN[view.kind](layer, face, rng, _skin(pixels, face) / illumination.mean())
    layer.rgb *= illumination
    if np.ptp(pixels[::4, ::4].astype(np.int16), axis=2).mean() < _GREY_SPREAD:
        layer.rgb[:] = (layer.rgb * _LUMINANCE).sum(axis=0)
    return layer


def _cover(polygons: Sequence[Points], width: int, height: int, blur: float = 0.0) -> Any:
    """The share of each pixel that the polygons cover, uint8 [height, width].

    OpenCV's results on bytes are the same on every machine.
    """
    coarse = 1  # a wide blur is painted on larger pixels, which takes a fraction of the time
    while blur >= 3 * coarse:
        coarse *= 2
    cover: Any = np.zeros((-(-height // coarse), -(-width // coarse)), np.uint8)
    for polygon in polygons:  # one by one: fillPoly leaves holes where two polygons of one call overlap
        corners = (polygon + 0.5) / coarse - 0.5
        cv2.fillPoly(
            cover, [np.rint(corners * 2**_SUBPIXEL_BITS).astype(np.int32)], (255,), cv2.LINE_AA, _SUBPIXEL_BITS
        )
    if blur > 0.3:  # a smaller blur has no effect
        cover = cv2.GaussianBlur(cover, (0, 0), blur / coarse)
    if coarse > 1:
        large = cv2.resize(cover, None, fx=coarse, fy=coarse, interpolation=cv2.INTER_LINEAR)
        cover = np.ascontiguousarray(large[:height, :width])
    return cover


def _face(landmarks: NDArray[np.floating]) -> FaceAxes:
    """The face's axes.

    Axes that are too short or nearly parallel form no face, and upright axes replace them.
    """
    inside = np.clip(np.nan_to_num(landmarks.astype(np.float64)), -_FARTHEST, 1 + _FARTHEST)
    points = inside * IMAGE_SIZE - 0.5  # pixel i covers i - 0.5 … i + 0.5
    left, right, mouth = points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[48:68].mean(axis=0)
    eyes = (left + right) / 2
    across, down = (right - left) / 2, mouth - eyes
    if abs(across[0] * down[1] - across[1] * down[0]) < _SHORTEST**2:
        across, down = np.array([0.13 * IMAGE_SIZE, 0.0]), np.array([0.0, 0.28 * IMAGE_SIZE])
    return FaceAxes(points, eyes, across, down)


def _illumination(pixels: Pixels, face: FaceAxes) -> Plane:
    """The brightness of objects in front of the face.

    It is the picture's level at the face with a little of the picture's coarse shading.
    """
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (14, 14), interpolation=cv2.INTER_AREA)
    cells = np.clip(face.points[17:] * 14 / IMAGE_SIZE, 0, 13).astype(int)
    level = np.median(grey[cells[:, 1], cells[:, 0]]) / 255
    coarse = cv2.GaussianBlur(grey, (0, 0), 2.0).astype(np.float32) / 255
    light = np.clip(0.25 + 1.15 * level + 0.6 * (coarse - level), 0.3, 1.15).astype(np.float32)
    return np.asarray(cv2.resize(light, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_LINEAR))


def _skin(pixels: Pixels, face: FaceAxes) -> Colour:
    """The colour of the nose and the cheeks beside it in the picture."""
    points = face.points
    cheeks = [
        points[near] + share * (points[far] - points[near])
        for near, far in ((31, 3), (35, 13))
        for share in (0.2, 0.35)
    ]
    size = 28  # a cell evens out spots of light
    cells = np.clip((np.stack([*points[28:31], *cheeks]) + 0.5) * size / IMAGE_SIZE, 0, size - 1).astype(int)
    coarse = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(np.median(coarse[cells[:, 1], cells[:, 0]], axis=0) / 255)


def _one_of(rng: np.random.Generator, colours: Sequence[tuple[float, float, float]]) -> Colour:
    return np.array(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.9, 1.1) + rng.normal(0, 0.015, 3)


def _unit(vector: Points) -> Points:
    return np.asarray(vector / max(float(np.hypot(*vector)), 1e-9))


def _length(vector: Points) -> float:
    return float(np.hypot(*vector))


def _sunglasses(layer: Layer, face: FaceAxes, rng: np.random.Generator, _skin: Colour) -> None:
    """A lens over each eye, the bridge between them, and temples to the ears."""
    tint = _one_of(rng, [(0.05, 0.05, 0.06), (0.14, 0.08, 0.05), (0.05, 0.08, 0.12)])
    frame = _one_of(rng, [(0.06, 0.06, 0.07), (0.30, 0.18, 0.10), (0.50, 0.42, 0.25), (0.12, 0.14, 0.28)])
    wide, high, power = rng.uniform(0.74, 0.80), rng.uniform(0.34, 0.40), rng.choice([2.2, 2.8, 3.6])
    x, y = rng.normal(0, 0.02), 0.05 + rng.normal(0, 0.015)
    unit = _length(face.down)
    width = rng.uniform(0.035, 0.06) * unit
    lenses = [face.at(ellipse(side + x, y, wide, high, power)) for side in (-1, 1)]
    rings = [stroke(np.concatenate([lens, lens[:1]]), width) for lens in lenses]
    gap = 1 - wide
    bridge = stroke(face.at(spline([(x - gap, y - 0.08), (x, y - 0.14), (x + gap, y - 0.08)])), width * 1.2)
    temples = [
        stroke(np.stack([face.at([(side * (1 + wide) + x, y - 0.08)])[0], ear]), width * 1.3)
        for side, ear in ((-1, face.points[0]), (1, face.points[16]))
    ]
    layer.paint([*rings, bridge], (0, 0, 0), 0.25, blur=0.05 * unit)
    layer.paint(temples, frame * 0.8)
    for lens in lenses:
        layer.paint(lens, tint, 0.97)
        low = lens * 0.5 + 0.5 * lens.mean(axis=0) + 0.22 * high * face.down
        layer.paint(low, tint * 2 + 0.06, 0.5, blur=0.08 * unit, within=lens)
        middle = lens.mean(axis=0) - face.eyes
        glint = face.at([(-0.45, -0.3), (-0.1, -0.3), (-0.4, 0.22), (-0.62, 0.22)]) + middle
        layer.paint(glint, (1, 1, 1), 0.22, blur=0.03 * unit, within=lens)
    layer.paint([*rings, bridge], frame)


def _mask(layer: Layer, face: FaceAxes, rng: np.random.Generator, _skin: Colour) -> None:
    """A surgical mask from the bridge of the nose to under the chin, between the jaw points."""
    points = face.points
    cloth = _one_of(rng, [(0.58, 0.76, 0.88), (0.90, 0.91, 0.91), (0.14, 0.14, 0.16), (0.52, 0.74, 0.65), (0.88, 0.70, 0.74)])  # fmt: skip
    top = points[28] + rng.uniform(0.1, 0.5) * (points[29] - points[28])
    corner = rng.uniform(0.3, 0.7)
    left, right = (points[first] + corner * (points[second] - points[first]) for first, second in ((1, 2), (15, 14)))
    unit = _length(face.down)
    chin = points[7:10] + rng.uniform(0.04, 0.10) * face.down
    # A convex hull: stretched cloth has no dents, and covers the tip of a turned face's nose too.
    stretched = np.concatenate([[top, left, right], points[2:15], chin, points[30:36], points[48:60]])
    hull = cv2.convexHull(stretched.astype(np.float32))[:, 0].astype(np.float64)
    shape = hull.mean(axis=0) + 1.02 * (hull - hull.mean(axis=0))
    loops = [
        stroke(np.stack([start, ear]), 0.035 * unit)
        for start, ear in ((left, points[0]), (points[4], points[0]), (right, points[16]), (points[12], points[16]))
    ]
    layer.paint(shape, (0, 0, 0), 0.3, blur=0.035 * unit)
    layer.paint(loops, cloth * 0.85)
    layer.paint(shape, cloth)
    middle = (points[33] + points[57]) / 2
    for side in (points[3:6], points[11:14]):  # cloth turns away from the light towards the ears
        layer.paint(capsule(np.stack([side[0], side[-1]]), 0.45 * unit), cloth * 0.45, 0.4, 0.12 * unit, shape)
    layer.paint(_blob(middle - 0.15 * face.down, 0.35 * unit), cloth * 1.15 + 0.05, 0.5, 0.16 * unit, shape)
    for share in (-0.30, 0.0, 0.30):
        bow = middle + share * face.down
        ends = [points[4] + share * 0.7 * face.down, points[12] + share * 0.7 * face.down]
        pleat = spline([ends[0], (ends[0] + bow) / 2 + 0.06 * face.down, bow + 0.07 * face.down, (ends[1] + bow) / 2 + 0.06 * face.down, ends[1]])  # fmt: skip
        layer.paint(stroke(pleat, 0.03 * unit), cloth * 0.55, 0.6, 0.010 * unit, shape)
        layer.paint(stroke(pleat - 0.04 * face.down, 0.03 * unit), cloth * 1.2 + 0.08, 0.35, 0.012 * unit, shape)


def _hand(layer: Layer, face: FaceAxes, rng: np.random.Generator, skin: Colour) -> None:
    """A hand over the mouth, from below, left or right; the wrist is outside the picture."""
    unit = _length(face.down) * rng.uniform(0.95, 1.08)
    side = rng.choice([-1, 1])
    angle = rng.uniform(0.35, 0.75)
    down = _unit(face.down)
    outward = side * np.array([down[1], -down[0]])  # perpendicular to the face's height, towards the wrist
    along = np.cos(angle) * outward + np.sin(angle) * down
    over = np.array([along[1], -along[0]]) * side  # from the little finger to the index finger
    over = over if over @ down < 0 else -over
    start = face.points[48:68].mean(axis=0) + unit * (
        rng.uniform(-0.05, 0.05) * outward + rng.uniform(0.02, 0.10) * down
    )
    flesh = np.clip(skin, 0.08, 1.0) * rng.uniform(0.88, 1.08)

    def placed(positions: ArrayLike) -> Points:
        return np.asarray(start + unit * (np.asarray(positions) @ np.stack([along, over])))

    palm = placed(
        spline([(0.25, 0.55), (0.55, 0.60), (1.1, 0.56), (1.7, 0.36), (3.6, 0.40), (3.6, -0.36), (1.7, -0.32), (1.1, -0.50), (0.55, -0.58), (0.25, -0.52)], closed=True)
    )  # fmt: skip
    fingers = [(0.44, -0.62, 0.29), (0.15, -0.78, 0.30), (-0.15, -0.72, 0.29), (-0.43, -0.50, 0.25)]
    layer.paint([palm, *(capsule(placed([(0.5, at), (tip, at * 0.92)]), width * unit) for at, tip, width in fingers)], (0, 0, 0), 0.35, 0.07 * unit)  # fmt: skip
    thumb = spline([(1.25, 0.30), (0.95, 0.62), (0.60, 0.80), (0.28, 0.86)])
    _finger(layer, placed(thumb), np.linspace(0.36, 0.25, len(thumb)) * unit, flesh, unit)
    layer.paint(palm, flesh)
    layer.paint(placed(ellipse(0.95, 0.0, 0.42, 0.36)), flesh * 1.10, 0.5, 0.16 * unit, palm)
    layer.paint([stroke(placed([(0.6, edge), (1.3, edge * 0.85), (1.9, edge * 0.6)]), 0.16 * unit) for edge in (-0.54, 0.54)], flesh * 0.55, 0.5, 0.08 * unit, palm)  # fmt: skip
    for at, tip, width in reversed(fingers):
        line = spline([(0.55, at * 0.95), (0.15, at), (-0.3, at * 1.02), (tip, at * 0.92)])
        _finger(layer, placed(line), np.interp(np.linspace(0, 1, len(line)), [0, 0.6, 1], [1.0, 0.98, 0.8]) * width * unit, flesh, unit)  # fmt: skip
    for at, _, width in fingers:
        layer.paint(placed(ellipse(0.52, at * 0.97, 0.15, width * 0.40)), flesh * 1.05, 0.9, 0.06 * unit, palm)


def _finger(layer: Layer, line: Points, widths: NDArray[np.float64], flesh: Colour, unit: float) -> None:
    """A finger from root to tip, with the nail.

    Args:
        layer: the layer to paint on.
        line: the finger's axis [N, 2] from root to tip, in pixels.
        widths: width at each point of `line` [N], in pixels.
        flesh: RGB of the skin, 0 … 1.
        unit: length of the face from eyes to mouth, in pixels.
    """
    outline = capsule(line, widths)
    layer.paint(outline, flesh * 0.45, 0.5, 0.03 * unit)
    layer.paint(outline, flesh * 0.78)
    layer.paint(capsule(line, widths * 0.55), flesh * 1.06, 0.85, 0.045 * unit, outline)
    along = _unit(line[-1] - line[-3])
    across = np.array([-along[1], along[0]])
    nail = capsule(np.stack([line[-1] - 0.06 * unit * along, line[-1] + 0.04 * unit * along]), 0.13 * unit)
    layer.paint(nail, np.clip(flesh * (1.12, 1.02, 1.02) + 0.05, 0, 1), 0.7, 0.008 * unit)
    joint = line[len(line) * 5 // 8]
    fold = np.stack([joint - 0.07 * unit * across, joint + 0.07 * unit * across])
    layer.paint(stroke(fold, 0.02 * unit), flesh * 0.55, 0.25, 0.012 * unit)


def _half_face(layer: Layer, face: FaceAxes, rng: np.random.Generator, _skin: Colour) -> None:
    """A wall or a door that covers the face on one side of its midline."""
    midline = face.points[[27, 28, 29, 30, 33, 51, 57, 8]]
    middle = midline.mean(axis=0)
    direction = np.linalg.svd(midline - middle)[2][0]
    along = direction if direction @ face.down >= 0 else -direction
    side = rng.choice([-1, 1])
    outward = side * np.array([along[1], -along[0]])
    paint = _one_of(rng, [(0.72, 0.69, 0.62), (0.45, 0.32, 0.22), (0.62, 0.64, 0.66), (0.30, 0.36, 0.42), (0.80, 0.78, 0.74)])  # fmt: skip
    unit = _length(face.down)
    far = 2.0 * (1 + 2 * _FARTHEST) * IMAGE_SIZE

    def strip(start: float, stop: float) -> Points:
        """The strip from `start` to `stop` behind the edge, in eye-to-mouth lengths."""
        ends = np.stack([middle - far * along, middle + far * along])
        return np.concatenate([ends + start * unit * outward, ends[::-1] + stop * unit * outward])

    wall = strip(0, far / unit)
    layer.paint(strip(-0.10, 0.05), (0, 0, 0), 0.35, 0.05 * unit)
    layer.paint(wall, paint)
    layer.paint(strip(0.10, far / unit), paint * 0.86, 1.0, 0.01 * unit)
    layer.paint(strip(1.2, far / unit), paint * 0.70, 0.7, 0.5 * unit)
    layer.paint(strip(0.03, 0.065), np.clip(paint * 1.25 + 0.05, 0, 1), 0.6, 0.01 * unit)


def _cap(layer: Layer, face: FaceAxes, rng: np.random.Generator, _skin: Colour) -> None:
    """A baseball cap whose visor ends above the brows."""
    points = face.points
    cloth = _one_of(rng, [(0.14, 0.18, 0.36), (0.58, 0.12, 0.13), (0.12, 0.12, 0.13), (0.82, 0.81, 0.77), (0.16, 0.36, 0.22), (0.76, 0.58, 0.20)])  # fmt: skip
    up, unit = -_unit(face.down), _length(face.down)
    side = np.array([-up[1], up[0]])  # to the right
    brows = points[17:27]
    reach = (points[[0, 16]] - face.eyes) @ side
    half = float(max(np.ptp(reach) / 2, 0.5 * unit)) * 1.08
    centre = face.eyes + 0.5 * float(reach.sum()) * side
    height = float(((brows - centre) @ up).max()) + rng.uniform(0.06, 0.14) * unit
    tilt = rng.normal(0, 0.02)

    def placed(positions: ArrayLike) -> Points:
        """(across in half widths, up from the visor's edge in eye-to-mouth lengths) -> pixels."""
        x, y = np.asarray(positions, dtype=np.float64).T
        return np.asarray(centre + np.outer(half * x, side) + np.outer(height + unit * (y + tilt * x), up))

    dome = spline([(-1.08, 0.0), (-1.08, 0.45), (-0.88, 0.95), (-0.5, 1.25), (0, 1.35), (0.5, 1.25), (0.88, 0.95), (1.08, 0.45), (1.08, 0.0)])  # fmt: skip
    crown = placed(np.concatenate([dome, spline([(1.08, 0.0), (0.6, 0.22), (0, 0.28), (-0.6, 0.22), (-1.08, 0.0)])]))
    under = spline([(0.98, -0.02), (0.6, 0.015), (0, 0.03), (-0.6, 0.015), (-0.98, -0.02)])
    visor = placed(np.concatenate([spline([(-0.98, -0.02), (-0.62, 0.27), (0, 0.36), (0.62, 0.27), (0.98, -0.02)]), under]))  # fmt: skip
    layer.paint(placed(np.concatenate([under, under[::-1] - (0, 0.10)])), (0, 0, 0), 0.45, 0.04 * unit)
    layer.paint(crown, cloth * 0.9)
    layer.paint(placed(ellipse(-0.15, 0.75, 0.55, 0.35)), np.clip(cloth * 1.3 + 0.05, 0, 1), 0.5, 0.18 * unit, crown)
    for edge in (-1.0, 1.0):
        layer.paint(placed(ellipse(edge * 1.05, 0.5, 0.28, 0.6)), cloth * 0.4, 0.5, 0.12 * unit, crown)
    seams = [placed(spline([(0.1 * x, 1.35), (0.55 * x, 0.9), (0.62 * x, 0.2)])) for x in (-1, 1)]
    layer.paint([stroke(seam, 0.02 * unit) for seam in seams], cloth * 0.5, 0.6, 0.006 * unit, crown)
    layer.paint(visor, np.clip(cloth * 0.95 + 0.02, 0, 1))
    layer.paint(placed(ellipse(-0.1, 0.24, 0.5, 0.08)), np.clip(cloth * 1.35 + 0.08, 0, 1), 0.6, 0.05 * unit, visor)
    layer.paint(stroke(visor[:33], 0.05 * unit), cloth * 0.35, 0.7, 0.02 * unit, crown)
    layer.paint(stroke(visor[33:], 0.045 * unit), cloth * 0.45, 0.7, 0.012 * unit, visor)


def _second_face(layer: Layer, face: FaceAxes, rng: np.random.Generator, _skin: Colour) -> None:
    """Another person's head, cut by the left or right border, in front of the edge of the face."""
    identity = draw_identity(rng)
    light = draw_light(rng)
    head = paint_head(identity, draw_expression(rng, ("neutral", "happiness")[rng.integers(2)], identity), light)
    side = int(rng.choice([-1, 1]))
    jaw = face.points[:17, 0]
    width = float(np.clip(np.ptp(jaw), 0.25 * IMAGE_SIZE, 1.2 * IMAGE_SIZE))
    turned = (float(face.points[27, 0]) - (jaw.min() + jaw.max()) / 2) / width
    if side * turned > 0.12:  # the far half of a turned face is narrow and would be hidden completely
        side = -side
    border, outer = (0, float(jaw.min())) if side < 0 else (IMAGE_SIZE, float(jaw.max()))
    visible = rng.uniform(0.14, 0.20) * IMAGE_SIZE  # minimum, for tight crops with the face's edge outside
    edge = side * min(side * (outer - side * rng.uniform(0.22, 0.34) * width), side * (border - side * visible))
    scale = width * rng.uniform(0.82, 1.0) / (2 * identity.face_width * UNIT)  # pixels of the view per canvas pixel
    eyes = (identity.eye_height + MARGIN) * UNIT
    level_with_face = head.canvas.alpha[round(eyes - 0.1 * UNIT) : round(eyes + 0.3 * UNIT)].max(axis=0)
    half = np.abs(np.flatnonzero(level_with_face > 0.5) - SIZE / 2).max()  # including hair
    centre = np.array([edge + side * half * scale, face.eyes[1] + rng.uniform(0.0, 0.35) * _length(face.down)])
    angle = rng.normal(0, 0.10)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    move = np.column_stack([turn, centre - turn @ (SIZE / 2, eyes)])
    planes = [
        cv2.warpAffine(plane, move, (IMAGE_SIZE, IMAGE_SIZE), borderMode=cv2.BORDER_REPLICATE)  # extends the shoulders
        for plane in (*head.canvas.rgb, head.canvas.alpha)
    ]
    shoulder = edge - side * 0.06 * width
    far = border + side * IMAGE_SIZE
    reach = np.array([(shoulder, -IMAGE_SIZE), (shoulder, 2 * IMAGE_SIZE), (far, 2 * IMAGE_SIZE), (far, -IMAGE_SIZE)])
    kept = _cover([reach], IMAGE_SIZE, IMAGE_SIZE, blur=1.0) / np.float32(255)
    layer.rgb[:] = np.stack(planes[:3]) * kept / np.float32(0.85 * light.ambient + 0.75 * light.strength)
    layer.alpha[:] = np.clip(planes[3], 0, 1) * kept


def _blob(centre: Points, radius: float) -> Points:
    return ellipse(float(centre[0]), float(centre[1]), radius, radius)


_DRAWN: dict[str, Callable[[Layer, FaceAxes, np.random.Generator, Colour], None]] = {
    "sunglasses": _sunglasses, "mask": _mask, "hand": _hand, "half-face": _half_face, "cap": _cap, "second-face": _second_face,
}  # fmt: skip
