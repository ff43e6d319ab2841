"""The model over a split, without gradients: images in the manifest's order -> class probabilities and features."""

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
    """What the model says of a split's usable samples (of this rank's part), in the manifest's order."""

    probabilities: NDArray[np.float32]  # [N, K]
    features: NDArray[np.float32]  # [N, D], gated, what the head sees


@torch.no_grad()
def model_outputs(
    model: nn.Module,
    feed: Batches,
    view: str = CLEAN,
    after_batch: Callable[[int], object] = lambda _: None,
) -> Outputs:
    """Run the model over a split, in evaluation mode; its own mode is kept.

    `after_batch` is called with the number of images of every batch; what it raises ends the prediction.
    """
    was_training = model.training
    model.eval()
    probabilities, features = [], []
    for batch in feed.in_order(EVALUATION_BATCH, view):
        said = model(*batch.inputs)
        probabilities.append(said.logits.float().softmax(dim=1))
        features.append(said.features.float())
        after_batch(len(said.logits))
    model.train(was_training)
    if not probabilities:
        raise OrsanetError(f"split '{feed.split.name}' has no usable image to evaluate")
    outputs = Outputs(torch.cat(probabilities).cpu().numpy(), torch.cat(features).cpu().numpy())
    if not np.isfinite(outputs.probabilities).all():
        raise OrsanetError(
            f"the model's outputs on '{feed.split.name}' are not finite; train with a lower learning_rate"
        )
    return outputs
