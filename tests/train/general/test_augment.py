"""Augmentation and mixing are what they are called, and the same again for the same address."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from orsanet_train.general.augment import MEAN, Published, crop_flip, fitted, for_test, mix, normalised
from orsanet_train.general.recipes import IMAGES, ImageRecipe, changed

PICTURES = np.random.default_rng(0).integers(1, 256, (6, 32, 32, 3)).astype(np.uint8)  # never black
LABELS = np.arange(6)


def recipe(*settings: str) -> ImageRecipe:
    return changed(IMAGES["gfnet"], settings)


def mixed(settings: ImageRecipe, seed: int):
    images = torch.arange(6.0)[:, None, None, None].expand(6, 3, 16, 16)
    return images, *mix(images, torch.from_numpy(LABELS), settings, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_shares_the_labels_as_the_pixels(seed: int) -> None:
    images, found, labels = mixed(recipe("mixup=0"), seed)
    other = found[0, 0] == images[5, 0]
    assert (1 - other.double().mean().item()) == pytest.approx(labels.share)
    assert torch.equal(found[0, 0], torch.where(other, images[5, 0], images[0, 0]))
    rows, columns = other.any(dim=1).nonzero(), other.any(dim=0).nonzero()
    assert other.sum() == len(rows) * len(columns)  # one rectangle
    assert labels.second.tolist() == labels.first.tolist()[::-1]


def test_mixup_is_the_shares_mean() -> None:
    images, found, labels = mixed(recipe("cutmix=0"), 3)
    assert 0 < labels.share < 1
    torch.testing.assert_close(found, labels.share * images + (1 - labels.share) * images.flip(0))


def test_each_batch_has_one_of_both_and_none_without_either() -> None:
    kinds = [len(mixed(recipe(), seed)[1][0].unique()) for seed in range(60)]
    assert 15 < sum(kind > 1 for kind in kinds) < 45  # cut: two values in a picture
    images, found, labels = mixed(recipe("mixup=0", "cutmix=0"), 0)
    assert torch.equal(found, images)
    assert labels.share == 1


def test_crop_flip_moves_by_up_to_four_pixels_and_mirrors_half() -> None:
    pictures = torch.from_numpy(PICTURES).repeat(40, 1, 1, 1)
    moved = crop_flip(pictures, np.random.default_rng(0))
    padded = torch.nn.functional.pad(pictures, (0, 0, 4, 4, 4, 4))
    parts = {
        (down, across): padded[:, down : down + 32, across : across + 32] for down in range(9) for across in range(9)
    }
    seen, mirrored = set(), 0
    for index, after in enumerate(moved):
        as_it_is = [place for place, part in parts.items() if torch.equal(after, part[index])]
        turned = [place for place, part in parts.items() if torch.equal(after, part[index].flip(1))]
        ((down, across),) = as_it_is + turned
        seen |= {("down", down), ("across", across)}
        mirrored += len(turned)
    assert len(seen) == 18
    assert 80 < mirrored < 160


def test_tests_see_the_whole_picture_at_its_own_size_and_its_middle_enlarged() -> None:
    pictures = torch.from_numpy(PICTURES)
    assert torch.equal(for_test(pictures, 32), normalised(pictures))
    enlarged = for_test(pictures, 224)
    assert enlarged.shape == (6, 3, 224, 224)
    # 256 pixels, of which 16 are cut off at each side: an eighth of a picture's pixel is 8 of them
    whole = fitted(pictures, 256)
    torch.testing.assert_close(enlarged, whole[:, :, 16:-16, 16:-16])
    grey = torch.full((1, 32, 32, 3), 128, dtype=torch.uint8)
    assert for_test(grey, 64)[0, 0, 0, 0].item() == pytest.approx((128 / 255 - MEAN[0]) / 0.229, rel=1e-5)


@pytest.mark.parametrize("size", [32, 48])
def test_published_pictures_follow_from_their_address_alone(size: int) -> None:
    def made(order: list[int], address: tuple[int, int]) -> Published:
        return Published(PICTURES, LABELS, np.array(order), address, recipe(f"image_size={size}", "erasing=0.5"))

    first, second = made([3, 3, 1], (0, 0)), made([0, 3, 2], (0, 0))
    _, (image, label) = first[2], first[1]
    assert (image.shape, label) == ((3, size, size), 3)
    assert torch.equal(second[1][0], image)  # whatever was drawn before, and what the others are
    assert not torch.equal(first[0][0], image)  # another position
    assert not torch.equal(made([3, 3, 1], (0, 1))[1][0], image)  # another epoch
    assert default_collate([first[0], first[1]])[1].tolist() == [3, 3]
