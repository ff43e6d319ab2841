"""What happens to training pictures before the network: crops and colours, then mixing.

    published      timm's transform: a resized crop, a flip, RandAugment (rand-m9-mstd0.5-inc1), erasing; on the host, picture by picture
    crop-flip      a crop of CIFAR's picture padded by 4 pixels, and a flip; then enlarged; on the device, batch by batch
    mixup, cutmix  a batch and itself in reverse order; one share for the whole batch

Every draw follows from (seed, epoch, step or position), so a resumed training draws what an
uninterrupted one does.

Shapes: B = batch.
"""

import random
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import InterpolationMode, center_crop, resize

from orsanet_cache.errors import OrsanetError
from orsanet_train.general.arms import Labels, whole
from orsanet_train.general.recipes import ImageRecipe
from orsanet_train.general.training import seed_of

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as in both scripts
PADDING = 4
RANDOM = "rand-m9-mstd0.5-inc1"
NO_TIMM = "needs timm; in the clone of the project: pip install '.[general]'"


def check_timm(what: str) -> None:
    """Raises OrsanetError unless timm is installed."""
    if find_spec("timm") is None:
        raise OrsanetError(f"{what} {NO_TIMM}")


def normalised(pictures: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] with ImageNet's mean and deviation."""
    mean, deviation = (torch.tensor(values, device=pictures.device)[:, None, None] for values in (MEAN, DEVIATION))
    return (pictures.movedim(3, 1).float() / 255 - mean) / deviation


def for_test(pictures: Tensor, size: int) -> Tensor:
    """uint8 [B, S, S, 3] -> normalised float32 [B, 3, size, size]: enlarged by 256/224 more than to
    that size, then cropped; not at their own size.
    """
    if size > pictures.shape[1]:
        planes = resize(pictures.movedim(3, 1), [size * 256 // 224], InterpolationMode.BICUBIC, antialias=True)
        pictures = center_crop(planes, [size]).movedim(1, 3)
    return normalised(pictures)


def fitted(pictures: Tensor, size: int) -> Tensor:
    """uint8 [B, S, S, 3] -> normalised float32 [B, 3, size, size], enlarged and not cropped."""
    if size != pictures.shape[1]:
        planes = resize(pictures.movedim(3, 1), [size, size], InterpolationMode.BICUBIC, antialias=True)
        pictures = planes.movedim(1, 3)
    return normalised(pictures)


def crop_flip(pictures: Tensor, generator: np.random.Generator) -> Tensor:
    """uint8 [B, S, S, 3] -> the same shape: each picture moved by up to 4 pixels, edges black, and mirrored at random."""
    count, side = len(pictures), pictures.shape[1]
    padded = torch.nn.functional.pad(pictures, (0, 0, PADDING, PADDING, PADDING, PADDING))
    down, across = torch.from_numpy(generator.integers(0, 2 * PADDING + 1, (2, count))).to(pictures.device)
    mirrored = torch.from_numpy(generator.random(count) < 0.5).to(pictures.device)
    steps = torch.arange(side, device=pictures.device)
    columns = torch.where(mirrored[:, None], steps.flip(0), steps)
    picture = torch.arange(count, device=pictures.device)[:, None, None]
    return padded[picture, (down[:, None] + steps)[:, :, None], (across[:, None] + columns)[:, None, :]]


def mix(images: Tensor, labels: Tensor, recipe: ImageRecipe, generator: np.random.Generator) -> tuple[Tensor, Labels]:
    """Mixup or cutmix of a batch with itself in reverse order.

    Images [B, 3, H, W] and labels int64 [B] -> mixed images, and both labels with the share of the
    first. With both methods in the recipe each batch has one of them, equally often.
    """
    by_cutting = recipe.cutmix > 0 and (not recipe.mixup or generator.random() < 0.5)
    alpha = recipe.cutmix if by_cutting else recipe.mixup
    if not alpha:
        return images, whole(labels)
    share = float(generator.beta(alpha, alpha))
    others = images.flip(0)
    if by_cutting:
        height, width = images.shape[2:]
        top, bottom, left, right = _rectangle(height, width, share, generator)
        images = images.clone()
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)  # of the pixels, at the edge more than drawn
    else:
        images = share * images + (1 - share) * others
    return images, Labels(labels, labels.flip(0), share)


def _rectangle(height: int, width: int, share: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """A rectangle of 1 - share of the area around a random point, without what is outside the image."""
    tall, wide = (int(side * np.sqrt(1 - share)) for side in (height, width))
    y, x = int(generator.integers(height)), int(generator.integers(width))
    return (
        max(0, y - tall // 2), min(height, y - tall // 2 + tall), max(0, x - wide // 2), min(width, x - wide // 2 + wide)
    )  # fmt: skip


class Published(Dataset[tuple[Tensor, int]]):
    """Pictures as the published scripts augment them, one for each position of an epoch.

    Args:
        pictures: uint8 [N, 32, 32, 3].
        labels: int64 [N].
        order: the picture at each position, int64.
        address: (seed, epoch).
        recipe: its image_size and erasing.
    """

    def __init__(
        self, pictures: NDArray[np.uint8], labels: NDArray[np.int64], order: NDArray[np.int64], address: tuple[int, int],
        recipe: ImageRecipe,
    ) -> None:  # fmt: skip
        self.pictures, self.labels, self.order, self.address = pictures, labels, order, address
        self.transform = published_transform(recipe, pictures.shape[1])

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        seed = seed_of(*self.address, position)
        random.seed(seed)  # timm draws from all three
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        sample = int(self.order[position])
        return self.transform(Image.fromarray(self.pictures[sample])), int(self.labels[sample])


def published_transform(recipe: ImageRecipe, side: int) -> Any:
    """timm's transform of both scripts: a PIL picture -> a normalised tensor [3, image_size, image_size].

    At the pictures' own size the crop is one of the padded picture instead of a resized part.
    """
    check_timm('augmentation = "published"')
    from timm.data.transforms_factory import create_transform
    from torchvision.transforms import RandomCrop

    transform = create_transform(
        input_size=recipe.image_size, is_training=True, color_jitter=0.4, auto_augment=RANDOM, interpolation="bicubic",
        re_prob=recipe.erasing, re_mode="pixel", re_count=1, mean=MEAN, std=DEVIATION,
    )  # fmt: skip
    if recipe.image_size <= side:
        transform.transforms[0] = RandomCrop(recipe.image_size, padding=PADDING)
    return transform
