"""A folder of synthetic faces: pictures, table of samples, and descriptor for `load_manifest`.

The label is the expression (`write_dataset`) or the person (`write_people`).

    OUT/images/00000.jpg …   OUT/samples.csv   OUT/faces.toml   and optionally OUT/truth.npz

The descriptor has the seed and the number of pictures. It gets its name last: a folder with it is
complete, and in a folder without it the same call draws again. Every file is a pure function of
seed and number of images, for any number of processes.
"""

import csv
import io
import os
import signal
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
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
from orsanet_cache.synthetic.picture import SyntheticFace, draw_planned
from orsanet_cache.synthetic.plan import LANES, Plan, person_plan, plan

DESCRIPTOR, TABLE, TRUTH, IMAGES = "faces.toml", "samples.csv", "truth.npz", "images"
BEGUN = "faces.toml.begun"  # the descriptor's name until everything else is complete
# Raise it with every change of a written byte, so that older folders are distinguished.
GENERATOR_VERSION = 2
MIN_IMAGES = 20  # fewer leave a split empty: of every ten people the fifth is the first of valid
MIN_PEOPLE = 20  # fewer leave the split of unseen people with one person
_CHUNK = 4  # pictures that a process is given at a time, and finishes after an interrupt
_WORTH_A_PROCESS = 16  # pictures
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
    return _write(out, seed, plans, _descriptor(seed, images), _table(plans), truth, processes)


def write_people(out: Path, seed: int, people: int, pictures: int, processes: int | None = None) -> DemoSummary:
    """Draw pictures of many people, whose label is the person: for `orsanet-train pretrain`.

    The table has no expressions. Folder and errors are those of `write_dataset`.

    Args:
        out: The data set's folder.
        seed: Seed of the generator.
        people: Number of people, at least MIN_PEOPLE.
        pictures: Pictures of each person, at least 2.
        processes: Number of processes; None means one per core.
    """
    if people < MIN_PEOPLE or pictures < 2:
        raise OrsanetError(
            f"{people} people with {pictures} pictures each: draw at least {MIN_PEOPLE} people and 2 pictures of each"
        )
    plans = [person_plan(seed, index, pictures) for index in range(people * pictures)]
    descriptor = _people_descriptor(seed, people, pictures)
    return _write(out, seed, plans, descriptor, _people_table(plans), False, processes)


def _write(
    out: Path, seed: int, plans: list[Plan], descriptor: str, table: str, truth: bool, processes: int | None
) -> DemoSummary:
    images = len(plans)
    splits = dict.fromkeys(split for split in LANES if any(planned.split == split for planned in plans))
    counts = {split: sum(planned.split == split for planned in plans) for split in splits}
    summary = DemoSummary(out / DESCRIPTOR, counts, len({planned.identity for planned in plans}), drawn=False)
    if _complete(out, descriptor) and (not truth or (out / TRUTH).is_file()):
        return summary
    with held(out):
        complete = _complete(out, descriptor)  # another process may just have drawn it
        try:
            if not complete:
                write_whole(out / BEGUN, lambda path: path.write_text(descriptor, encoding="utf-8"))  # marks the folder
                (out / IMAGES).mkdir(exist_ok=True)
            kept: list[SyntheticFace] = []
            # Closed at once: a generator that an exception leaves behind keeps its processes until the interpreter ends.
            with closing(_drawn(seed, plans, processes)) as drawn, Progress(images, "draw", "img") as progress:
                for index, face in enumerate(drawn):
                    if not complete:
                        (out / image_name(index)).write_bytes(face.jpeg)
                    if truth:
                        kept.append(face)
                    progress.update()
            if truth:
                write_whole(out / TRUTH, partial(_write_truth, kept))
            if not complete:
                write_whole(out / TABLE, lambda path: path.write_text(table, encoding="utf-8"))
                (out / BEGUN).replace(out / DESCRIPTOR)
        except OSError as error:
            raise OrsanetError(f"{error.filename or out}: cannot be written ({error.strerror})") from error
    return replace(summary, drawn=True)


def _write_truth(faces: list[SyntheticFace], path: Path) -> None:
    with path.open("wb") as file:  # of a path without .npz, numpy would write another file
        np.savez_compressed(
            file,
            landmarks=np.stack([face.landmarks for face in faces]),
            segmentation_map=np.stack([face.segmentation_map for face in faces]),
            covered=np.stack([face.covered for face in faces]),
        )


def _table(plans: list[Plan]) -> str:
    return _csv(
        ("image", "label", "split", "tags", "identity"),
        ((image_name(one.index), one.label, one.split, ";".join(one.tags), one.identity) for one in plans),
    )


def _people_table(plans: list[Plan]) -> str:
    return _csv(
        ("image", "label", "split", "tags"),
        ((image_name(one.index), _person_name(one.identity), one.split, ";".join(one.tags)) for one in plans),
    )


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows([columns, *rows])
    return table.getvalue()


def _descriptor(seed: int, images: int) -> str:
    fields = {
        "name": f"demo-faces-{seed}",
        "classes": list(CLASSES),
        "samples": TABLE,
        "splits": ["train", "valid", "test"],
    }
    return _described(f"seed {seed}, {images} images", fields)


def _people_descriptor(seed: int, people: int, pictures: int) -> str:
    fields = {
        "name": f"demo-people-{seed}",
        "classes": [_person_name(number) for number in range(people)],
        "samples": TABLE,
        "splits": ["train", "valid"],
    }
    return _described(f"seed {seed}, {people} people with {pictures} images each", fields)


def _person_name(identity: int) -> str:
    return f"person-{identity:05d}"


def _described(what: str, fields: Mapping[str, object]) -> str:
    comment = f"# Synthetic faces: {what}, generator {GENERATOR_VERSION}. Anyone may use them for anything.\n"
    return comment + tomli_w.dumps(dict(fields))


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


def _drawn(seed: int, plans: list[Plan], processes: int | None) -> Generator[SyntheticFace, None, None]:
    """Yield the pictures in order, drawn by one process or several."""
    workers = min(processes or len(os.sched_getaffinity(0)), _MAX_PROCESSES, -(-len(plans) // _WORTH_A_PROCESS))
    if workers <= 1:
        yield from (draw_planned(seed, planned) for planned in plans)
        return
    # Spawned, because a fork of a process with running threads (OpenCV's, torch's) may deadlock.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)
    try:
        yield from pool.map(partial(draw_planned, seed), plans, chunksize=_CHUNK)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after an interrupt nobody waits for what is not begun


def _one_thread() -> None:
    # Ctrl-C and a closed terminal reach the whole group; the parent ends its workers.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)  # the processes run in parallel already
