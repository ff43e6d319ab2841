"""The paper's own numbers (arXiv 2507.15401), to be shown beside a report of the same data set and never mixed into it.

Overall accuracy in per cent of the published full model; each is the best epoch on the images it is measured on.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """One number of the paper, and the group of our evaluation that measures the same."""

    what: str
    group: str
    accuracy: float  # a share


_PER_CENT: dict[str, list[tuple[str, str, float]]] = {
    "rafdb": [
        ("RAF-DB", "test", 92.28),
        ("RAF-DB, 10 % of the image erased (Table 3)", "test@erase-10", 90.51),
        ("RAF-DB, 20 % of the image erased (Table 3)", "test@erase-20", 87.87),
        ("RAF-DB, 30 % of the image erased (Table 3)", "test@erase-30", 84.02),
        ("RAF-DB, occluded subset", "test:occluded", 87.75),
    ],
    "affectnet7": [("AffectNet, 7 classes", "valid", 66.69)],
    "affectnet8": [("AffectNet, 8 classes", "valid", 62.95)],
    "occlu-fer": [("Occlu-FER", "valid", 68.07)],
}


def published(manifest: str) -> list[Published]:
    """The paper's numbers for the data set of a shipped descriptor (manifests/), by the manifest's name; none for others."""
    return [Published(what, group, round(per_cent / 100, 4)) for what, group, per_cent in _PER_CENT.get(manifest, [])]
