"""The overlay of a picture: labelled boxes, and below the picture the details of every face.

The details are the crop, its landmarks, its segmentation map and its attention.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from orsanet_cache.inspection.fonts import Typeface, numbered
from orsanet_cache.inspection.tiles import Row, enlarged, sheet, with_landmarks, with_map
from orsanet_train.drawing.gallery import said, with_attention
from orsanet_train.predict.predictor import Prediction
from orsanet_train.predict.seen import Box, Preview, Seen

HEADINGS = ("crop", "landmarks", "segmentation", "attention")
MAX_FACES = 12  # faces with details; all have boxes
BOX, TEXT = (255, 214, 0), 22
STEM = 120  # bytes: with number and frame about 140; file systems allow 255, encrypted ones 143


def overlay(
    seen: Seen, predictions: Sequence[Prediction], attention: NDArray[np.float32] | None, classes: Sequence[str]
) -> Image.Image:
    """The overlay of a picture with faces.

    `predictions` are those of all faces; `attention` [F, 14, 14] is that of the first MAX_FACES or
    more, or None of a model that has none. A picture without a preview (it is its own crop) has only the details.
    """
    headings = HEADINGS if attention is not None else HEADINGS[:-1]
    rows = [Row(captions=headings)]
    labels = face_labels(predictions, classes)
    for n, (label, prediction) in enumerate(zip(labels, predictions[:MAX_FACES], strict=False)):
        image = prediction.pixels
        tiles = [enlarged(image), with_landmarks(image, prediction.landmarks)]
        if prediction.reason:  # no class for an attention map, and no valid segmentation map
            rows.append(Row(label, tiles))
        else:
            heat = [] if attention is None else [with_attention(image, attention[n])]
            rows.append(Row(label, [*tiles, with_map(image, prediction.segmentation_map), *heat]))
    if len(predictions) > MAX_FACES:
        rows.append(Row(f"and {len(predictions) - MAX_FACES} more faces, in predictions.csv"))
    below = sheet(rows, len(headings))
    if seen.preview is None:
        return below
    above = with_boxes(seen.preview, seen.boxes, labels)
    whole = Image.new("RGB", (max(above.width, below.width), above.height + below.height), "white")
    whole.paste(above, ((whole.width - above.width) // 2, 0))
    whole.paste(below, (0, above.height))
    return whole


def face_labels(predictions: Sequence[Prediction], classes: Sequence[str]) -> list[str]:
    """Number, class and probability of every face; a class that no font can draw by its label (inspection/fonts.py)."""
    names = numbered(classes)
    labels = []
    for number, prediction in enumerate(predictions, 1):
        if prediction.reason:
            labels.append(f"{number}: {prediction.reason}")
        else:
            best = int(prediction.probabilities.argmax())
            labels.append(f"{number}: {said(names[best], float(prediction.probabilities[best]))}")
    return labels


def with_boxes(
    preview: Preview, boxes: Sequence[Box], labels: Sequence[str], size: int = TEXT, shortens: bool = True
) -> Image.Image:
    """The picture with labelled boxes.

    Args:
        preview: The picture.
        boxes: The boxes of the faces, in pixels of the original.
        labels: A text for each.
        size: Of the text, in pixels.
        shortens: Whether a box too narrow for its label has only its number.
    """
    picture = Image.fromarray(preview.pixels)
    draw = ImageDraw.Draw(picture)
    typeface = Typeface(size, labels)
    for box, label in zip(boxes, labels, strict=True):
        left, top = box.x * preview.scale, box.y * preview.scale
        right, bottom = left + box.width * preview.scale, top + box.height * preview.scale
        draw.rectangle((left, top, right, bottom), outline=BOX, width=2)
        fits = not shortens or typeface.length(label) <= 1.5 * (right - left)
        text = label if fits else label.partition(":")[0]
        wide = typeface.length(text)
        x = min(max(left, 0), max(0, picture.width - wide - 4))
        y = top - size - 6 if top >= size + 6 else max(top, 0)
        draw.rectangle((x, y, x + wide + 6, y + size + 5), fill=BOX)
        typeface.write(draw, x + 3, y, text)
    return picture


def file_name(number: int, path: Path, frame: int | None) -> str:
    """File name of the number-th overlay: its number and a portable form of the picture's name."""
    return f"{number:05}-{portable_stem(path)}{'' if frame is None else f'-frame{frame}'}.jpg"


def portable_stem(path: Path) -> str:
    """The name without its suffix, with letters, digits, dots and hyphens only, of bounded length."""
    return re.sub(r"[^\w.-]+", "_", path.stem).encode()[-STEM:].decode(errors="ignore")  # drops an incomplete letter
