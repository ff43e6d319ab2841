"""The doctor names every trap that is in a data set, with its pictures, and is silent about data sets that have none.

Judges are asked about tables, the command about real files: drawn ones, and where the reference material is, real faces and broken files.
"""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet

from orsanet_cache.cli import main
from orsanet_cache.doctor import similarity
from orsanet_cache.doctor.confounds import FEWEST, judge_confounds
from orsanet_cache.doctor.copies import judge_near_copies, judge_same_files
from orsanet_cache.doctor.counts import judge_counts
from orsanet_cache.doctor.finding import Finding
from orsanet_cache.doctor.known import AFFECTNET, FERPLUS, OCCLU_FER, PUBLISHED_CAP, RAFDB, Known, known_data_set
from orsanet_cache.doctor.label_order import judge_label_order
from orsanet_cache.doctor.look import DataSet
from orsanet_cache.doctor.people import judge_persons
from orsanet_cache.doctor.pictures import judge_pictures
from orsanet_cache.doctor.similarity import Link
from orsanet_cache.doctor.tags import judge_tags
from orsanet_cache.layouts.published import published_counts
from orsanet_cache.synthetic.picture import draw

ROOT = Path(__file__).resolve().parents[3]
PUBLIC = [RAFDB, AFFECTNET[7], AFFECTNET[8], OCCLU_FER, FERPLUS]
COUNTED = [known for known in PUBLIC if known.counts]


def name_of(known: Known) -> str:
    return known.name


def table(name: str, classes: Sequence[str], **columns: Any) -> DataSet:
    """A data set of good pictures, 224x224 and in colour, with the columns given; `label` at least."""
    size = len(columns["label"])
    numbers = np.arange(size).astype(str)
    defaults = {
        "image": np.char.add(np.char.add("images/", numbers), ".jpg"), "split": "train", "person": "", "problem": "",
        "sha256": numbers, "width": 224, "height": 224, "format": "JPEG", "quality": 90.0, "chroma": 40.0, "contrast": 45.0,
    }  # fmt: skip
    no_tags = pd.Series([frozenset[str]()] * size, dtype=object)
    pictures = pd.DataFrame({**defaults, "tags": no_tags, **columns}, index=range(size))
    return DataSet(name, tuple(classes), pictures, np.zeros((0, 32, 32), np.uint8))


