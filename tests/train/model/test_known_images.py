"""A run knows its images by their digests, in any order, and no others."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from orsanet_train.model.known_images import KnownImages


def digests(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def test_the_images_of_a_run_are_counted_and_no_others() -> None:
    training, selection, others = digests(50, 0), digests(20, 1), digests(30, 2)
    known = KnownImages.of([training, training], [selection])
    mixed = np.concatenate([others, training[:7], selection[:3]])
    assert (known.trained(mixed).sum(), known.chose(mixed).sum()) == (7, 3)
    assert (known.trained(training).sum(), known.chose(training).sum()) == (50, 0)
    assert known.trained(digests(0, 0)).sum() == 0
    twice = np.concatenate([training[:2], training[:2]])
    assert known.trained(twice).sum() == 4  # every image of the group counts


def test_the_same_images_are_the_same_whatever_their_order() -> None:
    training, selection = digests(50, 0), digests(20, 1)
    known, again = KnownImages.of([training], [selection]), KnownImages.of([training[::-1]], [selection[::-1]])
    assert known == again
    assert known.sha256 == again.sha256
    assert known.sha256 != KnownImages.of([training[1:]], [selection]).sha256
    assert KnownImages.model_validate_json(known.model_dump_json()) == known


def test_they_take_eleven_characters_an_image() -> None:
    assert len(KnownImages.of([digests(3000, 0)], [digests(1, 1)]).training) <= 11 * 3000


@pytest.mark.parametrize("text", ["no base64!", "AAAA", "A"])
def test_a_damaged_header_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        KnownImages(training=text, selection="")
