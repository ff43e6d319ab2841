"""The results of pictures: faces, and of each face label, probabilities and quality of the priors.

    pictures ─ seen.py, threads ─▶ crops ─ predictor.py, in batches ─▶ PictureResult ─ attention, overlay: on request

The predict command writes these results into a folder (predict.py); load.py returns them to Python
users.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache.data.images import read_image
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.priors import CPU_BATCH, GPU_BATCH
from orsanet_cache.streams import printable
from orsanet_train.drawing.gallery import said
from orsanet_train.predict.overlay import MAX_FACES, face_labels, overlay, with_boxes
from orsanet_train.predict.pictures import InputPicture
from orsanet_train.predict.predictor import CropPredictor, Prediction
from orsanet_train.predict.seen import Box, Looker, Seen, look_ahead, preview_of

LEAST_TEXT, TEXT_SHARE = 14, 1 / 30  # pixels; of the height of an annotated frame
PICTURES_PER_BATCH = 4  # at most, for every face of a full batch: so results come even if few pictures have a face


@dataclass(frozen=True)
class FaceResult:
    """One face of a picture."""

    number: int  # counted from 1, from left to right
    box: Box  # in pixels of the upright picture
    prediction: Prediction = field(repr=False)
    _predictor: CropPredictor = field(repr=False, compare=False)

    @property
    def label(self) -> str | None:
        """The most probable class; None if the networks' outputs are not finite."""
        if self.prediction.reason:
            return None
        return self._predictor.identity.classes[int(self.prediction.probabilities.argmax())]

    @property
    def probability(self) -> dict[str, float]:
        """Probability by class name, in label order; empty if the outputs are not finite."""
        if self.prediction.reason:
            return {}
        # The shortest decimals of the float32 values, as in predictions.json.
        shares = (float(str(value)) for value in self.prediction.probabilities)
        return dict(zip(self._predictor.identity.classes, shares, strict=True))

    @property
    def quality(self) -> dict[str, float]:
        """Quality measures of the priors (docs/prior-quality.md): part_plausibility and others."""
        return dict(self.prediction.quality)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The crop at the backbone's input, [112, 112, 3]."""
        return self.prediction.pixels

    @property
    def segmentation_map(self) -> NDArray[np.uint8]:
        """Class of every pixel, [224, 224]."""
        return self.prediction.segmentation_map

    @property
    def landmarks(self) -> NDArray[np.float32]:
        """x and y in units of the crop, [68, 2]."""
        return self.prediction.landmarks

    @property
    def reason(self) -> str:
        """Why the face has no label; empty: it has one."""
        return self.prediction.reason

    @cached_property
    def attention(self) -> NDArray[np.float32] | None:
        """Grad-CAM of the label with the prior, [14, 14], 0 … 1; None: the model reads no image. Computed on first access."""
        found = self._predictor.attention([self.prediction])
        return None if found is None else found[0]

    def __str__(self) -> str:
        return f"face {self.number}: {self.reason or said(str(self.label), self.probability[str(self.label)])}"


@dataclass(frozen=True)
class PictureResult:
    """A picture, or a frame of a video, with its faces from left to right."""

    name: str  # the path as it was given; `picture N` for a picture without a path
    frame: int | None  # of a video, counted from 0
    time: float | None  # of a video, seconds
    faces: tuple[FaceResult, ...]
    reason: str  # why it has no face; empty: it has faces
    seen: Seen = field(repr=False, compare=False)
    _predictor: CropPredictor = field(repr=False, compare=False)
    _rgb: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)  # of a picture without a file

    def overlay(self) -> Image.Image:
        """The picture with its boxes; below it crop, landmarks, map and attention of every face.

        The file is read again if the pixels were not kept. Raises OrsanetError for a picture
        without a face.
        """
        if not self.faces:
            raise OrsanetError(f"{self.name}: no overlay without a face ({self.reason})")
        seen = self.seen
        if seen.preview is None and seen.boxes[0].score is not None:  # without a score the picture is its own crop
            rgb = read_image(seen.picture.path, self._predictor.reading).rgb if self._rgb is None else self._rgb
            seen = replace(seen, preview=preview_of(rgb))
        predictions = [face.prediction for face in self.faces]
        heat = self._predictor.attention(predictions[:MAX_FACES])
        return overlay(seen, predictions, heat, self._predictor.identity.classes)

    def annotated(self) -> Image.Image | None:
        """The frame of a video with its labelled boxes, if any; None: it was not kept, or could not be decoded."""
        if self.seen.frame is None:
            return None
        labels = face_labels([face.prediction for face in self.faces], self._predictor.identity.classes)
        size = max(LEAST_TEXT, round(TEXT_SHARE * self.seen.frame.pixels.shape[0]))
        return with_boxes(self.seen.frame, self.seen.boxes, labels, size, shortens=False)

    def __str__(self) -> str:
        where = "" if self.frame is None else f", frame {self.frame}"
        shown = [str(face) for face in self.faces[:MAX_FACES]]
        if len(self.faces) > MAX_FACES:
            shown.append(f"and {len(self.faces) - MAX_FACES} more faces")
        return f"{printable(self.name, one_line=True)}{where}: {', '.join(shown) or self.reason}"


def picture_results(
    predictor: CropPredictor,
    looker: Looker,
    pictures: Iterable[InputPicture],
    *,
    batch_size: int | None = None,
    wants_preview: Callable[[], bool] = lambda: False,
) -> Iterator[PictureResult]:
    """The results of pictures in their order. Only pictures in progress are in memory.

    Args:
        predictor: Predicts the crops.
        looker: Finds and crops the faces.
        pictures: The pictures and frames.
        batch_size: Number of faces predicted at a time. None: a default for the device.
        wants_preview: Returns whether the next picture's pixels are kept for an overlay.
    """
    size = batch_size or (CPU_BATCH if predictor.device.type == "cpu" else GPU_BATCH)
    for group in _groups(look_ahead(looker, pictures, wants_preview), size):
        pixels = np.concatenate([seen.pixels for seen in group])
        predictions = iter(
            [one for start in range(0, len(pixels), size) for one in predictor.predict(pixels[start : start + size])]
        )
        for seen in group:
            faces = tuple(
                FaceResult(number, box, next(predictions), predictor) for number, box in enumerate(seen.boxes, 1)
            )
            picture = seen.picture
            yield PictureResult(str(picture.path), picture.frame, picture.time, faces, seen.reason, seen, predictor)


def _groups(ahead: Iterable[Seen], size: int) -> Iterator[Sequence[Seen]]:
    """Successive pictures that together have a batch of faces."""
    group: list[Seen] = []
    faces = kept = 0  # kept: frames for annotated videos, which take memory
    for seen in ahead:
        group.append(seen)
        faces += len(seen.boxes)
        kept += seen.frame is not None
        if faces >= size or len(group) >= PICTURES_PER_BATCH * size or kept >= size:
            yield group
            group, faces, kept = [], 0, 0
    if group:
        yield group
