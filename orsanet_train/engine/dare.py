"""DARELoss for any classifier.

It is added to the cross-entropy and compares only the true class and its strongest rival.

With z the logits of one sample, p = softmax(z), t the true class, r the strongest of the others and a = 1 - p_t the doubt, through
which no gradient flows:

    -log( e^z_t / (e^z_t + e^(z_r + T a)) )   = softplus(z_r + T a - z_t)         as published in code, T = 1
    -log( e^z_t / (e^z_t + e^(z_r + a z_r)) ) = softplus(z_r + a z_r - z_t)       as in the paper (ORSANet, Eq. 10-11)

The gradient at z_t is minus the raised rival's two-class probability, so doubt makes it steeper. In
the paper's form this holds only for z_r > 0: the product lowers a negative rival.

This file needs torch and nothing else.
"""

from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus


def dare_loss(
    logits: Tensor, target: Tensor, temperature: float = 1.0, form: Literal["published", "paper"] = "published"
) -> Tensor:
    """Push the true class above its strongest rival, more strongly the lower its probability.

    logits [B, K] with K >= 2, target int64 [B] -> scalar, the batch mean; further axes after K and
    B are positions, as in torch's cross_entropy. The loss is the two-class cross-entropy between
    target and rival, after raising the rival by `temperature * (1 - p_target)`, or by that times
    its own logit in the paper's form. No gradient flows through the doubt. (ORSANet, Eq. 10-11;
    "published" as published in code.)
    Raises ValueError for a single class, which has no rival, and for an unknown form.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"logits {list(logits.shape)}: a rival needs at least two classes on axis 1")
    if form not in ("published", "paper"):
        raise ValueError(f"form {form!r}: must be 'published' or 'paper'")
    chosen = target[:, None]
    true_logit = logits.gather(1, chosen)
    rival_logit = logits.scatter(1, chosen, -float("inf")).amax(dim=1, keepdim=True)
    doubt = temperature * (1 - logits.detach().softmax(dim=1).gather(1, chosen))
    raised = rival_logit + (doubt if form == "published" else doubt * rival_logit)
    return softplus(raised - true_logit).mean()
