"""Image files, videos and webcams to a folder of predictions.

    files ─ pictures.py ─▶ pictures ─ results.py ─▶ results, as Python users get them from load.py ─ folder.py ─▶ rows, overlays

Only pictures in progress are in memory, so a long video or a folder of 100,000 images takes no more
memory than a short one.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orsanet_cache.errors import OrsanetError
from orsanet_cache.inspection.fonts import numbered
from orsanet_cache.paths import StrPath, as_path, as_paths
from orsanet_cache.progress import Progress
from orsanet_train.predict.annotated import AnnotatedVideos
from orsanet_train.predict.folder import PredictionFolder, Row
from orsanet_train.predict.load import Predictor
from orsanet_train.predict.names import OVERLAYS
from orsanet_train.predict.overlay import file_name
from orsanet_train.predict.pictures import Webcam, is_video, pictures
from orsanet_train.predict.results import PictureResult, picture_results
from orsanet_train.predict.seen import Crop

DIGITS = 9  # of a number of pictures
SHOWN = 10  # pictures whose faces are printed
QUALITY_JPEG = 90


@dataclass
class PredictSummary:
    """Counts of pictures, faces and failures. Each frame of a video counts as a picture."""

    pictures: int = 0
    with_prediction: int = 0
    faces: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # why pictures have no prediction
    overlays: int = 0
    annotated: int = 0  # copies of videos
    first: list[str] = field(default_factory=list)  # results of the first pictures, a line each

    def found(self) -> str:
        """The results of the first pictures, and the number of further pictures."""
        rest = self.pictures - len(self.first)
        return "\n".join([*self.first, *([f"and {rest:,} more pictures"] if rest else [])])

    def text(self) -> str:
        text = f"{self.faces:,} faces in {self.with_prediction:,} of {self.pictures:,} pictures"
        if self.reasons:
            why = "; ".join(f"{count:,} x {reason}" for reason, count in self.reasons.most_common(3))
            rest = len(self.reasons) - 3
            text += f"; not predicted: {self.reasons.total():,} ({why}{f'; {rest} other reasons' if rest > 0 else ''})"
        return text


def predict_files(
    predictor: Predictor,
    files: Sequence[StrPath | Webcam],
    out: StrPath,
    *,
    crop: Crop | None = None,
    margin: float | None = None,
    per_second: float = 1.0,
    overlays: float = 100,
    annotate: bool = False,
    batch_size: int | None = None,
) -> PredictSummary:
    """Predict image files, videos and webcams, and write the folder `out`.

    Ctrl-C ends a webcam, whose rows are complete then. An exception leaves the finished rows (folder.py). Raises OrsanetError, with the folder written,
    if no picture could be predicted.

    Args:
        predictor: A loaded run.
        files: Image files, videos and webcams (inputs.find_inputs finds them).
        out: The folder to write, new or empty.
        crop: As for `load`. None: the value given there.
        margin: As for `load`. None: the value given there.
        per_second: Frames taken of every second of a video.
        overlays: Number of overlays, which are those of the first pictures with faces. math.inf: of
            all pictures with faces.
        annotate: Whether to write an annotated copy of every video and webcam (annotated.py).
        batch_size: Number of faces predicted at a time. None: a default for the device.
    """
    several = files if isinstance(files, list | tuple) else as_paths(files, "files")
    inputs = [one if isinstance(one, Webcam) else as_path(one, "files") for one in several]
    out = as_path(out, "out")
    identity, looker = predictor.crops.identity, predictor.looker(crop, margin, keeps_frames=annotate)
    about = {
        "checkpoint": identity.model_dump(mode="json"),
        "crop": looker.crop,
        "margin": looker.margin if looker.crop == "auto" else None,
        "frames_per_second": per_second if any(map(is_video, inputs)) else None,
        "device": str(predictor.device),
    }
    names = zip(numbered(identity.classes), identity.classes, strict=True)
    if numbers := {shown: name for shown, name in names if shown != name}:
        about["class_numbers_in_pictures"] = numbers
    summary = PredictSummary()
    results = picture_results(
        predictor.crops, looker, pictures(inputs, per_second),
        batch_size=batch_size, wants_preview=lambda: summary.overlays < overlays,
    )  # fmt: skip
    total = None if any(map(is_video, inputs)) else len(inputs)
    with (
        PredictionFolder(out, identity.classes, about) as folder,
        AnnotatedVideos(out) as videos,
        Progress(total, "predict", "img") as progress,
    ):
        for result in results:
            drawn = _draw(result, summary.overlays + 1, out) if result.faces and summary.overlays < overlays else ""
            summary.overlays += bool(drawn)
            folder.add(_rows(result, drawn))
            if annotate:
                videos.add(result)
            _count(summary, result)
            progress.set_postfix(faces=summary.faces)
            progress.update()
        videos.finish()
        summary.annotated = videos.count
    if not summary.faces:
        raise OrsanetError(
            f"nothing could be predicted; see the reasons in {folder.path / 'predictions.csv'}: {summary.text()}"
        )
    return summary


def parse_overlays(text: str) -> float:
    """A number from `none`, `all` or digits. Raises OrsanetError for anything else."""
    if text in ("none", "all"):
        return math.inf if text == "all" else 0
    if not text.isdecimal() or len(text) > DIGITS:
        raise OrsanetError(f"--overlays {text}: give none, all or a number of pictures")
    return int(text)


def _rows(result: PictureResult, drawn: str) -> list[Row]:
    picture = result.seen.picture
    if not result.faces:
        return [Row(picture.path, picture.frame, picture.time, reason=result.reason)]
    return [
        Row(
            picture.path, picture.frame, picture.time, face.number, face.box,
            None if face.reason else face.prediction.probabilities, face.quality, drawn, face.reason,
        )
        for face in result.faces
    ]  # fmt: skip


def _count(summary: PredictSummary, result: PictureResult) -> None:
    usable = sum(not face.reason for face in result.faces)
    summary.pictures += 1
    summary.with_prediction += usable > 0
    summary.faces += usable
    if not usable:
        summary.reasons[result.reason or result.faces[0].reason] += 1
    if len(summary.first) < SHOWN:
        summary.first.append(str(result))


def _draw(result: PictureResult, number: int, out: Path) -> str:
    """Write an overlay and return its path below the folder."""
    picture = result.seen.picture
    drawn = result.overlay()
    name = f"{OVERLAYS}/{file_name(number, picture.path, picture.frame)}"
    (out / OVERLAYS).mkdir(exist_ok=True)
    drawn.save(out / name, quality=QUALITY_JPEG)
    return name
