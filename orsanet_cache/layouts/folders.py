"""Class folders below split folders, with a label order that is given and never guessed:

    train/anger/….jpg   train/happiness/….jpg   valid/anger/….jpg   …

In alphabetical order `10` sorts before `2`, and a missing folder shifts every later label.
Therefore the caller gives the order, every folder must have a class, and every class must have a
folder in every split.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from orsanet_cache.data.manifest import Sample
from orsanet_cache.errors import OrsanetError, few
from orsanet_cache.layouts.found import DataSet, files_below, is_picture

_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # as in manifest.py


def read_folders(root: Path, name: str, classes: Mapping[str, str], splits: Mapping[str, str] | None = None) -> DataSet:
    """Read class folders below split folders.

    `classes`: folder -> class name, in label order. `splits`: folder -> split name; without it
    every top folder is a split. Raises OrsanetError for folders without a class, classes without a
    folder, and a tree without splits.
    """
    folders = _top_folders(root, classes, splits)
    label_of = {folder: label for label, folder in enumerate(classes)}
    samples: list[Sample] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    for folder, split in folders.items():
        _check_classes(root / folder, classes, caller_chose=splits is None)
        for file in files_below(root, folder):
            below = Path(file).relative_to(folder)
            if any(part.startswith(".") for part in below.parts):
                left_out["hidden, a name that begins with a dot"].append(file)
            elif not is_picture(file):
                left_out["not a picture by its suffix"].append(file)
            elif len(below.parts) == 1:
                left_out["beside the class folders, so without a class"].append(file)
            else:
                samples.append(Sample(file, label_of[below.parts[0]], split, frozenset()))
    if not samples:
        raise OrsanetError(f"{root}: no pictures in the class folders; unpack the data set completely")
    return DataSet(name, tuple(classes.values()), tuple(dict.fromkeys(folders.values())), tuple(samples), left_out)


def _top_folders(root: Path, classes: Mapping[str, str], splits: Mapping[str, str] | None) -> dict[str, str]:
    """Split folder -> split name, in the order in which they are written: train, then by name."""
    found = _folders(root)
    if set(found) & set(classes):
        raise OrsanetError(
            f"{root}: class folders ({few([folder for folder in found if folder in classes])}) where split folders should be; "
            f"move them into a folder train beside valid or test, or give the folder above as ROOT"
        )
    unknown = [folder for folder in found if splits is not None and folder not in splits]
    unusable = [folder for folder in found if not _SPLIT_NAME.fullmatch(folder)]
    if not found or unknown or unusable:
        here = few(unknown or unusable) or "no folders"
        known = " or ".join(splits) if splits is not None else "letters, digits, - and _, such as train, valid, test"
        raise OrsanetError(
            f"{root}: {here} where split folders should be ({known}); rename them, or move them out of ROOT"
        )
    named = {
        folder: folder if splits is None else splits[folder]
        for folder in sorted(found, key=lambda f: (f != "train", f))
    }
    if len(set(named.values())) < len(named):
        raise OrsanetError(f"{root}: {', '.join(named)} mean the same split; keep one of them")
    if "train" not in named:
        raise OrsanetError(f"{root}: no folder train among {', '.join(named)}; rename the one to train on")
    return named


def _check_classes(folder: Path, classes: Mapping[str, str], caller_chose: bool) -> None:
    found = dict.fromkeys(_folders(folder))
    missing = [name for name in classes if name not in found]
    unknown = [name for name in found if name not in classes]
    findings, advice = [], []
    if missing:
        findings.append(f"no folder of class {few(missing, 20)}")
        advice.append("Unpack it completely, or make an empty folder for a class that has no pictures here")
    if unknown:
        findings.append(f"folders that are not classes: {few(unknown, 20)}")
        advice.append("Name them in --classes, or move them out" if caller_chose else "Move them out")
    if findings:
        raise OrsanetError(f"{folder}: {'; '.join(findings)}. {'. '.join(advice)}")


def _folders(place: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise OrsanetError(f"{place}: cannot be read ({error.strerror})") from error
