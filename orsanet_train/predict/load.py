"""A trained run from Python: `model = load("run")`, then `model("face.jpg")`. The predict command is this and nothing else.

Example:

    model = load("run")
    for face in model("photo.jpg").faces:
        print(face.label, face.probability[face.label], face.box)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache.data.images import MAX_PIXELS, MIN_SIDE, NO_WARNINGS, RejectedImage, image_pixels
from orsanet_cache.device import as_device
from orsanet_cache.errors import OrsanetError
from orsanet_cache.paths import StrPath, as_path
from orsanet_train.predict.names import MARGIN
from orsanet_train.predict.pictures import InputPicture, is_video, pictures
from orsanet_train.predict.predictor import CropPredictor
from orsanet_train.predict.results import PictureResult, picture_results
from orsanet_train.predict.seen import Crop, Looker

Given = StrPath | Image.Image | NDArray[np.uint8]  # a path, a Pillow image, or RGB uint8 [H, W, 3]


class Predictor:
    """A run's model behind the frozen networks that it was trained with: pictures in, faces with probabilities out.

    `load` makes one. Called with one picture it returns its `PictureResult`, with several a list of them.
    """

    def __init__(self, crops: CropPredictor, crop: Crop = "auto", margin: float = MARGIN) -> None:
        self.crops = crops
        self.crop = crop
        self.margin = margin

    @classmethod
    def load(
        cls,
        run: StrPath,
        *,
        checkpoint: str = "best",
        crop: Crop = "auto",
        margin: float = MARGIN,
        device: torch.device | str = "auto",
        segmenter: StrPath | None = None,
        landmarks: StrPath | None = None,
    ) -> Self:
        """As the function `load`."""
        folder = as_path(run, "run")
        _check(crop, margin)
        return cls(CropPredictor.load(folder, checkpoint, segmenter, landmarks, as_device(device)), crop, margin)

    @property
    def classes(self) -> tuple[str, ...]:
        """In label order."""
        return self.crops.identity.classes

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.crops.device

    @property
    def note(self) -> str:
        """What is not as in training; empty: nothing."""
        return self.crops.note

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a text is a path here, and no list of letters
        self,
        given: StrPath | Image.Image,
        *,
        crop: Crop | None = None,
        margin: float | None = None,
        batch_size: int | None = None,
    ) -> PictureResult: ...
    @overload
    def __call__(
        self,
        given: Sequence[Given],
        *,
        crop: Crop | None = None,
        margin: float | None = None,
        batch_size: int | None = None,
    ) -> list[PictureResult]: ...
    @overload
    def __call__(
        self,
        given: NDArray[np.uint8],
        *,
        crop: Crop | None = None,
        margin: float | None = None,
        batch_size: int | None = None,
    ) -> PictureResult | list[PictureResult]: ...
    def __call__(
        self,
        given: Given | Sequence[Given],
        *,
        crop: Crop | None = None,
        margin: float | None = None,
        batch_size: int | None = None,
    ) -> PictureResult | list[PictureResult]:
        """The faces of a picture, or of each of several.

        A picture is a path, a Pillow image, or an array RGB uint8 [H, W, 3]; several are a list of these or an array [B, H, W, 3].
        `crop` and `margin` are as for `load`, None as they were given there; `batch_size` is faces at a time, None what suits the device. A
        picture that cannot be
        read, or has no face, has a result without faces that says why. Raises OrsanetError for a file that does not exist.
        """
        several = isinstance(given, list | tuple) or (isinstance(given, np.ndarray) and given.ndim == 4)
        chosen = [_picture(one, number) for number, one in enumerate(given if several else [given], 1)]  # type: ignore[arg-type]
        results = picture_results(self.crops, self.looker(crop, margin), chosen, batch_size=batch_size)
        # An array is the caller's already, so it is kept for an overlay; of a file the overlay reads it again.
        kept = [replace(result, _rgb=picture.rgb) for result, picture in zip(results, chosen, strict=True)]
        return kept if several else kept[0]

    def stream(
        self,
        given: Iterable[Given],
        *,
        crop: Crop | None = None,
        margin: float | None = None,
        batch_size: int | None = None,
        per_second: float = 1.0,
    ) -> Iterator[PictureResult]:
        """The results of any number of pictures and videos, one after the other; no more than a few are in memory.

        A video is `per_second` frames of every second, each with a result of its own. Leaving the iterator ends its threads.
        """
        chosen = (picture for number, one in enumerate(given, 1) for picture in _pictures(one, number, per_second))
        looker = self.looker(crop, margin)
        return picture_results(self.crops, looker, chosen, batch_size=batch_size, wants_preview=lambda: True)

    def looker(self, crop: Crop | None = None, margin: float | None = None) -> Looker:
        """What finds and crops the faces; None is as loaded."""
        chosen = self.crop if crop is None else crop, self.margin if margin is None else margin
        _check(*chosen)
        return Looker(*chosen)


def load(
    run: StrPath,
    *,
    checkpoint: str = "best",
    crop: Crop = "auto",
    margin: float = MARGIN,
    device: torch.device | str = "auto",
    segmenter: StrPath | None = None,
    landmarks: StrPath | None = None,
) -> Predictor:
    """The model of a run folder, ready for pictures, with the frozen networks that it was trained with.

    - `checkpoint` is "best" or "last".
    - `crop` "auto" finds and crops every face of a picture, "none" takes each picture as a face's crop already.
    - `margin` is the side of a crop by the longest side of the face's box, 1 unless given.
    - `device` is "auto", "cpu", "cuda", "cuda:N" or a torch.device.
    - `segmenter` and `landmarks` are files of the frozen networks, or the word demo. None finds them: in the run folder, among those
      that come with the package, in the weights folder (`orsanet-cache weights list`).

    Raises OrsanetError where it is no run folder, the weights cannot be read, or the networks are not found or not the run's.
    """
    return Predictor.load(
        run, checkpoint=checkpoint, crop=crop, margin=margin, device=device, segmenter=segmenter, landmarks=landmarks
    )


def _check(crop: Crop, margin: float) -> None:
    if crop not in get_args(Crop):
        raise OrsanetError(f"crop {crop!r}: give {' or '.join(get_args(Crop))}")
    if not 0.5 <= margin <= 4:
        raise OrsanetError(f"margin {margin!r}: give a number from 0.5 to 4")


def _pictures(given: Given, number: int, per_second: float) -> Iterator[InputPicture]:
    """One for a picture, several for a video."""
    if isinstance(given, Image.Image | np.ndarray) or not is_video(as_path(given, "picture")):
        yield _picture(given, number)
    else:
        yield from pictures([_existing(as_path(given, "picture"))], per_second)


def _picture(given: Given, number: int) -> InputPicture:
    """`number` names one that has no file."""
    name = Path(f"picture {number}")
    if isinstance(given, Image.Image):
        try:
            with NO_WARNINGS:
                return InputPicture(name, rgb=image_pixels(given))
        except RejectedImage as reason:
            return InputPicture(name, reason=str(reason))
        except OSError as error:  # opened and not yet read, it turns out to be damaged
            return InputPicture(name, reason=f"damaged ({error})")
    if isinstance(given, np.ndarray):
        return InputPicture(name, rgb=_rgb(given))
    path = _existing(as_path(given, "picture"))
    if is_video(path):
        raise OrsanetError(f"{path} is a video: take its frames from `for result in model.stream([…])`")
    return InputPicture(path)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise OrsanetError(f"{path}: no such file; nothing was predicted")
    if path.is_dir():
        raise OrsanetError(f"{path} is a folder; give its pictures, or use `orsanet-train predict`")
    return path


def _rgb(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise TypeError(f"picture: expected RGB uint8 [H, W, 3], not {array.dtype} {list(array.shape)}")
    if min(array.shape[:2]) < MIN_SIDE or array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise OrsanetError(
            f"picture of {array.shape[1]}x{array.shape[0]} pixels: each side needs at least {MIN_SIDE}, and all at most {MAX_PIXELS:,}"
        )
    return np.ascontiguousarray(array)
