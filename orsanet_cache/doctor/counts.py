"""Pictures per class: empty classes, imbalance, differences from the published numbers.

The published numbers also reveal exchanged labels.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from orsanet_cache.doctor.finding import Finding, Place
from orsanet_cache.doctor.known import PUBLISHED_CAP, Known, meaning
from orsanet_cache.doctor.look import DataSet
from orsanet_cache.errors import few

NAMED = 20  # classes in one finding
IMBALANCE = 10  # times; RAF-DB has 17
NEARLY = 0.1  # share of the pictures; splits that differ more from the published ones are other splits
EXCHANGED = 0.1  # share of the differences that may remain after the exchange
NOTEWORTHY = 0.02  # share of the pictures; smaller differences between classes come from other releases


def judge_counts(data: DataSet, known: Known | None) -> list[Finding]:
    """Judge the table's rows, whether their files are usable or not."""
    counts = count(data)
    findings = _empty(counts) + _splits(counts) + _imbalance(counts)
    if known is not None:
        exchanged = _exchanged(counts, known)
        findings += exchanged + _published(counts, known, [] if exchanged else list(known.classes))
    return findings


def count(data: DataSet) -> pd.DataFrame:
    """Return pictures per class (rows, label order) and split (columns, order of appearance)."""
    table = pd.crosstab(data.pictures.label, data.pictures.split)
    return table.reindex(index=list(data.classes), columns=list(dict.fromkeys(data.pictures.split)), fill_value=0)


def _empty(counts: pd.DataFrame) -> list[Finding]:
    findings = []
    if nowhere := dict.fromkeys(counts.index[counts.sum(axis=1) == 0]):
        findings.append(
            Finding(
                "error",
                "empty-class",
                f"no split has a picture of {few(nowhere, NAMED)}",
                "check whether a folder was missed. Complete the table, or remove the class from `classes`: every later label is then one smaller.",
            )
        )
    for split in counts:
        missing = [name for name in counts.index[counts[split] == 0] if name not in nowhere]
        if missing:
            train = split == "train"
            findings.append(
                Finding(
                    "error" if train else "warning",
                    "class-missing-in-split",
                    f"{split} has no picture of {few(missing, NAMED)}, which "
                    + ("training then cannot learn" if train else "its accuracies do not cover"),
                    "complete the table; check that the data set is unpacked completely and that the split has a folder of every class.",
                )
            )
    return findings


def _splits(counts: pd.DataFrame) -> list[Finding]:
    sizes = {str(split): int(counts[split].sum()) for split in counts}
    larger = [split for split, size in sizes.items() if "train" in sizes and size > sizes["train"]]
    return [
        Finding(
            "warning",
            "train-is-smaller",
            f"{split} has {sizes[split]:,} pictures and train only {sizes['train']:,}: the two may be exchanged, or train may be incomplete",
            "compare with a fresh download.",
        )
        for split in larger
    ]


def _imbalance(counts: pd.DataFrame) -> list[Finding]:
    if "train" not in counts:
        return []
    train = counts.train[counts.train > 0]
    if train.empty or train.max() < IMBALANCE * train.min():
        return []
    return [
        Finding(
            "note",
            "imbalance",
            f"train has {train.max():,} pictures of {train.idxmax()} and {train.min():,} of {train.idxmin()}, "
            f"{train.max() / train.min():.0f} times as many",
            f"nothing if you train with a preset: presets draw all classes equally often, so each picture of {train.idxmin()} is used more often. "
            f"Read the mean accuracy of the classes beside the overall accuracy.",
        )
    ]


