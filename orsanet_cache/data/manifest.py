"""Manifests: a CSV of `image,label,split[,tags]` and the class names in label order.

A manifest is either a TOML descriptor that names the data set and its CSV, or the CSV alone, with
root and classes given by the caller. A descriptor:

    name = "my-faces"
    classes = ["anger", "happiness", "neutral"]     # label order: index 0, 1, 2
    samples = "my-faces.csv"                        # in the folder of this file, or below it
    root = "."                                      # folder that the image paths start from, relative to this file
    splits = ["train", "valid", "test"]             # optional: the split names that may occur

A sample's id is its image path as written in the CSV. Tags are separated by `;` and contain no `@`.
Further columns are allowed and ignored. A cell may have a `'` before = + - @ (cells.py). The whole manifest is validated before any work, and all
findings are reported at once.
"""

import csv
import io
import os
import tomllib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orsanet_cache.data.cells import unmarked
from orsanet_cache.errors import OrsanetError, did_you_mean, few, listed, validation_findings
from orsanet_cache.paths import StrPath, as_names, as_path
from orsanet_cache.reading import MAX_SETTINGS_BYTES, MAX_TABLE_BYTES, below, read_limited

COLUMNS = ("image", "label", "split")
DEFAULT_SPLITS = ("train", "valid", "test")
NAMED = 20  # names of columns, classes or splits in one message


@dataclass(frozen=True)
class Sample:
    """One row.

    `image` is the path below the manifest's root and the sample's id; `label` is an index into
    classes.
    """

    image: str
    label: int
    split: str
    tags: frozenset[str]


@dataclass(frozen=True)
class Manifest:
    """A validated list of samples. `classes` are in label order."""

    name: str
    classes: tuple[str, ...]
    root: Path
    samples: tuple[Sample, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """Split names in order of first appearance."""
        return tuple(dict.fromkeys(sample.split for sample in self.samples))

    def split(self, name: str) -> tuple[Sample, ...]:
        """The samples of one split, in file order.

        Raises OrsanetError for a split without samples.
        """
        chosen = tuple(sample for sample in self.samples if sample.split == name)
        if not chosen:
            raise OrsanetError(
                f"manifest '{self.name}' has no split '{name}'; it has {', '.join(self.splits)}{did_you_mean(name, self.splits)}"
            )
        return chosen


NonEmpty = Annotated[str, Field(min_length=1)]
SplitName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
]  # the name of a folder in the store; without ":", which precedes a tag


