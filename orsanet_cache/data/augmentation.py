"""The published augmentation of training pictures, RandomHorizontalFlip and RandomErasing, as laws.

    flip     with probability 0.5
    erasing  with probability 0.5 a rectangle: area uniform in 2 … 10 % of the picture, aspect ratio log-uniform in 0.3 … 3.3, place uniform

Both stages draw by these laws. Training draws anew in every epoch, from a generator
(`random_rectangles`). A store keeps some draws of each picture as views of their own, `augmented` and
`augmented-seedN`. They are drawn from the SHA-256 of the picture's file and the draw's number N
(`augmentations`), so that training knows the flip and the rectangle of a stored picture again. Such a
draw needs no random generator, whose stream another version of NumPy could change.

Rectangles are int64 [N, 4]: top, left, height, width in pixels. Height 0 means that nothing is
erased.
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.views import AUGMENTED, View

FLIP_PROBABILITY = 0.5
ERASING_PROBABILITY = 0.5
ERASING_SCALE = (0.02, 0.1)  # smallest and largest share of the picture
ASPECT_RATIO = (0.3, 3.3)

_WORDS = 8  # of 32 bits in a SHA-256


def random_rectangles(
    rng: np.random.Generator, count: int, size: int, probability: float, scale: tuple[float, float]
) -> NDArray[np.int64]:
    """Rectangles [count, 4] of pictures of `size` pixels a side, as torchvision's RandomErasing draws them.

    Args:
        rng: the generator to draw from.
        count: number of pictures.
        size: side of the picture in pixels.
        probability: of erasing.
        scale: smallest and largest share of the picture.
    """
    share = rng.uniform(*scale, count)
    height, width = _sides(share, rng.uniform(*_log(ASPECT_RATIO), count), size)
    top = rng.integers(0, size - height + 1)
    left = rng.integers(0, size - width + 1)
    chosen = rng.random(count) < probability
    return np.stack([top, left, height, width], axis=1) * chosen[:, None]


def augmentations(sha256: NDArray[np.uint8], number: int, size: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The flip [N] and the rectangle [N, 4] of draw `number` of pictures of `size` pixels a side.

    `sha256` are the digests of the pictures' files, [N, 32].
    """
    digests = [hashlib.sha256(b"augmented %d " % number + one.tobytes()).digest() for one in sha256]
    words = np.frombuffer(bytearray().join(digests), ">u4").reshape(len(sha256), _WORDS)
    flip, chosen, share, ratio, top, left, _, _ = (words / 2**32).T  # uniform in 0 … 1
    height, width = _sides(_between(share, ERASING_SCALE), _between(ratio, _log(ASPECT_RATIO)), size)
    top, left = np.floor(top * (size - height + 1)), np.floor(left * (size - width + 1))
    rectangles = np.stack([top.astype(np.int64), left.astype(np.int64), height, width], axis=1)
    return flip < FLIP_PROBABILITY, rectangles * (chosen < ERASING_PROBABILITY)[:, None]


def stored_rectangles(view: str, sha256: NDArray[np.uint8], size: int) -> NDArray[np.int64] | None:
    """The rectangles [N, 4] that the pictures with these digests have lost in a view; None: it is not an augmented one."""
    parsed = View.parse(view)
    return augmentations(sha256, parsed.seed, size)[1] if parsed.kind == AUGMENTED else None


def _sides(
    share: NDArray[np.float64], log_ratio: NDArray[np.float64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Share of the picture and logarithm of height / width -> height and width, in whole pixels."""
    area, ratio = share * size**2, np.exp(log_ratio)
    height = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    width = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    return height, width


def _between(uniform: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    return limits[0] + (limits[1] - limits[0]) * uniform


def _log(limits: tuple[float, float]) -> tuple[float, float]:
    return math.log(limits[0]), math.log(limits[1])
