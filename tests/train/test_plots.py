"""Pictures show what they claim: classes under their images, counts in their cells."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from orsanet_cache import imagenet_normalised, unit_range
from orsanet_train import plots
from orsanet_train.feed import PriorBatch
from orsanet_train.report import split_report


def test_a_mosaic_shows_the_images_as_the_backbone_sees_them(tmp_path: Path) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 112, 112, 3), dtype=np.uint8))
    batch = PriorBatch(
        imagenet_normalised(unit_range(images)), torch.zeros(0), torch.zeros(0), torch.arange(7), torch.zeros(7, 0)
    )
    plots.batch_mosaic(batch, [f"class {index}" for index in range(7)], tmp_path / "mosaic.png")
    with Image.open(tmp_path / "mosaic.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (2 * 240, 5 * 224, 3)
    assert np.array_equal(pixels[240:464:2, 224:448:2], images[6].numpy())


def test_curves_and_confusion_are_pictures(tmp_path: Path) -> None:
    row = {"epoch": 1, "loss": 2.0, "perturbed_loss": 2.5, "train_accuracy": 0.4, "selection_accuracy": 0.5}
    plots.curves(pd.DataFrame([row, {**row, "epoch": 2}]), "valid", tmp_path / "curves.png")
    predictions = pd.DataFrame({"label": ["a", "a", "b"], "predicted": ["a", "b", "b"]})
    plots.confusion(split_report("test", predictions, ["a", "b"], 0, False), tmp_path / "confusion.png")
    for name in ("curves.png", "confusion.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture).std() > 5  # something is drawn
