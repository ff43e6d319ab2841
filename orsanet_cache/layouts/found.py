"""The contents of a data set's folder: samples, and everything left out with its reason."""

import csv
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from orsanet_cache.data.files import walk
from orsanet_cache.data.manifest import Sample
from orsanet_cache.data.tables import Header, is_blank, nameless
from orsanet_cache.errors import OrsanetError, few
from orsanet_cache.reading import open_regular

REPEATED = "a repeated line of the same picture"
LeftOut = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class DataSet:
    """Samples of a folder, before any file is written. `Sample.image` is relative to it."""

    name: str
    classes: tuple[str, ...]  # in label order
    splits: tuple[str, ...]
    samples: tuple[Sample, ...]
    left_out: LeftOut  # reason -> pictures, or rows without a picture
    notes: tuple[str, ...] = ()  # printed for the user
    # image -> x, y, width, height as listed, if pictures show more than the face
    face_boxes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    persons: Mapping[str, str] = field(default_factory=dict)  # image -> who it shows, if known

    def counts(self) -> Counter[tuple[str, str]]:
        """(split, class) -> samples."""
        return Counter((sample.split, self.classes[sample.label]) for sample in self.samples)


def files_below(root: Path, folder: str) -> list[str]:
    """Return every file below `root/folder`, relative to `root`, in alphabetical order.

    Links to folders are followed. Raises OrsanetError for an unreadable folder, and for a link to a
    folder that it lies in.
    """
    loops: list[Path] = []
    found = [(place / name) for place, _, names in walk(root / folder, _unreadable, loops) for name in names]
    if loops:
        raise OrsanetError(f"{loops[0]}: is a link to a folder that it lies in; remove the link")
    return sorted(path.relative_to(root).as_posix() for path in found)


def _unreadable(error: OSError) -> None:
    raise OrsanetError(f"{error.filename}: cannot be read ({error.strerror})") from error


def first_folder(root: Path, candidates: Sequence[str], what: str) -> str:
    """Return the first candidate that is a folder below `root`. Raises OrsanetError if none is."""
    for candidate in candidates:
        if (root / candidate).is_dir():
            return candidate
    raise OrsanetError(
        f"{root}: no folder {' or '.join(candidates)}, where {what} should be; give the folder that holds it as ROOT"
    )


def first_file(root: Path, candidates: Sequence[str], what: str) -> Path:
    """Return the first candidate that is a file below `root`. Raises OrsanetError if none is."""
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    raise OrsanetError(f"{root}: no file {' or '.join(candidates)}, {what}; give the folder that holds it as ROOT")


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, cells) of every row with content.

    The file is not read as a whole: AffectNet's list has half a gigabyte. Raises OrsanetError if
    the file cannot be read as CSV in UTF-8.
    """
    begun = 1
    try:
        with open(open_regular(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for cells in reader:
                if not is_blank(cells):
                    yield begun, cells
                begun = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise OrsanetError(f"{path}: not UTF-8, after line {begun - 1}; save the file as UTF-8") from error
    except csv.Error as error:
        raise OrsanetError(f"{path}: line {begun}: not valid CSV: {error}") from error
    except OSError as error:
        raise OrsanetError(f"{path}: cannot be read ({error.strerror})") from error


def list_row(table: Path, number: int, header: Header, cells: Sequence[str]) -> dict[str, str]:
    """Return column -> cell of a row of an official list.

    Raises OrsanetError for a row that does not fit the header.
    """
    try:
        row = header.row(cells)
    except ValueError as error:
        raise OrsanetError(f"{table}: line {number}: {error}; use the original list") from error
    if columns := header.nameless_content(cells):
        raise OrsanetError(f"{table}: line {number}: {nameless(columns[0])}")
    return row


class Line(Protocol):
    """What a list says of a picture. Lines are compared as a whole."""

    @property
    def image(self) -> str: ...


L = TypeVar("L", bound=Line)


def once(lines: Iterable[tuple[str, L]], left_out: dict[str, list[str]], contradictory: str) -> list[L]:
    """Return one line for every name of (name, line), in the order of their first lines.

    Official lists have lines that occur again. Lines that agree count once, and a picture whose
    lines do not agree is left out; both are added to `left_out`.
    """
    of_picture: dict[str, list[L]] = defaultdict(list)
    for name, line in lines:
        of_picture[name].append(line)
    kept = []
    for named in of_picture.values():
        first, *others = named
        if any(line != first for line in others):
            left_out.setdefault(contradictory, []).extend(dict.fromkeys(line.image for line in named))
            continue
        if others:
            left_out.setdefault(REPEATED, []).extend(line.image for line in others)
        kept.append(first)
    return kept


def is_count(cell: str) -> bool:
    """Return whether a cell is a whole number of at most nine digits."""
    return cell.isdecimal() and len(cell) <= 9


def require_pictures(root: Path, wanted: Sequence[str], present: Collection[str], listed_in: str) -> None:
    """Raise OrsanetError, with the first few names, if listed pictures do not exist."""
    missing = [image for image in wanted if image not in present]
    if missing:
        raise OrsanetError(
            f"{root}: {len(missing):,} of {len(wanted):,} pictures of {listed_in} are missing: {few(missing)}; "
            f"unpack the data set completely"
        )


def require_train_is_largest(root: Path, samples: Iterable[Sample]) -> None:
    """Raise OrsanetError if the training split is empty or smaller than another split.

    A smaller training split means that folders or lists of splits were exchanged.
    """
    images = Counter(sample.split for sample in samples)
    for split, count in images.items():
        if images["train"] < count:
            raise OrsanetError(
                f"{root}: {count:,} images in {split} but only {images['train']:,} in train; the two look exchanged, "
                f"or the data set is incomplete: compare with a fresh download"
            )
    if not images["train"]:
        raise OrsanetError(f"{root}: no images for training; unpack the data set completely")