def counted(name: str, classes: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> DataSet:
    """A data set with these numbers: split -> class -> pictures."""
    cells = [(split, label, size) for split, sizes in counts.items() for label, size in sizes.items()]
    splits, labels, sizes = zip(*cells, strict=True)
    return table(name, classes, label=np.repeat(labels, sizes), split=np.repeat(splits, sizes))


def published(known: Known, cap: int = PUBLISHED_CAP) -> dict[str, dict[str, int]]:
    """The numbers of the published runs."""
    return {
        split: {
            name: min(size, cap) if known in AFFECTNET.values() and split == "train" else size
            for name, size in sizes.items()
        }
        for split, sizes in known.counts.items()
    }


def topics(findings: Sequence[Finding], *severities: str) -> list[str]:
    return [finding.topic for finding in findings if not severities or finding.severity in severities]


def only(findings: Sequence[Finding], topic: str) -> Finding:
    found = [finding for finding in findings if finding.topic == topic]
    assert len(found) == 1, topics(findings)
    return found[0]


def named(finding: Finding) -> set[str]:
    return {image for place in finding.where for image in place.images}


# ---------------------------------------------------------------- numbers of pictures


@pytest.mark.parametrize("known", COUNTED, ids=name_of)
def test_the_class_counts_add_up_to_the_totals_of_the_published_logs(known: Known) -> None:
    totals = {split: sum(sizes.values()) for split, sizes in published(known).items()}
    cap = PUBLISHED_CAP if known in AFFECTNET.values() else None
    assert (
        totals == {split: stated.total for split, stated in published_counts(known.name, cap).items()} == known.totals
    )


@pytest.mark.parametrize("known", PUBLIC, ids=name_of)
def test_the_label_orders_are_those_of_the_shipped_descriptors(known: Known) -> None:
    descriptor = tomllib.loads((ROOT / "manifests" / f"{known.name}.toml").read_text(encoding="utf-8"))
    assert known.classes == tuple(descriptor["classes"])
    assert known_data_set(known.name, len(known.classes)) == known


@pytest.mark.parametrize(
    ("name", "classes", "known"),
    [("RAF-DB aligned", 7, RAFDB), ("AffectNet_7cls", 7, AFFECTNET[7]), ("affectnet", 8, AFFECTNET[8]), ("affectnet", 7, AFFECTNET[7]),
     ("AffectNet-8", 7, AFFECTNET[8]), ("Occlu_FER", 8, OCCLU_FER), ("FER+", 8, FERPLUS), ("FERPlus", 8, FERPLUS), ("FER2013+", 8, None), ("my-faces", 7, None)],
)  # fmt: skip
def test_a_public_data_set_is_known_however_its_name_is_written(name: str, classes: int, known: Known | None) -> None:
    assert known_data_set(name, classes) == known


@pytest.mark.parametrize("known", COUNTED, ids=name_of)
def test_the_published_numbers_are_no_finding(known: Known) -> None:
    findings = judge_counts(counted(known.name, known.classes, published(known)), known)
    assert topics(findings, "error", "warning") == []


@pytest.mark.parametrize("known", [AFFECTNET[7], AFFECTNET[8]], ids=name_of)
@pytest.mark.parametrize("cap", [200_000, 10_000, 4_000])
def test_another_cap_of_affectnet_is_named_with_its_number(known: Known, cap: int) -> None:
    finding = only(judge_counts(counted(known.name, known.classes, published(known, cap)), known), "another-cap")
    assert finding.severity == "note"
    assert f"at most {min(cap, 134_415):,} pictures" in finding.what
    assert f"{known.totals['train']:,}" in finding.what


def test_the_affectnet_validation_set_of_3999_is_named_with_its_cause() -> None:
    known, numbers = AFFECTNET[8], published(AFFECTNET[8])
    numbers["valid"]["contempt"] -= 1
    findings = judge_counts(counted(known.name, known.classes, numbers), known)
    assert topics(findings) == ["one-picture-short"]
    assert findings[0].severity == "note"
    assert "3,999" in findings[0].what
    assert "2021" in findings[0].what


@pytest.mark.parametrize("known", COUNTED, ids=name_of)
def test_a_split_of_another_size_is_named_with_the_difference(known: Known) -> None:
    numbers = published(known)
    split = list(numbers)[-1]
    numbers[split][known.classes[0]] -= 12
    finding = only(judge_counts(counted(known.name, known.classes, numbers), known), "other-number-of-pictures")
    assert finding.severity == "warning"
    assert f"{known.totals[split]:,}" in finding.what
    assert "(-12)" in finding.what


def test_a_missing_split_and_other_classes_with_the_same_total_are_named() -> None:
    numbers = published(RAFDB)
    numbers["train"]["fear"] += 9
    numbers["train"]["anger"] -= 9
    del numbers["test"]
    findings = judge_counts(counted("rafdb", RAFDB.classes, numbers), RAFDB)
    assert topics(findings, "warning") == ["other-class-counts", "split-missing"]
    assert "fear 290 (281), anger 696 (705)" in only(findings, "other-class-counts").what


@pytest.mark.parametrize("known", [RAFDB, OCCLU_FER], ids=name_of)
@pytest.mark.parametrize("seed", range(6))
def test_exchanged_labels_are_named_class_by_class_even_where_pictures_are_missing(known: Known, seed: int) -> None:
    rng = np.random.default_rng(seed)
    moved = rng.choice(len(known.classes), size=2 + seed % 3, replace=False)
    fits = np.arange(len(known.classes))
    fits[moved] = np.roll(moved, 1)
    complete = published(known)
    numbers = {
        split: {name: sizes[known.classes[fits[at]]] - int(rng.integers(0, 3)) for at, name in enumerate(known.classes)}
        for split, sizes in complete.items()
    }
    difference = sum(abs(numbers[split][name] - size) for split in numbers for name, size in complete[split].items())
    finding = [f for f in judge_counts(counted(known.name, known.classes, numbers), known) if f.severity == "error"]
    if difference <= 0.02 * sum(known.totals.values()):  # classes of nearly equal numbers: cannot be told
        assert finding == []
        return
    assert topics(finding) == ["labels-exchanged"]
    said = {f"{known.classes[at]} has the numbers of {known.classes[fits[at]]}" for at in moved}
    assert said == set(finding[0].what.split(": ", 1)[1].split(", "))


def test_other_random_subsets_do_not_look_exchanged() -> None:
    rng = np.random.default_rng(0)
    for share in (0.95, 0.5, 0.1):
        numbers = {
            split: {name: int(rng.binomial(size, share)) for name, size in sizes.items()}
            for split, sizes in published(RAFDB).items()
        }
        assert topics(judge_counts(counted("rafdb", RAFDB.classes, numbers), RAFDB), "error") == []


def test_empty_classes_are_named_in_the_split_or_everywhere() -> None:
    data = counted("own", ("a", "b", "c", "d"), {"train": {"a": 5, "b": 5}, "test": {"a": 2, "c": 2}})
    findings = judge_counts(data, None)
    assert [(f.severity, f.topic) for f in findings] == [
        ("error", "empty-class"), ("error", "class-missing-in-split"), ("warning", "class-missing-in-split")
    ]  # fmt: skip
    assert "no picture at all of d" in findings[0].what
    assert "train has no picture of c" in findings[1].what
    assert "test has no picture of b" in findings[2].what


def test_a_train_split_smaller_than_another_is_named() -> None:
    def of(train: int, test: int) -> list[str]:
        numbers = {"test": {"a": test, "b": test}, "train": {"a": train, "b": train}}
        return topics(judge_counts(counted("own", ("a", "b"), numbers), None))

    assert of(5, 6) == ["train-is-smaller"]
    assert of(5, 5) == []


def test_imbalance_is_a_note_from_ten_times_on() -> None:
    def of(rare: int) -> list[str]:
        return topics(judge_counts(counted("own", ("a", "b"), {"train": {"a": 100, "b": rare}}), None), "note")

    assert of(11) == []
    assert of(10) == ["imbalance"]


# ---------------------------------------------------------------- label order


@pytest.mark.parametrize("known", PUBLIC, ids=name_of)
def test_the_documented_order_is_no_finding_and_any_other_is_an_error(known: Known) -> None:
    label = list(known.classes)
    assert judge_label_order(table(known.name, known.classes, label=label), known) == []
    exchanged = [known.classes[1], known.classes[0], *known.classes[2:]]
    finding = only(judge_label_order(table(known.name, exchanged, label=label), known), "label-order")
    assert finding.severity == "error"
    assert f"0 is {known.classes[1]}, documented {known.classes[0]}" in finding.what
    assert topics(judge_label_order(table("my-faces", exchanged, label=label), None)) == []


def test_other_spellings_are_a_note_and_still_have_an_order() -> None:
    spelt = ["Surprise", "fearful", "disgusted", "happy", "sad", "Angry", "neutral"]
    assert topics(judge_label_order(table("RAF-DB", spelt, label=spelt), RAFDB)) == ["other-spelling"]
    findings = judge_label_order(table("RAF-DB", spelt[::-1], label=spelt), RAFDB)
    assert topics(findings, "error") == ["label-order"]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (RAFDB.classes[:-1], "6 classes, without neutral"),
        ((*RAFDB.classes, "contempt"), "8 classes, with contempt"),
        ((*RAFDB.classes, "happy"), "8 classes, with happiness"),
        ((*RAFDB.classes[1:], "sleepy"), "7 classes, without surprise and with sleepy"),
    ],
)
def test_a_public_data_set_with_other_classes_is_an_error(classes: Sequence[str], said: str) -> None:
    finding = only(judge_label_order(table("rafdb", classes, label=list(classes)), RAFDB), "other-classes")
    assert finding.severity == "error"
    assert said in finding.what


