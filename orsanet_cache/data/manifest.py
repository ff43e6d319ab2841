"""Manifests: a CSV of `image,label,split[,tags]` and the class names in label order.

A manifest is either a TOML descriptor that names the data set and its CSV, or the CSV alone, with
root and classes given by the caller. A descriptor:

    name = "my-faces"
    classes = ["anger", "happiness", "neutral"]     # label order: index 0, 1, 2
    samples = "my-faces.csv"                        # in the folder of this file, or below it
    root = "."                                      # folder that the image paths start from, relative to this file
    splits = ["train", "valid", "test"]             # optional: the split names that may occur

A sample's id is its image path as written in the CSV; `Manifest.path` finds its file, behind links
and under a name whose accents are written in the other form (files.py). Usual spellings of a split
(`val`, `Train`) mean the split that has another usual name. Tags are separated by `;` and contain no `@`. Further
columns with a name are allowed and ignored; a cell may have a `'` before = + - @ (cells.py), and
rows and columns as spreadsheets add them are passed over (tables.py). The whole manifest is
validated before any work, and all findings are reported at once.
"""

import csv
import io
import os
import shlex
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orsanet_cache.data.cells import MARK, unmarked
from orsanet_cache.data.files import FileCheck, composed, lying_outside, on_disk
from orsanet_cache.data.tables import Header, is_blank, nameless
from orsanet_cache.errors import OrsanetError, did_you_mean, few, listed, validation_findings
from orsanet_cache.paths import StrPath, as_names, as_path
from orsanet_cache.reading import MAX_SETTINGS_BYTES, MAX_TABLE_BYTES, read_limited

