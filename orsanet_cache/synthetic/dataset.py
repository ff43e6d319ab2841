"""A folder of synthetic faces: pictures, the table of samples, and the descriptor that `load_manifest` reads.

    OUT/images/00000.jpg …   OUT/samples.csv   OUT/faces.toml   and, if asked for, OUT/truth.npz

The descriptor says which seed and how many pictures. It gets its name last: with it the folder is complete, without it the same call
draws again. Every file is a pure function of seed and number of images, however many processes draw.
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
from tqdm.auto import tqdm

from orsanet_cache.errors import OrsanetError
from orsanet_cache.synthetic.expression import CLASSES
from orsanet_cache.synthetic.picture import SyntheticFace, draw
from orsanet_cache.synthetic.plan import LANES, plan

DESCRIPTOR, TABLE, TRUTH, IMAGES = "faces.toml", "samples.csv", "truth.npz", "images"
BEGUN = "faces.toml.begun"  # the descriptor until everything else is there
# Raise it with every change of a byte that is written, so that an older folder is not taken for today's.
GENERATOR_VERSION = 2
MIN_IMAGES = 20  # fewer leave a split empty: people take turns in tens, and the fifth is the first of valid
_CHUNK = 16
_MAX_PROCESSES = 16  # each with numpy and OpenCV of its own, about 100 MB


@dataclass(frozen=True)
class DemoSummary:
    """What is in the folder, and whether this call drew it."""

    manifest: Path
    images: dict[str, int]  # split -> pictures
    people: int
    drawn: bool


def image_name(index: int) -> str:
    """A picture's path in the data set, its id in every store."""
    return f"{IMAGES}/{index:05d}.jpg"


def write_dataset(out: Path, seed: int, images: int, truth: bool = False, processes: int | None = None) -> DemoSummary:
    """Draw pictures 0 … images - 1 of `seed` into `out`, or find them there.

    `truth` keeps landmarks [N, 68, 2], segmentation_map and covered [N, 224, 224] as arrays. Raises OrsanetError where the folder
    holds anything else.
    """
    if images < MIN_IMAGES:
        raise OrsanetError(f"{images} images leave a split empty; draw at least {MIN_IMAGES}")
    plans = [plan(seed, index) for index in range(images)]
    splits = {split: sum(planned.split == split for planned in plans) for split in dict.fromkeys(LANES)}
    descriptor = _descriptor(seed, images)
    summary = DemoSummary(out / DESCRIPTOR, splits, len({planned.identity for planned in plans}), drawn=False)
    try:
        if _complete(out, descriptor) and (not truth or (out / TRUTH).is_file()):
            return summary
        out.mkdir(parents=True, exist_ok=True)
        (out / BEGUN).write_text(descriptor, encoding="utf-8")  # first: it makes the folder ours
        (out / IMAGES).mkdir(exist_ok=True)
        for stale in (DESCRIPTOR, TRUTH):
            (out / stale).unlink(missing_ok=True)
        kept: list[SyntheticFace] = []
        with tqdm(total=images, unit="img", desc="draw", smoothing=0.05) as progress:
            for index, face in enumerate(_drawn(seed, images, processes)):
                (out / image_name(index)).write_bytes(face.jpeg)
                if truth:
                    kept.append(face)
                progress.update()
        if truth:
            np.savez_compressed(
                out / TRUTH,
                landmarks=np.stack([face.landmarks for face in kept]),
                segmentation_map=np.stack([face.segmentation_map for face in kept]),
                covered=np.stack([face.covered for face in kept]),
            )
        table = io.StringIO(newline="")
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["image", "label", "split", "tags", "identity"])
        for planned in plans:
            tags = ";".join(planned.tags)
            rows.writerow([image_name(planned.index), planned.label, planned.split, tags, planned.identity])
        (out / TABLE).write_text(table.getvalue(), encoding="utf-8")
        (out / BEGUN).replace(out / DESCRIPTOR)
    except OSError as error:
        raise OrsanetError(f"{error.filename or out}: cannot be written ({error.strerror})") from error
    return DemoSummary(summary.manifest, splits, summary.people, drawn=True)


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
    """True: these very pictures are here. False: nothing, or what an interrupted call for them left. All else is not ours to replace."""
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
    if strange := sorted(entry.name for entry in out.iterdir()):
        raise OrsanetError(f"{out}: already holds {', '.join(strange[:3])}; choose another --out")
    return False


def _drawn(seed: int, images: int, processes: int | None) -> Iterator[SyntheticFace]:
    """The pictures in order, by one process or several."""
    workers = min(processes or len(os.sched_getaffinity(0)), _MAX_PROCESSES, -(-images // _CHUNK))
    if workers <= 1:
        yield from (draw(seed, index) for index in range(images))
        return
    # Spawned, because a fork of a process with running threads (OpenCV's, torch's) may never wake up.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(partial(draw, seed), range(images), chunksize=_CHUNK)


def _one_thread() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    cv2.setNumThreads(1)  # the processes are the parallelism