COMPOUND = (
    "Happily Surprised", "Happily Disgusted", "Sadly Fearful", "Sadly Angry", "Sadly Surprised", "Sadly Disgusted",
    "Fearfully Angry", "Fearfully Surprised", "Angrily Surprised", "Angrily Disgusted", "Disgustedly Surprised",
)  # fmt: skip


@pytest.mark.parametrize(
    "classes",
    [
        [str(number) for number in range(1, 12)],
        sorted(str(number) for number in range(1, 12)),
        COMPOUND,
        [name.lower().replace(" ", "_") for name in COMPOUND],
        [f"class-{number}" for number in range(11)],
    ],
    ids=["numbers", "sorted-as-text", "names", "lower-case", "rafdb-with-eleven"],
)
def test_the_compound_list_is_one_error(classes: Sequence[str]) -> None:
    findings = judge_label_order(table("rafdb", classes, label=list(classes)), RAFDB)
    assert [(f.severity, f.topic) for f in findings] == [("error", "compound-expressions")]
    if classes[0] != "class-0":  # no other data set is known by its eleven classes
        assert topics(judge_label_order(table("mine", classes, label=list(classes)), None)) == ["compound-expressions"]


@pytest.mark.parametrize(
    ("numbers", "severity", "topic"),
    [
        (["1", "10", "2", "3", "4", "5", "6", "7", "8", "9"], "error", "numbers-sorted-as-text"),
        (["1", "2", "3", "5", "6", "7"], "error", "number-missing"),
        (["2", "3", "4"], "error", "number-missing"),
        (["1", "2", "3", "4", "5", "6", "7"], "warning", "classes-are-numbers"),
        (["0", "1", "2"], "warning", "classes-are-numbers"),
    ],
)
def test_classes_that_are_numbers_are_a_finding(numbers: list[str], severity: str, topic: str) -> None:
    findings = judge_label_order(table("own", numbers, label=numbers), None)
    assert [(f.severity, f.topic) for f in findings] == [(severity, topic)]


def test_a_folder_named_after_another_class_is_an_error_that_names_the_pictures() -> None:
    images = ["train/anger/1.jpg", "train/HAPPY/film-3/2.jpg", "train/sad/3.jpg", "elsewhere/4.jpg"]
    classes = ("anger", "happiness", "sadness")
    right = table("own", classes, image=images, label=["anger", "happiness", "sadness", "anger"])
    assert judge_label_order(right, None) == []
    wrong = table("own", classes, image=images, label=["anger", "sadness", "happiness", "anger"])
    finding = only(judge_label_order(wrong, None), "folder-says-otherwise")
    assert finding.severity == "error"
    assert named(finding) == {images[1], images[2]}
    people = table("own", classes, image=["Joy/1.jpg", "Ann/2.jpg"], label=["anger", "sadness"])
    assert judge_label_order(people, None) == []


