"""Pictures made of faces: labelled batches, mistakes, attention maps, worst priors.

Every function returns a Pillow image of tiles in columns, 224 pixels each. Its text stays readable
when the image is shown 360 pixels wide. A name that no
installed font can draw is shown as its number (inspection/fonts.py): a class by its label.

Shapes: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache.inspection.fonts import numbered
from orsanet_cache.inspection.tiles import TILE, Row, Tile, enlarged, sheet, with_landmarks, with_map
from orsanet_cache.store.reader import PriorStore
from orsanet_train.drawing.attention import Attention
from orsanet_train.engine.step import Batch

MOSAIC_TILES, MOSAIC_COLUMNS = 24, 4
WORST = 12  # images with the worst priors
HEAT, DIMMED = 0.75, 0.7  # opacity of the strongest attention; brightness of the grey picture


@dataclass(frozen=True)
class StoredImages:
    """Images of one view of a store, by their rows."""

    store: PriorStore
    split: str
    view: str
    rows: NDArray[np.int64]  # [N]

    def read(self, field: str, positions: Sequence[int] | NDArray[np.integer] | slice = slice(None)) -> NDArray[Any]:
        """A field of all images, or of those at `positions`, in that order."""
        return self.store.read(self.split, self.view, field, self.rows[positions])


@dataclass(frozen=True)
class Seeing:
    """A model's predictions and attention for N images."""

    name: str
    probabilities: NDArray[np.floating[Any]]  # [N, K]
    attention: NDArray[np.float32]  # [N, 14, 14] in 0 … 1


def batch_mosaic(batch: Batch, classes: Sequence[str]) -> Image.Image:
    """The images of a training batch at the backbone's input, each with its class name.

    A swapped label order is visible in it.
    """
    classes = numbered(classes)
    tiles = [enlarged(image) for image in batch.pictures[:MOSAIC_TILES].cpu().numpy()]
    captions = [classes[label] for label in batch.label[:MOSAIC_TILES].tolist()]
    return sheet(_wrapped(tiles, captions), min(MOSAIC_COLUMNS, len(tiles)))


def mistakes(
    images: StoredImages,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating[Any]],
    classes: Sequence[str],
    per_class: int = 4,
) -> Image.Image:
    """The most confident mistakes of every true class, the most confident first.

    Each is captioned with the predicted class and its probability. The title of each class has the
    number of its mistakes, also if that is none.

    Args:
        images: N images.
        labels: Their labels, [N] in 0 … K-1.
        probabilities: Their predicted probabilities, [N, K].
        classes: The names of the K classes in label order.
        per_class: The largest number of mistakes to show of a class.
    """
    classes = numbered(classes)
    predicted, certainty = probabilities.argmax(axis=1), probabilities.max(axis=1)
    rows = []
    for label, name in enumerate(classes):
        of_class = labels == label
        wrong = np.flatnonzero(of_class & (predicted != label))
        surest = wrong[np.argsort(-certainty[wrong], kind="stable")][:per_class]
        count = f"{len(wrong) or 'none'} of {of_class.sum()} wrong" if of_class.any() else "no image"
        captions = [said(classes[predicted[n]], certainty[n]) for n in surest]
        rows.append(Row(f"true {name}: {count}", [enlarged(image) for image in images.read("image", surest)], captions))
    return sheet(rows, per_class)


def attention_columns(
    images: StoredImages,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating[Any]],
    classes: Sequence[str],
    attention: Attention,
) -> Image.Image:
    """The columns of the paper's Fig. 4, one row per image.

    The columns are image, landmarks, segmentation map, and attention with and without the prior. A
    model without a segmentation prior has one column of attention.

    Args:
        images: N images.
        labels: Their labels, [N] in 0 … K-1.
        probabilities: Their predicted probabilities, [N, K].
        classes: The names of the K classes in label order.
        attention: The attention maps of the N images.
    """
    classes = numbered(classes)
    columns = [attention.with_prior.numpy()]
    headings = ["image", "landmarks", "segmentation", "attention"]
    if attention.without_prior is not None:
        columns.append(attention.without_prior.numpy())
        headings.append("… without prior")
    rows = [Row(captions=headings)]
    fields = [images.read(field) for field in ("image", "landmarks", "segmentation_map")]
    for n, (image, landmarks, segmentation_map) in enumerate(zip(*fields, strict=True)):
        best = probabilities[n].argmax()
        title = f"true {classes[labels[n]]}, predicted {said(classes[best], probabilities[n, best])}"
        tiles = [enlarged(image), with_landmarks(image, landmarks), with_map(image, segmentation_map)]
        rows.append(Row(title, [*tiles, *(with_attention(image, column[n]) for column in columns)]))
    return sheet(rows, len(headings))


