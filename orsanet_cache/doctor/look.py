"""One pass over the pictures of a manifest collects the facts for the judges.

file → usable by the build? (same checks, same decoder) → size, format, grey or colour → thumbnail
"""

import hashlib
import io
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache.data.files import FileCheck
from orsanet_cache.data.images import FORMATS, NO_WARNINGS, Pixels, RejectedImage, decode, read_file
from orsanet_cache.data.manifest import Manifest
from orsanet_cache.errors import OrsanetError
from orsanet_cache.progress import Progress

THUMBNAIL = 32
CHUNK = 256  # pictures between two updates of the progress and checks for Ctrl-C

# Sum of the luminance table of ITU-T T.81, Annex K. libjpeg scales this table by its quality.
_ANNEX_K = 3_689


@dataclass(frozen=True)
class PictureFacts:
    """Facts about one file. If it has a `problem`, all other fields are empty."""

    problem: str = ""  # why the build cannot use it
    sha256: str = ""
    width: int = 0  # upright
    height: int = 0
    format: str = ""  # as Pillow names it
    quality: float = np.nan  # of a JPEG, 1 … 100, estimated from its luminance table
    chroma: float = (
        np.nan
    )  # mean difference of a thumbnail pixel's largest and smallest colour value, 0 … 255; grey is 0
    contrast: float = np.nan  # standard deviation of the grey thumbnail, 0 … 127; one even colour is 0


@dataclass(frozen=True)
class DataSet:
    """A manifest and the facts about its pictures.

    `pictures` has a row per sample in the manifest's order: image, label (class name), split, tags,
    person (or "") and the fields of PictureFacts.
    """

    name: str
    classes: tuple[str, ...]  # in label order
    pictures: pd.DataFrame
    thumbnails: NDArray[np.uint8]  # [N, 32, 32], grey; black if the picture has a problem
    notes: tuple[str, ...] = ()  # on links and names, as a build prints them

    @property
    def usable(self) -> pd.DataFrame:
        """The rows without a problem."""
        return self.pictures[self.pictures.problem == ""]


def look(manifest: Manifest, persons: Mapping[str, str]) -> DataSet:
    """Read every picture once, with a thread per core. `persons`: image -> person, if known."""
    files = FileCheck(manifest.root)
    problems = [files.problem(sample.image) or "" for sample in manifest.samples]
    thumbnails = np.zeros((len(problems), THUMBNAIL, THUMBNAIL), np.uint8)
    paths = [manifest.path(sample) for sample in manifest.samples]
    seen: list[PictureFacts] = []
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0)), "doctor") as pool,
        Progress(len(paths), "pictures", "img") as progress,
    ):
        for start in range(0, len(paths), CHUNK):
            chunk = slice(start, start + CHUNK)
            seen += pool.map(_see, paths[chunk], problems[chunk], thumbnails[chunk])
            progress.update(len(paths[chunk]))
    described = pd.DataFrame(
        {
            "image": [sample.image for sample in manifest.samples],
            "label": [manifest.classes[sample.label] for sample in manifest.samples],
            "split": [sample.split for sample in manifest.samples],
            "tags": [sample.tags for sample in manifest.samples],
            "person": [persons.get(sample.image, "") for sample in manifest.samples],
        }
    )
    return DataSet(manifest.name, manifest.classes, described.join(pd.DataFrame(seen)), thumbnails, files.notes())


def grey(path: Path, side: int) -> NDArray[np.float32]:
    """Return a usable picture as grey [side, side].

    Raises OrsanetError if the picture has become unusable since the first pass.
    """
    try:
        rgb = decode(read_file(path))
    except RejectedImage as rejected:
        raise OrsanetError(
            f"{path}: was readable in the first pass, but not in the second: {rejected}; "
            f"run again when no program changes the folder"
        ) from rejected
    return np.asarray(_reduced(rgb, side).convert("L"), np.float32)


def _see(path: Path, problem: str, thumbnail: NDArray[np.uint8]) -> PictureFacts:
    """Return a file's facts and fill `thumbnail` [32, 32]."""
    if problem:
        return PictureFacts(problem)
    try:
        data = read_file(path)
        rgb = decode(data)
    except RejectedImage as rejected:
        return PictureFacts(str(rejected))
    small = _reduced(rgb, THUMBNAIL)
    colours = np.asarray(small, np.int16)
    thumbnail[:] = np.asarray(small.convert("L"))
    with NO_WARNINGS, Image.open(io.BytesIO(data), formats=FORMATS) as header:
        kind, tables = str(header.format), getattr(header, "quantization", {})
    return PictureFacts(
        sha256=hashlib.sha256(data).hexdigest(),
        width=rgb.shape[1],
        height=rgb.shape[0],
        format=kind,
        quality=_quality(tables[0]) if 0 in tables else np.nan,
        chroma=float((colours.max(axis=2) - colours.min(axis=2)).mean()),
        contrast=float(thumbnail.std()),
    )


def _reduced(rgb: Pixels, side: int) -> Image.Image:
    return Image.fromarray(rgb).resize((side, side), Image.Resampling.BILINEAR)


def _quality(table: "list[int]") -> float:
    """Return libjpeg's quality q: its scale in per cent is 200 - 2q for q >= 50, else 5000/q."""
    scale = 100 * sum(table) / _ANNEX_K
    return max(1.0, 100 - scale / 2 if scale <= 100 else 5_000 / scale)