def test_numbered_folders_in_alphabetical_order_are_an_error() -> None:
    folders = [str(number) for number in range(1, 13)]
    classes = tuple("abcdefghijkl")

    def topics_for(order: Sequence[str]) -> list[str]:
        images = [f"train/{folder}/1.jpg" for folder in order]
        return topics(judge_label_order(table("own", classes, image=images, label=list(classes)), None))

    assert topics_for(sorted(folders)) == ["folders-sorted-as-text"]
    assert topics_for(folders) == []


@pytest.mark.parametrize("known", [RAFDB, AFFECTNET[8]], ids=name_of)
def test_numbered_folders_are_held_against_the_documented_numbers(known: Known) -> None:
    def topics_for(first: int) -> list[str]:
        images = [f"train/{at + first}/1.jpg" for at in range(len(known.classes))]
        data = table(known.name, known.classes, image=images, label=list(known.classes))
        return topics(judge_label_order(data, known))

    assert topics_for(known.first_label) == []
    assert topics_for(1 - known.first_label) == ["folder-numbers"]


def test_numbered_folders_that_are_no_classes_are_no_finding() -> None:
    images = [f"train/{number}/{label}.jpg" for number in (10, 2, 33) for label in ("a", "b")]
    assert judge_label_order(table("own", ("a", "b"), image=images, label=["a", "b"] * 3), None) == []


# ---------------------------------------------------------------- pictures one by one


def test_every_kind_of_poor_picture_is_named_and_the_good_ones_are_not() -> None:
    data = table(
        "own", ("a",), label=["a"] * 8,
        problem=["", "damaged", "", "", "", "", "", ""],
        width=[112, 0, 111, 100, 120, 224, 1024, 140],
        height=[112, 0, 200, 100, 200, 224, 1024, 112],
        contrast=[20.0, np.nan, 20, 20, 20, 0.5, 20, 20],
    )  # fmt: skip
    images = data.pictures.image.tolist()
    findings = {finding.topic: named(finding) for finding in judge_pictures(data, None)}
    assert findings == {
        "unusable": {images[1]}, "blank": {images[5]}, "tiny": {images[2], images[3]}, "far-from-square": {images[2], images[4]},
        "large": {images[6]},
    }  # fmt: skip
    assert topics(judge_pictures(data, None), "error") == ["unusable"]


@pytest.mark.parametrize(("known", "side"), [(RAFDB, 100), (FERPLUS, 48)])
def test_small_pictures_of_the_size_they_are_distributed_in_are_a_note(known: Known, side: int) -> None:
    data = table(known.name, ("a",), label=["a", "a"], width=[side, side], height=[side, side - 1])
    findings = judge_pictures(data, known)
    assert [(f.severity, f.topic) for f in findings] == [("warning", "tiny"), ("note", "small-as-published")]
    assert [named(f) for f in findings] == [{"images/1.jpg"}, {"images/0.jpg"}]


# ---------------------------------------------------------------- confounds, tags, persons


def test_a_property_that_goes_with_the_class_is_named_with_its_shares() -> None:
    label = ["a"] * 100 + ["b"] * 100
    chroma = [0.0] * 90 + [40.0] * 10 + [0.0] * 20 + [40.0] * 80
    finding = only(judge_confounds(table("own", ("a", "b"), label=label, chroma=chroma)), "confound-class")
    assert finding.severity == "warning"
    assert "colour goes with the class (Cramér's V 0.70)" in finding.what  # phi of (90 10; 20 80)
    assert "coloured are b 80%, a 10%; of all 45%" in finding.what
    assert "right for 85%, as the mean over the classes, where chance is 50%" in finding.what
    assert "tag the pictures (grey, colour) and read test:grey and test:colour" in finding.advice


@pytest.mark.parametrize(
    ("column", "values"), [("format", ("PNG", "JPEG")), ("width", (96, 224)), ("quality", (95.0, 40.0))]
)
@pytest.mark.parametrize("group", ["class", "split"])
def test_size_format_and_quality_are_judged_against_class_and_split(
    column: str, values: tuple[object, object], group: str
) -> None:
    half = np.repeat([0, 1], 60)
    mixed = np.tile([0, 1], 60)
    label, split = (half, mixed) if group == "class" else (mixed, half)
    data = table(
        "own", ("a", "b"), label=np.array(["a", "b"])[label], split=np.array(["train", "test"])[split],
        **{column: [values[at] for at in half]},
    )  # fmt: skip
    assert topics(judge_confounds(data)) == [f"confound-{group}"]


def test_properties_that_fall_by_chance_are_no_finding() -> None:
    rng = np.random.default_rng(0)
    classes = ("a", "b", "c", "d", "e", "f", "g")
    for size in (60, 300, 3_000):
        for _ in range(6):
            data = table(
                "own", classes, label=rng.choice(classes, size), split=rng.choice(["train", "test"], size),
                chroma=rng.choice([0.0, 40.0], size), width=rng.choice([90, 150, 300], size), format=rng.choice(["JPEG", "PNG"], size),
            )  # fmt: skip
            assert judge_confounds(data) == []


