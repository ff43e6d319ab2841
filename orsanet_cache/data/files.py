"""The files behind names: the images of a manifest below its root, and everything below a folder.

    image, as the table spells it ─ on_disk ─▶ path, as the disk spells it ─ ImageFiles.target ─▶ file, behind all links

Links below a root are followed, also out of it: who makes a link has chosen its target. A path in a
table is somebody's text, and never leads out of the root (manifest.py). Pipes and devices are
refused wherever they are.

A letter with an accent can be written composed (NFC, as most systems write it) or decomposed (NFD,
as files copied from a Mac may be). Both look the same, so a file is also found under the other form.
"""

import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from errno import ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self

FOLDERS = 256  # whose names are remembered; only those in which a name was looked for in another form
_ABSENT = {ENOENT, ENOTDIR, ENAMETOOLONG, ELOOP}


def composed(name: str) -> str:
    """The name in the form that all spellings of its accents share (NFC)."""
    return unicodedata.normalize("NFC", name)


def on_disk(folder: Path, name: str) -> Path:
    """The path of `name` below `folder`, or of the one file whose name differs only in the form of its accents.

    If no file or several such files exist, the path is that of the name as given.
    """
    path = folder / name
    if name.isascii() or os.path.lexists(path):
        return path
    spelt = _spelt(folder, name, composed)
    return spelt[0] if len(spelt) == 1 else path


def near_names(folder: Path, name: str) -> list[str]:
    """Names below `folder` that differ from `name` only in accents' forms, or in upper and lower case."""
    found = _spelt(folder, name, composed) or _spelt(folder, name, _caseless)
    return [path.relative_to(folder).as_posix() for path in found]


def _caseless(name: str) -> str:
    return composed(composed(name).casefold())


def _spelt(folder: Path, name: str, form: Callable[[str], str]) -> list[Path]:
    """Existing paths below `folder` that equal `name` in that form, part by part."""
    places = [folder]
    for part in PurePosixPath(name).parts:
        places = [place / other for place in places for other in _names_in(place, form).get(form(part), ())]
    return places


def _names_in(folder: Path, form: Callable[[str], str]) -> dict[str, list[str]]:
    try:
        return _listing(folder, os.stat(folder).st_mtime_ns, form)
    except OSError:
        return {}


