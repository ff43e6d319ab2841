"""Published numbers of ORSANet (arXiv 2507.15401) and of the models it is compared with, each with its source.

They stand beside ours in blocks of their own, never in our tables: other code measured them, by other protocols. As far
as is known each is of one training, at the epoch that was best on the measured images. Where sources contradict each
other, all their values are here.

Of the paper's Tables 2 to 5 these are the numbers of ORSANet itself, and those of other models that contradict another
source. The other rows of these tables are not here.
"""

from collections.abc import Sequence
from typing import NamedTuple

from orsanet_train.evaluation.tables import markdown_table

HEADING = "Published numbers, measured under other protocols"
CAPTION = (
    "Accuracy in per cent. Each number is, as far as is known, of one training and of the epoch that was best on the measured images; "
    "ours is of the checkpoint that is named with it. Differences between the two columns are no comparison of models."
)
ORSANET, POSTER, POSTER_V2 = "ORSANet", "POSTER", "POSTER V2"  # titles of kinds (model_config.py)


class Published(NamedTuple):
    """One number, and the group of our evaluation with the same images."""

    model: str
    data_set: str  # the name of a descriptor (manifests/)
    group: str
    accuracy: float  # a share
    images: int | None  # None: not stated
    source: str
    remark: str = ""


NUMBERS = (
    Published(ORSANET, "rafdb", "test", 0.9228, 3068, "ORSANet's paper, Table 2", "the log has it at epoch 392 of 400; mean of its last 50 epochs 91.99"),
    Published(ORSANET, "rafdb", "test@erase-10", 0.9051, 3068, "ORSANet's paper, Table 3"),
    Published(ORSANET, "rafdb", "test@erase-20", 0.8787, 3068, "ORSANet's paper, Table 3"),
    Published(ORSANET, "rafdb", "test@erase-30", 0.8402, 3068, "ORSANet's paper, Table 3"),
    Published(ORSANET, "rafdb", "test:occluded", 0.8775, 734, "ORSANet's paper", "the list has 735 lines, one name twice"),
    Published(ORSANET, "affectnet7", "valid", 0.6669, 3500, "ORSANet's paper, Table 2", "trained on 33,803 images, according to the log"),
    Published(ORSANET, "affectnet8", "valid", 0.6295, 4000, "ORSANet's paper, Table 2", "trained on 37,553 images, according to the log"),
    Published(ORSANET, "occlu-fer", "valid", 0.6807, 880, "ORSANet's paper, table, and log"),
    Published(ORSANET, "occlu-fer", "valid", 0.6805, 880, "ORSANet's paper, one sentence"),
    Published("EAC", "rafdb", "test", 0.8999, 3068, "ORSANet's paper, Table 2"),
    Published("EAC", "rafdb", "test", 0.9035, 3068, "ORSANet's paper, Table 5"),
    Published(
        POSTER, "rafdb", "test", 0.9205, 3068, "POSTER's paper and log",
        "colours as BGR; the log has it at epoch 216, where it ends; mean of its last 50 epochs 91.75",
    ),
    Published(POSTER, "ferplus", "test", 0.9162, None, "POSTER's paper"),
    Published(POSTER, "affectnet7", "valid", 0.6731, 3500, "POSTER's paper", "a comment in its code counts 283,901 training images"),
    Published(
        POSTER, "affectnet8", "valid", 0.6334, 3999, "POSTER's paper", "a comment in its code counts 287,651 training images"
    ),
    Published(
        POSTER_V2, "rafdb", "test", 0.9221, 3068, "POSTER V2's paper and README", "users report 81 to 91 (its issues 32 and 37)"
    ),
    Published(
        POSTER_V2, "affectnet7", "valid", 0.6749, None, "POSTER V2's paper and README", "above ORSANet's own 66.69"
    ),
    Published(POSTER_V2, "affectnet7", "valid", 0.6620, None, "ORSANet's paper, Table 2"),
    Published(
        POSTER_V2, "affectnet8", "valid", 0.6377, None, "POSTER V2's paper and README", "above ORSANet's own 62.95"
    ),
    Published(POSTER_V2, "affectnet8", "valid", 0.6237, None, "ORSANet's paper, Table 2"),
    Published(POSTER_V2, "caer-s", "test", 0.9300, None, "POSTER V2's paper and README"),
)  # fmt: skip

_SEVEN = {"surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"}
_CLASSES = {
    "rafdb": _SEVEN,
    "affectnet7": _SEVEN,
    "affectnet8": _SEVEN | {"contempt"},
    "occlu-fer": _SEVEN | {"contempt"},
    "ferplus": _SEVEN | {"contempt"},
    "caer-s": _SEVEN,
}


def published(manifest: str, classes: Sequence[str]) -> list[Published]:
    """The published numbers for the data set of a descriptor.

    Empty unless both the manifest's name and its classes are those of the data set.
    """
    return [row for row in NUMBERS if row.data_set == manifest] if set(classes) == _CLASSES.get(manifest) else []


def remark_of(row: Published) -> str:
    """A number's remark, after the values with which it stands in other sources."""
    others = [
        f"contradicted by {100 * other.accuracy:.2f} ({other.source})"
        for other in NUMBERS
        if other[:3] == row[:3] and other.accuracy != row.accuracy
    ]
    return "; ".join([*others, *([row.remark] if row.remark else [])])


def published_table(rows: Sequence[Published], ours: Sequence[str] | None = None) -> str:
    """Published numbers as Markdown, with a column of ours, a text for each of the rows."""
    header = ["model", "data set", "group", "published", *([] if ours is None else ["ours"]), "source", "remark"]
    beside = [[] for _ in rows] if ours is None else [[text] for text in ours]
    lines = [
        [row.model, row.data_set, row.group, f"{100 * row.accuracy:.2f}", *cells, row.source, remark_of(row)]
        for row, cells in zip(rows, beside, strict=True)
    ]
    return markdown_table(header, lines)