def test_a_value_of_few_pictures_is_left_out() -> None:
    def of(grey_ones: int) -> list[str]:
        chroma = [0.0] * grey_ones + [40.0] * (200 - grey_ones)
        label = ["a"] * grey_ones + ["b"] * (200 - grey_ones)
        return topics(judge_confounds(table("own", ("a", "b"), label=label, chroma=chroma)))

    assert of(FEWEST - 1) == []
    assert of(FEWEST) == ["confound-class"]


def test_tags_spelt_twice_and_rare_groups_of_tested_splits_are_named() -> None:
    tags = [frozenset({"occluded", "Hat"})] * 30 + [frozenset({"Occluded"}), frozenset({"hat"})]
    split = ["test"] * 30 + ["test", "train"]
    findings = judge_tags(table("own", ("a",), label=["a"] * 32, tags=tags, split=split))
    assert "Hat (30) and hat (1); Occluded (1) and occluded (30)" in only(findings, "tag-spelt-twice").what
    assert [place.remark for place in only(findings, "rare-tag").where] == ["test:Occluded 1"]


def test_persons_of_several_splits_are_named_with_their_pictures() -> None:
    person = ["ann", "ann", "bob", "bob", "", ""]
    split = ["train", "test", "train", "train", "train", "test"]
    finding = only(
        judge_persons(table("own", ("a",), label=["a"] * 6, person=person, split=split)), "person-in-several-splits"
    )
    assert "1 of 2 persons" in finding.what
    assert named(finding) == {"images/0.jpg", "images/1.jpg"}
    assert judge_persons(table("own", ("a",), label=["a"] * 6, person=person)) == []


# ---------------------------------------------------------------- copies


def test_identical_files_are_an_error_across_labels_or_splits_and_else_a_warning() -> None:
    data = table(
        "own", ("a", "b"),
        sha256=["1", "1", "2", "2", "3", "3", "4", "5", "", ""],
        label=["a", "b", "a", "a", "b", "b", "a", "a", "a", "b"],
        split=["train", "train", "train", "test", "test", "test", "train", "test", "train", "test"],
        problem=[""] * 8 + ["damaged"] * 2,
    )  # fmt: skip
    findings = judge_same_files(data)
    assert [(f.severity, f.topic, sorted(named(f))) for f in findings] == [
        ("error", "same-file-several-labels", ["images/0.jpg", "images/1.jpg"]),
        ("error", "same-file-several-splits", ["images/2.jpg", "images/3.jpg"]),
        ("warning", "same-file-again", ["images/4.jpg", "images/5.jpg"]),
    ]


def test_links_become_groups_that_hold_the_identical_files_too() -> None:
    data = table(
        "own", ("a", "b"), sha256=["1", "2", "3", "1", "5", "6"],
        label=["a", "a", "a", "a", "a", "b"], split=["train", "train", "train", "test", "train", "train"],
    )  # fmt: skip
    links = [Link(0, 1, False, 0.9), Link(1, 2, True, 0.8), Link(4, 5, False, 0.95)]
    findings = judge_near_copies(data, links)
    assert [(f.topic, f.where[0].similarity, sorted(named(f))) for f in findings] == [
        ("near-copies-several-splits", 0.8, [f"images/{number}.jpg" for number in range(4)]),
        ("near-copies-several-labels", 0.95, ["images/4.jpg", "images/5.jpg"]),
    ]
    assert findings[0].where[0].remark == "train a, train a, train a and 1 more; mirrored"
    assert findings[1].where[0].remark == "train a, train b"
    assert judge_near_copies(data, []) == []


def test_near_hashes_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 3_000, dtype=np.uint64)
    near = hashes.copy()
    near[1::2] = near[::2] ^ np.uint64(0b1111111111)  # ten bits
    near[3::4] ^= np.uint64(1 << 40)  # and one more
    others = near ^ np.uint64(1 << 50)
    others[1::2] = near[1::2] ^ np.uint64(1)  # one bit less
    with ThreadPoolExecutor(2) as pool:
        for one, other in ((near, near), (near, others)):
            blocks = list(similarity.near_hashes(one, other, pool, "test"))
            found = {pair for block in blocks for pair in zip(*(part.tolist() for part in block), strict=True)}
            apart = np.bitwise_count(one[:, None] ^ other[None])
            expected = np.argwhere(np.triu(apart <= similarity.BITS_APART, 1)).tolist()
            assert found == set(map(tuple, expected))
            assert len(found) >= 750  # the planted ones of ten bits, without those of eleven


