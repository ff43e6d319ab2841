"""AffectNet's first release: two lists, and pictures that show more than the face.

    training.csv, validation.csv        or in Manually_Annotated_file_lists/;
                                        columns subDirectory_filePath, face box, …, expression
    Manually_Annotated_Images/SUB/NAME  or in Manually_Annotated/

Some copies of `validation.csv` have no header line. They are read with the columns of the release.
"""

from pathlib import Path

from orsanet_cache.data.tables import Header, without_blank_end
from orsanet_cache.errors import OrsanetError
from orsanet_cache.layouts.affectnet_release import EXPRESSIONS, Annotation, Release
from orsanet_cache.layouts.found import csv_rows, first_file, first_folder, is_count, list_row

_FOLDER = "Manually_Annotated_file_lists"
LISTS = {
    "train": ("training.csv", f"{_FOLDER}/training.csv"),
    "valid": ("validation.csv", f"{_FOLDER}/validation.csv"),
}
PICTURES = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
COLUMNS = [
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression", "valence", "arousal",
]  # fmt: skip
PATH, EXPRESSION = "subDirectory_filePath", "expression"
BOX = ("face_x", "face_y", "face_width", "face_height")


def read_lists(root: Path) -> Release:
    """Return every line of both lists, in their order.

    Raises OrsanetError for a missing list or column, and for an unknown expression.
    """
    pictures = first_folder(root, PICTURES, "the pictures of AffectNet's lists")
    annotations = []
    for split, names in LISTS.items():
        table = first_file(root, names, f"AffectNet's list of {split} pictures")
        annotations += _rows(table, split, pictures)
    note = (
        "the pictures are used whole: the lists' face boxes are not applied; "
        "use --crops FOLDER if the pictures show more than the face"
    )
    return Release(annotations, dict.fromkeys(LISTS, pictures), (note,))


def _rows(table: Path, split: str, pictures: str) -> list[Annotation]:
    annotations = []
    header: Header | None = None
    for number, cells in csv_rows(table):
        if header is None:
            header, has_names = _header(table, cells)
            if has_names:
                continue
        row = list_row(table, number, header, cells)
        expression = row[EXPRESSION].strip()
        if not is_count(expression) or int(expression) not in EXPRESSIONS:
            raise OrsanetError(f"{table}: line {number}: unknown expression {expression!r}; AffectNet has 0 to 10")
        box = tuple(row[column] for column in BOX)
        annotations.append(Annotation(f"{pictures}/{row[PATH].strip()}", int(expression), split, box))
    return annotations


def _header(table: Path, first: list[str]) -> tuple[Header, bool]:
    """Return the columns and whether the first line has their names; else they are the release's."""
    header = Header(first)
    if PATH not in header.names:
        if len(without_blank_end(first)) != len(COLUMNS):
            raise OrsanetError(
                f"{table}: line 1: has neither a column {PATH} nor the {len(COLUMNS)} columns of the release; use the original list"
            )
        return Header(COLUMNS), False
    missing = [column for column in (EXPRESSION, *BOX) if column not in header.names]
    if missing:
        raise OrsanetError(f"{table}: line 1: no column {', '.join(missing)}; use the original list")
    return header, True