def _published(counts: pd.DataFrame, known: Known, compared: list[str]) -> list[Finding]:
    findings = []
    for split, total in known.totals.items():
        if split not in counts:
            findings.append(
                Finding(
                    "warning",
                    "split-missing",
                    f"no split {split}: the published runs of {known.title} used {total:,} pictures of it",
                    "unpack the data set completely, or give the split that name.",
                )
            )
            continue
        found = int(counts[split].sum())
        expected = _expected(counts, known, split)
        if found == total - 1 and known.name.startswith("affectnet") and split == "valid":
            findings.append(
                Finding(
                    "note",
                    "one-picture-short",
                    f"{split} has {found:,} pictures and the published runs {total:,}: AffectNet's release of 2021 lacks one"
                    if total == 4_000
                    else f"{split} has {found:,} pictures and the published runs {total:,}",
                    "nothing: an accuracy moves by at most 0.03 percentage points.",
                )
            )
        elif expected is not None and split == "train" and found == int(expected.sum()) != total:
            cap = int(counts[split].max())
            findings.append(
                Finding(
                    "note",
                    "another-cap",
                    f"{split} has at most {cap:,} pictures a class, {found:,} in all; the published runs used at most {PUBLISHED_CAP:,}, {total:,} in all",
                    f"to compare with their numbers, make the manifest with --cap-per-class {PUBLISHED_CAP}.",
                )
            )
        elif found != total:
            findings.append(
                Finding(
                    "warning",
                    "other-number-of-pictures",
                    f"{split} has {found:,} pictures, the published runs of {known.title} used {total:,} ({found - total:+,})",
                    "check that the download is complete and that these are the release's splits; numbers from other pictures cannot be compared.",
                )
            )
        elif expected is not None and compared:
            ours = counts[split].groupby(meaning).sum()
            differing = [name for name in compared if ours.get(name, 0) != expected[name]]
            if differing:
                listed = ", ".join(f"{name} {ours.get(name, 0):,} ({expected[name]:,})" for name in differing)
                findings.append(
                    Finding(
                        "warning",
                        "other-class-counts",
                        f"{split} has as many pictures as the published runs of {known.title}, but other numbers per class: {listed}",
                        "check whether labels were changed: compare with a fresh download.",
                    )
                )
    return findings


def _exchanged(counts: pd.DataFrame, known: Known) -> list[Finding]:
    """Find classes whose numbers match the published ones only if the classes change names."""
    if set(map(meaning, counts.index)) != set(known.classes) or len(counts) != len(known.classes):
        return []
    pairs = []
    for split in known.counts:
        expected = _expected(counts, known, split) if split in counts else None
        if expected is not None and abs(counts[split].sum() - expected.sum()) <= NEARLY * expected.sum():
            ours = counts[split].set_axis([meaning(name) for name in counts.index])
            pairs.append((ours.loc[list(known.classes)].to_numpy(), expected.loc[list(known.classes)].to_numpy()))
    if not pairs:
        return []
    found, published = (np.stack(values, axis=1) for values in zip(*pairs, strict=True))
    difference = np.abs(found[:, None] - published[None]).sum(axis=2)
    # A move costs half a picture, so classes with equal numbers keep their places.
    _, fits = linear_sum_assignment(difference + 0.5 * (1 - np.eye(len(difference))))
    before, after = np.trace(difference), difference[np.arange(len(fits)), fits].sum()
    if before <= NOTEWORTHY * found.sum() or after > EXCHANGED * before:
        return []
    return [
        Finding(
            "error",
            "labels-exchanged",
            f"the numbers of pictures match those published for {known.title} only if labels are exchanged: {_moves(known.classes, fits)}",
            "check how the table's labels were made: folders or numbers were mapped to class names in the wrong order.",
            tuple(
                Place((), f"{name}: {found[at].sum():,}, published {published[at].sum():,}")
                for at, name in enumerate(known.classes)
                if fits[at] != at
            ),
        )
    ]


def _moves(classes: tuple[str, ...], fits: NDArray[np.intp]) -> str:
    moved = [f"{classes[at]} has the numbers of {classes[fits[at]]}" for at in range(len(fits)) if fits[at] != at]
    return ", ".join(moved)


def _expected(counts: pd.DataFrame, known: Known, split: str) -> "pd.Series[int] | None":
    """Class -> images. AffectNet's train split is capped at the size of the largest class found."""
    if split not in known.counts:
        return None
    expected = pd.Series(known.counts[split])
    if split == "train" and known.name.startswith("affectnet"):
        expected = expected.clip(upper=int(counts[split].max()))
    return expected
