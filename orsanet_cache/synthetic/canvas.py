"""Drawing: filled polygons with soft edges, composited with opacity and labelled at the same time.

All coordinates in this package are in units of the crop. The crop is 1 x 1; y runs from 0 (top) to
1, and x from -0.5 to 0.5, so that a frontal face is symmetric about 0. The canvas extends MARGIN
beyond the crop on each side, because a pose moves the drawing.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]  # [N, 2]
Field = NDArray[np.float32]  # [SIZE, SIZE] or [3, SIZE, SIZE]: numpy is faster on whole planes

UNIT = 240  # canvas pixels per crop side: 1.5 times the picture's, in addition to antialiased edges
MARGIN = 0.1
SIZE = round(UNIT * (1 + 2 * MARGIN))
_SUBPIXEL_BITS = 4
_TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


class Patch(NamedTuple):
    """The covered share of each pixel in a rectangle of the canvas."""

    rows: slice
    columns: slice
    cover: Field  # [h, w] in 0 … 1


def shifted(points: Points, x: float, y: float) -> Points:
    """Return the points moved right by x and down by y."""
    return points + np.array([x, y])


def pixels(points: Points) -> Points:
    """Crop units -> canvas pixel positions; pixel i covers i - 0.5 … i + 0.5."""
    return (shifted(points, 0.5 + MARGIN, MARGIN)) * UNIT - 0.5


def spline(points: ArrayLike, steps: int = 8, closed: bool = False) -> Points:
    """Return a smooth curve (Catmull-Rom) through the points, with `steps` samples per segment."""
    knots = np.asarray(points, dtype=np.float64)
    if closed:
        padded = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    before, start, end, after = padded[:-3, None], padded[1:-2, None], padded[2:-1, None], padded[3:, None]
    t = (np.arange(steps) / steps)[None, :, None]
    curve = (
        start
        + 0.5 * t * (end - before)
        + t**2 * (before - 2.5 * start + 2 * end - 0.5 * after)
        + 0.5 * t**3 * (3 * (start - end) + after - before)
    ).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, knots[-1:]])


@cache
def _thinning(count: int, taper: float) -> NDArray[np.float64]:
    """Half widths along a stroke of width 1."""
    return 0.5 * (1 - taper * np.linspace(-1, 1, count) ** 2)


def stroke(points: Points, width: ArrayLike, taper: float = 0.0) -> Points:
    """Return the outline of a line `width` units wide (a number, or one per point).

    `taper` 1 thins both ends to nothing.
    """
    along = np.empty_like(points)
    along[1:-1] = points[2:] - points[:-2]
    along[0], along[-1] = points[1] - points[0], points[-1] - points[-2]
    along /= np.sqrt(along[:, :1] ** 2 + along[:, 1:] ** 2) + 1e-9
    across = along[:, ::-1] * (-1, 1)
    half = (np.asarray(width) * _thinning(len(points), taper))[:, None]
    return np.concatenate([points + across * half, (points - across * half)[::-1]])


def capsule(points: Points, width: ArrayLike) -> Points:
    """Return the outline of a line with round ends, such as a finger or a handle."""
    widths = np.broadcast_to(np.asarray(width, dtype=np.float64), len(points))
    outline = stroke(points, widths)
    turn = np.linspace(0, np.pi, 9)[1:-1]

    def cap(end: Points, inside: Points, radius: float, corner: Points) -> Points:
        outward = (end - inside) / (np.linalg.norm(end - inside) + 1e-9)
        side = (corner - end) / (np.linalg.norm(corner - end) + 1e-9)
        return end + radius * (np.cos(turn)[:, None] * side + np.sin(turn)[:, None] * outward)

    count = len(points)
    last = cap(points[-1], points[-2], float(widths[-1] / 2), outline[count - 1])
    first = cap(points[0], points[1], float(widths[0] / 2), outline[-1])
    return np.concatenate([outline[:count], last, outline[count:], first])


def ellipse(x: float, y: float, radius_x: float, radius_y: float, power: float = 2.0) -> Points:
    """Return the outline of an ellipse.

    Args:
        x: Centre, in crop units.
        y: Centre, in crop units.
        radius_x: Half the width, in crop units.
        radius_y: Half the height, in crop units.
        power: Exponent of the superellipse; above 2 makes it squarer.
    """
    circle = _CIRCLE if power == 2 else np.sign(_CIRCLE) * np.abs(_CIRCLE) ** (2 / power)
    return circle * (radius_x, radius_y) + (x, y)


def lit(colour: ArrayLike, brightness: Field) -> Field:
    """A colour under light: [3] times [3, SIZE, SIZE] or [SIZE, SIZE] -> [3, SIZE, SIZE]."""
    return np.asarray(colour, dtype=np.float32)[:, None, None] * brightness


def patch(
    shape: Points | Sequence[Points], blur: float = 0.0, within: Points | None = None, opacity: float = 1.0
) -> Patch:
    """Return the pixels of a polygon, or of several together.

    The edge is softened by a Gaussian of `blur` units and cut off outside the polygon `within`.
    """
    polygons = [pixels(polygon) for polygon in ([shape] if isinstance(shape, np.ndarray) else shape)]
    corners = polygons[0] if len(polygons) == 1 else np.concatenate(polygons)
    sigma = blur * UNIT
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    x = min(max(int(left - 3 * sigma) - 1, 0), SIZE - 1)
    y = min(max(int(top - 3 * sigma) - 1, 0), SIZE - 1)
    width = max(min(int(right + 3 * sigma) + 3, SIZE) - x, 1)
    height = max(min(int(bottom + 3 * sigma) + 3, SIZE) - y, 1)
    origin = np.array([x, y])
    cover = np.zeros((height, width), np.uint8)
    for polygon in polygons:  # one per call: fillPoly leaves holes where polygons of a call overlap
        _fill(cover, polygon - origin)
    soft: Any = cover  # OpenCV's stubs have only the union of all its arrays
    if sigma > 0.3:  # a smaller blur changes nothing
        kernel = _gaussian(sigma)
        soft = cv2.sepFilter2D(soft, -1, kernel, kernel)  # on bytes, two to four times faster than GaussianBlur
    if within is not None:
        allowed = np.zeros((height, width), np.uint8)
        _fill(allowed, pixels(within) - origin)
        soft = cv2.multiply(soft, allowed, scale=1 / 255)
    return Patch(slice(y, y + height), slice(x, x + width), soft * np.float32(opacity / 255))


@cache
def _gaussian(sigma: float) -> NDArray[Any]:
    return cv2.getGaussianKernel(2 * int(2.5 * sigma + 0.5) + 1, sigma, cv2.CV_32F)


def _fill(region: NDArray[np.uint8], corners: Points) -> None:
    fixed = np.rint(corners * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(region, [fixed], (255,), cv2.LINE_AA, _SUBPIXEL_BITS)


class Canvas:
    """Colour (premultiplied by opacity), opacity, class and occlusion of each pixel."""

    def __init__(self) -> None:
        self.rgb = np.zeros((3, SIZE, SIZE), np.float32)
        self.alpha = np.zeros((SIZE, SIZE), np.float32)
        self.labels = np.zeros((SIZE, SIZE), np.uint8)
        self.covered = np.zeros((SIZE, SIZE), np.uint8)  # 1 where an occluder is in front

    def paint(
        self,
        shape: Points | Sequence[Points],
        colour: ArrayLike,
        *,
        opacity: float = 1.0,
        blur: float = 0.0,
        within: Points | None = None,
        label: int | None = None,
        covers: bool = False,
    ) -> None:
        """Fill one polygon or several.

        Args:
            shape: Polygon [N, 2] or polygons, in crop units.
            colour: RGB [3] or a field of colours [3, SIZE, SIZE].
            opacity: 0 … 1.
            blur: Standard deviation of the edge's blur, in crop units.
            within: Polygon outside which nothing is painted.
            label: LaPa class of the pixels; None keeps their class.
            covers: The shape is an occluder: its pixels become background and covered.
        """
        self.fill(patch(shape, blur, within, opacity), colour, label=label, covers=covers)

    def fill(self, area: Patch, colour: ArrayLike, *, label: int | None = None, covers: bool = False) -> None:
        """Composite a colour over an area. Pixels covered by more than half get the label."""
        place = (area.rows, area.columns)
        paint = np.asarray(colour, dtype=np.float32)
        paint = paint[:, *place] if paint.ndim == 3 else paint[:, None, None]
        change = paint - self.rgb[:, *place]
        change *= area.cover
        self.rgb[:, *place] += change
        self.alpha[place] += (1 - self.alpha[place]) * area.cover
        if label is not None:
            self.labels[place][area.cover > 0.5] = label
        if covers:
            self.labels[place][area.cover > 0.5] = 0
            self.covered[place][area.cover > 0.5] = 1

    def darken(self, area: Patch, by: ArrayLike) -> None:
        """Multiply the colours by `by` (a factor per channel), in proportion to the area's cover.

        This makes shadows and creases.
        """
        place = (area.rows, area.columns)
        factor = area.cover * (np.asarray(by, dtype=np.float32) - 1)[:, None, None]
        factor += 1
        self.rgb[:, *place] *= factor
