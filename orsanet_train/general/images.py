"""The task of Table 8: GFNet or CrossViT on CIFAR-10's pictures, at the recipe's size.

order of an epoch ─ batches ─▶ augmented (augment.py) ─▶ mixed ─▶ images [B, 3, H, W] and both labels
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from orsanet_cache.errors import OrsanetError, did_you_mean
from orsanet_train.general.arms import Labels
from orsanet_train.general.augment import Published, check_timm, crop_flip, fitted, for_test, mix
from orsanet_train.general.cifar import Pictures
from orsanet_train.general.gfnet import VARIANTS as GFNETS
from orsanet_train.general.gfnet import GFNet
from orsanet_train.general.recipes import ImageRecipe, Network
from orsanet_train.general.training import order_of

# CrossViT's variants: its authors' names and timm's, which have the size of the larger branch.
CROSSVITS = {
    "crossvit-tiny": "crossvit_tiny_240",
    "crossvit-small": "crossvit_small_240",
    "crossvit-base": "crossvit_base_240",
    "crossvit-9": "crossvit_9_240",
    "crossvit-9-dagger": "crossvit_9_dagger_240",
    "crossvit-15": "crossvit_15_240",
    "crossvit-15-dagger": "crossvit_15_dagger_240",
    "crossvit-18": "crossvit_18_240",
    "crossvit-18-dagger": "crossvit_18_dagger_240",
}
TESTED = 256  # pictures at a time
REPEATED = 256  # an epoch of repeated augmentation has a multiple of so many pictures, as published
AUGMENT, MIX = 1, 2  # what a draw is for
MOST_WORKERS = 16


def build_network(recipe: ImageRecipe, network: Network, classes: int) -> nn.Module:
    """The recipe's variant with random weights.

    Raises OrsanetError for a variant that the network does not have, for sizes that it cannot have,
    and if CrossViT is wanted without timm.
    """
    variants = GFNETS if network == "gfnet" else CROSSVITS
    if recipe.variant not in variants:
        raise OrsanetError(
            f"variant = {recipe.variant}: no size of {network}; choose from {', '.join(variants)}"
            f"{did_you_mean(recipe.variant, variants)}"
        )
    if network == "gfnet":
        return GFNet(GFNETS[recipe.variant], classes, recipe.image_size, recipe.patch_size, recipe.drop_path)
    if recipe.patch_size is not None:
        raise OrsanetError("patch_size: CrossViT's two branches have their own patches; leave it out")
    check_timm("CrossViT")
    import timm

    rate = recipe.drop_path or 0.0
    return timm.create_model(CROSSVITS[recipe.variant], num_classes=classes, drop_path_rate=rate)


class ImageTask:
    """Pictures and a recipe, for training.py.

    Args:
        pictures: of cifar.py.
        network: gfnet or crossvit.
        recipe: its settings.
        device: where the pictures are kept and mixed.
        workers: processes that augment as published; None: the cores for a GPU, none for a CPU.
    """

    unit = "img"

    def __init__(
        self, pictures: Pictures, network: Network, recipe: ImageRecipe, device: torch.device, workers: int | None = None
    ) -> None:  # fmt: skip
        if len(pictures.train) < recipe.batch_size:
            raise OrsanetError(
                f"batch_size = {recipe.batch_size}: there are {len(pictures.train):,} training pictures; use a smaller batch"
            )
        if recipe.augmentation == "published":
            check_timm('augmentation = "published"')
        self.recipe, self.kind, self.device, self.pictures = recipe, network, device, pictures
        self.workers = workers if workers is not None else _workers(device)
        self.classes = pictures.classes
        self.measures = ("top1", "top5") if len(self.classes) > 5 else ("top1",)
        self.test_labels = pictures.test_labels
        self.train = torch.from_numpy(pictures.train).to(device)
        self.labels = torch.from_numpy(pictures.train_labels).to(device)
        self.test = torch.from_numpy(pictures.test).to(device)
        self.identity: dict[str, Any] = {
            "network": network,
            "data": ["CIFAR-10" if pictures.published else "pictures of `dare demo-data`, not CIFAR-10"],
            "data_sha256": pictures.sha256(),
            "training_class_counts": {
                name: int((pictures.train_labels == label).sum()) for label, name in enumerate(self.classes)
            },
        }

    def network(self) -> nn.Module:
        return build_network(self.recipe, self.kind, len(self.classes))

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW without decay of vectors, positions and class tokens, as timm groups them."""
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            token = name.startswith(("position", "pos_embed", "cls_token"))
            (plain if parameter.ndim < 2 or token else decayed).append(parameter)
        groups = [{"params": decayed, "weight_decay": self.recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.recipe.scaled_rate)

    def epoch(self, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        order, size = order_of(len(self.labels), seed, epoch), self.recipe.batch_size
        if self.recipe.repeats > 1:
            whole = len(order) // REPEATED * REPEATED or len(order)
            order = order.repeat(self.recipe.repeats)[:whole]
        return [order[start : start + size] for start in range(0, len(order) - size + 1, size)]

    def batches(
        self, seed: int, epoch: int, steps: list[NDArray[np.int64]], done: int
    ) -> Iterator[tuple[Tensor, Labels]]:
        for step, (images, labels) in enumerate(self._augmented(seed, epoch, steps, done), done):
            yield mix(images, labels, self.recipe, np.random.default_rng([seed, epoch, step, MIX]))

    def _augmented(
        self, seed: int, epoch: int, steps: list[NDArray[np.int64]], done: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        recipe = self.recipe
        if recipe.augmentation == "published":
            yield from self._published(seed, epoch, steps, done)
            return
        for step, positions in enumerate(steps[done:], done):
            chosen = torch.from_numpy(positions).to(self.device)
            pictures = self.train[chosen]
            if recipe.augmentation == "crop-flip":
                pictures = crop_flip(pictures, np.random.default_rng([seed, epoch, step, AUGMENT]))
            yield fitted(pictures, recipe.image_size), self.labels[chosen]

    def _published(
        self, seed: int, epoch: int, steps: list[NDArray[np.int64]], done: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        dataset = Published(
            self.pictures.train, self.pictures.train_labels, np.concatenate(steps), (seed, epoch), self.recipe
        )
        size = self.recipe.batch_size
        positions = [list(range(step * size, (step + 1) * size)) for step in range(done, len(steps))]
        loader = DataLoader(
            dataset, batch_sampler=positions, num_workers=self.workers, pin_memory=self.device.type == "cuda"
        )  # fmt: skip
        for images, labels in loader:
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def test_batches(self) -> Iterator[Tensor]:
        size = self.recipe.image_size
        for start in range(0, len(self.test), TESTED):
            yield for_test(self.test[start : start + TESTED], size)


def _workers(device: torch.device) -> int:
    """The network needs a CPU's cores itself."""
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS) if device.type == "cuda" else 0
