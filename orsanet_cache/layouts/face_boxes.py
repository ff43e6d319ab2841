"""Faces cut out by the boxes of a list, for data sets whose pictures show more than the face.

The crops are FOLDER/SUB/NAME.jpg, and FOLDER becomes the root of the manifest. A repeated call
decodes every picture again and replaces every crop that differs. So it completes an interrupted
call, and no crop of an outdated box remains. A marker file in FOLDER allows this package to replace
pictures there.
"""

import io
import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from orsanet_cache.data.images import MIN_SIDE, RejectedImage, read_image
from orsanet_cache.durable import is_temporary, write_whole
from orsanet_cache.errors import OrsanetError, few
from orsanet_cache.layouts.found import DataSet
from orsanet_cache.outputs import begins, entries, held
from orsanet_cache.progress import tracked

MARK = "face-crops.txt"
MARKED = b"Written by orsanet-cache manifest; the same command replaces pictures here.\n"
_QUALITY = 95  # of the JPEG, without colour subsampling: a second loss after the original's


def crop_faces(data: DataSet, root: Path, folder: Path) -> DataSet:
    """Write the face of every sample below `folder`.

    Returns the data set with images relative to `folder`. A picture that cannot be read or has an
    unusable box is left out with its reason. A box that crosses the border is cut there. Raises
    OrsanetError for a data set without boxes and for a folder that contains anything else.
    """
    if not data.face_boxes:
        raise OrsanetError("--crops: the pictures of this release are faces already; run without --crops")
    with held(folder):
        return _crop_faces(data, root, folder)


def _crop_faces(data: DataSet, root: Path, folder: Path) -> DataSet:
    _claim(folder)
    common = PurePosixPath(os.path.commonpath([PurePosixPath(sample.image).parent for sample in data.samples]))
    names = [str(PurePosixPath(s.image).relative_to(common).with_suffix(".jpg")) for s in data.samples]
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise OrsanetError(f"{root}: pictures that differ only in their suffix: {few(twice)}; rename one of each")
    left_out = defaultdict(list, {reason: list(images) for reason, images in data.left_out.items()})
    samples = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        jobs = [
            (sample.image, data.face_boxes[sample.image], name)
            for sample, name in zip(data.samples, names, strict=True)
        ]
        problems = tracked(pool.map(partial(_crop, root, folder), jobs), len(jobs), "faces", "face", leave=False)
        for sample, name, problem in zip(data.samples, names, problems, strict=True):
            if problem:
                left_out[problem].append(sample.image)
            else:
                samples.append(replace(sample, image=name))
    if not samples:
        raise OrsanetError(f"{root}: no face could be cut out; the first reason: {next(iter(left_out))}")
    note = f"faces cut out by the lists' boxes to {folder}, as JPEG of quality {_QUALITY}"
    return replace(data, samples=tuple(samples), left_out=dict(left_out), notes=(note,), face_boxes={})


def _claim(folder: Path) -> None:
    """Write the marker file into an empty folder, or accept a folder that has it."""
    if begins(folder / MARK, MARKED):
        return
    if any(not is_temporary(name) for name in entries(folder)):
        raise OrsanetError(f"--crops {folder}: exists and is not a folder of face crops; name a new or empty folder")
    write_whole(folder / MARK, lambda path: path.write_bytes(MARKED))


def _crop(root: Path, folder: Path, job: tuple[str, tuple[str, ...], str]) -> str | None:
    """Write one face. Returns None, or the reason why that is not possible."""
    image, box, name = job
    try:
        left, top, width, height = (round(float(number)) for number in box)
    except (ValueError, OverflowError):  # no number, nan, or inf
        return "a face box that is not four numbers"
    try:
        rgb = read_image(root / image).rgb
    except RejectedImage as reason:
        return f"unusable picture: {reason}"
    face = rgb[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    if min(face.shape[:2]) < MIN_SIDE:
        return f"a face box with less than {MIN_SIDE} pixels a side inside the picture"
    encoded = io.BytesIO()
    Image.fromarray(face).save(encoded, "JPEG", quality=_QUALITY, subsampling=0)
    target = folder / name
    if not target.is_file() or target.read_bytes() != encoded.getvalue():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")  # of this process alone, which holds the folder
        temporary.write_bytes(encoded.getvalue())
        os.replace(temporary, target)
    return None
