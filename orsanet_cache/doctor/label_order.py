"""Label order: does each number stand for the right expression?

Four mistakes are common. In alphabetical order `10` comes before `2`. A missing folder shifts every
later label. Every public data set has its own order. RAF-DB's list of compound expressions has the
same name as its list of basic ones.
"""

import re
from collections import Counter
from itertools import pairwise
from pathlib import PurePosixPath

import pandas as pd

from orsanet_cache.doctor.finding import Finding, Place
from orsanet_cache.doctor.known import Known, meaning
from orsanet_cache.doctor.look import DataSet
from orsanet_cache.errors import few

NAMED = 20  # classes in one finding
DIGITS = 18  # of a label; a name of more digits is a name
COMPOUND = 11  # RAF-DB's compound expressions
_COMPOUND_NAME = re.compile(
    r"(happ|sad|fear|angr|disgust)\w*ly[\W_]*\w+", re.IGNORECASE
)  # Happily Surprised, sadly_angry


def judge_label_order(data: DataSet, known: Known | None) -> list[Finding]:
    """Judge by class names, the manifest's name and the pictures' folders."""
    return _compound(data, known) or [*_numbers(data), *_documented(data, known), *_folders(data, known)]


def _compound(data: DataSet, known: Known | None) -> list[Finding]:
    names = data.classes
    named = sum(_COMPOUND_NAME.fullmatch(name.strip()) is not None for name in names) >= 2
    numbered = set(names) == set(map(str, range(1, COMPOUND + 1)))
    rafdb = known is not None and known.name == "rafdb"
    if not named and not numbered and not (rafdb and len(names) == COMPOUND):
        return []
    return [
        Finding(
            "error",
            "compound-expressions",
            f"these {len(names)} classes ({', '.join(names[:3])}, …) are RAF-DB's compound expressions, not the basic ones, which are 1 to 7",
            "use EmoLabel and Image of the download's folder 'basic': its list has the same name.",
        )
    ]


def _numbers(data: DataSet) -> list[Finding]:
    names = data.classes
    if not all(map(_is_number, names)):
        return []
    numbers = [int(name) for name in names]
    if numbers != sorted(numbers) and list(names) == sorted(names):
        at = next(at for at in range(1, len(numbers)) if numbers[at] < numbers[at - 1])  # the first after the jump back
        return [
            Finding(
                "error",
                "numbers-sorted-as-text",
                f"the classes are numbers in alphabetical order, {few(names, NAMED)}: the label of {names[at]} is {at}",
                "sort them as numbers, best with the expressions' names: `manifest folders --classes 1=surprise,2=fear,…`.",
            )
        ]
    if gaps := _gaps(numbers):
        return [
            Finding(
                "error",
                "number-missing",
                f"the classes are numbers, and {few(gaps, NAMED)} is missing: every later label is one too small",
                "complete the data set, or give the classes the expressions' names.",
            )
        ]
    return [
        Finding(
            "warning",
            "classes-are-numbers",
            f"the classes are numbers, {few(names, NAMED)}: their expressions are unknown, and the order cannot be checked",
            "give them the expressions' names: `manifest folders --classes 1=surprise,2=fear,…`.",
        )
    ]


def _is_number(text: str) -> bool:
    """Whether the text is a number that can be a label: more digits cannot."""
    return text.isdecimal() and len(text) <= DIGITS


def _gaps(numbers: list[int]) -> list[str]:
    """The numbers missing from 1 (or 0) up to the largest, neighbouring ones as a range."""
    present = [min(1, *numbers) - 1, *sorted(set(numbers))]
    missing = [(before + 1, after - 1) for before, after in pairwise(present) if after - before > 1]
    return [f"{first}" if first == last else f"{first} to {last}" for first, last in missing]


