"""Image files and videos to a folder of predictions.

    files ─ pictures.py ─▶ pictures ─ seen.py, threads ─▶ crops ─ predictor.py, in batches ─▶ rows, overlays ─ folder.py ─▶ folder

Nothing is kept but what is on its way: a long video or a folder of 100,000 images takes no more memory than a short one.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.priors import CPU_BATCH, GPU_BATCH
from orsanet_train.predict.folder import PredictionFolder, Row
from orsanet_train.predict.names import OVERLAYS
from orsanet_train.predict.overlay import MAX_FACES, file_name, overlay
from orsanet_train.predict.pictures import is_video, pictures
from orsanet_train.predict.predictor import Prediction, Predictor
from orsanet_train.predict.seen import Crop, Looker, Seen, look_ahead

PICTURES_PER_BATCH = 4  # at most, for every face of a full batch: where hardly any has a face, rows come all the same
QUALITY_JPEG = 90


@dataclass
class PredictSummary:
    """What came of the pictures. A video counts as its frames."""

    pictures: int = 0
    with_prediction: int = 0
    faces: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # why pictures have no prediction
    overlays: int = 0

    def text(self) -> str:
        said = f"{self.faces:,} faces in {self.with_prediction:,} of {self.pictures:,} pictures"
        if self.reasons:
            why = "; ".join(f"{count:,} x {reason}" for reason, count in self.reasons.most_common(3))
            rest = len(self.reasons) - 3
            said += f"; not predicted: {self.reasons.total():,} ({why}{f'; {rest} other reasons' if rest > 0 else ''})"
        return said


def predict_files(
    predictor: Predictor,
    files: Sequence[Path],
    out: Path,
    *,
    crop: Crop = "auto",
    margin: float = 1.0,
    per_second: float = 1.0,
    overlays: float = 100,
    batch_size: int | None = None,
) -> PredictSummary:
    """Predict image files and videos (pictures.find_files), and write the folder `out`, which must be new or empty.

    `overlays`: of how many pictures with faces, the first ones; math.inf: of all. An exception leaves the rows that were finished
    (folder.py). Raises OrsanetError, with the folder written, where not one picture could be predicted.
    """
    identity = predictor.identity
    about = {
        "checkpoint": identity.model_dump(mode="json"),
        "crop": crop,
        "margin": margin if crop == "auto" else None,
        "frames_per_second": per_second if any(map(is_video, files)) else None,
        "device": str(predictor.device),
    }
    summary = PredictSummary()
    size = batch_size or (CPU_BATCH if predictor.device.type == "cpu" else GPU_BATCH)
    ahead = look_ahead(Looker(crop, margin), pictures(files, per_second), lambda: summary.overlays < overlays)
    total = None if any(map(is_video, files)) else len(files)
    with (
        PredictionFolder(out, identity.classes, about) as folder,
        tqdm(total=total, unit="img", desc="predict") as progress,
    ):
        for group in _groups(ahead, size):
            pixels = np.concatenate([seen.pixels for seen in group])
            predictions = [
                said
                for start in range(0, len(pixels), size)
                for said in predictor.predict(pixels[start : start + size])
            ]
            rest = iter(predictions)
            for seen in group:
                own = [next(rest) for _ in seen.boxes]
                drawn = (
                    _draw(predictor, seen, own, summary.overlays + 1, out)
                    if own and summary.overlays < overlays
                    else ""
                )
                summary.overlays += bool(drawn)
                folder.add(_rows(seen, own, drawn))
                _count(summary, seen, own)
            progress.update(len(group))
            progress.set_postfix(faces=summary.faces, refresh=False)
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


def _groups(ahead: Iterable[Seen], size: int) -> Iterator[list[Seen]]:
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


def _rows(seen: Seen, predictions: Sequence[Prediction], drawn: str) -> list[Row]:
    picture = seen.picture
    if not predictions:
        return [Row(picture.path, picture.frame, picture.time, reason=seen.reason)]
    return [
        Row(
            picture.path, picture.frame, picture.time, number, box,
            None if said.reason else said.probabilities, said.quality, drawn, said.reason,
        )
        for number, (box, said) in enumerate(zip(seen.boxes, predictions, strict=True), 1)
    ]  # fmt: skip


def _count(summary: PredictSummary, seen: Seen, predictions: Sequence[Prediction]) -> None:
    usable = sum(not said.reason for said in predictions)
    summary.pictures += 1
    summary.with_prediction += usable > 0
    summary.faces += usable
    if not usable:
        summary.reasons[seen.reason or predictions[0].reason] += 1


def _draw(predictor: Predictor, seen: Seen, predictions: list[Prediction], number: int, out: Path) -> str:
    """Write an overlay; its name in the folder."""
    heat = predictor.attention(predictions[:MAX_FACES])
    name = f"{OVERLAYS}/{file_name(number, seen.picture.path, seen.picture.frame)}"
    (out / OVERLAYS).mkdir(exist_ok=True)
    overlay(seen, predictions, heat, predictor.identity.classes).save(out / name, quality=QUALITY_JPEG)
    return name
