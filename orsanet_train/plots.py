"""Pictures of a run: labelled batches, training curves, confusion matrices."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from orsanet_cache import contact_sheet, displayable
from orsanet_train.checkpoint import write_whole
from orsanet_train.feed import PriorBatch
from orsanet_train.report import SplitReport

NO_MATPLOTLIB = "curves and confusion matrices need matplotlib: pip install 'orsanet[plots]'"
TILES = 25  # of a mosaic


def matplotlib_installed() -> bool:
    """Curves and confusion matrices can be drawn; everything else works without."""
    return find_spec("matplotlib") is not None


def batch_mosaic(batch: PriorBatch, classes: Sequence[str], path: Path) -> None:
    """The images of a training batch as the backbone sees them, each with its class name: a swapped label order shows here."""
    tiles = [
        np.repeat(np.repeat(tile, 2, axis=0), 2, axis=1) for tile in displayable(batch.image[:TILES]).cpu().numpy()
    ]
    captions = [classes[label] for label in batch.label[:TILES].tolist()]
    sheet = contact_sheet(tiles, captions, columns=min(5, len(tiles)))
    write_whole(path, lambda temporary: sheet.save(temporary, format="PNG"))


def curves(history: pd.DataFrame, selection_split: str, path: Path) -> None:
    """Loss and accuracy per epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(history["epoch"], history["loss"], label="at the weights", marker=".")
    left.plot(history["epoch"], history["perturbed_loss"], label="perturbed (SAM)", marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
    right.plot(history["epoch"], 100 * history["train_accuracy"], label="training batches (augmented)", marker=".")
    right.plot(history["epoch"], 100 * history["selection_accuracy"], label=f"split '{selection_split}'", marker=".")
    right.set(xlabel="epoch", ylabel="accuracy, %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))


def confusion(report: SplitReport, path: Path) -> None:
    """Confusion matrix: counts, coloured by the share of each true class."""
    from matplotlib.figure import Figure

    classes = list(report.recall)
    counts = np.array(report.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.6 * len(classes)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, label="share of the true class")
    # parse_math=False: a "$" in a name is a "$"
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(classes)), classes, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{report.name}: {report.images} images, {report.accuracy:.2%}", parse_math=False)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column, row, str(count), ha="center", va="center", color="white" if share[row, column] > 0.5 else "black"
        )
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
