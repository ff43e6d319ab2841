"""File names and defaults of predict, importable without torch."""

from collections.abc import Collection

MARGIN = 1.0  # default side of a crop, as a multiple of the longest side of the face's box
CSV, JSON, OVERLAYS, ANNOTATED, PARTIAL = "predictions.csv", "predictions.json", "overlays", "annotated", ".partial"


def are_predictions(folders: Collection[str], files: Collection[str]) -> bool:
    """Whether a folder with these names was written by predict, finished or not, with pictures or videos."""
    return not {OVERLAYS, ANNOTATED}.isdisjoint(folders) and (JSON in files or f"{CSV}{PARTIAL}" in files)
