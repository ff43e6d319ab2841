"""A trained run from Python: `model = load("run")`, then `model("face.jpg")`.

The predict command uses the same code.

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

from orsanet_cache.data.images import MAX_PIXELS, MIN_SIDE, NO_WARNINGS, ImageReading, RejectedImage, image_pixels
from orsanet_cache.device import as_device
from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.paths import StrPath, StrPlace, Url, as_path, as_place
from orsanet_train.model.checkpoint import LANDMARKS_FILE
from orsanet_train.model.fetched import local_files
from orsanet_train.predict.hub import local_run
from orsanet_train.predict.names import MARGIN
from orsanet_train.predict.pictures import InputPicture, is_video, pictures
from orsanet_train.predict.predictor import CropPredictor
from orsanet_train.predict.results import PictureResult, picture_results
from orsanet_train.predict.seen import Crop, Looker

Given = StrPath | Image.Image | NDArray[np.uint8]  # a path, a Pillow image, or RGB uint8 [H, W, 3]


MOST_PER_SECOND = 1000  # frames of a video


class Predictor:
    """A run's model with the frozen networks of its training: pictures to faces with probabilities.

    `load` makes one. A call with one picture returns its `PictureResult`, a call with several a
    list of them.
    """

    def __init__(self, crops: CropPredictor, crop: Crop = "auto", margin: float = MARGIN) -> None:
        self.crops = crops
        self.crop = crop
        self.margin = margin

    @classmethod
    def load(
        cls,
        run: StrPlace,
        *,
        checkpoint: str = "best",
        crop: Crop = "auto",
        margin: float = MARGIN,
        device: torch.device | str = "auto",
        segmenter: StrPath | None = None,
        landmarks: StrPath | None = None,
    ) -> Self:
        """See the function `load`, which has the same arguments."""
        _check(crop, margin)
        place = as_place(run, "run", "run")
        names = f"{checkpoint}.safetensors", [f"{checkpoint}-{LANDMARKS_FILE}"]
        with local_files(place if isinstance(place, Url) else local_run(place), *names) as folder:
            return cls(CropPredictor.load(folder, checkpoint, segmenter, landmarks, as_device(device)), crop, margin)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in label order."""
        return self.crops.identity.classes

    @property
    def device(self) -> torch.device:
        """The device on which the networks run."""
        return self.crops.device

    @property
    def note(self) -> str:
        """How the computation differs from that in training; empty: not at all."""
        return self.crops.note

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a string is a path here, not a sequence of letters
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
        """The faces of a picture, or of each of several pictures.

        A picture is a path, a Pillow image, or an array RGB uint8 [H, W, 3]. Several pictures are a
        list of these, or an array [B, H, W, 3]. `crop` and `margin` are those of `load`; None: the
        values given there. `batch_size` is the number of faces predicted at a time; None: a default
        for the device. A picture that cannot be read, or has no face, has a result without faces
        and with the reason. Raises OrsanetError for a file that does not exist.
        """
        several = isinstance(given, list | tuple) or (isinstance(given, np.ndarray) and given.ndim == 4)
        every: Sequence[Given] = given if several else [given]  # type: ignore[assignment,list-item]
        chosen = [_picture(one, number, self.crops.reading) for number, one in enumerate(every, 1)]
        results = picture_results(self.crops, self.looker(crop, margin), chosen, batch_size=batch_size)
        # The pixels of images and arrays are kept for an overlay; an overlay reads files again.
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
        """The results of any number of pictures and videos, one after the other.

        Only a few pictures are in memory at a time. Closing the iterator ends its threads.

        Args:
            given: Pictures as for a call, or paths of videos.
            crop: As for `load`. None: the value given there.
            margin: As for `load`. None: the value given there.
            batch_size: Number of faces predicted at a time. None: a default for the device.
            per_second: Frames taken of every second of a video; each has its own result.
        """
        if not 0 < per_second <= MOST_PER_SECOND:
            raise OrsanetError(f"per_second {per_second!r}: give a number above 0, at most {MOST_PER_SECOND}")
        reading = self.crops.reading
        chosen = (
            picture for number, one in enumerate(given, 1) for picture in _pictures(one, number, per_second, reading)
        )
        looker = self.looker(crop, margin)
        return picture_results(self.crops, looker, chosen, batch_size=batch_size, wants_preview=lambda: True)

    def looker(self, crop: Crop | None = None, margin: float | None = None, keeps_frames: bool = False) -> Looker:
        """The `Looker` that finds and crops the faces. None: the value given to `load`."""
        chosen = self.crop if crop is None else crop, self.margin if margin is None else margin
        _check(*chosen)
        return Looker(*chosen, self.crops.reading, keeps_frames)


def load(
    run: StrPlace,
    *,
    checkpoint: str = "best",
    crop: Crop = "auto",
    margin: float = MARGIN,
    device: torch.device | str = "auto",
    segmenter: StrPath | None = None,
    landmarks: StrPath | None = None,
) -> Predictor:
    """The model of a run folder, ready for pictures, with the frozen networks of its training.

    Raises OrsanetError if `run` is not a run folder, if the weights cannot be read, and if the
    frozen networks are not found or are not the run's.

    Args:
        run: The run folder, or the URL of a run; or OWNER/NAME or OWNER/NAME@REVISION, a run that `orsanet-train push`
            brought to the Hugging Face hub, if there is no folder OWNER here.
        checkpoint: "best" or "last".
        crop: "auto" finds and crops every face of a picture; "none" takes each picture as the crop
            of a face.
        margin: Side of a crop as a multiple of the longest side of the face's box, 0.5 … 4.
        device: "auto", "cpu", "cuda", "cuda:N" or a torch.device.
        segmenter: File of the SegFace weights, or the word demo. None searches the run folder, the
            networks that come with the package, and the weights folder (`orsanet-cache weights
            list`).
        landmarks: The same for the MobileFaceNet weights.
    """
    return Predictor.load(
        run, checkpoint=checkpoint, crop=crop, margin=margin, device=device, segmenter=segmenter, landmarks=landmarks
    )


def _check(crop: Crop, margin: float) -> None:
    if crop not in get_args(Crop):
        raise OrsanetError(f"crop {crop!r}: give {' or '.join(get_args(Crop))}")
    if not 0.5 <= margin <= 4:
        raise OrsanetError(f"margin {margin!r}: give a number from 0.5 to 4")


def _pictures(given: Given, number: int, per_second: float, reading: ImageReading) -> Iterator[InputPicture]:
    """One input for a picture, several for a video."""
    if isinstance(given, Image.Image | np.ndarray) or not is_video(as_path(given, "picture")):
        yield _picture(given, number, reading)
    else:
        yield from pictures([_existing(as_path(given, "picture"))], per_second)


def _picture(given: Given, number: int, reading: ImageReading) -> InputPicture:
    """The input of one picture; `number` names a picture without a file, and `reading` is how a Pillow image is read."""
    name = Path(f"picture {number}")
    if isinstance(given, Image.Image):
        try:
            with NO_WARNINGS:
                return InputPicture(name, rgb=image_pixels(given, reading))
        except RejectedImage as reason:
            return InputPicture(name, reason=str(reason))
        except OSError as error:  # Pillow reads lazily, so damage is found here
            refuse_shortage(error)
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
            f"picture of {array.shape[1]}x{array.shape[0]} pixels: each side needs at least {MIN_SIDE}, the picture at most {MAX_PIXELS:,}"
        )
    return np.ascontiguousarray(array)
