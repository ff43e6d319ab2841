"""docs/dareloss.md: what it calculates is calculated here again."""

import re
from pathlib import Path

import numpy as np
import pytest

from orsanet_train.evaluation.statistics import kappa
from orsanet_train.general.recipes import IMAGES, SPECTRAL

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "dareloss.md").read_text(encoding="utf-8")
PAVIA_TEST = (6304, 18146, 1815, 2912, 1113, 4572, 981, 3364, 795)  # pixels of each class in SpectralFormer's split
RUNS = 9  # of a command: three losses, three seeds
RECIPES = {
    "Indian pixel": SPECTRAL["indian-pines", "pixel"], "Indian patch": SPECTRAL["indian-pines", "patch"],
    "Pavia pixel": SPECTRAL["pavia-university", "pixel"], "Pavia patch": SPECTRAL["pavia-university", "patch"],
    "gfnet-ti": IMAGES["gfnet"], "crossvit-small": IMAGES["crossvit"],
}  # fmt: skip


def largest_kappa(counts: tuple[int, ...], overall: float) -> float:
    """With so much of the largest class predicted as the smallest."""
    confusion = np.diag(np.array(counts, np.float64))
    wrong = (1 - overall) * sum(counts)
    largest, smallest = int(np.argmax(counts)), int(np.argmin(counts))
    confusion[largest, largest] -= wrong
    confusion[largest, smallest] += wrong
    return kappa(confusion)  # type: ignore[arg-type]  # shares of pixels


@pytest.mark.parametrize(("overall", "printed", "most"), [(0.8840, 85.86, 85.3), (0.8882, 86.29, 85.8)])
def test_two_kappas_of_the_paper_are_larger_than_any_can_be(overall: float, printed: float, most: float) -> None:
    bound = 100 * largest_kappa(PAVIA_TEST, overall)
    assert bound < printed
    assert round(bound, 1) == most
    assert f"{printed} at" in PAGE
    assert sum(PAVIA_TEST) == 40_002
    rng = np.random.default_rng(0)
    for _ in range(200):  # no other way to be wrong so often is better
        confusion = np.diag(np.array(PAVIA_TEST))
        for _ in range(40):
            row, column = rng.integers(9, size=2)
            moved = min(confusion[row, row], round((1 - overall) * 40_002 / 40))
            confusion[row, row] -= moved
            confusion[row, column] += moved
        if np.trace(confusion) <= overall * 40_002:
            assert 100 * kappa(confusion) <= bound + 0.01


def test_the_pages_hours_follow_from_its_rates() -> None:
    rows = re.findall(
        r"^\| ([\w -]+) \| ([\d,]+) \| ([\d,.]+) \| ([\d,]+) \| ([\d,.]+) \| ([\d,]+) \| ([\d,]+) \|$",
        PAGE,
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == list(RECIPES)
    for name, *numbers in rows:
        samples, rate, tested, test_rate, hours, all_hours = (float(number.replace(",", "")) for number in numbers)
        recipe = RECIPES[name]
        tests = -(-recipe.epochs // recipe.test_every)
        expected = (recipe.epochs * samples / rate + tests * tested / test_rate) / 3600
        assert hours == pytest.approx(expected, rel=0.05, abs=0.5), name
        assert all_hours == pytest.approx(RUNS * expected, rel=0.05, abs=0.5), name
