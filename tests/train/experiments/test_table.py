"""The table of an ablation reports the spread honestly."""

import numpy as np
import pandas as pd
import pytest
from ablation_tables import made_up, table_cells
from scipy.stats import ttest_rel

from orsanet_train.evaluation.statistics import smallest_seen
from orsanet_train.experiments.table import summary
from orsanet_train.experiments.variants import CACHING, LANDMARK_VARIANTS, PARTS


def test_the_table_shows_mean_and_sample_deviation_and_the_difference_seed_by_seed() -> None:
    """Differences from full: -1, -2, -6. Their mean is -3 and their deviation sqrt((4 + 1 + 9) / 2)."""
    runs = made_up({"no-dare": {0: 79, 1: 80, 2: 81}, "full": {0: 80, 1: 82, 2: 87}})
    assert table_cells(summary(runs)) == [
        ["variant", "seeds", "test", "− full"],
        ["full", "3", "83.00 ± 3.61", ""],  # sqrt((9 + 1 + 16) / 2)
        [
            "no-dare",
            "3",
            "80.00 ± 1.00",
            "-3.00 ± 2.65 (-9.57 … +3.57)",
        ],  # 2.65 / sqrt 3 * t(0.975; 2) = 6.57, t = 4.303
    ]


def test_the_interval_of_the_difference_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    full, other = rng.uniform(50, 90, (2, 6))
    low, high = ttest_rel(other, full).confidence_interval(0.95)
    cell = table_cells(summary(made_up({"full": dict(enumerate(full)), "map": dict(enumerate(other))})))[2][3]
    assert cell.endswith(f" ({low:+.2f} … {high:+.2f})")


def test_an_interval_needs_three_pairs_and_is_then_explained() -> None:
    two = made_up({"full": {0: 70, 1: 72, 2: 74}, "map": {0: 71, 1: 75, 3: 10}})
    assert table_cells(summary(two))[2][3] == "+2.00 ± 1.41"
    assert "t interval" not in summary(two)
    three = made_up({"full": {0: 70, 1: 72}, "map": {0: 71, 1: 75}, "no-dare": {0: 71, 1: 73}})
    assert "t interval" not in summary(three)
    three = made_up({"full": {0: 70, 1: 72, 2: 74}, "map": {0: 71, 1: 73, 2: 75}})
    assert table_cells(summary(three))[2][3] == "+1.00 ± 0.00 (+1.00 … +1.00)"
    assert "95 % t interval of the mean difference over training seeds" in summary(three)


def test_the_table_says_what_it_shows_and_where_budgets_differ() -> None:
    runs = made_up({"full": {0: 80}, "map": {0: 82}})
    assert "per cent of the last checkpoint" in summary(runs)
    assert "Not comparable" not in summary(runs)
    assert "Always the commonest class of these images: test 25.00.\n" in summary(runs)
    runs.loc[1, "epochs"] = 3
    assert "Not comparable yet: these runs have 1, 3 epochs" in summary(runs)


def test_numbers_agree_with_numpys() -> None:
    rng = np.random.default_rng(0)
    full, other = rng.uniform(50, 90, (2, 5))
    runs = made_up({"full": dict(enumerate(full)), "spatial": dict(enumerate(other))})
    _, first, second = table_cells(summary(runs))
    assert first[2] == f"{full.mean():.2f} ± {full.std(ddof=1):.2f}"
    assert second[2] == f"{other.mean():.2f} ± {other.std(ddof=1):.2f}"
    assert second[3].startswith(f"{(other - full).mean():+.2f} ± {(other - full).std(ddof=1):.2f} ")


def test_the_difference_is_taken_over_the_seeds_that_both_have() -> None:
    """Seed 2 of `full` and seed 3 of the other are in no pair: +1 and +3 remain."""
    runs = made_up({"full": {0: 70, 1: 72, 2: 99}, "map": {0: 71, 1: 75, 3: 10}})
    assert table_cells(summary(runs))[2] == ["map", "3", "52.00 ± 36.43", "+2.00 ± 1.41"]


