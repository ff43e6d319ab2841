"""Class folders, with a label order that is given and never guessed:

    train/anger/….jpg   train/happiness/….jpg   valid/anger/….jpg   …     or without splits
    anger/….jpg         happiness/….jpg

In alphabetical order `10` sorts before `2`, and a missing folder shifts every later label.
Therefore the caller gives the order, every folder must have a class, and every class must have a
folder in every split. Pictures without splits are divided afterwards (split.py).
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from orsanet_cache.data.files import composed
from orsanet_cache.data.formats import is_picture, unread_by_suffix
from orsanet_cache.data.manifest import DEFAULT_SPLITS, Sample, classes_option_of, usual_split
from orsanet_cache.errors import OrsanetError, few
from orsanet_cache.layouts.found import DataSet, files_below

_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # as in manifest.py
HIDDEN = "hidden, a name that begins with a dot"
UNDIVIDED = ""  # the split of pictures that are still to be divided
HOW_TO_DIVIDE = (
    "--split 80/10/10 divides the pictures into train, valid and test, and --split 80/20 into train and test"
)


def read_folders(root: Path, name: str, classes: Mapping[str, str], splits: Collection[str] | None = None) -> DataSet:
    """Read class folders below split folders.

    `classes`: folder -> class name, in label order. `splits`: the splits that there may be; without
    it every top folder is a split. Usual spellings such as `val` or `Train` mean a default split.
    Raises OrsanetError for folders without a class, classes without a folder, and a tree without
    splits.
    """
    folders = _split_folders(root, classes, splits)
    found = _Found(root, classes)
    for folder, split in folders.items():
        found.read(root / folder, split, caller_chose=splits is None)
    found.leave_out_beside("beside the split folders, so without a split")
    names = tuple(dict.fromkeys(folders.values()))
    note = (
        f"there is no split train, only {', '.join(names)}, so there is nothing to train on: "
        f"this data set is for evaluation only"
    )
    return found.data_set(name, names, () if "train" in names else (note,))


def read_undivided(root: Path, name: str, classes: Mapping[str, str]) -> DataSet:
    """Read class folders without split folders. Every sample has the split UNDIVIDED.

    Raises OrsanetError for folders without a class and classes without a folder, and for a tree
    that has splits.
    """
    top = _folders(root)
    if not set(top) & set(map(composed, classes)) and _look_like_splits(root, top):
        raise OrsanetError(
            f"{root}: has split folders already ({few(top)}); leave out --split, or give a folder of class folders as ROOT"
        )
    found = _Found(root, classes)
    found.read(root, UNDIVIDED, caller_chose=True)
    return found.data_set(name, (), ())


def classes_to_copy(root: Path, divided: bool) -> str:
    """The sentence for a call without --classes: the class folders found, as the option to copy.

    `divided`: whether the caller has asked to divide the pictures, so that ROOT has no split folders.
    """
    top = _folders(root)
    splits = [] if divided or not _look_like_splits(root, top) else list(top.values())
    names = {folder: None for split in splits for folder in _folders(root / split)} if splits else dict.fromkeys(top)
    if not names:
        return f"{root}: no class folders; expected train/CLASS/… or CLASS/…, and --classes with their names"
    unusable = [folder for folder in names if "," in folder or "=" in folder or folder != folder.strip()]
    if unusable:
        return f"{root}: class folders that --classes cannot name: {few(unusable)}; rename them without comma, = and blanks at the ends"  # fmt: skip
    option = classes_option_of(sorted(names, key=_by_number))
    order = "the order decides the labels; FOLDER=NAME renames a class"
    if splits or divided:
        return f"{root}: name the class folders in label order. Found here: {option} ({order})"
    return f"{root}: name the class folders in label order. Found here, without split folders: {option} ({order}). {HOW_TO_DIVIDE}"


class _Found:
    """Samples and what is left out, folder by folder."""

    def __init__(self, root: Path, classes: Mapping[str, str]) -> None:
        self._root = root
        self._classes = classes
        self._label_of = {composed(folder): label for label, folder in enumerate(classes)}
        self._samples: list[Sample] = []
        self._left_out: dict[str, list[str]] = defaultdict(list)

    def read(self, place: Path, split: str, caller_chose: bool) -> None:
        """Read the class folders in `place`, which is the root or below it."""
        _check_classes(place, self._classes, caller_chose)
        at_the_root = place == self._root
        for form, folder in _folders(place).items():
            for file in files_below(self._root, (place / folder).relative_to(self._root).as_posix()):
                below = Path(file).relative_to(place.relative_to(self._root))
                if why := _why_not(below):
                    self._left_out[why].append(file)
                else:
                    self._samples.append(Sample(file, self._label_of[form], split, frozenset()))
        self._leave_out_in(place, "beside the class folders, so without a class", pictures_only=at_the_root)

    def leave_out_beside(self, reason: str) -> None:
        """Leave out the pictures that lie in the root itself."""
        self._leave_out_in(self._root, reason, pictures_only=True)

    def _leave_out_in(self, place: Path, reason: str, pictures_only: bool) -> None:
        """Leave out the files in a folder itself. In ROOT there may also be lists and manifests."""
        for entry in sorted(place.iterdir()):
            below = entry.relative_to(self._root).as_posix()
            if entry.is_dir() and entry.name.startswith(".") and not pictures_only:
                self._left_out[HIDDEN] += files_below(self._root, below)
            elif not entry.is_dir() and (not pictures_only or is_picture(entry.name) or unread_by_suffix(entry.name)):
                self._left_out[_why_not(Path(entry.name)) or reason].append(below)

    def data_set(self, name: str, splits: Sequence[str], notes: tuple[str, ...]) -> DataSet:
        if not self._samples:
            unread = [f"{reason}: {len(files):,}" for reason, files in self._left_out.items()]
            but = f" that can be read ({'; '.join(unread)})" if unread else ""
            raise OrsanetError(f"{self._root}: no pictures in the class folders{but}; unpack the data set completely")
        return DataSet(name, tuple(self._classes.values()), tuple(splits), tuple(self._samples), self._left_out, notes)


def _why_not(below: Path) -> str:
    """Why a file is left out, by its path below a split's folder; empty if it is not."""
    if any(part.startswith(".") for part in below.parts):
        return HIDDEN
    if is_picture(below.name):
        return ""
    return unread_by_suffix(below.name) or "not a picture by its suffix"