class Descriptor(BaseModel):
    """The TOML beside the CSV."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: NonEmpty
    classes: Annotated[list[NonEmpty], Field(min_length=2)]
    samples: NonEmpty
    root: str = "."
    splits: Annotated[list[SplitName], Field(min_length=1)] = list(DEFAULT_SPLITS)


def load_manifest(
    path: StrPath, root: StrPath | None = None, classes: Sequence[str] | None = None, check_files: bool = True
) -> Manifest:
    """Read and validate a manifest: a `.toml` descriptor, or a `.csv` with `root` and `classes`.

    With `check_files=False` the image files are not checked: stage two joins labels to a store and
    opens no image. Raises OrsanetError with every finding and its line number.
    """
    path, root = as_path(path, "manifest"), None if root is None else as_path(root, "root")
    descriptor = _descriptor(path, root, None if classes is None else as_names(classes, "classes"), check_files)
    table = table_of(path, descriptor.samples) if path.suffix.lower() == ".toml" else path
    image_root = root if root is not None else path.parent / descriptor.root
    if check_files and not image_root.is_dir():
        raise OrsanetError(f"{path}: the image root {image_root} is not a folder; set `root` or pass --root")
    if twice := _repeated(descriptor.classes):
        raise OrsanetError(f"{path}: class named twice: {few(twice, NAMED)}")

    samples: list[Sample] = []
    findings: list[str] = []
    files = FileCheck(image_root) if check_files else None
    label_of = {name: label for label, name in enumerate(descriptor.classes)}
    splits = dict.fromkeys(descriptor.splits)
    first_line: dict[str, int] = {}
    for line, row in _rows(table, findings):
        problems = list(_row_problems(row, label_of, splits, files, near_names=len(findings) < NAMED))
        image = row["image"]
        if image in first_line:
            problems.append(f"image {image!r} is already on line {first_line[image]}")
        first_line.setdefault(image, line)
        findings += [f"line {line}: {problem}" for problem in problems]
        if not problems:
            samples.append(Sample(image, label_of[row["label"]], row["split"], _tags(row.get("tags", ""))))
    if findings:
        raise OrsanetError(f"{table}: {len(findings)} problem(s), nothing was done:\n{listed(findings)}")
    if not samples:
        raise OrsanetError(f"{table}: no samples, only a header; add one row per image")
    return Manifest(descriptor.name, tuple(descriptor.classes), image_root, tuple(samples))


def as_manifest(given: Manifest | StrPath, check_files: bool = False) -> Manifest:
    """`given` as a manifest; a path is read with `load_manifest`.

    Raises TypeError for any other type.
    """
    if isinstance(given, Manifest):
        return given
    return load_manifest(as_path(given, "manifest"), check_files=check_files)


def with_tags(manifest: Manifest, table: StrPath) -> Manifest:
    """The same samples with tags added from a CSV `image,tags`, such as a list of occluded images.

    An image may occur on several lines. Further columns are allowed and ignored. Raises
    OrsanetError with every finding: an image that the manifest does not have, a line without a tag,
    or a tag with `@`.
    """
    table = as_path(table, "table of tags")
    known = {sample.image for sample in manifest.samples}
    findings: list[str] = []
    added: dict[str, set[str]] = defaultdict(set)
    for line, row in _rows(table, findings, ("image", "tags")):
        image, tags = row["image"], _tags(row["tags"])
        if image not in known:
            findings.append(f"line {line}: manifest '{manifest.name}' has no image {image!r}")
        if not tags:
            findings.append(f"line {line}: no tag")
        findings += [f"line {line}: {problem}" for problem in _tag_problems(row["tags"])]
        added[image] |= tags
    if findings:
        raise OrsanetError(f"{table}: {len(findings)} problem(s), nothing was done:\n{listed(findings)}")
    samples = (replace(sample, tags=sample.tags | added.get(sample.image, set())) for sample in manifest.samples)
    return replace(manifest, samples=tuple(samples))


def _tags(cell: str) -> frozenset[str]:
    return frozenset(tag.strip() for tag in cell.split(";") if tag.strip())


def _tag_problems(cell: str) -> Iterator[str]:
    if "@" in cell:
        yield f"tag {cell!r} contains '@', which precedes a view in the name of a group of images (test:occluded@erase-20)"


def table_of(descriptor: Path, samples: str) -> Path:
    """The table that a descriptor names. Raises OrsanetError if it is not in the descriptor's folder."""
    try:
        return below(descriptor.parent, samples)
    except ValueError as error:
        raise OrsanetError(
            f"{descriptor}: samples: {error}; copy the table into this folder, and give its name there"
        ) from error


def _descriptor(path: Path, root: Path | None, classes: Sequence[str] | None, check_files: bool) -> Descriptor:
    """The descriptor: that of the file, or one for a table alone."""
    if path.suffix.lower() == ".toml":
        if classes is not None:
            raise OrsanetError(f"{path}: its `classes` set the label order; --classes is for a CSV alone")
        try:
            return Descriptor.model_validate(tomllib.loads(read_text(path, MAX_SETTINGS_BYTES)))
        except ValidationError as error:
            raise OrsanetError(f"{path}:\n{listed(validation_findings(error, Descriptor))}") from error
        except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a huge number or deep nesting
            raise OrsanetError(f"{path}: not valid TOML: {error}") from error
    if path.suffix.lower() != ".csv":
        raise OrsanetError(f"{path}: a manifest is a .toml descriptor or a .csv table")
    if classes is None or (check_files and root is None):
        needed = "--root (image folder) and --classes" if check_files else "--classes"
        raise OrsanetError(f"{path}: a CSV alone needs {needed} (names in label order)")
    try:
        return Descriptor(name=path.stem, classes=list(classes), samples=path.name)
    except ValidationError as error:
        raise OrsanetError(f"--classes:\n{listed(validation_findings(error))}") from error