def test_one_seed_has_no_deviation() -> None:
    runs = made_up({"full": {4: 70}, "map": {4: 71.5}})
    assert table_cells(summary(runs))[1:] == [["full", "1", "70.00", ""], ["map", "1", "71.50", "+1.50"]]
    runs = made_up({"full": {4: 70, 5: 72}, "map": {5: 71.5}})  # one pair of the two
    assert table_cells(summary(runs))[1:] == [["full", "2", "71.00 ± 1.41", ""], ["map", "1", "71.50", "-0.50"]]


def test_without_full_there_is_no_difference() -> None:
    runs = made_up({"map": {0: 70, 1: 72}, "no-dare": {0: 71, 1: 71}})
    assert [row[0::3] for row in table_cells(summary(runs))[1:]] == [["no-dare", ""], ["map", ""]]


def test_without_a_seed_in_common_there_is_no_difference() -> None:
    """As after an interruption: `full` has only been trained with another seed so far."""
    runs = made_up({"full": {0: 70}, "map": {1: 71}})
    assert table_cells(summary(runs))[2] == ["map", "1", "71.00", ""]


def test_every_group_has_its_own_columns() -> None:
    runs = pd.concat([
        made_up({"full": {0: 70}, "map": {0: 71}}),
        made_up({"full": {0: 60}, "map": {0: 58}}, "test:occluded"),
    ])  # fmt: skip
    assert table_cells(summary(runs)) == [
        ["variant", "seeds", "test", "− full", "test:occluded", "− full"],
        ["full", "1", "70.00", "", "60.00", ""],
        ["map", "1", "71.00", "+1.00", "58.00", "-2.00"],
    ]


@pytest.mark.parametrize("lacking", ["full", "map"])
def test_a_variant_that_was_not_evaluated_on_a_group_has_empty_cells_there(lacking: str) -> None:
    """As when a further variant is called with other --splits than the first."""
    other = {"full": "map", "map": "full"}[lacking]
    runs = pd.concat([made_up({"full": {0: 70}, "map": {0: 71}}), made_up({other: {0: 60}}, "test:occluded")])
    seen = {"full": ["70.00", "", "60.00", ""], "map": ["71.00", "+1.00", "60.00", ""]}
    seen[lacking][2] = ""
    assert table_cells(summary(runs))[1:] == [[name, "1", *cells] for name, cells in seen.items()]


def test_the_second_table_has_the_time_of_an_image_and_what_could_have_been_seen() -> None:
    runs = made_up({"full": {0: 70, 1: 72, 2: 74}, "map": {0: 71, 1: 75, 2: 78}, "no-dare": {0: 70, 1: 71}})
    runs["seconds_per_image"] = [0.010, 0.012, 0.014, 0.1, 0.1, 0.1, 0.002, 0.004]
    seen = f"{smallest_seen(np.array([1.0, 3.0, 4.0])):.2f}"
    assert table_cells(summary(runs), 1) == [
        ["variant", "ms per image", "test"],
        ["full", "12.0 ± 2.00", ""],
        ["no-dare", "3.0 ± 1.41", ""],  # two seeds
        ["map", "100.0 ± 0.00", seen],
    ]
    assert "training alone, in the median epoch" in summary(runs)
    assert "the smallest true difference in points" in summary(runs)
    assert "the smallest true" not in summary(made_up({"full": {0: 70}, "map": {0: 71}}))


def test_the_set_of_caching_is_compared_with_its_own_first_variant() -> None:
    runs = made_up({"no-erasing": {0: 70, 1: 72}, "cached-clean": {0: 71, 1: 71}, "online-erased": {0: 72}})
    cells = table_cells(summary(runs))
    assert cells[0] == ["variant", "seeds", "test", "− cached-clean"]
    assert [row[0] for row in cells[1:]] == ["cached-clean", "online-erased", "no-erasing"]
    assert cells[3][3] == "+0.00 ± 1.41"


@pytest.mark.parametrize("names", [[*PARTS, *LANDMARK_VARIANTS.values()], [*CACHING]], ids=["parts", "caching"])
def test_rows_are_in_the_order_of_the_variants_whatever_the_order_of_the_runs(names: list[str]) -> None:
    runs = made_up({name: {0: 70, 1: 71} for name in names}).sample(frac=1, random_state=0)
    assert [row[0] for row in table_cells(summary(runs))[1:]] == names
