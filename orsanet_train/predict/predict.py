"""Image files and videos to a folder of predictions.

    files ─ pictures.py ─▶ pictures ─ results.py ─▶ results, as Python users get them from load.py ─ folder.py ─▶ rows, overlays

Nothing is kept but what is on its way: a long video or a folder of 100,000 images takes no more memory than a short one.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from orsanet_cache.errors import OrsanetError
from orsanet_cache.paths import StrPath, as_path, as_paths
from orsanet_train.predict.folder import PredictionFolder, Row
from orsanet_train.predict.load import Predictor
from orsanet_train.predict.names import OVERLAYS
from orsanet_train.predict.overlay import file_name
from orsanet_train.predict.pictures import is_video, pictures
from orsanet_train.predict.results import PictureResult, picture_results
from orsanet_train.predict.seen import Crop

SHOWN = 10  # pictures whose faces are printed
QUALITY_JPEG = 90


@dataclass
class PredictSummary:
    """What came of the pictures. A video counts as its frames."""

    pictures: int = 0
    with_prediction: int = 0
    faces: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # why pictures have no prediction
    overlays: int = 0
    first: list[str] = field(default_factory=list)  # what was found in the first pictures, a line each

    def found(self) -> str:
        """What was found in the first pictures, and how many there are besides."""
        rest = self.pictures - len(self.first)
        return "\n".join([*self.first, *([f"and {rest:,} more pictures"] if rest else [])])

    def text(self) -> str:
        said = f"{self.faces:,} faces in {self.with_prediction:,} of {self.pictures:,} pictures"
        if self.reasons:
            why = "; ".join(f"{count:,} x {reason}" for reason, count in self.reasons.most_common(3))
            rest = len(self.reasons) - 3
            said += f"; not predicted: {self.reasons.total():,} ({why}{f'; {rest} other reasons' if rest > 0 else ''})"
        return said


def predict_files(
    predictor: Predictor,
    files: Sequence[StrPath],
    out: StrPath,
    *,
    crop: Crop | None = None,
    margin: float | None = None,
    per_second: float = 1.0,
    overlays: float = 100,
    batch_size: int | None = None,
) -> PredictSummary:
    """Predict image files and videos (pictures.find_files), and write the folder `out`, which must be new or empty.

    `crop` and `margin` are as loaded unless given. `overlays`: of how many pictures with faces, the first ones; math.inf: of all. An exception leaves the rows that were finished
    (folder.py). Raises OrsanetError, with the folder written, where not one picture could be predicted.
    """
    files, out = as_paths(files, "files"), as_path(out, "out")
    identity, looker = predictor.crops.identity, predictor.looker(crop, margin)
    about = {
        "checkpoint": identity.model_dump(mode="json"),
        "crop": looker.crop,
        "margin": looker.margin if looker.crop == "auto" else None,
        "frames_per_second": per_second if any(map(is_video, files)) else None,
        "device": str(predictor.device),
    }
    summary = PredictSummary()
    results = picture_results(
        predictor.crops, looker, pictures(files, per_second),
        batch_size=batch_size, wants_preview=lambda: summary.overlays < overlays,
    )  # fmt: skip
    total = None if any(map(is_video, files)) else len(files)
    with (
        PredictionFolder(out, identity.classes, about) as folder,
        tqdm(total=total, unit="img", desc="predict") as progress,
    ):
        for result in results:
            drawn = _draw(result, summary.overlays + 1, out) if result.faces and summary.overlays < overlays else ""
            summary.overlays += bool(drawn)
            folder.add(_rows(result, drawn))
            _count(summary, result)
            progress.set_postfix(faces=summary.faces, refresh=False)
            progress.update()
    if not summary.faces:
        raise OrsanetError(
            f"nothing could be predicted; see the reasons in {folder.path / 'predictions.csv'}: {summary.text()}"
        )
    return summary


def parse_overlays(text: str) -> float:
    """`none`, `all` or a number. Raises OrsanetError for anything else."""
    if text in ("none", "all"):
        return math.inf if text == "all" else 0
    if not text.isdecimal():
        raise OrsanetError(f"--overlays {text}: give none, all or of how many pictures")
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
    """Write an overlay; its name in the folder."""
    picture = result.seen.picture
    drawn = result.overlay()
    name = f"{OVERLAYS}/{file_name(number, picture.path, picture.frame)}"
    (out / OVERLAYS).mkdir(exist_ok=True)
    drawn.save(out / name, quality=QUALITY_JPEG)
    return name