def read_text(path: Path, limit: int = MAX_TABLE_BYTES) -> str:
    """A table's or descriptor's text.

    Raises OrsanetError if it cannot be read as UTF-8, is not a regular file, or has more than
    `limit` bytes.
    """
    try:
        return read_limited(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise OrsanetError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise OrsanetError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # a NUL in the path
        raise OrsanetError(f"{str(path)!r}: not a file name ({error})") from error


def _rows(table: Path, findings: list[str], columns: Sequence[str] = COLUMNS) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (the row's first line number, row).

    The header is checked; rows of another length become findings.
    """
    text = read_text(table)
    if "\0" in text:
        raise OrsanetError(f"{table}: contains a NUL byte; this is not a CSV table")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in columns if name not in header]
        if missing:
            # The first line of a file that is no table is not printed: it may be anybody's.
            there = few([repr(name) for name in header], NAMED)
            there = f"; the header has {there}" if len(missing) < len(columns) else "; this is no such table"
            raise OrsanetError(f"{table}: line 1: missing column(s) {', '.join(missing)}{there}")
        if twice := _repeated(header):
            raise OrsanetError(f"{table}: line 1: column named twice: {few(twice, NAMED)}")
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) == len(header):
                    yield line, dict(zip(header, map(unmarked, cells), strict=True))
                else:
                    findings.append(f"line {line}: {len(cells)} cells, but the header has {len(header)}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise OrsanetError(f"{table}: line {line}: not valid CSV: {error}") from error


def _repeated(names: Sequence[str]) -> list[str]:
    """The names that occur more than once, in alphabetical order."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _row_problems(
    row: dict[str, str],
    classes: Collection[str],
    splits: Collection[str],
    files: "FileCheck | None",
    *,
    near_names: bool,
) -> Iterator[str]:
    """What is wrong with a row. A table may have as many classes as rows, so both are looked up, not searched.

    `near_names`: also name the class or split that was probably meant, which takes longer.
    """
    image = row["image"]
    path = PurePosixPath(image)
    near = did_you_mean if near_names else lambda _name, _names: ""
    if not image:
        yield "no image"
    elif path.is_absolute():
        yield f"image {image!r} is an absolute path; write it relative to the root"
    elif ".." in path.parts:
        yield f"image {image!r} leaves the root with '..'"
    elif files is not None:
        yield from files.problems(image)
    if row["label"] not in classes:
        yield f"unknown class '{row['label']}'; the classes are {few(classes, NAMED)}{near(row['label'], classes)}"
    yield from _tag_problems(row.get("tags", ""))
    if row["split"] not in splits:
        yield f"unknown split '{row['split']}'; the splits are {few(splits, NAMED)}{near(row['split'], splits)}"


class FileCheck:
    """Checks that images are regular files inside the root, and that no two are the same file."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.first_name: dict[str, str] = {}

    def problems(self, image: str) -> Iterator[str]:
        target = os.path.realpath(os.path.join(self.root, image))
        if os.path.commonpath([self.root, target]) != self.root:
            yield f"image {image!r} is a link that leaves the root {self.root}"
        elif not os.path.exists(target):
            yield f"image {image!r} does not exist below {self.root}"
        elif not os.path.isfile(target):
            yield f"image {image!r} is not a regular file"
        elif self.first_name.setdefault(target, image) != image:
            yield f"image {image!r} is the same file as {self.first_name[target]!r}"
