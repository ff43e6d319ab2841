"""Copies: the same or nearly the same picture in several rows.

Copies in several splits leak training pictures into the test. Of copies with several labels, at
most one label is right. Other copies count more than once.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from orsanet_cache.data.files import on_disk
from orsanet_cache.doctor.finding import Finding, Place
from orsanet_cache.doctor.look import DataSet, grey
from orsanet_cache.doctor.pictures import BLANK
from orsanet_cache.doctor.similarity import DETAIL, Link, near_copies
from orsanet_cache.errors import few


def find_near_copies(data: DataSet, root: Path) -> list[Link]:
    """Return links between rows of `data.pictures`.

    Identical files are represented by their first row. Blank pictures are not compared.
    """
    usable = data.usable
    distinct = usable[(usable.contrast > BLANK) & ~usable.sha256.duplicated()]
    paths = [on_disk(root, image) for image in distinct.image]
    links = near_copies(data.thumbnails[distinct.index], lambda position: grey(paths[position], DETAIL))
    rows = distinct.index.tolist()
    return [Link(rows[link.one], rows[link.other], link.mirrored, link.similarity) for link in links]


def judge_same_files(data: DataSet) -> list[Finding]:
    """Judge files with the same bytes."""
    repeated = data.usable[data.usable.sha256.duplicated(keep=False)]
    groups = [rows for _, rows in repeated.groupby("sha256", sort=False)]
    several_labels = [rows for rows in groups if rows.label.nunique() > 1]
    several_splits = [rows for rows in groups if rows.split.nunique() > 1]
    others = [rows for rows in groups if rows.label.nunique() == rows.split.nunique() == 1]
    return _stated(
        (
            Finding(
                "error",
                "same-file-several-labels",
                f"{len(several_labels):,} file(s) occur several times, with different labels",
                "keep the rows with the right label and delete the others; if the right label is unknown, delete all of them.",
                tuple(_place(rows) for rows in several_labels),
            ),
            Finding(
                "error",
                "same-file-several-splits",
                f"{len(several_splits):,} file(s) are in several splits: a test then includes training pictures",
                "keep each file in one split, best in the tested one, and delete its other rows.",
                tuple(_place(rows) for rows in several_splits),
            ),
            Finding(
                "warning",
                "same-file-again",
                f"{len(others):,} file(s) occur several times in one split, with one label: they count more than others",
                "keep one row of each file.",
                tuple(_place(rows) for rows in others),
            ),
        )
    )


def judge_near_copies(data: DataSet, links: Sequence[Link]) -> list[Finding]:
    """Judge groups of pictures that differ only in encoding, size, mirroring or a small crop.

    Neighbouring frames of a film also form groups. `links` are between rows of `data.pictures`.
    Identical files of a linked picture belong to its group.
    """
    linked = DisjointSet({row for link in links for row in (link.one, link.other)})
    for link in links:
        linked.merge(link.one, link.other)
    links_of: dict[int, list[Link]] = defaultdict(list)
    for link in links:
        links_of[linked[link.one]].append(link)
    usable = data.usable
    files = usable[usable.sha256.isin(usable.sha256[list(linked)])].groupby("sha256").groups
    groups = []
    for root, own in links_of.items():
        members = sorted(row for file in usable.sha256[list(linked.subset(root))] for row in files[file])
        groups.append((usable.loc[members], own))
    groups.sort(key=lambda group: -max(link.similarity for link in group[1]))
    several_splits = [group for group in groups if group[0].split.nunique() > 1]
    several_labels = [group for group in groups if group[0].label.nunique() > 1]
    others = [group for group in groups if group[0].split.nunique() == group[0].label.nunique() == 1]
    return _stated(
        (
            Finding(
                "warning",
                "near-copies-several-splits",
                f"{len(several_splits):,} group(s) of nearly the same picture are in several splits: leakage from training to test",
                "look at them, and keep each group in one split.",
                tuple(_place(*group) for group in several_splits),
            ),
            Finding(
                "warning",
                "near-copies-several-labels",
                f"{len(several_labels):,} group(s) of nearly the same picture have several labels",
                "look at them: frames of a film may differ in expression, copies of one photograph cannot.",
                tuple(_place(*group) for group in several_labels),
            ),
            Finding(
                "note",
                "near-copies",
                f"{len(others):,} group(s) of nearly the same picture are in one split, with one label: they count more than others",
                "keep one picture of each group, unless the repetition is intended.",
                tuple(_place(*group) for group in others),
            ),
        )
    )


def _stated(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.where]


def _place(rows: pd.DataFrame, links: Sequence[Link] = ()) -> Place:
    """The remark has split and label of each picture in their order, or once if all are equal."""
    described = [f"{split} {label}" for split, label in zip(rows.split, rows.label, strict=True)]
    remarks = [few(described if len(set(described)) > 1 else described[:1])]
    if any(link.mirrored for link in links):
        remarks.append("mirrored")
    similarity = min((link.similarity for link in links), default=None)
    return Place(tuple(rows.image), "; ".join(remarks), None if similarity is None else round(similarity, 3))
