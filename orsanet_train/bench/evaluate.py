"""The time of an evaluation beside that of the model's bare forward over as many images.

    forward ½ ─▶ evaluate, whole: checkpoint, reading, forward, metrics, files ─▶ forward ½

The forward runs repeatedly on one batch in memory. Half of it runs before and half after the
evaluation, so that a machine that becomes slower affects both alike.
"""

import time
from pathlib import Path
from typing import NamedTuple

import torch

from orsanet_cache.data.manifest import Manifest
from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import temporary_folder
from orsanet_cache.store.reader import PriorStore
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.evaluation.forward import EVALUATION_BATCH
from orsanet_train.feed.feed import Feed, PriorBatch
from orsanet_train.feed.split import join
from orsanet_train.model.checkpoint import load_weights
from orsanet_train.model.model import ExpressionModel


class EvaluationSpeed(NamedTuple):
    images: int
    evaluation: float  # seconds
    forward: float  # seconds for as many images


def bench_evaluate(
    weights: Path, manifest: Manifest, store: PriorStore, split_name: str, device: torch.device
) -> EvaluationSpeed:
    """Time an evaluation on a split; its result is discarded. Raises OrsanetError as `evaluate`.

    Args:
        weights: A weights file.
        manifest: The manifest of the images.
        store: A store with their priors.
        split_name: The split to evaluate, in the clean view.
        device: The device on which the model runs.
    """
    model, identity = load_weights(weights)
    split = join(manifest, store, split_name, [CLEAN], fields=identity.model.fields)
    if not len(split.rows):
        raise OrsanetError(f"no image of '{split_name}' can be used: the build rejected all; see `orsanet-cache info`")
    batch = next(iter(Feed(store, split, identity.model, device, "stream").in_order(EVALUATION_BATCH)))
    model = model.to(device)
    _forward(model, batch, len(batch.label), device)  # chooses kernels, allocates memory
    before = _forward(model, batch, len(split.rows) // 2, device)
    with temporary_folder("orsanet-bench-") as folder:
        began = time.perf_counter()
        evaluate(weights, manifest, store, folder / "evaluation", groups=[split_name], device=device)
        seconds = time.perf_counter() - began
    after = _forward(model, batch, len(split.rows) - len(split.rows) // 2, device)
    return EvaluationSpeed(len(split.rows), seconds, before + after)


@torch.no_grad()
def _forward(model: ExpressionModel, batch: PriorBatch, images: int, device: torch.device) -> float:
    """Seconds for this number of images."""
    began = time.perf_counter()
    for start in range(0, images, len(batch.label)):
        model(*(values[: images - start] for values in batch.inputs))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
