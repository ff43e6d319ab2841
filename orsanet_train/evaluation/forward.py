"""Runs a model over a split without gradients: images in the manifest's order -> outputs."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from orsanet_cache.data.views import CLEAN
from orsanet_cache.errors import OrsanetError
from orsanet_train.feed.batches import Batches

EVALUATION_BATCH = 64


class Outputs(NamedTuple):
    """The outputs for a split's usable samples (of this rank's part), in the manifest's order."""

    probabilities: NDArray[np.float32]  # [N, K]
    features: NDArray[np.float32]  # [N, D], gated: the head's input


@torch.no_grad()
def model_outputs(
    model: nn.Module,
    feed: Batches,
    view: str = CLEAN,
    after_batch: Callable[[int], object] = lambda _: None,
) -> Outputs:
    """Run the model over a split in evaluation mode, and restore its mode afterwards.

    `after_batch` is called after every batch with its number of images; an exception from it ends
    the evaluation. Raises OrsanetError if the split has no usable image, or if outputs are not
    finite.
    """
    was_training = model.training
    model.eval()
    probabilities, features = [], []
    for batch in feed.in_order(EVALUATION_BATCH, view):
        of_batch = model(*batch.inputs)
        probabilities.append(of_batch.logits.float().softmax(dim=1))
        features.append(of_batch.features.float())
        after_batch(len(of_batch.logits))
    model.train(was_training)
    if not probabilities:
        raise OrsanetError(f"split '{feed.split.name}' has no usable image to evaluate")
    outputs = Outputs(torch.cat(probabilities).cpu().numpy(), torch.cat(features).cpu().numpy())
    if not np.isfinite(outputs.probabilities).all():
        raise OrsanetError(
            f"the model's outputs on '{feed.split.name}' are not finite; train with a lower learning_rate"
        )
    return outputs
