"""What a user gives to predict, as files and webcams in a fixed order.

    a file, also one named like a number or a pattern   itself
    a folder              all files below it, sorted
    a pattern, *.jpg      the files and folders that it matches, sorted; ** stands for any folders
    a number, /dev/video0 a webcam

Output folders of predict are left out of folders and patterns, and named.
"""

import glob
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from orsanet_cache.data.files import lying_outside, on_disk, walk
from orsanet_cache.errors import OrsanetError, listed, refuse_shortage
from orsanet_train.predict.names import are_predictions
from orsanet_train.predict.pictures import Webcam

DEVICE = re.compile(r"/dev/video(\d+)")
MOST_DIGITS = 3  # of a webcam's number


class Found(NamedTuple):
    """The inputs to predict."""

    files: list[Path | Webcam]
    left_out: list[Path]  # output folders of predict: their overlays also have faces
    outside: list[Path]  # of the files, those that lie outside the given folder, behind links


def find_inputs(given: Sequence[Path], seconds: float | None = None) -> Found:
    """The inputs that the user named; `seconds` is the time for each webcam, None: until Ctrl-C.

    Links are followed, except those to a folder that they lie in. Raises OrsanetError if something does not exist, if no file
    is found, and if a webcam that does not end is followed by something.
    """
    left_out: list[Path] = []
    missing: list[str] = []
    files: list[Path | Webcam] = []
    outside: list[Path] = []
    for path in given:
        path = on_disk(path.parent, path.name)
        if (number := _webcam_number(path)) is not None:
            files.append(_webcam(number, seconds))
        elif path.is_dir():
            below = _below(path, left_out)
            files += below
            outside += lying_outside(path, below)
        elif path.exists():
            files.append(path)
        elif glob.has_magic(str(path)):
            found, without = _matches(str(path), left_out)
            files += found
            if not found and not without:
                missing.append(f"{path} (a pattern that matches no file)")
        else:
            missing.append(str(path))
    if missing:
        raise OrsanetError(f"no such file or folder; nothing was predicted:\n{listed(missing)}")
    if not files:
        but = " except the output of an earlier predict" if left_out else ""
        raise OrsanetError(
            f"no file in {', '.join(map(str, given))}{but}; pass images, folders of images, videos, or the number of a webcam"
        )
    webcams = [one for one in files if isinstance(one, Webcam)]
    if seconds is not None and not webcams:
        raise OrsanetError("--seconds limits a webcam, and none was given; leave it out")
    if seconds is None and any(isinstance(one, Webcam) for one in files[:-1]):
        raise OrsanetError(f"{webcams[0]} does not end by itself: pass it last, or limit it with --seconds")
    return Found(files, list(dict.fromkeys(left_out)), outside)


def _webcam_number(path: Path) -> int | None:
    """The number of a webcam; None: the path is something else."""
    text = str(path)
    if device := DEVICE.fullmatch(text):
        return int(device[1])
    is_number = text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS
    return int(text) if is_number and not os.path.lexists(path) else None


def _webcam(number: int, seconds: float | None) -> Webcam:
    """Raises OrsanetError where the system lists its cameras and has no such one."""
    webcam = Webcam(number) if seconds is None else Webcam(number, seconds)
    if sys.platform == "linux" and not os.path.exists(f"/dev/video{number}"):
        there = sorted(name for name in os.listdir("/dev") if DEVICE.fullmatch(f"/dev/{name}"))
        raise OrsanetError(
            f"{webcam}: there is no camera /dev/video{number}, and no file or folder named {number}; "
            f"cameras of this machine: {', '.join(f'/dev/{name}' for name in there) or 'none'}"
        )
    return webcam


def _matches(pattern: str, left_out: list[Path]) -> tuple[list[Path], bool]:
    """The files that a pattern stands for, and whether files of an earlier predict were left out."""
    before = len(left_out)
    outputs: dict[Path, bool] = {}
    found: dict[Path, None] = {}
    for path in sorted(map(Path, glob.glob(pattern, recursive=True))):
        inside = next((folder for folder in (path, *path.parents) if _is_output(folder, outputs)), None)
        if inside is not None:
            left_out.append(inside)
        else:
            found.update(dict.fromkeys(_below(path, left_out) if path.is_dir() else [path]))
    return list(found), len(left_out) > before


def _is_output(folder: Path, known: dict[Path, bool]) -> bool:
    """Whether predict wrote this folder."""
    if folder not in known:
        try:
            with os.scandir(folder) as there:
                names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in there}
        except OSError as error:  # a file, or a folder that cannot be listed: `_below` keeps it with the reason
            refuse_shortage(error, folder)
            names = {}
        folders = {name for name, is_folder in names.items() if is_folder}
        known[folder] = are_predictions(folders, names.keys() - folders)
    return known[folder]


def _below(folder: Path, left_out: list[Path]) -> list[Path]:
    found: list[Path] = []
    unlisted: list[OSError] = []
    loops: list[Path] = []
    for where, folders, files in walk(folder, unlisted.append, loops):
        if are_predictions(folders, files):
            left_out.append(where)
            folders.clear()  # so that `walk` does not descend
            continue
        found += [where / name for name in files]
    for error in unlisted:
        refuse_shortage(error, error.filename)
    # A folder that cannot be listed, or leads back to itself, is kept as a file: reading it gives the reason.
    found += [*(Path(error.filename) for error in unlisted), *loops]
    return sorted(found)
