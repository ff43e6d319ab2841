"""Numbers of pictures."""

import time

import numpy as np
import pytest
from doctor_cases import COUNTED, counted, name_of, only, published, topics

from orsanet_cache.doctor.counts import judge_counts
from orsanet_cache.doctor.known import AFFECTNET, OCCLU_FER, RAFDB, Known


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
    assert "no split has a picture of d" in findings[0].what
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


def test_the_time_of_many_classes_grows_with_their_number() -> None:
    classes = [f"k{number}" for number in range(100_000)]
    began = time.process_time()
    findings = judge_counts(counted("own", classes, {"train": {"k0": 1}, "test": {"k1": 1}}), None)
    assert time.process_time() - began < 10
    assert only(findings, "empty-class").what.startswith("no split has a picture of k2, k3, ")
    assert only(findings, "empty-class").what.endswith("and 99,978 more")
