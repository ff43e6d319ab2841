"""Attention of the backbone: Grad-CAM at IR50's last feature map, with and without semantic prior.

With A [C, 14, 14] an image's feature map and y the logit of its predicted class, the map is (Selvaraju et al. 2017, Eq. 1 and 2)

    relu(sum_c w_c A_c)        w_c = mean over positions of dy / dA_c

It is well defined although the published tokens re-view A: a position of A is a position of the
picture, independent of the layers after it.

Shapes: B images, C channels of the feature map.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from orsanet_train.model.model import ExpressionModel

BATCH = 16  # images at a time; limits the memory of the values kept for the gradient


class Attention(NamedTuple):
    """Each map is divided by its largest value; a map without a positive value is 0 everywhere."""

    with_prior: Tensor  # float32 [B, 14, 14] on the CPU, 0 … 1
    without_prior: Tensor | None  # the same; None: the model has no semantic guidance


def attention(model: ExpressionModel, *inputs: Tensor) -> Attention:
    """Grad-CAM of the class that the model predicts; inputs as for its forward, the image first, on any device.

    `without_prior` is the map of the same class and the same weights with the semantic guidance
    bypassed (`ExpressionModel.unguided`). It shows the effect of the prior in this model. It is not
    the attention of a model trained without the prior, with which the paper's Fig. 4 compares.
    The model runs in evaluation mode and its modes are restored. Each image's map is independent of
    the other images.
    """
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    try:
        model.eval()
        parts = [
            _attention(model, *(values.to(device) for values in batch))
            for batch in zip(*(x.split(BATCH) for x in inputs), strict=True)
        ]
    finally:
        for module, training in modes.items():
            module.training = training
    with_prior, without_prior = zip(*parts, strict=True)
    bypassed = None if without_prior[0] is None else torch.cat(without_prior)
    return Attention(torch.cat(with_prior), bypassed)


def _attention(model: ExpressionModel, image: Tensor, *priors: Tensor) -> tuple[Tensor, Tensor | None]:
    """Both maps of one batch."""
    with torch.no_grad():
        maps = model.maps(image)
    with torch.enable_grad():
        # The feature map is a leaf of the graph, so the backbone's parameters get no gradient.
        feature_map = maps[-1].requires_grad_()
        logits = model.from_maps(maps, *priors).logits
        predicted = logits.argmax(dim=1, keepdim=True)
        guided = grad_cam(feature_map, logits.gather(1, predicted))
        bypassed = model.unguided(maps, *priors)
        if bypassed is None:
            return guided, None
        return guided, grad_cam(feature_map, bypassed.logits.gather(1, predicted))


def grad_cam(feature_map: Tensor, logit: Tensor) -> Tensor:
    """Grad-CAM, float32 [B, H, W] on the CPU, 0 … 1.

    `feature_map` is [B, C, H, W]; `logit` [B, 1] is one logit per image, computed from it.
    """
    (gradient,) = torch.autograd.grad(logit.sum(), feature_map, retain_graph=True)
    with torch.no_grad():
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        cam = (weights * feature_map).sum(dim=1).relu()
        largest = cam.amax(dim=(1, 2), keepdim=True)
        return torch.where(largest > 0, cam / largest, 0).float().cpu()
