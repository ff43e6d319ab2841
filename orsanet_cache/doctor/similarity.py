"""Which pictures are copies of each other, re-encoded, resized, mirrored or a little cropped?

    thumbnails → 64-bit hash → pairs few bits apart → thumbnails correlate → pictures, aligned, agree in their fine detail

All aligned faces look alike when they are small, so hash and thumbnails only propose: what decides is detail of a few pixels of a 96-pixel
picture, after one picture has been moved onto the other. The numbers below were chosen on 959 real faces and their altered copies:
docs/doctor.md.
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
from scipy.cluster.hierarchy import DisjointSet
from tqdm import tqdm

BITS_APART = 10
ROUGHLY_ALIKE = 0.85  # correlation of thumbnails
COPY = 0.7  # similarity of pictures
DETAIL = 96  # pixels a side
FINE = 3  # pixels: detail is what a Gaussian blur of this width removes

_ROWS = 16  # hashes compared with all later ones at a time
_BLOCK = 1 << 14  # … of these, which stay in the cache
_PAIRS = 256
_LEAST_OVERLAP = 0.6  # of the picture's area
_ECC_BLUR = 5  # pixels, OpenCV's default
_STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-5)

Thumbnails = NDArray[np.uint8]  # [N, 32, 32]
Hashes = NDArray[np.uint64]  # [N]
Detail = NDArray[np.float32]  # [96, 96]


@dataclass(frozen=True)
class Link:
    """Two pictures, as positions, and how similar they are; `mirrored`: one is the mirror image of the other."""

    one: int
    other: int
    mirrored: bool
    similarity: float


def near_copies(thumbnails: Thumbnails, detail: Callable[[int], Detail]) -> list[Link]:
    """Links that join every group of copies, without those that would join what is joined already: a film scene has too many.

    `detail` reads the picture of a position; it is called by several threads.
    """
    workers = len(os.sched_getaffinity(0))
    links: list[Link] = []
    with ThreadPoolExecutor(workers, "doctor") as pool:
        pairs = _candidates(thumbnails, pool)
        groups = DisjointSet(sorted({position for pair in pairs for position in pair[:2]}))

        def compare(pair: tuple[int, int, bool]) -> float:
            one, other = detail(pair[0]), detail(pair[1])
            return similarity(one, np.ascontiguousarray(other[:, ::-1]) if pair[2] else other)

        with tqdm(total=len(pairs), unit="pair", desc="possible copies") as progress:
            for start in range(0, len(pairs), _PAIRS):
                chunk = pairs[start : start + _PAIRS]
                open_pairs = [pair for pair in chunk if not groups.connected(*pair[:2])]
                for pair, alike in zip(open_pairs, pool.map(compare, open_pairs), strict=True):
                    if alike >= COPY and groups.merge(*pair[:2]):
                        links.append(Link(*pair, alike))
                progress.update(len(chunk))
    return links


def perceptual_hashes(thumbnails: Thumbnails) -> Hashes:
    """[N, 32, 32] -> [N]: which of the 8x8 lowest coefficients of the cosine transform are above their median (as pHash does)."""
    hashes = np.empty(len(thumbnails), np.uint64)
    for start in range(0, len(thumbnails), _BLOCK):
        block = thumbnails[start : start + _BLOCK].astype(np.float32)
        low = scipy.fft.dctn(block, axes=(1, 2))[:, :8, :8].reshape(-1, 64)
        bits = low > np.median(low, axis=1, keepdims=True)
        hashes[start : start + _BLOCK] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return hashes


def near_hashes(
    hashes: Hashes, others: Hashes, pool: ThreadPoolExecutor, desc: str
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Positions i < j with hashes[i] and others[j] at most BITS_APART bits apart, block by block. All pairs are compared, by popcount."""

    def compare(first: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        rows = hashes[first : first + _ROWS, None]
        found = []
        for begin in range(first, len(others), _BLOCK):
            apart = np.bitwise_count(rows ^ others[None, begin : begin + _BLOCK])
            row, column = np.divmod(
                np.flatnonzero(apart <= BITS_APART), apart.shape[1]
            )  # three times as fast as nonzero
            found.append((row + first, column + begin))
        one, other = (np.concatenate(part) for part in zip(*found, strict=True))
        return one[one < other], other[one < other]

    rows_done = range(0, len(hashes), _ROWS)
    with tqdm(total=len(rows_done), unit="block", desc=desc) as progress:
        for start in range(0, len(rows_done), _PAIRS):
            for pair in pool.map(compare, rows_done[start : start + _PAIRS]):
                progress.update()
                yield pair


def similarity(one: Detail, other: Detail) -> float:
    """-1 … 1: correlation of the fine detail where two pictures [96, 96] overlap, the second moved onto the first by an affine map.

    -1 where no such map is found (cv2.findTransformECC) or they overlap in less than 60 %.
    """
    still, everywhere = np.eye(2, 3, dtype=np.float32), np.ones(one.shape, np.uint8)
    try:
        _, moved = cv2.findTransformECC(one, other, still, cv2.MOTION_AFFINE, _STEPS, everywhere, _ECC_BLUR)
    except cv2.error:  # its way of saying that the two do not correlate
        return -1.0
    back = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(np.ones_like(other), moved, other.shape[::-1], flags=back) > 0.99
    if inside.mean() < _LEAST_OVERLAP:
        return -1.0
    aligned = np.asarray(cv2.warpAffine(other, moved, other.shape[::-1], flags=back), np.float32)
    return float(_row_correlations(_fine(one)[inside][None], _fine(aligned)[inside][None])[0])


def _candidates(thumbnails: Thumbnails, pool: ThreadPoolExecutor) -> list[tuple[int, int, bool]]:
    """(i, j, mirrored) of near hashes whose thumbnails correlate, the most alike first."""
    hashes = perceptual_hashes(thumbnails)
    found: list[tuple[float, tuple[int, int, bool]]] = []
    for mirrored in (False, True):
        others = thumbnails[:, :, ::-1] if mirrored else thumbnails
        near = near_hashes(
            hashes, perceptual_hashes(others) if mirrored else hashes, pool, "mirrored" if mirrored else "hashes"
        )
        for one, other in near:
            for start in range(0, len(one), _BLOCK):
                pairs = slice(start, start + _BLOCK)
                alike = _row_correlations(thumbnails[one[pairs]], others[other[pairs]])
                for at in np.flatnonzero(alike >= ROUGHLY_ALIKE):
                    found.append((float(alike[at]), (int(one[pairs][at]), int(other[pairs][at]), mirrored)))
    return [pair for _, pair in sorted(found, reverse=True)]


def _row_correlations(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float32]:
    """[N, ...] twice -> [N]; 0 where either is of one colour."""
    first, second = (values.reshape(len(values), prod(values.shape[1:])).astype(np.float32) for values in (one, other))
    first -= first.mean(axis=1, keepdims=True)
    second -= second.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = np.einsum("ij,ij->i", first, second)
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


def _fine(picture: Detail) -> Detail:
    return np.asarray(picture - cv2.GaussianBlur(picture, (0, 0), FINE), np.float32)