def _split_folders(root: Path, classes: Mapping[str, str], splits: Collection[str] | None) -> dict[str, str]:
    """Split folder -> split name, in the order in which they are written: train, then by name."""
    found = list(_folders(root))
    if beside := set(found) & set(map(composed, classes)):
        advice = (
            HOW_TO_DIVIDE
            if splits is None
            else f"move them into a folder {' or '.join(splits)}, or give the folder above as ROOT"
        )
        raise OrsanetError(
            f"{root}: class folders ({few([folder for folder in found if folder in beside])}) where split folders should be; {advice}"
        )
    meant = {folder: usual_split(folder) for folder in found}
    unknown = [folder for folder in found if splits is not None and meant[folder] not in splits]
    unusable = [folder for folder in found if not _SPLIT_NAME.fullmatch(folder)]
    if not found or unknown or unusable:
        here = few(unknown or unusable) or "no folders"
        known = " or ".join(splits) if splits is not None else "letters, digits, - and _, such as train, valid, test"
        raise OrsanetError(
            f"{root}: {here} where split folders should be ({known}); rename them, or move them out of ROOT"
        )
    named = dict(sorted(meant.items(), key=lambda one: (one[1] != "train", one)))
    if len(set(named.values())) < len(named):
        raise OrsanetError(f"{root}: {', '.join(named)} mean the same split; keep one of them")
    if "train" not in named.values() and splits is not None:
        raise OrsanetError(f"{root}: no folder train among {', '.join(named)}; unpack the data set completely")
    return named


def _check_classes(folder: Path, classes: Mapping[str, str], caller_chose: bool) -> None:
    found = _folders(folder)
    wanted = dict(zip(map(composed, classes), classes, strict=True))
    missing = [name for form, name in wanted.items() if form not in found]
    unknown = [name for form, name in found.items() if form not in wanted]
    findings, advice = [], []
    if missing:
        findings.append(f"no folder of class {few(missing, 20)}")
        advice.append("Unpack it completely, or make an empty folder for a class that has no pictures here")
    if unknown:
        findings.append(f"folders that are not classes: {few(unknown, 20)}")
        advice.append("Name them in --classes, or move them out" if caller_chose else "Move them out")
    if findings:
        raise OrsanetError(f"{folder}: {'; '.join(findings)}. {'. '.join(advice)}")


def _look_like_splits(root: Path, folders: Mapping[str, str]) -> bool:
    """Whether the top folders are splits: by a usual name, or as a single folder of folders."""
    usual = any(usual_split(folder) in DEFAULT_SPLITS for folder in folders)
    return usual or (len(folders) == 1 and any(_folders(root / folder) for folder in folders.values()))


def _folders(place: Path) -> dict[str, str]:
    """Name of a folder with composed accents -> its name on the disk, in alphabetical order.

    Raises OrsanetError for an unreadable folder, and for two names that differ only in the form of
    their accents.
    """
    try:
        names = sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise OrsanetError(f"{place}: cannot be read ({error.strerror})") from error
    found = {composed(name): name for name in names}
    if len(found) < len(names):
        other = next(name for name in names if found[composed(name)] != name)
        raise OrsanetError(
            f"{place}: two folders {other!r} differ only in how accents are written (composed or decomposed Unicode); join them"
        )
    return found


def _by_number(folder: str) -> tuple[bool, int, str]:
    """Numbers in their order, then names in alphabetical order."""
    return not folder.isdecimal(), int(folder) if folder.isdecimal() and len(folder) < 19 else 0, folder
