"""The plan: classes in the promised numbers, people in one split each, occluders in the promised share."""

from collections import Counter

import pytest

from orsanet_cache.synthetic.occluders import REGIONS, TAGS
from orsanet_cache.synthetic.plan import IMAGES_PER_PERSON, OCCLUDED_SHARE, PER_HUNDRED, plan


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_every_split_of_a_thousand_has_the_promised_classes(seed: int) -> None:
    plans = [plan(seed, index) for index in range(1000)]
    assert Counter(planned.split for planned in plans) == {"train": 700, "valid": 100, "test": 200}
    for split, hundreds in (("train", 7), ("valid", 1), ("test", 2)):
        counts = Counter(planned.label for planned in plans if planned.split == split)
        assert counts == {label: hundreds * count for label, count in PER_HUNDRED.items()}
    assert max(PER_HUNDRED, key=PER_HUNDRED.__getitem__) == "happiness"
    assert sorted(PER_HUNDRED, key=PER_HUNDRED.__getitem__)[0] == "fear"


def test_no_person_crosses_splits() -> None:
    split_of: dict[int, set[str]] = {}
    for index in range(3000):
        planned = plan(7, index)
        split_of.setdefault(planned.identity, set()).add(planned.split)
    assert len(split_of) == 3000 // IMAGES_PER_PERSON
    assert all(len(splits) == 1 for splits in split_of.values())


def test_occluders_come_in_their_share_and_hide_different_regions() -> None:
    plans = [plan(3, index) for index in range(6000)]
    for split, share in OCCLUDED_SHARE.items():
        occluded = [bool(planned.occluders) for planned in plans if planned.split == split]
        assert abs(sum(occluded) / len(occluded) - share) < 0.07
    seen = Counter(tag for planned in plans for tag in planned.occluders)
    assert set(seen) == set(TAGS)
    assert min(seen.values()) > 0.6 * max(seen.values())
    for planned in plans:
        assert len({REGIONS[tag] for tag in planned.occluders}) == len(planned.occluders)
        assert planned.tags == (("occluded", *planned.occluders) if planned.occluders else ("unoccluded",))


def test_other_seeds_are_other_data_sets() -> None:
    assert [plan(0, index) for index in range(50)] != [plan(1, index) for index in range(50)]
