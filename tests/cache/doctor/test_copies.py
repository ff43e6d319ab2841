"""Identical files and near copies become findings."""

from doctor_cases import named, table

from orsanet_cache.doctor.copies import judge_near_copies, judge_same_files
from orsanet_cache.doctor.similarity import Link


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
