"""Quality of a segmenter and a landmark network on unseen synthetic faces with exact ground truth.

F1 of a part = 2 |predicted and true| / (|predicted| + |true|), in pixels over all images together

landmark error = mean distance of the 68 points from the truth, in per cent of the distance between
the outer eye corners
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from orsanet_cache.data.images import IMAGE_SIZE, view_pixels
from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.priors import NO_CLASS, FrozenPriors
from orsanet_cache.progress import tracked
from orsanet_cache.store.schema import LAPA_CLASSES
from orsanet_cache.synthetic.dataset import GENERATOR_VERSION
from orsanet_cache.synthetic.picture import SyntheticFace, draw
from orsanet_cache.synthetic.plan import plan

OUTER_EYE_CORNERS = (36, 45)  # iBUG order
_BATCH = 16


@dataclass(frozen=True)
class Quality:
    """Quality on one group of images. Shares are in 0 … 1."""

    images: int
    part_f1: dict[str, float]  # LaPa class -> F1, without background
    landmark_error: float  # per cent of the distance between the outer eye corners, all points
    landmark_error_visible: float  # the same, uncovered points only

    @property
    def mean_part_f1(self) -> float:
        return float(np.mean(list(self.part_f1.values())))


@dataclass(frozen=True)
class QualityReport:
    """Measured quality, and the faces it was measured on."""

    seed: int
    generator: int
    unoccluded: Quality
    occluded: Quality

    def as_toml(self) -> dict[str, object]:
        """Return plain values, rounded to digits that the number of images supports."""
        groups = {"unoccluded": self.unoccluded, "occluded": self.occluded}
        return {
            "seed": self.seed,
            "generator": self.generator,
            **{
                name: {
                    **asdict(quality),
                    "mean_part_f1": round(quality.mean_part_f1, 4),
                    "part_f1": {part: round(value, 4) for part, value in quality.part_f1.items()},
                    "landmark_error": round(quality.landmark_error, 3),
                    "landmark_error_visible": round(quality.landmark_error_visible, 3),
                }
                for name, quality in groups.items()
            },
        }

    def table(self) -> str:
        """Return a table for a terminal."""
        columns = {
            f"{name} ({quality.images})": {
                "mean F1 of the parts": f"{quality.mean_part_f1:.3f}",
                **{f"  {part}": f"{value:.3f}" for part, value in quality.part_f1.items()},
                "landmark error, % of eye distance": f"{quality.landmark_error:.2f}",
                "  of the visible points": f"{quality.landmark_error_visible:.2f}",
            }
            for name, quality in (("unoccluded", self.unoccluded), ("occluded", self.occluded))
        }
        return pd.DataFrame(columns).to_string()


def measure(priors: FrozenPriors, seed: int, images: int) -> QualityReport:
    """Measure on the first `images` valid and test faces of `seed`; about half are occluded."""
    faces = _held_out(seed, images)
    return QualityReport(
        seed=seed,
        generator=GENERATOR_VERSION,
        unoccluded=_quality(priors, [face for face in faces if not face.covered.any()]),
        occluded=_quality(priors, [face for face in faces if face.covered.any()]),
    )


def _held_out(seed: int, images: int) -> list[SyntheticFace]:
    indices = (index for index in itertools.count() if plan(seed, index).split != "train")
    chosen = itertools.islice(indices, images)
    return [draw(seed, index) for index in tracked(chosen, images, "draw", "img")]


def _quality(priors: FrozenPriors, faces: Sequence[SyntheticFace]) -> Quality:
    confusion = np.zeros((len(LAPA_CLASSES), len(LAPA_CLASSES)), np.int64)
    errors: list[NDArray[np.floating]] = []  # per face [68], in per cent of its eye distance
    visible: list[NDArray[np.bool_]] = []
    for start in range(0, len(faces), _BATCH):
        part = faces[start : start + _BATCH]
        outputs = priors(torch.from_numpy(np.stack([view_pixels(face.image, CLEAN) for face in part])))
        if (outputs.segmentation_map == NO_CLASS).any():
            raise OrsanetError("the segmenter's output is not finite; these weights cannot be used")
        for face, predicted_map, landmarks in zip(
            part, outputs.segmentation_map.numpy(), outputs.landmarks.numpy(), strict=True
        ):
            pairs = np.ravel(face.segmentation_map).astype(np.int64) * len(LAPA_CLASSES) + predicted_map.ravel()
            confusion += np.bincount(pairs, minlength=confusion.size).reshape(confusion.shape)
            left, right = face.landmarks[list(OUTER_EYE_CORNERS)]
            distance = np.linalg.norm(face.landmarks - landmarks, axis=1)
            errors.append(100 * distance / np.linalg.norm(left - right))
            columns, rows = (face.landmarks * IMAGE_SIZE).astype(int).clip(0, IMAGE_SIZE - 1).T
            visible.append(~face.covered[rows, columns])
    f1 = 2 * np.diag(confusion) / np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1)
    return Quality(
        images=len(faces),
        part_f1=dict(zip(LAPA_CLASSES[1:], f1[1:].tolist(), strict=True)),
        landmark_error=float(np.mean(errors)),
        landmark_error_visible=float(np.concatenate(errors)[np.concatenate(visible)].mean()),
    )
