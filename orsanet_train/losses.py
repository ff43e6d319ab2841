"""Losses for expression classification.

With z the logits, t the true class, r its strongest rival and a = 1 - p_t (no gradient flows through a):

    DARE  = -log softmax([z_t, z_r + T a])_0 = softplus(z_r + T a - z_t)      as published in code
    DARE  = softplus(z_r + a z_r - z_t)                                       as in the paper (Eq. 11)

Shapes: B batch, K expression classes.
"""

from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from orsanet_train.config import LossConfig


def dare_loss(
    logits: Tensor, target: Tensor, temperature: float = 1.0, form: Literal["published", "paper"] = "published"
) -> Tensor:
    """Push the true class above its strongest rival, harder when the model doubts it.

    logits [B, K] with K >= 2, target int64 [B] -> scalar, the batch mean. Two-class cross-entropy between target and rival
    after raising the rival by `temperature * (1 - p_target)`, or by that times its own logit in the paper's form; the doubt
    carries no gradient. (ORSANet, Eq. 10-11.)
    """
    chosen = target[:, None]
    true_logit = logits.gather(1, chosen)
    rival_logit = logits.scatter(1, chosen, -float("inf")).amax(dim=1, keepdim=True)
    doubt = temperature * (1 - logits.detach().softmax(dim=1).gather(1, chosen))
    raised = rival_logit + (doubt if form == "published" else doubt * rival_logit)
    return softplus(raised - true_logit).mean()


def training_loss(logits: Tensor, target: Tensor, config: LossConfig, epoch: int) -> Tensor:
    """The loss of an epoch (counted from 0): warm-up, then cross-entropy with DARELoss, as published in code."""
    loss = cross_entropy(logits, target)
    if epoch < config.warmup_epochs:
        return loss + config.smoothed_weight * cross_entropy(logits, target, label_smoothing=config.smoothing)
    if config.dare == "none":
        return loss
    return loss + config.dare_weight * dare_loss(logits, target, form=config.dare)
