"""Copies: in several splits the test is known beforehand, with several labels one of them is wrong, otherwise they count twice."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from orsanet_cache.doctor.finding import Finding, Place
from orsanet_cache.doctor.look import DataSet, grey
from orsanet_cache.doctor.pictures import BLANK
from orsanet_cache.doctor.similarity import DETAIL, Link, near_copies
from orsanet_cache.layouts.found import few


def find_near_copies(data: DataSet, root: Path) -> list[Link]:
    """Links between rows of `data.pictures`. Of a file that is there several times only the first takes part, and no blank picture does."""
    usable = data.usable
    distinct = usable[(usable.contrast > BLANK) & ~usable.sha256.duplicated()]
    paths = [root / image for image in distinct.image]
    links = near_copies(data.thumbnails[distinct.index], lambda position: grey(paths[position], DETAIL))
    rows = distinct.index.tolist()
    return [Link(rows[link.one], rows[link.other], link.mirrored, link.similarity) for link in links]


def judge_same_files(data: DataSet) -> list[Finding]:
    """Files with the same bytes."""
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
                f"{len(several_labels):,} file(s) are there several times, with different labels",
                "keep the rows with the right label and delete the others; where you cannot tell, delete all of them.",
                tuple(_place(rows) for rows in several_labels),
            ),
            Finding(
                "error",
                "same-file-several-splits",
                f"{len(several_splits):,} file(s) are in several splits, so that what is tested was trained on",
                "keep each in one split, best in the one that is tested, and delete its other rows.",
                tuple(_place(rows) for rows in several_splits),
            ),
            Finding(
                "warning",
                "same-file-again",
                f"{len(others):,} file(s) are there several times in one split, with one label: they count more than others",
                "keep one row of each.",
                tuple(_place(rows) for rows in others),
            ),
        )
    )


def judge_near_copies(data: DataSet, links: Sequence[Link]) -> list[Finding]:
    """Pictures that are the same but for encoding, size, mirroring or a small crop, and neighbouring frames of a film.

    `links` are between rows of `data.pictures`. Identical files of a linked picture belong to its group.
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
                f"{len(several_splits):,} group(s) of nearly the same picture reach over several splits: leakage from training to test",
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
                f"{len(others):,} group(s) of nearly the same picture lie in one split, with one label: they count more than others",
                "keep one picture of each group, if that is not meant.",
                tuple(_place(*group) for group in others),
            ),
        )
    )


def _stated(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.where]


def _place(rows: pd.DataFrame, links: Sequence[Link] = ()) -> Place:
    """With split and label of each picture in their order, or once where all have the same."""
    described = [f"{split} {label}" for split, label in zip(rows.split, rows.label, strict=True)]
    remarks = [few(described if len(set(described)) > 1 else described[:1])]
    if any(link.mirrored for link in links):
        remarks.append("mirrored")
    similarity = min((link.similarity for link in links), default=None)
    return Place(tuple(rows.image), "; ".join(remarks), None if similarity is None else round(similarity, 3))