COLUMNS = ("image", "label", "split")
DEFAULT_SPLITS = ("train", "valid", "test")
_SPELLINGS = {
    "train": "train", "training": "train",
    "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
T = TypeVar("T")
NO_TAGS: frozenset[str] = frozenset()
MOST_LABELS = 100  # in a message that lists them all
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
    """A validated list of samples. `classes` are in label order.

    `notes` are sentences about the files, for the user; empty if the files were not checked.
    """

    name: str
    classes: tuple[str, ...]
    root: Path
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Split names in order of first appearance."""
        return tuple(dict.fromkeys(sample.split for sample in self.samples))

    def split(self, name: str) -> tuple[Sample, ...]:
        """The samples of one split, in file order.

        Raises OrsanetError for a split without samples.
        """
        name = meant_split(name, self.splits)
        chosen = tuple(sample for sample in self.samples if sample.split == name)
        if not chosen:
            raise OrsanetError(
                f"manifest '{self.name}' has no split '{name}'; it has {', '.join(self.splits)}{did_you_mean(name, self.splits)}"
            )
        return chosen

    def meant(self, names: Iterable[str]) -> tuple[str, ...]:
        """The splits that a user's names mean, each once."""
        return tuple(dict.fromkeys(meant_split(name, self.splits) for name in names))

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", as_path(self.root, "root"))  # text is a path wherever users give one

    def path(self, sample: Sample) -> Path:
        """The sample's file, as its name is spelt on the disk. It may be a link."""
        return on_disk(self.root, sample.image)


def usual_split(name: str) -> str:
    """The default split that a name means in any usual spelling; any other name as it is."""
    return _SPELLINGS.get(name.lower(), name)


def meant_split(name: str, splits: Iterable[str]) -> str:
    """The one of `splits` that a user's name means: the name itself, else its only other usual spelling.

    A name that means none of them is returned as it is.
    """
    splits = list(splits)
    alike = [split for split in splits if usual_split(split) == usual_split(name)]
    return alike[0] if name not in splits and len(alike) == 1 else name


def classes_option_of(names: Sequence[str]) -> str:
    """The option --classes with these names, as a shell reads it."""
    return f"--classes {shlex.quote(','.join(names))}"


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
    image_root = root if root is not None else on_disk(path.parent, descriptor.root)
    if check_files and not image_root.is_dir():
        raise OrsanetError(f"{path}: the image root {image_root} is not a folder; set `root` or pass --root")
    if twice := _repeated(descriptor.classes):
        raise OrsanetError(f"{path}: class named twice: {few(twice, NAMED)}")

    samples: list[Sample] = []
    findings: list[str] = []
    files = FileCheck(image_root) if check_files else None
    label_of = _by_spelling({name: label for label, name in enumerate(descriptor.classes)})
    splits = dict.fromkeys(descriptor.splits)
    meaning: dict[str, str] = {}  # of a table's names of splits
    first_line: dict[str, int] = {}
    for line, row in table_rows(table, findings):
        row["split"] = meaning.get(row["split"]) or meaning.setdefault(row["split"], meant_split(row["split"], splits))
        label = label_of(row["label"])
        near_names = len(findings) < NAMED
        problems = _row_problems(row, label, descriptor.classes, splits, files, near_names=near_names)
        image = row["image"]
        if image in first_line:
            problems.append(f"image {image!r} is already on line {first_line[image]}")
        first_line.setdefault(image, line)
        findings += [f"line {line}: {problem}" for problem in problems]
        if not problems and label is not None:
            samples.append(Sample(image, label, row["split"], _tags(row.get("tags", ""))))
    if findings:
        raise OrsanetError(f"{table}: {len(findings)} problem(s), nothing was done:\n{listed(findings)}")
    if not samples:
        raise OrsanetError(f"{table}: no samples, only a header; add one row per image")
    notes = () if files is None else (*_table_elsewhere(path, table), *files.notes())
    return Manifest(descriptor.name, tuple(descriptor.classes), image_root, tuple(samples), notes)


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
    known = _by_spelling({sample.image: sample.image for sample in manifest.samples})
    findings: list[str] = []
    added: dict[str, set[str]] = defaultdict(set)
    for line, row in table_rows(table, findings, ("image", "tags")):
        image, tags = known(row["image"]), _tags(row["tags"])
        if image is None:
            findings.append(f"line {line}: manifest '{manifest.name}' has no image {row['image']!r}")
        if not tags:
            findings.append(f"line {line}: no tag")
        findings += [f"line {line}: {problem}" for problem in _tag_problems(row["tags"])]
        if image is not None:
            added[image] |= tags
    if findings:
        raise OrsanetError(f"{table}: {len(findings)} problem(s), nothing was done:\n{listed(findings)}")
    samples = (replace(sample, tags=sample.tags | added.get(sample.image, set())) for sample in manifest.samples)
    return replace(manifest, samples=tuple(samples))


def _by_spelling(values: Mapping[str, T]) -> Callable[[str], T | None]:
    """A look-up by name: as it is written, else by the one name that differs only in the form of its accents."""
    forms = Counter(map(composed, values))
    of_form = {form: values[name] for name in values if forms[form := composed(name)] == 1}

    def found(name: str) -> T | None:
        return values[name] if name in values else of_form.get(composed(name))

    return found


def _tags(cell: str) -> frozenset[str]:
    return frozenset(tag.strip() for tag in cell.split(";") if tag.strip()) if cell else NO_TAGS


def _tag_problems(cell: str) -> list[str]:
    if "@" not in cell:
        return []
    return [
        f"tag {cell!r} contains '@', which precedes a view in the name of a group of images (test:occluded@erase-20)"
    ]


def table_of(descriptor: Path, samples: str) -> Path:
    """The table that a descriptor names; as an image, it may be a link.

    Raises OrsanetError if the name leads out of the descriptor's folder.
    """
    if Path(samples).is_absolute() or ".." in Path(samples).parts or "\0" in samples:
        raise OrsanetError(
            f"{descriptor}: samples: {samples!r} leads out of the folder {descriptor.parent}; "
            f"copy the table into this folder, and give its name there"
        )
    return descriptor.parent / samples


def _table_elsewhere(path: Path, table: Path) -> tuple[str, ...]:
    """A sentence on a table that lies outside the manifest's folder; only if it does."""
    if not lying_outside(path.parent, [table]):
        return ()
    return (f"the table {table} is a link, which is followed, to {os.path.realpath(table)}",)


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
        raise lacking_options(path, classes, check_files)
    try:
        return Descriptor(name=path.stem, classes=list(classes), samples=path.name)
    except ValidationError as error:
        raise OrsanetError(f"--classes:\n{listed(validation_findings(error))}") from error


def lacking_options(table: Path, classes: Sequence[str] | None, with_root: bool = True) -> OrsanetError:
    """The error for a table alone without the options that it needs. It has the option --classes to copy.

    Raises OrsanetError if the file is no table.
    """
    needed = "--root (image folder) and --classes" if with_root else "--classes"
    there = ""
    if classes is None:
        labels = sorted({row["label"] for _, row in table_rows(table, [])})
        named = classes_option_of(labels) if len(labels) <= MOST_LABELS else f"{len(labels):,} different texts"
        there = f"; in alphabetical order its labels are {named}"
    return OrsanetError(f"{table}: a CSV alone needs {needed} (names in label order){there}")


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


def table_rows(
    table: Path, findings: list[str], columns: Sequence[str] = COLUMNS
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (the row's first line number, row) of every row with content.

    The header is checked; rows of another length and content in columns without a name become
    findings.
    """
    text = read_text(table)
    if "\0" in text:
        raise OrsanetError(f"{table}: contains a NUL byte; this is not a CSV table")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: Header | None = None
    reported: set[int] = set()  # columns without a name
    has_marks = MARK in text  # looked for once, not in every cell
    line = 1
    try:
        for cells in reader:
            if header is None:
                if not is_blank(cells):
                    header = _header(table, line, cells, columns)
            elif not is_blank(cells):
                for column in header.nameless_content(cells):
                    if column not in reported:
                        reported.add(column)
                        findings.append(f"line {line}: {nameless(column)}")
                try:
                    row = header.row(cells)
                except ValueError as error:
                    findings.append(f"line {line}: {error}")
                else:
                    yield line, {name: unmarked(cell) for name, cell in row.items()} if has_marks else row
            line = reader.line_num + 1
    except csv.Error as error:
        raise OrsanetError(f"{table}: line {line}: not valid CSV: {error}") from error
    if header is None:
        _header(table, 1, [], columns)


def _header(table: Path, line: int, cells: Sequence[str], columns: Sequence[str]) -> Header:
    """The header of a table. Raises OrsanetError for missing columns, and for columns of the same name."""
    header = Header(cells)
    missing = [name for name in columns if name not in header.names]
    if missing:
        # The first line of a file that is no table is not printed: it may be anybody's.
        there = few([repr(name) for name in header.names], NAMED)
        there = f"; the header has {there}" if len(missing) < len(columns) else "; this is no such table"
        raise OrsanetError(f"{table}: line {line}: missing column(s) {', '.join(missing)}{there}")
    if twice := _repeated(header.names):
        raise OrsanetError(f"{table}: line {line}: column named twice: {few(twice, NAMED)}")
    return header


def _repeated(names: Sequence[str]) -> list[str]:
    """The names that occur more than once, in alphabetical order."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _row_problems(
    row: dict[str, str],
    label: int | None,
    classes: Collection[str],
    splits: Collection[str],
    files: FileCheck | None,
    *,
    near_names: bool,
) -> list[str]:
    """What is wrong with a row. A table may have as many classes as rows, so both are looked up, not searched.

    `near_names`: also name the class or split that was probably meant, which takes longer.
    """
    problems: list[str] = []
    image = row["image"]
    near = did_you_mean if near_names else lambda _name, _names: ""
    if not image:
        problems.append("no image")
    elif image.startswith("/"):
        problems.append(f"image {image!r} is an absolute path; write it relative to the root")
    elif ".." in image and ".." in PurePosixPath(image).parts:
        problems.append(f"image {image!r} leaves the root with '..'")
    elif files is not None and (problem := files.problem(image)):
        problems.append(problem)
    if label is None:
        problems.append(
            f"unknown class '{row['label']}'; the classes are {few(classes, NAMED)}{near(row['label'], classes)}"
        )
    if "@" in (tags := row.get("tags", "")):
        problems += _tag_problems(tags)
    if row["split"] not in splits:
        problems.append(
            f"unknown split '{row['split']}'; the splits are {few(splits, NAMED)}{near(row['split'], splits)}"
        )
    return problems
