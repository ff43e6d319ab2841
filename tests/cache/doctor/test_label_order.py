"""The order of the labels, and the folders that are named after them."""

from collections.abc import Sequence

import pytest
from doctor_cases import PUBLIC, name_of, named, only, table, topics

from orsanet_cache.doctor.known import AFFECTNET, RAFDB, Known
from orsanet_cache.doctor.label_order import judge_label_order


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
        (["1", "2", "9" * 18], "error", "number-missing"),
    ],
)
def test_classes_that_are_numbers_are_a_finding(numbers: list[str], severity: str, topic: str) -> None:
    findings = judge_label_order(table("own", numbers, label=numbers), None)
    assert [(f.severity, f.topic) for f in findings] == [(severity, topic)]


def test_missing_numbers_are_named_neighbours_together() -> None:
    numbers = ["1", "3", "7", "8"]
    (finding,) = judge_label_order(table("own", numbers, label=numbers), None)
    assert "2, 4 to 6 is missing" in finding.what


def test_a_class_of_thousands_of_digits_is_a_name() -> None:
    numbers = ["1", "9" * 5000]
    assert (
        judge_label_order(table("own", numbers, label=numbers, image=[f"{one}/a.jpg" for one in numbers]), None) == []
    )


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