@pytest.mark.parametrize("waiting", [similarity._WAITING, 5_000])
def test_a_long_film_scene_is_one_group_after_little_more_than_one_comparison_a_frame(
    monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    """Also where its pairs are too many to be kept at once: 500 frames have 124,750."""
    monkeypatch.setattr(similarity, "_WAITING", waiting)
    rng = np.random.default_rng(0)
    scene = np.asarray(face(0).convert("L").resize((96, 96)), np.float32) + rng.normal(0, 8, (96, 96))
    other = np.asarray(face(1).convert("L").resize((96, 96)), np.float32) + rng.normal(0, 8, (96, 96))
    frames = [(scene + rng.normal(0, 2, (96, 96))).astype(np.float32) for _ in range(500)]
    frames += [(other + rng.normal(0, 2, (96, 96))).astype(np.float32) for _ in range(3)]
    compared = []

    def detail(position: int) -> similarity.Detail:
        compared.append(position)
        return frames[position]

    small = [Image.fromarray(frame.clip(0, 255).astype(np.uint8)).resize((32, 32)) for frame in frames]
    links = similarity.near_copies(np.stack([np.asarray(frame) for frame in small]), detail)
    groups = DisjointSet(range(503))
    assert all(groups.merge(link.one, link.other) for link in links)  # none joins what is joined
    assert sorted(map(sorted, groups.subsets())) == [list(range(500)), [500, 501, 502]]
    assert len(compared) / 2 <= 2 * len(frames)  # a spanning tree needs 501


def test_a_picture_is_most_similar_to_itself_and_one_even_colour_to_nothing() -> None:
    picture = np.asarray(face(0).convert("L").resize((96, 96)), np.float32)
    assert similarity.similarity(picture, picture) > 0.999  # the alignment interpolates
    assert similarity.similarity(np.full_like(picture, 90), picture) == -1
    assert similarity.similarity(picture, np.full_like(picture, 90)) == -1


def save(picture: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality)
    return Image.open(encoded).convert("RGB")


def cropped(picture: Image.Image, share: float) -> Image.Image:
    width, height = picture.size
    left, top = round(width * (1 - share) * 0.3), round(height * (1 - share) * 0.8)
    return picture.crop((left, top, left + round(width * share), top + round(height * share)))


def mirror(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


ALTERED: dict[str, tuple[Callable[[Image.Image], Image.Image], float]] = {
    # recall that is demanded; measured on all 959 faces: 1.000, 1.000, 1.000, 0.998, 0.975, 1.000
    "JPEG of quality 20": (lambda picture: as_jpeg(picture, 20), 1.0),
    "48 pixels": (lambda picture: picture.resize((48, 48)), 1.0),
    "grey": (lambda picture: picture.convert("L").convert("RGB"), 1.0),
    "2 % cropped": (lambda picture: cropped(picture, 0.98), 0.97),
    "3 % cropped": (lambda picture: cropped(picture, 0.97), 0.93),
    "mirrored, 2 % cropped, JPEG of quality 50": (lambda picture: as_jpeg(cropped(mirror(picture), 0.98), 50), 0.98),
}


@pytest.mark.parametrize("how", ALTERED)
def test_altered_copies_of_real_faces_are_found_and_strangers_are_not_linked(shared: Path, how: str) -> None:
    alter, demanded = ALTERED[how]
    rows = pd.read_csv(shared / "faces/manifest.csv")
    rows = rows[rows.source == "lfw"][::8]  # photographs; the others are film frames, with true neighbours
    originals = [Image.open(shared / "faces" / image).convert("RGB") for image in rows.image]
    pictures = originals + [alter(picture) for picture in originals]
    half = len(originals)

    def reduced(picture: Image.Image, side: int) -> np.ndarray:
        return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR).convert("L"))

    thumbnails = np.stack([reduced(picture, 32) for picture in pictures])
    links = similarity.near_copies(thumbnails, lambda at: reduced(pictures[at], similarity.DETAIL).astype(np.float32))
    assert all(link.other == link.one + half for link in links), links
    assert len(links) >= demanded * half
    assert {link.mirrored for link in links} == {"mirrored" in how}


# ---------------------------------------------------------------- the command, on files


