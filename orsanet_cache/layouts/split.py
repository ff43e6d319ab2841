"""Pictures without splits, divided in given shares: every class alike, and whole persons in one split.

    single pictures    of each class, in the order of their digests, the first go to train, and so on
    persons            in the order of their digests, each to the split that lacks most of its classes

A digest is of the seed and the picture's path (or the person), so the result is the same on every
machine and does not depend on the order of the files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.data.files import composed
from orsanet_cache.errors import OrsanetError, few
from orsanet_cache.layouts.found import DataSet

ORDERS = 16  # of persons that are tried; the result nearest to the shares is taken
MANY = 5_000  # persons; with more, one order is near enough


def split_names(shares: Sequence[float]) -> tuple[str, ...]:
    """The splits of two or three shares."""
    return ("train", "test") if len(shares) == 2 else ("train", "valid", "test")


def divided(data: DataSet, shares: Sequence[float], seed: int) -> DataSet:
    """Return the samples divided among the splits, train first. `shares` are per cent, two or three.

    With `data.persons` whole persons stay together. Raises OrsanetError if a split would have no
    picture of a class.
    """
    splits = split_names(shares)
    if data.persons:
        split_of, people = _whole_persons(data, shares, seed)
        kept = f", {people:,} persons, each in one split"
    else:
        split_of = _single_pictures(data, shares, seed)
        kept = "; a person may be in several splits, unless --person or --person-table keeps everybody in one"
    samples = [replace(sample, split=splits[split_of[sample.image]]) for sample in data.samples]
    samples.sort(key=lambda sample: splits.index(sample.split))  # stable: the files' order within a split
    note = f"divided {'/'.join(f'{share:g}' for share in shares)} among {', '.join(splits)}, class by class, seed {seed}{kept}"
    return replace(data, samples=tuple(samples), splits=splits, notes=(*data.notes, note))


def _single_pictures(data: DataSet, shares: Sequence[float], seed: int) -> dict[str, int]:
    """Image -> number of its split."""
    of_class: dict[int, list[str]] = {label: [] for label in range(len(data.classes))}
    for sample in data.samples:
        of_class[sample.label].append(sample.image)
    _check_enough({data.classes[label]: len(images) for label, images in of_class.items()}, len(shares), "pictures")
    split_of: dict[str, int] = {}
    for images in of_class.values():
        ordered = sorted(images, key=lambda image: _digest(seed, image))
        for number, count in enumerate(_counts(len(images), shares)):
            split_of |= dict.fromkeys(ordered[:count], number)
            ordered = ordered[count:]
    return split_of


def _counts(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in these shares with that total: the largest remainders are rounded up, and none is 0."""
    exact = [total * share / 100 for share in shares]
    counts = [int(count) for count in exact]
    largest = sorted(range(len(shares)), key=lambda at: counts[at] - exact[at])
    for at in largest[: total - sum(counts)]:
        counts[at] += 1
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def _whole_persons(data: DataSet, shares: Sequence[float], seed: int) -> tuple[dict[str, int], int]:
    """(image -> number of its split, number of persons)."""
    persons = sorted(set(data.persons.values()))
    row = {person: number for number, person in enumerate(persons)}
    counts = np.zeros((len(persons), len(data.classes)), np.int64)
    for sample in data.samples:
        counts[row[data.persons[sample.image]], sample.label] += 1
    with_class = (counts > 0).sum(axis=0)
    _check_enough(dict(zip(data.classes, with_class.tolist(), strict=True)), len(shares), "persons")
    best: tuple[int, float] | None = None
    for attempt in range(ORDERS if len(persons) <= MANY else 1):
        order = sorted(range(len(persons)), key=lambda at: _digest(seed, f"{attempt}/{persons[at]}"))
        splits = _placed(counts, order, np.array(shares) / 100)
        judged = _judged(counts, splits, np.array(shares) / 100)
        if best is None or judged < best:
            best, chosen = judged, splits
    if best is None or best[0]:
        raise OrsanetError(
            f"{len(persons):,} persons cannot be divided so that every split has every class and no person is in two; "
            f"try another --seed, fewer parts, or other shares"
        )
    return {image: int(chosen[row[person]]) for image, person in data.persons.items()}, len(persons)


def _placed(counts: NDArray[np.int64], order: Sequence[int], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Split of each person, int [P]. counts [P, K] are the pictures of each person and class."""
    splits = np.zeros(len(counts), np.int64)
    of_class = counts.sum(axis=0)
    wanted = shares[:, None] * of_class
    have = np.zeros_like(wanted)
    for person in order:
        more = have + counts[person] - wanted
        cost = ((more**2 - (have - wanted) ** 2) / of_class**2).sum(axis=1)
        splits[person] = int(cost.argmin())
        have[splits[person]] += counts[person]
    _fill(counts, splits, len(shares), order)
    return splits


def _fill(counts: NDArray[np.int64], splits: NDArray[np.int64], number: int, order: Sequence[int]) -> None:
    """Move persons, the smallest first, into splits that lack a class, where no other split then lacks one."""
    smallest = sorted(order, key=lambda person: int(counts[person].sum()))
    present = np.array([(counts[splits == split] > 0).sum(axis=0) for split in range(number)])  # persons with a class
    for split, label in zip(*np.nonzero(present == 0), strict=True):
        for person in smallest:
            classes = counts[person] > 0
            home = splits[person]
            if present[split, label] == 0 and classes[label] and (present[home][classes] > 1).all():
                present[home] -= classes
                present[split] += classes
                splits[person] = split


def _judged(counts: NDArray[np.int64], splits: NDArray[np.int64], shares: NDArray[np.float64]) -> tuple[int, float]:
    """(classes that a split lacks, deviation of the shares); smaller is better."""
    have = np.array([counts[splits == split].sum(axis=0) for split in range(len(shares))])
    deviation = (have / counts.sum(axis=0) - shares[:, None]) ** 2
    return int((have == 0).sum()), float(deviation.sum())


def _check_enough(number_of: dict[str, int], parts: int, what: str) -> None:
    if lacking := [f"{name} ({number})" for name, number in number_of.items() if number < parts]:
        fewer = ", divide into two parts (--split 80/20)" if parts > 2 else ""
        raise OrsanetError(
            f"{parts} splits need at least {parts} {what} of every class, but there are fewer of {few(lacking, 20)}; "
            f"add pictures{fewer}, or leave these classes out"
        )


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{composed(name)}".encode(errors="surrogateescape")).digest()
