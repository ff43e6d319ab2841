"""Quality of an image's priors, computed from the priors alone: no label, no truth, no network.

    segmentation_entropy   uncertainty of the segmenter                    0 … 1, small is good
    part_plausibility      the map shows the parts of one face, in order   0 … 1, large is good
    landmark_agreement     the landmarks lie on the parts of the map       0 … 1, large is good
    flip_disagreement      landmarks move when the picture is mirrored     eye distances, small is good
    score                  mean percentile rank in these                   0 … 1, large is good

The paper states bad priors on poor images as its limitation. docs/prior-quality.md has measurements
of how well these measures detect damaged images.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orsanet_cache.data.views import CLEAN, HFLIP
from orsanet_cache.errors import OrsanetError
from orsanet_cache.paths import StrPlace
from orsanet_cache.progress import Progress
from orsanet_cache.store.reader import PriorStore, as_rows, as_store

CHUNK = 64  # maps in memory at a time, 3 MB
TOLERANCE = 0.1  # eye distances: about the landmark network's own median error on real faces
SIZE_FACTOR = 4

# True if large values are good.
MEASURES = {
    "segmentation_entropy": False,
    "part_plausibility": True,
    "landmark_agreement": True,
    "flip_disagreement": False,
}


@dataclass(frozen=True)
class FacePart:
    """Classes first … last of the map, and their typical share.

    The share of the face is relative to the picture. The share of another part is relative to the
    face.
    """

    first: int
    last: int
    typical: float


# LaPa classes: 1 face, 2 and 3 brows, 4 and 5 eyes, 6 nose, 7 to 9 lips and inner mouth. The sizes
# are round numbers for tight crops and whole heads. The true parts of uncovered synthetic faces are
# within SIZE_FACTOR of them, except for brows under hair.
PARTS = {
    "face": FacePart(1, 9, 0.4),
    "left brow": FacePart(2, 2, 0.015),
    "right brow": FacePart(3, 3, 0.015),
    "left eye": FacePart(4, 4, 0.01),
    "right eye": FacePart(5, 5, 0.01),
    "nose": FacePart(6, 6, 0.07),
    "mouth": FacePart(7, 9, 0.04),
}
ABOVE = (
    ("left brow", "left eye"), ("right brow", "right eye"), ("left eye", "nose"), ("right eye", "nose"), ("nose", "mouth"),
)  # fmt: skip

# Classes first … last of the map -> their landmarks, iBUG order. The outline of the face belongs to
# no part.
LANDMARKS_ON = {(2, 3): slice(17, 27), (4, 5): slice(36, 48), (6, 6): slice(27, 36), (7, 9): slice(48, 68)}
EYES = slice(36, 42), slice(42, 48)

# The index of each of the 68 points in a mirrored picture.
MIRRORED = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
     41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)  # fmt: skip


def prior_quality(
    store: PriorStore | StrPlace, split: str, view: str, rows: NDArray[np.integer] | Sequence[int]
) -> pd.DataFrame:
    """Judge the priors of some rows of a view.

    Returns one line per row, in the given order: column `image` (path as in the manifest), the four
    measures, and `score`. The index is the row. `flip_disagreement` is NaN if it is unknown: for
    every view except clean, if the split has no finished hflip view, and if the image was rejected
    in that view.

    `score` orders these images among each other; it is not an absolute number. It is the mean of the
    image's percentile ranks among `rows` in the measures it has. Each rank is oriented so that 1 is
    the best. All measures have equal weight.

    Raises OrsanetError if the view is unfinished or damaged, or if it rejected one of the rows.
    """
    store, rows = as_store(store), as_rows(rows)
    _check_accepted(store, split, view, rows)
    ids = store.sample_ids(split)
    quality = pd.DataFrame(
        {
            "image": [ids[row] for row in rows],
            "segmentation_entropy": store.read(split, view, "segmentation_entropy", rows),
        },
        index=pd.Index(rows, name="row"),
    )
    landmarks = store.read(split, view, "landmarks", rows)
    judged: list[tuple[float, float]] = []
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0)), "quality") as pool,
        Progress(len(rows), f"quality of {split}/{view}", "img") as progress,
    ):
        for start in range(0, len(rows), CHUNK):
            chunk = slice(start, start + CHUNK)
            maps = store.read(split, view, "segmentation_map", rows[chunk])
            judged += pool.map(_judge, maps, landmarks[chunk])
            progress.update(len(maps))
    quality[["part_plausibility", "landmark_agreement"]] = np.array(judged, np.float64).reshape(-1, 2)
    quality["flip_disagreement"] = np.nan
    if view == CLEAN and HFLIP in store.views(split):
        both = store.accepted(split, HFLIP)[rows]
        mirrored = store.read(split, HFLIP, "landmarks", rows[both])
        quality.loc[both, "flip_disagreement"] = flip_disagreement(landmarks[both], mirrored)
    quality["score"] = score(quality)
    return quality


def part_plausibility(segmentation_map: NDArray[np.uint8]) -> float:
    """Return how well a map shows the parts of one face in their places: 0 … 1, mean of 13 values.

    The map is uint8 [H, W] of LaPa classes. Seven values are for parts: face with everything in it,
    both brows, both eyes, nose, mouth with lips. Each is the share of the part's pixels in its
    largest connected piece. It is 0 if the part is missing, or if its size differs from the typical
    size by more than a factor of SIZE_FACTOR.

    Six values, 1 or 0, are for places, by those pieces' centres: each brow above its eye, each
    eye above the nose, the nose above the mouth, and brows in the same left-right order as eyes. A
    value is 0 if one of its parts is missing.

    The side of the picture on which left and right lie is not checked, because sources differ on
    LaPa's meaning of left. A covered part counts as missing.
    """
    pieces = {name: _largest_piece(_mask(segmentation_map, part.first, part.last)) for name, part in PARTS.items()}
    whole = {"face": segmentation_map.size}
    answers = []
    for name, part in PARTS.items():
        share = pieces[name].pixels / max(whole.get(name, pieces["face"].pixels), 1)
        sane = part.typical / SIZE_FACTOR <= share <= part.typical * SIZE_FACTOR
        answers.append(pieces[name].largest / pieces[name].pixels if sane else 0.0)
    answers += [float(pieces[upper].y < pieces[lower].y) for upper, lower in ABOVE]
    brows = pieces["left brow"].x - pieces["right brow"].x
    eyes = pieces["left eye"].x - pieces["right eye"].x
    answers.append(float(brows * eyes > 0))
    return float(np.mean(answers))


def landmark_agreement(segmentation_map: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> float:
    """Return the share, 0 … 1, of landmarks on or near their part of the map.

    The 51 landmarks of brows, eyes, nose and mouth count. The map is uint8 [H, W]; landmarks are
    [68, 2] in units of the crop, iBUG order. Near means that the pixel is within TOLERANCE times the
    distance between the centres of the eyes (by the landmarks). A landmark outside the picture, or
    of a part that the map does not have, does not agree. Both brows are one part here, and so are
    both eyes (see `part_plausibility`).
    """
    size = np.array(segmentation_map.shape[::-1])
    tolerance = TOLERANCE * eye_distance(landmarks) * size.mean()
    place = np.floor(landmarks * size)
    inside = np.logical_and(place >= 0, place < size).all(axis=1)
    x, y = place.clip(0, size - 1).astype(np.int64).T
    agree = []
    for (first, last), points in LANDMARKS_ON.items():
        elsewhere = ~_mask(segmentation_map, first, last)
        if elsewhere.all():
            agree.append(np.zeros(points.stop - points.start, np.bool_))
            continue
        distance = cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        agree.append(inside[points] & (distance[y[points], x[points]] <= tolerance))
    return float(np.concatenate(agree).mean())


def flip_disagreement(landmarks: NDArray[np.floating], of_mirrored: NDArray[np.floating]) -> NDArray[np.float64]:
    """Landmarks [N, 68, 2] of pictures and of the mirrored pictures -> mean distances [N].

    The landmarks of the mirrored pictures are mirrored back first. The unit is the distance between
    the centres of the eyes. The result is infinite if both eyes have the same centre.
    """
    back = of_mirrored[:, MIRRORED] * (-1.0, 1.0) + (1.0, 0.0)
    distance = np.linalg.norm(landmarks - back, axis=2).mean(axis=1)
    eyes = eye_distance(landmarks)
    return np.divide(distance, eyes, out=np.full(len(eyes), np.inf), where=eyes > 0)


def eye_distance(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """[..., 68, 2] -> [...]: the distance between the mean points of the two eyes."""
    one, other = (landmarks[..., eye, :].mean(axis=-2, dtype=np.float64) for eye in EYES)
    return np.asarray(np.linalg.norm(one - other, axis=-1))


def score(measures: pd.DataFrame) -> pd.Series:
    """Return the mean percentile rank of each line in the MEASURES it has; 1 is the best.

    Equal values share the mean of their ranks.
    """
    ranks = {name: measures[name].rank(ascending=large_is_good, pct=True) for name, large_is_good in MEASURES.items()}
    return pd.DataFrame(ranks).mean(axis=1)


@dataclass(frozen=True)
class _Piece:
    """A part's pixels, the pixels of its largest connected piece, and that piece's centre.

    The centre is NaN if the part is missing.
    """

    pixels: int
    largest: int
    x: float
    y: float


def _largest_piece(mask: NDArray[np.uint8]) -> _Piece:
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return _Piece(0, 0, np.nan, np.nan)
    around = mask[top : top + height, left : left + width]  # the whole map would take six times as long
    _, _, statistics, centres = cv2.connectedComponentsWithStats(around)
    areas = statistics[1:, cv2.CC_STAT_AREA]  # the first is the background
    largest = int(areas.argmax())
    x, y = centres[1 + largest].tolist()
    return _Piece(int(areas.sum()), int(areas[largest]), left + x, top + y)


def _mask(segmentation_map: NDArray[np.uint8], first: int, last: int) -> NDArray[np.uint8]:
    """Return 255 for pixels whose class is one of first … last, else 0."""
    return np.asarray(cv2.inRange(segmentation_map, first, last), np.uint8)


def _judge(segmentation_map: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> tuple[float, float]:
    return part_plausibility(segmentation_map), landmark_agreement(segmentation_map, landmarks)


def _check_accepted(store: PriorStore, split: str, view: str, rows: NDArray[np.integer]) -> None:
    rejected = rows[~store.accepted(split, view)[rows]]
    if len(rejected):
        image = store.sample_ids(split)[rejected[0]]
        raise OrsanetError(
            f"{store.path}: '{image}' was rejected in {split}/{view} ({store.rejected(split, view)[image]}); "
            f"judge only rows of accepted images"
        )
