"""Persons."""

from doctor_cases import named, only, table

from orsanet_cache.doctor.people import judge_persons


def test_persons_of_several_splits_are_named_with_their_pictures() -> None:
    person = ["ann", "ann", "bob", "bob", "", ""]
    split = ["train", "test", "train", "train", "train", "test"]
    finding = only(
        judge_persons(table("own", ("a",), label=["a"] * 6, person=person, split=split)), "person-in-several-splits"
    )
    assert "1 of 2 persons" in finding.what
    assert named(finding) == {"images/0.jpg", "images/1.jpg"}
    assert judge_persons(table("own", ("a",), label=["a"] * 6, person=person)) == []