def attention_side_by_side(
    images: StoredImages, labels: NDArray[np.int64], classes: Sequence[str], runs: Sequence[Seeing]
) -> Image.Image:
    """The attention of several models, one row per image: the image, then a column for each model with its prediction.

    Args:
        images: N images.
        labels: Their labels, [N] in 0 … K-1.
        classes: The names of the K classes in label order.
        runs: The models, with their probabilities and attention for the N images.
    """
    names = numbered([run.name for run in runs], first=len(classes))
    classes = numbered(classes)
    rows = [Row(captions=["image", *names])]
    for n, image in enumerate(images.read("image")):
        best = [(run.probabilities[n].argmax(), run.probabilities[n].max()) for run in runs]
        captions = ["", *(said(classes[label], probability) for label, probability in best)]
        tiles = [enlarged(image), *(with_attention(image, run.attention[n]) for run in runs)]
        rows.append(Row(f"true {classes[labels[n]]}", tiles, captions))
    return sheet(rows, 1 + len(runs))


def worst_priors(images: StoredImages, score: NDArray[np.floating[Any]], count: int = WORST) -> Image.Image:
    """The `count` images with the lowest `score` [N] of their priors, the lowest first.

    Each is shown with landmarks, segmentation map, score and file name.
    """
    worst = np.argsort(score, kind="stable")[:count]
    names = numbered(worst_names(images, score, count), first=1)
    tiles, captions = [], []
    fields = [images.read(field, worst) for field in ("image", "landmarks", "segmentation_map")]
    for n, name, image, landmarks, segmentation_map in zip(worst, names, *fields, strict=True):
        tiles += [with_landmarks(image, landmarks), with_map(image, segmentation_map)]
        captions += [f"score {score[n]:.2f}", name]
    return sheet(_wrapped(tiles, captions), 4)


def worst_names(images: StoredImages, score: NDArray[np.floating[Any]], count: int = WORST) -> list[str]:
    """The file names of the images in `worst_priors`, in their order."""
    ids = images.store.sample_ids(images.split)
    worst = np.argsort(score, kind="stable")[:count]
    return [ids[row].rsplit("/", 1)[-1] for row in images.rows[worst]]


def with_attention(image: NDArray[np.uint8], attention: NDArray[np.float32]) -> Tile:
    """A picture [112, 112, 3] in grey under the colours of its attention [14, 14] in 0 … 1.

    The opacity of the colours is proportional to the attention.
    """
    heat = np.clip(cv2.resize(attention, (TILE, TILE), interpolation=cv2.INTER_CUBIC), 0, 1)
    colours = cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = DIMMED * cv2.cvtColor(enlarged(image), cv2.COLOR_RGB2GRAY)[..., None]
    share = HEAT * heat[..., None]
    return ((1 - share) * grey + share * colours).round().astype(np.uint8)


def said(name: str, probability: float) -> str:
    """A prediction as a caption: class name and probability in per cent."""
    return f"{name} {100 * probability:.0f} %"


def _wrapped(tiles: Sequence[Tile], captions: Sequence[str]) -> list[Row]:
    """Tiles with captions in rows of four."""
    starts = range(0, len(tiles), MOSAIC_COLUMNS)
    return [Row(tiles=tiles[n : n + MOSAIC_COLUMNS], captions=captions[n : n + MOSAIC_COLUMNS]) for n in starts]
