"""Names of what predict leaves, and its defaults, for those who do not wait for torch."""

from collections.abc import Collection

MARGIN = 1.0  # side of a crop by the longest side of the face's box, unless another is given
CSV, JSON, OVERLAYS, PARTIAL = "predictions.csv", "predictions.json", "overlays", ".partial"


def are_predictions(folders: Collection[str], files: Collection[str]) -> bool:
    """Whether a folder with these names in it was left by predict, finished or interrupted, and has overlays."""
    return OVERLAYS in folders and (JSON in files or f"{CSV}{PARTIAL}" in files)
