"""Find pictures that are re-encoded, resized, mirrored or slightly cropped copies of each other.

    thumbnails → 64-bit hash → pairs few bits apart → thumbnails correlate
               → pictures, aligned, agree in their fine detail

Small aligned faces are all similar, so hash and thumbnails only propose pairs. The decision uses
detail of a few pixels in a 96-pixel picture, after one picture has been moved onto the other. The
numbers below were chosen on 959 real faces and their altered copies: docs/doctor.md.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from orsanet_cache.progress import Progress

BITS_APART = 10
ROUGHLY_ALIKE = 0.85  # correlation of thumbnails
COPY = 0.7  # similarity of pictures
DETAIL = 96  # pixels a side
FINE = 3  # pixels: a Gaussian blur of this width removes the detail

_ROWS = 16  # hashes compared with all later ones at a time
_BLOCK = 1 << 14  # later hashes per comparison: they stay in the cache
_AHEAD = 8  # times _ROWS compared before their pairs are used: a long film scene has many pairs
_WAITING = 1 << 22  # candidates kept at most, 55 MB, before they are confirmed
_AT_ONCE = 64  # candidates confirmed before superfluous later ones are dropped
_LEAST_OVERLAP = 0.6  # of the picture's area
_ECC_BLUR = 5  # pixels, OpenCV's default
_STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-5)

Thumbnails = NDArray[np.uint8]  # [N, 32, 32]
Hashes = NDArray[np.uint64]  # [N]
Detail = NDArray[np.float32]  # [96, 96]
Candidates = NDArray[np.void]  # [P] of _CANDIDATE
Positions = NDArray[np.int32]

# Positions of two pictures; whether the other is mirrored; correlation of their thumbnails.
_CANDIDATE = np.dtype([("one", np.int32), ("other", np.int32), ("mirrored", np.bool_), ("alike", np.float32)])


@dataclass(frozen=True)
class Link:
    """Positions of two pictures, and their similarity. `mirrored`: one mirrors the other."""

    one: int
    other: int
    mirrored: bool
    similarity: float


def near_copies(thumbnails: Thumbnails, detail: Callable[[int], Detail]) -> list[Link]:
    """Return links that join every group of copies.

    Links inside a group that is already joined are omitted: a film scene has too many of them.
    `detail` reads the picture of a position; several threads call it.
    """
    group = np.arange(len(thumbnails), dtype=np.int32)  # per picture: equal if links join them
    links: list[Link] = []
    waiting, number = [np.empty(0, _CANDIDATE)], 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "doctor") as pool:
        for found in _candidates(thumbnails, group, pool):
            waiting.append(found)
            number += len(found)
            if number >= _WAITING:
                links += _confirm(np.concatenate(waiting), group, detail, pool)
                waiting, number = waiting[:1], 0
        links += _confirm(np.concatenate(waiting), group, detail, pool)
    return links


def perceptual_hashes(thumbnails: Thumbnails) -> Hashes:
    """[N, 32, 32] -> [N]: hashes as pHash computes them.

    A bit is set if its coefficient, one of the 8x8 lowest of the cosine transform, is above their
    median.
    """
    hashes = np.empty(len(thumbnails), np.uint64)
    for start in range(0, len(thumbnails), _BLOCK):
        block = thumbnails[start : start + _BLOCK].astype(np.float32)
        low = scipy.fft.dctn(block, axes=(1, 2))[:, :8, :8].reshape(-1, 64)
        bits = low > np.median(low, axis=1, keepdims=True)
        hashes[start : start + _BLOCK] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return hashes


def near_hashes(
    hashes: Hashes, others: Hashes, pool: ThreadPoolExecutor, desc: str
) -> Iterator[tuple[Positions, Positions]]:
    """Yield positions i < j with hashes[i] and others[j] at most BITS_APART bits apart.

    Each item has the pairs of a few i. All pairs are compared, by popcount.
    """

    def compare(first: int) -> tuple[Positions, Positions]:
        rows = hashes[first : first + _ROWS, None]
        found = []
        for begin in range(first, len(others), _BLOCK):
            apart = np.bitwise_count(rows ^ others[None, begin : begin + _BLOCK])
            row, column = np.divmod(
                np.flatnonzero(apart <= BITS_APART), apart.shape[1]
            )  # three times as fast as nonzero
            found.append(((row + first).astype(np.int32), (column + begin).astype(np.int32)))
        one, other = (np.concatenate(part) for part in zip(*found, strict=True))
        return one[one < other], other[one < other]

    rows_done = range(0, len(hashes), _ROWS)
    with Progress(len(rows_done), desc, "block") as progress:
        for start in range(0, len(rows_done), _AHEAD):
            for pair in pool.map(compare, rows_done[start : start + _AHEAD]):
                progress.update()
                yield pair


def similarity(one: Detail, other: Detail) -> float:
    """Return the correlation, -1 … 1, of fine detail where two pictures [96, 96] overlap.

    An affine map moves the second picture onto the first. The result is -1 if no such map is found
    (cv2.findTransformECC) or the pictures overlap in less than 60 %.
    """
    still, everywhere = np.eye(2, 3, dtype=np.float32), np.ones(one.shape, np.uint8)
    try:
        _, moved = cv2.findTransformECC(one, other, still, cv2.MOTION_AFFINE, _STEPS, everywhere, _ECC_BLUR)
    except cv2.error:  # raised if the two do not correlate
        return -1.0
    back = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(np.ones_like(other), moved, other.shape[::-1], flags=back) > 0.99
    if inside.mean() < _LEAST_OVERLAP:
        return -1.0
    aligned = np.asarray(cv2.warpAffine(other, moved, other.shape[::-1], flags=back), np.float32)
    first, second = _normalised(np.stack([_fine(one)[inside], _fine(aligned)[inside]]))
    return float(first @ second)


def _candidates(thumbnails: Thumbnails, group: Positions, pool: ThreadPoolExecutor) -> Iterator[Candidates]:
    """Yield pairs of near hashes, in different groups so far, whose thumbnails correlate.

    Each item has the pairs of a few pictures.
    """
    hashes = perceptual_hashes(thumbnails)
    for mirrored in (False, True):
        others = thumbnails[:, :, ::-1] if mirrored else thumbnails
        other_hashes = perceptual_hashes(others) if mirrored else hashes
        for one, other in near_hashes(hashes, other_hashes, pool, "mirrored" if mirrored else "hashes"):
            apart = group[one] != group[other]
            one, other = one[apart], other[apart]
            alike = _pair_correlations(thumbnails, others, one, other)
            rough = alike >= ROUGHLY_ALIKE
            if rough.any():
                found = np.empty(int(rough.sum()), _CANDIDATE)
                found["one"], found["other"], found["mirrored"], found["alike"] = (
                    one[rough],
                    other[rough],
                    mirrored,
                    alike[rough],
                )
                yield found


def _confirm(
    pairs: Candidates, group: Positions, detail: Callable[[int], Detail], pool: ThreadPoolExecutor
) -> list[Link]:
    """Return links among the pairs; the most similar pairs are compared first.

    A pair within one group is not compared. `group` is changed.
    """

    def compare(pair: np.void) -> float:
        one, other = detail(int(pair["one"])), detail(int(pair["other"]))
        return similarity(one, np.ascontiguousarray(other[:, ::-1]) if pair["mirrored"] else other)

    links: list[Link] = []
    pairs = pairs[np.argsort(-pairs["alike"], kind="stable")]
    with Progress(len(pairs), "possible copies", "pair") as progress:
        while len(pairs):
            now, later = pairs[:_AT_ONCE], pairs[_AT_ONCE:]
            joined = False
            for pair, alike in zip(now, pool.map(compare, now), strict=True):
                one, other = int(pair["one"]), int(pair["other"])
                if alike >= COPY and group[one] != group[other]:
                    group[group == group[other]] = group[one]
                    links.append(Link(one, other, bool(pair["mirrored"]), alike))
                    joined = True
            before = len(pairs)
            pairs = later[group[later["one"]] != group[later["other"]]] if joined else later
            progress.update(before - len(pairs))
    return links


def _pair_correlations(
    thumbnails: Thumbnails, others: Thumbnails, one: Positions, other: Positions
) -> NDArray[np.float32]:
    """Return the correlations [P] of thumbnails[one] and others[other].

    `one` has few different values, so each picture is normalised only once.
    """
    rows, row = np.unique(one, return_inverse=True)
    columns, column = np.unique(other, return_inverse=True)
    table = np.empty((len(rows), len(columns)), np.float32)
    wanted = _normalised(thumbnails[rows])
    for start in range(0, len(columns), _BLOCK):
        block = slice(start, start + _BLOCK)
        table[:, block] = wanted @ _normalised(others[columns[block]]).T
    return table[row, column]


def _normalised(pictures: NDArray[Any]) -> NDArray[np.float32]:
    """[N, ...] -> [N, pixels] of mean 0 and length 1, so that products are correlations.

    A picture of one colour becomes zeros.
    """
    values = pictures.reshape(len(pictures), prod(pictures.shape[1:])).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)


def _fine(picture: Detail) -> Detail:
    return np.asarray(picture - cv2.GaussianBlur(picture, (0, 0), FINE), np.float32)
