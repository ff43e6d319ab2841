"""What a run's model makes of pictures: of each picture its faces, of each face label, probabilities and how good the priors are.

    pictures ─ seen.py, threads ─▶ crops ─ predictor.py, in batches ─▶ PictureResult ─ attention, overlay: on request

The predict command writes these results into a folder (predict.py); load.py hands them to Python users.
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
from orsanet_train.drawing.gallery import said
from orsanet_train.predict.overlay import MAX_FACES, overlay
from orsanet_train.predict.pictures import InputPicture
from orsanet_train.predict.predictor import CropPredictor, Prediction
from orsanet_train.predict.seen import Box, Looker, Seen, look_ahead, preview_of

PICTURES_PER_BATCH = (
    4  # at most, for every face of a full batch: where hardly any has a face, results come all the same
)


@dataclass(frozen=True)
class FaceResult:
    """One face of a picture."""

    number: int  # counted from 1, from left to right
    box: Box  # in pixels of the upright picture
    prediction: Prediction = field(repr=False)
    _predictor: CropPredictor = field(repr=False, compare=False)

    @property
    def label(self) -> str | None:
        """The most probable class; None where the networks' answer is not finite."""
        if self.prediction.reason:
            return None
        return self._predictor.identity.classes[int(self.prediction.probabilities.argmax())]

    @property
    def probability(self) -> dict[str, float]:
        """By class name, in label order; empty where the answer is not finite."""
        if self.prediction.reason:
            return {}
        # As decimals that say what a float32 knows, as in predictions.json.
        shares = (float(str(value)) for value in self.prediction.probabilities)
        return dict(zip(self._predictor.identity.classes, shares, strict=True))

    @property
    def quality(self) -> dict[str, float]:
        """How good the priors are, measure by measure (docs/prior-quality.md): part_plausibility and others."""
        return dict(self.prediction.quality)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The crop as the backbone sees it, [112, 112, 3]."""
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
        """Why there is no label; empty: there is one."""
        return self.prediction.reason

    @cached_property
    def attention(self) -> NDArray[np.float32]:
        """Where the backbone looks for the label, with the prior: [14, 14], 0 … 1. Computed when it is first asked for."""
        return self._predictor.attention([self.prediction])[0]

    def __str__(self) -> str:
        return f"face {self.number}: {self.reason or said(str(self.label), self.probability[str(self.label)])}"


@dataclass(frozen=True)
class PictureResult:
    """A picture, or a frame of a video, with its faces from left to right."""

    name: str  # the path as it was given; `picture N` for one that has none
    frame: int | None  # of a video, counted from 0
    time: float | None  # of a video, seconds
    faces: tuple[FaceResult, ...]
    reason: str  # why it has no face; empty: it has some
    seen: Seen = field(repr=False, compare=False)
    _predictor: CropPredictor = field(repr=False, compare=False)
    _rgb: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)  # of a picture without a file

    def overlay(self) -> Image.Image:
        """The picture with its boxes, and below it of every face crop, landmarks, segmentation map and attention.

        The file is read again where the picture was not kept. Raises OrsanetError for a picture without a face.
        """
        if not self.faces:
            raise OrsanetError(f"{self.name}: no overlay without a face ({self.reason})")
        seen = self.seen
        if seen.preview is None and seen.boxes[0].score is not None:  # else it is its own crop
            rgb = read_image(seen.picture.path).rgb if self._rgb is None else self._rgb
            seen = replace(seen, preview=preview_of(rgb))
        predictions = [face.prediction for face in self.faces]
        heat = self._predictor.attention(predictions[:MAX_FACES])
        return overlay(seen, predictions, heat, self._predictor.identity.classes)

    def __str__(self) -> str:
        where = "" if self.frame is None else f", frame {self.frame}"
        shown = [str(face) for face in self.faces[:MAX_FACES]]
        if len(self.faces) > MAX_FACES:
            shown.append(f"and {len(self.faces) - MAX_FACES} more faces")
        return f"{_escaped(self.name)}{where}: {', '.join(shown) or self.reason}"


def picture_results(
    predictor: CropPredictor,
    looker: Looker,
    pictures: Iterable[InputPicture],
    *,
    batch_size: int | None = None,
    wants_preview: Callable[[], bool] = lambda: False,
) -> Iterator[PictureResult]:
    """The results of pictures in their order. Nothing is kept but what is on its way.

    `batch_size` is how many faces are predicted at a time, None as many as suit the device; `wants_preview` says of the next picture
    whether its pixels are kept for an overlay.
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
    """Pictures that together have a batch of faces."""
    group: list[Seen] = []
    faces = 0
    for seen in ahead:
        group.append(seen)
        faces += len(seen.boxes)
        if faces >= size or len(group) >= PICTURES_PER_BATCH * size:
            yield group
            group, faces = [], 0
    if group:
        yield group


def _escaped(text: str) -> str:
    """With \\xNN, \\uNNNN for what a terminal would not show: a file's name may hold anything."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode("ascii")
        for letter in text
    )
