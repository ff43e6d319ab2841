"""FERPlus: FER2013's pictures with the votes of ten taggers, as the FERPlus project writes them.

    fer2013new.csv                      Usage, Image name, ten columns of votes
    FER2013Train/fer0000000.png …       FER2013Valid, FER2013Test; also below data/

The label is the option with the most votes. Rows without a single winner, and rows whose winner is
`unknown` or `NF` (not a face), are left out. (The FERPlus project's own majority also requires more
than half of the votes.) The official list names four pictures twice: three with the same votes,
which count once, and one with other votes, which is left out.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orsanet_cache.data.manifest import Sample
from orsanet_cache.data.tables import Header
from orsanet_cache.errors import OrsanetError
from orsanet_cache.layouts.found import (
    DataSet,
    csv_rows,
    files_below,
    first_file,
    first_folder,
    is_count,
    list_row,
    once,
    require_pictures,
    require_train_is_largest,
)

CLASSES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
SPLITS = ("train", "valid", "test")
VOTES = (*CLASSES, "unknown", "NF")
USAGE, PICTURE = "Usage", "Image name"
_SPLIT_OF = {
    "Training": ("train", "FER2013Train"),
    "PublicTest": ("valid", "FER2013Valid"),
    "PrivateTest": ("test", "FER2013Test"),
}


@dataclass(frozen=True)
class _Line:
    image: str
    split: str
    votes: tuple[int, ...]


def read_ferplus(root: Path) -> DataSet:
    """Read FERPlus below `root`.

    Raises OrsanetError for a missing list, column or picture, and for votes that are not numbers.
    """
    table = first_file(root, ("fer2013new.csv",), "FERPlus' list of votes")
    base = first_folder(root, ("FER2013Train", "data/FER2013Train"), "FERPlus' pictures").removesuffix("FER2013Train")
    samples: list[Sample] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    lines: list[tuple[str, _Line]] = []
    for number, row in _rows(table):
        if row[USAGE] not in _SPLIT_OF:
            raise OrsanetError(
                f"{table}: line {number}: unknown usage {row[USAGE]!r}; FERPlus has {', '.join(_SPLIT_OF)}"
            )
        split, folder = _SPLIT_OF[row[USAGE]]
        votes = tuple(_votes(table, number, row[column]) for column in VOTES)
        if not row[PICTURE]:
            left_out["a row without a picture (not a face)"].append(f"line {number}")
            continue
        lines.append((row[PICTURE], _Line(f"{base}{folder}/{row[PICTURE]}", split, votes)))
    for line in once(lines, left_out, "named several times, with different votes or usages"):
        winners = [column for column, count in zip(VOTES, line.votes, strict=True) if count == max(line.votes)]
        if len(winners) > 1:
            left_out["no single expression with the most votes"].append(line.image)
        elif winners[0] not in CLASSES:
            left_out[f"most votes for {winners[0]}"].append(line.image)
        else:
            samples.append(Sample(line.image, CLASSES.index(winners[0]), line.split, frozenset()))
    present = [
        image
        for _, folder in _SPLIT_OF.values()
        for image in files_below(root, first_folder(root, (base + folder,), "FERPlus' pictures"))
    ]
    require_pictures(root, [sample.image for sample in samples], set(present), table.name)
    require_train_is_largest(root, samples)
    listed = {line.image for _, line in lines}
    unlisted = [image for image in present if image not in listed]
    if unlisted:
        left_out[f"not in {table.name}"] = unlisted
    return DataSet("ferplus", CLASSES, SPLITS, tuple(samples), left_out)


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    rows = csv_rows(table)
    header = Header(next(rows, (1, []))[1])
    missing = [column for column in (USAGE, PICTURE, *VOTES) if column not in header.names]
    if missing:
        raise OrsanetError(
            f"{table}: line 1: missing column(s) {', '.join(missing)}; use fer2013new.csv of the FERPlus project"
        )
    for number, cells in rows:
        yield number, list_row(table, number, header, cells)


def _votes(table: Path, number: int, cell: str) -> int:
    if not is_count(cell.strip()):
        raise OrsanetError(f"{table}: line {number}: {cell!r} is not a number of votes; use the original list")
    return int(cell)
