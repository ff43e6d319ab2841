"""The recipes: every setting of a training but its loss and seed, with the sources' own values as defaults.

SpectralFormer's are the four commands of its README, by scene and input. GFNet's and CrossViT's are
those of their training scripts; what these leave open for CIFAR-10 is named in docs/dareloss.md.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from orsanet_cache.errors import OrsanetError, listed, validation_findings
from orsanet_train.config import BatchSize, Probability, Weight, set_key
from orsanet_train.general.arms import DareLabels
from orsanet_train.general.spectralformer import Fusion
from orsanet_train.model_config import Strict

Odd = Annotated[int, Field(ge=1, le=101)]
Rate = Annotated[float, Field(gt=0, le=100)]
Some = Annotated[int, Field(ge=1, le=1_000_000)]

Scene = Literal["indian-pines", "pavia-university"]
Input = Literal["pixel", "patch"]
Network = Literal["gfnet", "crossvit"]


class SpectralRecipe(Strict):
    """SpectralFormer's training."""

    fusion: Fusion = "caf"
    """caf: the paper's fusion across layers. vit: without it, the published script's default."""
    patch: Odd = 1
    """Pixels of a side of the square whose spectra are one sample; 1: the pixel alone."""
    group: Odd = 3
    """Neighbouring bands in one token."""
    epochs: Some = 300
    """Epochs of the training; the learning rate's schedule is of this length."""
    batch_size: BatchSize = 64
    """Samples of a step; the last step of an epoch takes what is left."""
    learning_rate: Rate = 5e-4
    """Of Adam at the start; times 0.9 ten times in the training."""
    weight_decay: Weight = 0.0
    """Of Adam, as an L2 penalty in the gradient."""
    dropout: Probability = 0.1
    """After position, attention and MLP."""
    test_every: Some = 5
    """Epochs between tests; the last epoch is always tested."""

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0. The published schedule steps before the epoch."""
        return self.learning_rate * 0.9 ** ((epoch + 1) // max(1, self.epochs // 10))


class ImageRecipe(Strict):
    """GFNet's and CrossViT's training."""

    variant: str
    """The network's size, as its authors name it."""
    image_size: Annotated[int, Field(ge=8, le=1024)]
    """Pixels of a side; CIFAR-10's 32 are enlarged to it."""
    patch_size: Annotated[int, Field(ge=1, le=64)] | None = None
    """Pixels of a token's side, of GFNet alone; left out: the published 16, in a pyramid 4."""
    epochs: Some = 300
    """Epochs of the training; the learning rate's schedule is of this length."""
    batch_size: Annotated[BatchSize, Field(ge=2)] = 64
    """Images of a step. An incomplete last step is left out, as in both scripts."""
    learning_rate: Rate = 5e-4
    """Of AdamW for 512 images in a step; it is scaled to batch_size."""
    least_learning_rate: Weight = 1e-5
    """At the end of the cosine."""
    warmup_learning_rate: Weight = 1e-6
    """At the start; it rises linearly in the warm-up."""
    warmup_epochs: Annotated[int, Field(ge=0, le=1_000_000)] = 5
    """Epochs of the warm-up."""
    weight_decay: Weight = 0.05
    """Of AdamW; not of biases, norms, positions and class tokens."""
    clip: Weight = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Label smoothing of the cross-entropy."""
    mixup: Weight = 0.8
    """alpha of mixup's Beta distribution; 0: none."""
    cutmix: Weight = 1.0
    """alpha of cutmix's Beta distribution; 0: none. With both, each batch has one of them."""
    dare_labels: DareLabels = "mixed"
    """Which label DARELoss takes where labels are mixed: mixed: both by their shares. strongest: the larger share's."""
    augmentation: Literal["published", "crop-flip", "none"] = "published"
    """published: resized crops, flips, RandAugment and erasing, through timm. crop-flip: at CIFAR's size, padded by 4."""
    erasing: Probability = 0.0
    """How often a rectangle is replaced by noise, with the published augmentation."""
    repeats: Annotated[int, Field(ge=1, le=16)] = 1
    """How often an image occurs in an epoch, augmented anew; the epoch has fewer different images then."""
    drop_path: Probability | None = None
    """Rate of the last block; left out: the variant's own."""
    precision: Literal["amp", "float32"] = "amp"
    """amp: on a GPU products in float16 with loss scaling, as published; on a CPU both are float32."""
    test_every: Some = 1
    """Epochs between tests; the last epoch is always tested."""

    @property
    def scaled_rate(self) -> float:
        """The highest learning rate for this batch size."""
        return self.learning_rate * self.batch_size / 512

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0: a linear warm-up, then the cosine over all epochs."""
        import math

        if epoch < self.warmup_epochs:
            return self.warmup_learning_rate + epoch / self.warmup_epochs * (
                self.scaled_rate - self.warmup_learning_rate
            )
        turned = 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return self.least_learning_rate + turned * (self.scaled_rate - self.least_learning_rate)


# README of SpectralFormer: patch, group, epochs, weight decay.
SPECTRAL: dict[tuple[Scene, Input], SpectralRecipe] = {
    ("indian-pines", "pixel"): SpectralRecipe(patch=1, group=3, epochs=290, weight_decay=0.0),
    ("indian-pines", "patch"): SpectralRecipe(patch=7, group=3, epochs=300, weight_decay=5e-3),
    ("pavia-university", "pixel"): SpectralRecipe(patch=1, group=3, epochs=500, weight_decay=5e-3),
    ("pavia-university", "patch"): SpectralRecipe(patch=7, group=7, epochs=480, weight_decay=5e-3),
}
IMAGES: dict[Network, ImageRecipe] = {
    "gfnet": ImageRecipe(variant="gfnet-ti", image_size=224),
    "crossvit": ImageRecipe(variant="crossvit-small", image_size=240, clip=0.0, erasing=0.25, repeats=3, drop_path=0.1),
}

Recipe = TypeVar("Recipe", SpectralRecipe, ImageRecipe)


def changed(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with `key=value` settings.

    Raises OrsanetError that lists every unknown key and wrong value.
    """
    values = recipe.model_dump()
    for override in overrides:
        set_key(values, override)
    try:
        return type(recipe).model_validate(values)
    except ValidationError as error:
        raise OrsanetError(f"--set:\n{listed(validation_findings(error, type(recipe)))}") from error
