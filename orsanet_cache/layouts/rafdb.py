"""RAF-DB, the basic expressions, as downloaded:

    EmoLabel/list_patition_label.txt          (spelt so) lines `train_00001.jpg 5`, labels 1 … 7
    Image/aligned/train_00001_aligned.jpg     100x100

The split is the beginning of the name. The compound set has a list of the same name with labels up
to 11.
"""

from pathlib import Path, PurePosixPath

from orsanet_cache.data.manifest import Sample, read_text
from orsanet_cache.errors import OrsanetError
from orsanet_cache.layouts.found import (
    DataSet,
    files_below,
    first_file,
    first_folder,
    is_count,
    once,
    require_pictures,
    require_train_is_largest,
)

CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # labels 1 … 7
SPLITS = ("train", "test")
LIST = "EmoLabel/list_patition_label.txt"
ALIGNED = "Image/aligned"


def read_rafdb(root: Path) -> DataSet:
    """Read the aligned images of RAF-DB below `root`: the download's folder `basic` or its parent.

    Raises OrsanetError for a missing list or picture, a line of another form, the compound list,
    and exchanged splits.
    """
    table = first_file(root, (LIST, f"basic/{LIST}"), "RAF-DB's list of labels (spelt that way)")
    below = table.parent.parent.relative_to(root)
    pictures = first_folder(root, ((below / ALIGNED).as_posix(),), "RAF-DB's aligned pictures")
    lines: list[tuple[str, Sample]] = []
    left_out: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(table).splitlines(), start=1):
        if line.strip():
            name, label = _entry(table, number, line)
            split = name.partition("_")[0]
            image = f"{pictures}/{PurePosixPath(name).stem}_aligned.jpg"
            lines.append((name, Sample(image, label - 1, split, frozenset())))
    samples = once(lines, left_out, "named several times, with different labels")
    present = files_below(root, pictures)
    listed = {sample.image for _, sample in lines}
    require_pictures(root, [sample.image for sample in samples], set(present), table.name)
    require_train_is_largest(root, samples)
    if unlisted := [image for image in present if image not in listed]:
        left_out[f"not in {table.name}"] = unlisted
    return DataSet("rafdb", CLASSES, SPLITS, tuple(samples), left_out)


def _entry(table: Path, number: int, line: str) -> tuple[str, int]:
    """Return (picture's name, label 1 … 7)."""
    fields = line.split()
    if len(fields) != 2 or not is_count(fields[1]) or fields[0].partition("_")[0] not in SPLITS:
        # Without the line: it may be of any file.
        raise OrsanetError(f"{table}: line {number} is not of the form 'train_00001.jpg 5'; use the original list")
    label = int(fields[1])
    if label > len(CLASSES):
        raise OrsanetError(
            f"{table}: line {number}: label {label}; basic expressions are 1 to 7, so this is the list of RAF-DB's compound "
            f"expressions (1 to 11): use EmoLabel and Image of the folder 'basic'"
        )
    if label == 0:
        raise OrsanetError(f"{table}: line {number}: label 0; the labels of RAF-DB are 1 to 7: use the original list")
    return fields[0], label
