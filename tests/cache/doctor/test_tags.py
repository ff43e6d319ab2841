"""Tags."""

from doctor_cases import only, table

from orsanet_cache.doctor.tags import judge_tags


def test_tags_spelt_twice_and_rare_groups_of_tested_splits_are_named() -> None:
    tags = [frozenset({"occluded", "Hat"})] * 30 + [frozenset({"Occluded"}), frozenset({"hat"})]
    split = ["test"] * 30 + ["test", "train"]
    findings = judge_tags(table("own", ("a",), label=["a"] * 32, tags=tags, split=split))
    assert "Hat (30) and hat (1); Occluded (1) and occluded (30)" in only(findings, "tag-spelt-twice").what
    assert [place.remark for place in only(findings, "rare-tag").where] == ["test:Occluded 1"]
