"""Parameters and arithmetic are counted from the networks, and come out as published."""

import pytest

from orsanet_train.model.complexity import PartCost, complexity, complexity_table
from orsanet_train.model_config import ORSANetConfig

# forward GFLOP (2 x MAC) of the reference table, which has two decimals
PUBLISHED_GFLOP = {
    "SegFace encoder": 30.86, "MobileFaceNet": 0.44, "ir_back": 10.94, "ir_layer": 0.05, "seg_sample": 0.05,
    "seg_fusion": 0.81, "pyramid_fuse": 2.29, "se_block": 0.00, "head": 0.00,
}  # fmt: skip


@pytest.fixture(scope="module")
def published() -> list[PartCost]:
    return complexity(ORSANetConfig(), classes=7)


@pytest.fixture(scope="module")
def table() -> str:
    return complexity_table(ORSANetConfig(), classes=7)


def test_the_published_arithmetic(published: list[PartCost]) -> None:
    parts = {part.name: part for part in published}
    for name, gflop in PUBLISHED_GFLOP.items():
        assert 2 * parts[name].multiply_adds / 1e9 == pytest.approx(gflop, abs=0.005), name
    assert sum(part.trainable for part in parts.values()) == 47_441_447
    assert parts["ir_layer"].trainable == 524_800
    assert parts["seg_fusion"].trainable == 8_260_864
    assert parts["head"].trainable == 3_591


def test_the_table_says_both_totals(table: str) -> None:
    assert "47,441,447" in table
    assert "60,289,575" in table
    assert "published checkpoint" not in complexity_table(ORSANetConfig(depth=1), classes=7)


def test_the_table_says_what_a_forward_pass_costs_as_published_and_from_the_store(table: str) -> None:
    """The numbers of README.md and docs/reproduce.md, and they follow from the rounded rows of the reference table."""
    lines = table.splitlines()
    (published,) = [line for line in lines if "as published" in line]
    (trained,) = [line for line in lines if "trained part alone" in line]
    assert published.endswith(": 22.7 GMAC")
    assert trained.endswith(": 7.1 GMAC")
    assert sum(PUBLISHED_GFLOP.values()) / 2 == pytest.approx(22.7, abs=0.05)
    assert any("GFLOP = 2 x GMAC" in line for line in lines)


def test_more_classes_cost_their_row_of_the_head(published: list[PartCost]) -> None:
    seven, eight = (sum(part.trainable for part in parts) for parts in (published, complexity(ORSANetConfig(), 8)))
    assert eight - seven == 513
