"""The loss of a training run, epoch by epoch: a warm-up, then cross-entropy with DARELoss (dare.py).

Shapes: B batch, K expression classes.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy

from orsanet_train.config import LossConfig
from orsanet_train.engine.dare import dare_loss


def training_loss(logits: Tensor, target: Tensor, config: LossConfig, epoch: int) -> Tensor:
    """The loss of an epoch (counted from 0): warm-up, then cross-entropy with DARELoss, as published in code.

    logits [B, K], target int64 [B] -> scalar, the batch mean.
    """
    loss = cross_entropy(logits, target)
    if epoch < config.warmup_epochs:
        return loss + config.smoothed_weight * cross_entropy(logits, target, label_smoothing=config.smoothing)
    if config.dare == "none":
        return loss
    return loss + config.dare_weight * dare_loss(logits, target, form=config.dare)