def _documented(data: DataSet, known: Known | None) -> list[Finding]:
    """Compare the classes with those documented for a data set of that name."""
    if known is None or all(map(_is_number, data.classes)):
        return []
    ours = [meaning(name) for name in data.classes]
    documented = list(known.classes)
    if sorted(ours) != sorted(documented):
        lost, more = Counter(documented) - Counter(ours), Counter(ours) - Counter(documented)
        parts = [f"{word} {few(names, NAMED)}" for word, names in (("without", lost), ("with", more)) if names]
        return [
            Finding(
                "error",
                "other-classes",
                f"'{data.name}' has {len(ours)} classes, {' and '.join(parts)}; {known.title} has {len(documented)}: {', '.join(documented)}",
                "complete the classes, or give the manifest another name if it is another data set.",
            )
        ]
    findings = []
    if ours != documented:
        moved = [f"{at} is {one}, documented {other}" for at, (one, other) in enumerate(zip(ours, documented, strict=True)) if one != other]  # fmt: skip
        findings.append(
            Finding(
                "error",
                "label-order",
                f"the label order is not the one documented for {known.title}: label {'; '.join(moved)}",
                f"write classes = [{', '.join(documented)}] in this order; published checkpoints and their numbers use it.",
            )
        )
    if data.name != known.name or list(data.classes) != ours:
        findings.append(
            Finding(
                "note",
                "other-spelling",
                f"reports compare with published numbers only if the manifest's name is {known.name} and the classes are spelt {', '.join(documented)}",
                "rename them in the manifest if you want that.",
            )
        )
    return findings


def _folders(data: DataSet, known: Known | None) -> list[Finding]:
    """Find folders whose names contradict the labels, as class names or as numbers."""
    pictures = data.pictures[["image", "label"]].copy()
    parts = [PurePosixPath(image).parts[:-1] for image in pictures.image]
    meanings = {meaning(name) for name in data.classes}
    # The last folder that is named like a class: train/anger/film-3/0001.jpg
    pictures["folder"] = [next((meaning(part) for part in reversed(folders) if meaning(part) in meanings), "") for folders in parts]  # fmt: skip
    pictures["own"] = [meaning(label) for label in pictures.label]
    contrary = pictures[(pictures.folder != "") & (pictures.folder != pictures.own)]
    findings = []
    # A single folder name may be a person's name: Joy
    if len(contrary) and pictures.folder[pictures.folder != ""].nunique() > 1:
        pairs = Counter(zip(contrary.folder, contrary.label, strict=True)).most_common(4)
        listed = ", ".join(f"{size:,} in {folder} labelled {label}" for (folder, label), size in pairs)
        findings.append(
            Finding(
                "error",
                "folder-says-otherwise",
                f"{len(contrary):,} picture(s) are in a folder named after another class than their label: {listed}",
                "find out which of the two is right; if whole folders are affected, the label order is wrong.",
                tuple(
                    Place((image,), f"labelled {label}")
                    for image, label in zip(contrary.image, contrary.label, strict=True)
                ),
            )
        )
    pictures["number"] = [next((part for part in reversed(folders) if _is_number(part)), "") for folders in parts]
    return findings + _numbered_folders(data, known, pictures[pictures.number != ""])


def _numbered_folders(data: DataSet, known: Known | None, pictures: pd.DataFrame) -> list[Finding]:
    """Judge numbered folders if every class has exactly one of its own.

    Other numbers are batches, persons or films.
    """
    folders_of = {str(label): set(rows.number) for label, rows in pictures.groupby("label")}
    numbers = [min(folders_of[name]) for name in data.classes if len(folders_of.get(name, ())) == 1]
    if len(numbers) != len(data.classes) or len(set(numbers)) != len(numbers):
        return []
    advice = "compare with the data set's description, and make the manifest with `manifest folders --classes 1=surprise,2=fear,…`."
    if numbers == sorted(numbers) and numbers != sorted(numbers, key=int):
        shown = few([f"{number} {name}" for number, name in zip(numbers, data.classes, strict=True)], NAMED)
        return [
            Finding(
                "error",
                "folders-sorted-as-text",
                f"the classes follow their numbered folders in alphabetical order, in which 10 comes before 2: {shown}",
                advice,
            )
        ]
    if known is None or sorted(map(meaning, data.classes)) != sorted(known.classes):
        return []
    documented = {name: known.first_label + at for at, name in enumerate(known.classes)}
    wrong = [
        f"folder {number} is {name}, documented {documented[meaning(name)]}"
        for number, name in zip(numbers, data.classes, strict=True)
        if int(number) != documented[meaning(name)]
    ]
    if not wrong:
        return []
    return [
        Finding(
            "error",
            "folder-numbers",
            f"numbered folders do not have the expressions documented for {known.title}: {'; '.join(wrong)}",
            advice,
        )
    ]
