"""A folder of synthetic faces: pictures, table of samples, and descriptor for `load_manifest`.

    OUT/images/00000.jpg …   OUT/samples.csv   OUT/faces.toml   and optionally OUT/truth.npz

The descriptor has the seed and the number of pictures. It gets its name last: a folder with it is
complete, and in a folder without it the same call draws again. Every file is a pure function of
seed and number of images, for any number of processes.
"""

import csv
import io
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import tomli_w

from orsanet_cache.durable import is_temporary, write_whole
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import entries, held
from orsanet_cache.progress import Progress
from orsanet_cache.synthetic.expression import CLASSES
from orsanet_cache.synthetic.picture import SyntheticFace, draw
from orsanet_cache.synthetic.plan import LANES, Plan, plan

DESCRIPTOR, TABLE, TRUTH, IMAGES = "faces.toml", "samples.csv", "truth.npz", "images"
BEGUN = "faces.toml.begun"  # the descriptor's name until everything else is complete
# Raise it with every change of a written byte, so that older folders are distinguished.
GENERATOR_VERSION = 2
MIN_IMAGES = 20  # fewer leave a split empty: of every ten people the fifth is the first of valid
_CHUNK = 16
_MAX_PROCESSES = 16  # each loads numpy and OpenCV, about 100 MB


@dataclass(frozen=True)
class DemoSummary:
    """The contents of the folder, and whether this call drew them."""

    manifest: Path
    images: dict[str, int]  # split -> pictures
    people: int
    drawn: bool


def image_name(index: int) -> str:
    """Return a picture's path in the data set, which is its id in every store."""
    return f"{IMAGES}/{index:05d}.jpg"


def write_dataset(out: Path, seed: int, images: int, truth: bool = False, processes: int | None = None) -> DemoSummary:
    """Draw pictures of `seed` into `out`, unless the folder has them already.

    Raises OrsanetError if the folder contains anything else, if another process draws there, and if
    the disk is full. The same call then continues.

    Args:
        out: The data set's folder.
        seed: Seed of the generator.
        images: Number of pictures, at least MIN_IMAGES.
        truth: Write landmarks [N, 68, 2], segmentation_map and covered [N, 224, 224] to truth.npz.
        processes: Number of processes; None means one per core.
    """
    if images < MIN_IMAGES:
        raise OrsanetError(f"{images} images leave a split empty; draw at least {MIN_IMAGES}")
    plans = [plan(seed, index) for index in range(images)]
    splits = {split: sum(planned.split == split for planned in plans) for split in dict.fromkeys(LANES)}
    descriptor = _descriptor(seed, images)
    summary = DemoSummary(out / DESCRIPTOR, splits, len({planned.identity for planned in plans}), drawn=False)
    if _complete(out, descriptor) and (not truth or (out / TRUTH).is_file()):
        return summary
    with held(out):
        complete = _complete(out, descriptor)  # another process may just have drawn it
        try:
            if not complete:
                write_whole(out / BEGUN, lambda path: path.write_text(descriptor, encoding="utf-8"))  # marks the folder
                (out / IMAGES).mkdir(exist_ok=True)
            kept: list[SyntheticFace] = []
            with Progress(images, "draw", "img") as progress:
                for index, face in enumerate(_drawn(seed, images, processes)):
                    if not complete:
                        (out / image_name(index)).write_bytes(face.jpeg)
                    if truth:
                        kept.append(face)
                    progress.update()
            if truth:
                write_whole(out / TRUTH, partial(_write_truth, kept))
            if not complete:
                table = _table(plans)
                write_whole(out / TABLE, lambda path: path.write_text(table, encoding="utf-8"))
                (out / BEGUN).replace(out / DESCRIPTOR)
        except OSError as error:
            raise OrsanetError(f"{error.filename or out}: cannot be written ({error.strerror})") from error
    return DemoSummary(summary.manifest, splits, summary.people, drawn=True)


def _write_truth(faces: list[SyntheticFace], path: Path) -> None:
    with path.open("wb") as file:  # of a path without .npz, numpy would write another file
        np.savez_compressed(
            file,
            landmarks=np.stack([face.landmarks for face in faces]),
            segmentation_map=np.stack([face.segmentation_map for face in faces]),
            covered=np.stack([face.covered for face in faces]),
        )


def _table(plans: list[Plan]) -> str:
    table = io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["image", "label", "split", "tags", "identity"])
    for planned in plans:
        tags = ";".join(planned.tags)
        rows.writerow([image_name(planned.index), planned.label, planned.split, tags, planned.identity])
    return table.getvalue()


def _descriptor(seed: int, images: int) -> str:
    fields = {
        "name": f"demo-faces-{seed}",
        "classes": list(CLASSES),
        "samples": TABLE,
        "splits": ["train", "valid", "test"],
    }
    comment = f"# Synthetic faces: seed {seed}, {images} images, generator {GENERATOR_VERSION}. Anyone may use them for anything.\n"
    return comment + tomli_w.dumps(fields)


def _complete(out: Path, descriptor: str) -> bool:
    """Return whether the folder has exactly these pictures.

    False means that it is empty or has the rest of an interrupted call for the same pictures.
    Raises OrsanetError if it contains anything else, which must not be replaced.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise OrsanetError(f"{out}: a file, not a folder; choose another --out")
    if (out / DESCRIPTOR).is_file():
        if (out / DESCRIPTOR).read_text(encoding="utf-8") == descriptor:
            return True
        raise OrsanetError(
            f"{out}: holds another data set; choose another --out, or remove the folder and every store made from it"
        )
    if (out / BEGUN).is_file():
        if (out / BEGUN).read_text(encoding="utf-8") == descriptor:
            return False
        raise OrsanetError(f"{out}: holds a part of another data set; choose another --out, or remove the folder")
    if strange := [name for name in entries(out) if not is_temporary(name)]:
        raise OrsanetError(f"{out}: already holds {', '.join(strange[:3])}; choose another --out")
    return False


def _drawn(seed: int, images: int, processes: int | None) -> Iterator[SyntheticFace]:
    """Yield the pictures in order, drawn by one process or several."""
    workers = min(processes or len(os.sched_getaffinity(0)), _MAX_PROCESSES, -(-images // _CHUNK))
    if workers <= 1:
        yield from (draw(seed, index) for index in range(images))
        return
    # Spawned, because a fork of a process with running threads (OpenCV's, torch's) may deadlock.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(partial(draw, seed), range(images), chunksize=_CHUNK)


def _one_thread() -> None:
    # Ctrl-C and a closed terminal reach the whole group; the parent ends its workers.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)  # the processes run in parallel already
