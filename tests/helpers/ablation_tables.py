"""Ablations that nobody ran, and the cells of their table."""

import pandas as pd


def table_cells(text: str, number: int = 0) -> list[list[str]]:
    """Header and rows of a Markdown table of the text, counted from 0, without the line of dashes."""
    tables = [part.splitlines() for part in text.split("\n\n") if part.lstrip().startswith("|")]
    lines = [line for line in tables[number] if line.startswith("|")]
    header, dashes, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert dashes == ["---"] * len(header)
    assert all(len(row) == len(header) for row in rows)
    return [header, *rows]


def made_up(accuracies: dict[str, dict[int, float]], group: str = "test") -> pd.DataFrame:
    """variant -> seed -> accuracy in per cent, as `collect` gives it."""
    rows = [
        {"variant": variant, "seed": seed, "epochs": 1, "group": group, "images": 100, "accuracy": per_cent / 100,
         "balanced_accuracy": 0.5, "commonest_class": 0.25, "seconds_per_image": 0.01}
        for variant, by_seed in accuracies.items() for seed, per_cent in by_seed.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)