@lru_cache(FOLDERS)
def _listing(folder: Path, _changed: int, form: Callable[[str], str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        names.setdefault(form(name), []).append(name)
    return names


class ImageFiles:
    """The files of images below a root. Every image that is looked up is counted for `notes`.

    A folder is listed once, which tells plain files from links: a plain file costs no further call.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real_root = os.path.realpath(root)
        self._real = _RealPaths()
        self._listed: dict[str, _ListedFolder] = {}
        self._outside: dict[str, str] = {}  # image -> the file elsewhere
        self._respelt: dict[str, str] = {}  # image -> its name on disk

    def target(self, image: str) -> str:
        """The file behind an image, with all links resolved. Nothing is opened.

        Raises ValueError with the reason if there is no regular file.
        """
        place, _, name = image.rpartition("/")
        folder = self._listed.get(place)
        if folder is None:
            folder = self._listed[place] = _ListedFolder.of(self.root / place, self._real_root)
        if folder.is_inside and name in folder.plain_files:
            return f"{folder.real}/{name}"
        return self._looked_up(image)

    def _looked_up(self, image: str) -> str:
        """As `target`, for an image that is not simply a file in its folder."""
        path = on_disk(self.root, image)
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            raise ValueError(self._absence(image, path, error)) from error
        if not stat.S_ISREG(mode):
            raise ValueError("is not a regular file")
        target = self._real.of(path)
        if not _contains(self._real_root, target):
            self._outside.setdefault(image, target)
        if path != self.root / image:
            self._respelt.setdefault(image, path.relative_to(self.root).as_posix())
        return target

    def notes(self) -> tuple[str, ...]:
        """A sentence on links that lead out of the root, and one on names in another form; only where there are any."""
        sentences = []
        if self._outside:
            image, target = next(iter(self._outside.items()))
            sentences.append(
                f"{len(self._outside):,} image(s) lie outside {self.root}, behind links that are followed, "
                f"such as {image!r} in {os.path.dirname(target)}"
            )
        if self._respelt:
            image = next(iter(self._respelt))
            sentences.append(
                f"{len(self._respelt):,} image(s) have names whose accents are written in another form on the disk "
                f"than in the table (composed or decomposed Unicode), such as {image!r}; they were found all the same"
            )
        return tuple(sentences)

    def _absence(self, image: str, path: Path, error: OSError) -> str:
        if os.path.islink(path):
            return "is a link whose target does not exist"
        if error.errno not in _ABSENT:
            return f"cannot be read ({error.strerror})"
        missing = f"does not exist below {self._real_root}"
        if near := near_names(self.root, image):
            what = "in how accents are written" if composed(near[0]) == composed(image) else "in upper and lower case"
            return f"{missing}; what is there differs only {what}: {', '.join(map(repr, near))}"
        return missing


class _ListedFolder(NamedTuple):
    """A folder of images, listed once."""

    real: str  # its path with all links resolved
    is_inside: bool  # whether that lies below the root
    plain_files: frozenset[str]  # names of the regular files that are no links

    @classmethod
    def of(cls, folder: Path, real_root: str) -> Self:
        """A folder that cannot be listed has no plain files: its images are looked up one by one."""
        try:
            real = os.path.realpath(folder)
            with os.scandir(folder) as entries:
                names = frozenset(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
        except (OSError, ValueError):  # a NUL in the path
            return cls("", False, frozenset())
        return cls(real, _contains(real_root, real), names)


class _RealPaths:
    """Paths with all links resolved. Of a path that is no link only the folder is resolved, once."""

    def __init__(self) -> None:
        self._folders: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        if os.path.islink(path):
            return os.path.realpath(path)
        if path.parent not in self._folders:
            self._folders[path.parent] = os.path.realpath(path.parent)
        return os.path.join(self._folders[path.parent], path.name)


def _contains(folder: str, path: str) -> bool:
    return os.path.commonpath([folder, path]) == folder


class FileCheck(ImageFiles):
    """Checks that images are regular files, and that no two are the same file."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._first_name: dict[str, str] = {}

    def problem(self, image: str) -> str | None:
        """What is wrong with the file of an image."""
        try:
            target = self.target(image)
        except ValueError as reason:
            return f"image {image!r} {reason}"
        if self._first_name.setdefault(target, image) != image:
            return f"image {image!r} is the same file as {self._first_name[target]!r}"
        return None


def walk(
    folder: Path, unreadable: Callable[[OSError], object], loops: list[Path]
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (place, names of its folders, names of its files), through links to folders.

    A caller may remove folders from the list, as with os.walk. A link to a folder that it lies in
    would never end: it is not followed, and appended to `loops`. `unreadable` is called for a
    folder that cannot be listed.
    """
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while waiting:
        place, above = waiting.pop()
        try:
            status = os.stat(place)
            identity = status.st_dev, status.st_ino
            if identity in above or (above and _leads_back(place)):
                loops.append(place)
                continue
            with os.scandir(place) as listed:
                entries = sorted((entry.name, _is_folder(entry)) for entry in listed)
        except OSError as error:
            unreadable(error)
            continue
        folders = [name for name, is_folder in entries if is_folder]
        yield place, folders, [name for name, is_folder in entries if not is_folder]
        waiting += [(place / name, above | {identity}) for name in reversed(folders)]


def _leads_back(place: Path) -> bool:
    """Whether a path is a link to a folder that it lies in."""
    return place.is_symlink() and _contains(os.path.realpath(place), os.path.realpath(place.parent))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def lying_outside(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Those of the paths below `folder` whose files lie elsewhere, behind links."""
    root, real = os.path.realpath(folder), _RealPaths()
    return [path for path in paths if not _contains(root, real.of(path))]