def doctor(*arguments: object, code: int = 0) -> tuple[str, str]:
    """(standard output, standard error) of the command, which ends with that exit code and not in a bug."""
    result = CliRunner().invoke(main, ["doctor", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def said(out: Path) -> dict[str, set[str]]:
    """topic -> every picture that the JSON file names."""
    findings = json.loads(out.read_text(encoding="ascii"))["findings"]
    return {finding["topic"]: {image for place in finding["where"] for image in place["images"]} for finding in findings}  # fmt: skip


def write_table(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("image", "label", "split")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return path


def face(seed: int) -> Image.Image:
    """Of another person for every seed."""
    return Image.open(io.BytesIO(draw(5, 4 * seed).jpeg)).convert("RGB")


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces of several people: two classes, two splits."""
    folder = tmp_path_factory.mktemp("healthy")
    rows = []
    for seed in range(16):
        split, label = ("train", "test")[seed % 8 > 5], ("anger", "neutral")[seed % 2]
        image = save(face(seed), folder / f"{split}/{label}/{seed}.png").relative_to(folder).as_posix()
        rows.append((image, label, split, f"person-{seed}"))
    write_table(folder / "faces.csv", rows, ("image", "label", "split", "identity"))
    (folder / "faces.toml").write_text('name = "faces"\nclasses = ["anger", "neutral"]\nsamples = "faces.csv"\n')
    return folder


def test_a_healthy_data_set_has_no_finding_and_exit_code_zero(healthy: Path, tmp_path: Path) -> None:
    printed, _ = doctor(healthy / "faces.toml", "--out", tmp_path / "found.json")
    assert "nothing found" in printed
    assert json.loads((tmp_path / "found.json").read_text())["counts"] == {
        "train": {"anger": 6, "neutral": 6},
        "test": {"anger": 2, "neutral": 2},
    }


def test_every_planted_fault_is_named_with_all_its_pictures(healthy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ill"
    shutil.copytree(healthy, folder)
    text = (folder / "faces.csv").read_text()

    def plant(name: str, picture: Image.Image | Path, label: str, split: str, person: str = "", **options: Any) -> str:
        nonlocal text
        if isinstance(picture, Path):
            shutil.copy(picture, folder / name)
        else:
            save(picture, folder / name, **options)
        text += f"{name},{label},{split},{person}\n"
        return name

    first, second = folder / "train/anger/0.png", folder / "train/neutral/1.png"
    leaked = plant("leaked.png", first, "anger", "test", "person-0")
    relabelled = plant("relabelled.png", second, "anger", "train")
    mirrored = plant("mirrored.jpg", mirror(Image.open(folder / "train/anger/2.png")), "anger", "test", quality=70)
    small = plant("small.png", face(100).resize((64, 64)), "neutral", "train")
    wide = plant("wide.png", face(101).resize((300, 150)), "neutral", "train")
    blank = plant("blank.png", Image.new("RGB", (160, 160), (90, 90, 90)), "neutral", "train")
    broken = plant("broken.png", face(102), "neutral", "train")
    (folder / broken).write_bytes((folder / broken).read_bytes()[:-500])
    text += "missing.png,anger,train,\n"
    (folder / "faces.csv").write_text(text)

    printed, _ = doctor(folder / "faces.toml", "--out", tmp_path / "found.json", code=1)
    found = said(tmp_path / "found.json")
    assert found["same-file-several-splits"] == {"train/anger/0.png", leaked}
    assert found["same-file-several-labels"] == {"train/neutral/1.png", relabelled}
    assert found["near-copies-several-splits"] == {"train/anger/2.png", mirrored}
    assert found["tiny"] == {small}
    assert found["far-from-square"] == {wide}
    assert found["blank"] == {blank}
    assert found["unusable"] == {broken, "missing.png"}
    assert found["person-in-several-splits"] == {"train/anger/0.png", leaked}
    assert set(found) == {
        "same-file-several-splits", "same-file-several-labels", "near-copies-several-splits", "tiny", "far-from-square", "blank", "unusable",
        "person-in-several-splits",
    }  # fmt: skip
    assert "'missing.png' does not exist" in printed
    assert printed.index("error:") < printed.index("warning:")
    assert "3 errors, 5 warnings" in printed


def test_nothing_in_the_data_set_is_changed_and_the_answer_is_the_same_again(healthy: Path, tmp_path: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in healthy.rglob("*")}
    doctor(healthy / "faces.toml", "--out", tmp_path / "one.json")
    doctor(healthy / "faces.csv", "--root", healthy, "--classes", "anger,neutral", "--out", tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in healthy.rglob("*")} == before
    assert sorted(os.listdir(tmp_path)) == ["one.json", "two.json"]


def test_a_data_set_without_one_usable_picture_ends_with_their_names(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [("a.png", "a", "train"), ("b.png", "b", "train")])
    doctor(tmp_path / "t.csv", "--root", tmp_path, "--classes", "a,b", "--out", tmp_path / "found.json", code=1)
    assert said(tmp_path / "found.json") == {"unusable": {"a.png", "b.png"}}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["t.csv", "--classes", "a,b"], "a CSV alone needs --root"),
        (["t.csv", "--root", "."], "a CSV alone needs"),
        (["t.csv", "--root", ".", "--classes", "a,c"], "unknown class 'b'"),
        (["absent.toml"], "cannot be read"),
        (["t.csv", "--root", ".", "--classes", "a,b", "--out", "nowhere/found.json"], "there is no folder"),
        (
            ["t.csv", "--root", ".", "--classes", "a,b", "--out", "t.csv"],
            "--out t.csv: is there already and is not overwritten",
        ),
        (["t.csv", "--root", ".", "--classes", "a,b", "--out", "dangling"], "--out dangling: is there already"),
        (
            ["t.csv", "--root", ".", "--classes", "a,b", "--out", "."],
            "--out .: is a folder; name a new file, such as findings.json",
        ),
    ],
)
def test_a_manifest_that_cannot_be_read_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    table = write_table(tmp_path / "t.csv", [("a.png", "a", "train"), ("b.png", "b", "train")])
    (tmp_path / "dangling").symlink_to("nothing")
    before = table.read_bytes()
    monkeypatch.chdir(tmp_path)
    printed, complaint = doctor(*arguments, code=1)
    assert printed == ""
    assert complaint.startswith("Error: ")  # before the progress bar of a picture
    assert sentence in complaint
    assert table.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["dangling", "t.csv"]


def test_the_tree_of_a_public_data_set_is_compared_with_what_is_published(tmp_path: Path) -> None:
    lines = []
    for number in range(1, 15):
        name = f"{'test' if number % 7 == 0 else 'train'}_{number:05d}"
        save(face(number).resize((100, 100)), tmp_path / f"basic/Image/aligned/{name}_aligned.jpg")
        lines.append(f"{name}.jpg {number % 7 + 1}")
    (tmp_path / "basic/EmoLabel").mkdir()
    (tmp_path / "basic/EmoLabel/list_patition_label.txt").write_text("\n".join(lines))
    made = CliRunner().invoke(
        main, ["manifest", "rafdb", str(tmp_path / "basic"), "--out", str(tmp_path / "rafdb.toml")]
    )
    assert made.exit_code == 0, made.output
    printed, _ = doctor(tmp_path / "rafdb.toml", "--out", tmp_path / "found.json", code=1)
    found = said(tmp_path / "found.json")
    assert {"class-missing-in-split", "other-number-of-pictures", "small-as-published"} <= set(found)
    assert "train has no picture of surprise" in printed  # 7 and 14 are the test split, with label 1
    assert "train has 12 pictures, the published runs of RAF-DB used 12,271 (-12,259)" in printed
    assert len(found["small-as-published"]) == 14


def test_ctrl_c_ends_it_with_one_line_and_no_output(tmp_path: Path) -> None:
    first = save(Image.effect_noise((700, 700), 60), tmp_path / "images/0.png")
    rows = [("images/0.png", "a", "train")]
    for number in range(1, 2_000):  # other names of the same file: half a minute of work, and no disk
        os.link(first, tmp_path / f"images/{number}.png")
        rows.append((f"images/{number}.png", ("a", "b")[number % 2], "train"))
    write_table(tmp_path / "t.csv", rows)
    words = [sys.executable, "-m", "orsanet_cache", "doctor", "t.csv", "--root", ".", "--classes", "a,b", "--out", "found.json"]  # fmt: skip
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        begun = b""
        while b"pictures" not in begun:
            begun += process.stderr.read(16)
        process.send_signal(signal.SIGINT)
        printed, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert printed == b""
    assert b"Interrupted." in complaint
    assert b"Traceback" not in complaint
    assert sorted(os.listdir(tmp_path)) == ["images", "t.csv"]


# ---------------------------------------------------------------- real faces and broken files


def test_of_959_real_faces_the_doctor_says_what_is_known_of_them(shared: Path, tmp_path: Path) -> None:
    faces = shared / "faces"
    classes = "surprise,fear,disgust,happiness,sadness,anger,neutral"
    printed, _ = doctor(faces / "manifest.csv", "--root", faces, "--classes", classes, "--out", tmp_path / "found.json")
    rows = pd.read_csv(faces / "manifest.csv")
    share = (rows.source == "imfdb").groupby(rows.label).mean()  # all film frames are in colour, all photographs grey
    assert f"coloured are disgust {share.disgust:.0%}, sadness {share.sadness:.0%}" in printed
    found = said(tmp_path / "found.json")
    assert set(found) == {
        "confound-class",
        "imbalance",
        "near-copies",
        "near-copies-several-labels",
        "rare-tag",
    }  # and no error, no leak: splits are drawn by person
    copies = found["near-copies"] | found["near-copies-several-labels"]
    assert set(rows[rows.image.isin(copies)].source) == {"imfdb"}  # frames of one scene; no two photographs are alike


def test_every_broken_file_that_is_to_be_rejected_is_named_with_a_reason(shared: Path, tmp_path: Path) -> None:
    script = shared / "bad_inputs/make_bad_inputs.py"
    subprocess.run([sys.executable, script, tmp_path / "bad", "--fifo"], check=True, capture_output=True, timeout=60)
    with (shared / "bad_inputs/expectations.csv").open(encoding="utf-8", newline="") as file:
        expected = {f"files/{row['file']}": row["expect"] for row in csv.DictReader(file)}
    if os.geteuid() == 0:  # root reads every file
        del expected["files/unreadable.jpg"]
    expected = {name: expect for name, expect in expected.items() if "raw byte" not in name}  # not a name for UTF-8
    assert len(expected) >= 63
    rows = [(name, ("a", "b")[number % 2], "train") for number, name in enumerate(sorted(expected))]
    write_table(tmp_path / "bad/t.csv", rows)
    doctor(tmp_path / "bad/t.csv", "--root", tmp_path / "bad", "--classes", "a,b", "--out", tmp_path / "f.json", code=1)
    findings = json.loads((tmp_path / "f.json").read_text())["findings"]
    reasons = {
        place["images"][0]: place["remark"]
        for finding in findings if finding["topic"] == "unusable"
        for place in finding["where"]
    }  # fmt: skip
    assert all(reasons.values())
    assert {name for name, expect in expected.items() if expect == "reject"} <= set(reasons)
    accepted = {name for name, expect in expected.items() if expect == "accept"}
    # Two names of one file: the manifest refuses the second.
    assert accepted & set(reasons) == {"files/ok_rgb.jpg"}
    assert "same file as 'files/link_inside.jpg'" in reasons["files/ok_rgb.jpg"]
