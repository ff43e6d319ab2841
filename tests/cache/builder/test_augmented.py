"""A store of augmented views is built, predicted, verified, converted, repaired, continued and reused as any other."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_lines import in_process

from orsanet_cache import FrozenPriors, PriorStore, read_image
from orsanet_cache.builder.build import build
from orsanet_cache.builder.disk import bytes_needed
from orsanet_cache.cli import main
from orsanet_cache.data.augmentation import augmentations
from orsanet_cache.data.images import ERASED_COLOUR, every_second_pixel, view_pixels
from orsanet_cache.data.views import view_names
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.store.schema import schema
from orsanet_cache.store.verify import verify
from orsanet_cache.writing.convert import convert

CPU = torch.device("cpu")
VIEWS = view_names(["augmented-3"])


@pytest.fixture(scope="module")
def built(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three draws of each training picture; features as the networks compute them. Treat it as read-only."""
    out = tmp_path_factory.mktemp("augmented") / "store.zarr"
    splits = ["train"]
    build(
        world.load_manifest(), out, world.load_priors(), ["augmented-3"],
        device=CPU, splits=splits, feature_dtype="float32", rows_per_unit=5,
    )  # fmt: skip
    return out


def images_and_digests(world: Any) -> tuple[list[Any], np.ndarray]:
    decoded = [read_image(world.folder / sample.image) for sample in world.load_manifest().split("train")]
    digests = np.frombuffer(bytes.fromhex("".join(one.sha256 for one in decoded)), np.uint8).reshape(-1, 32)
    return decoded, digests


def test_a_store_has_the_named_draws(built: Path) -> None:
    assert PriorStore.open(built).views("train") == VIEWS == ("augmented", "augmented-seed1", "augmented-seed2")


@pytest.mark.parametrize("number", range(3))
def test_priors_are_those_of_the_flipped_picture_with_zeros_in_the_normalised_rectangle(
    world: Any, built: Path, number: int
) -> None:
    """As published: flip, resize, normalise, and then erase. No picture of whole levels has these zeros."""
    store, priors = PriorStore.open(built), world.load_priors()
    decoded, digests = images_and_digests(world)
    flipped, rectangles = augmentations(digests, number, 224)
    assert 0 < (rectangles[:, 2] > 0).sum() < len(decoded)
    pixels = np.stack(
        [view_pixels(one.rgb, "hflip" if mirrored else "clean") for one, mirrored in zip(decoded, flipped, strict=True)]
    )
    normalised = imagenet_normalised(unit_range(torch.from_numpy(pixels)))
    for row, (top, left, height, width) in enumerate(rectangles.tolist()):
        normalised[row, :, top : top + height, left : left + width] = 0
        pixels[row, top : top + height, left : left + width] = ERASED_COLOUR
    with torch.no_grad():
        segmentation = priors.segmenter.encode(normalised)[-1].movedim(-1, 1).numpy()
        landmarks = priors.landmark_network(normalised[..., ::2, ::2])[0].numpy()
    view, rows = VIEWS[number], np.arange(len(decoded))
    for name, expected in (("segmentation_features", segmentation), ("landmark_features", landmarks)):
        # Sums over batches of another size may differ in the last bits.
        np.testing.assert_allclose(store.read("train", view, name, rows), expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(store.read("train", view, "image", rows), every_second_pixel(pixels))


def test_the_native_input_of_the_landmark_network_is_erased_before_its_mean(world: Any) -> None:
    """The mean of 2x2 pixels at the edge of a rectangle has both."""
    priors = FrozenPriors.load(world.segmenter, world.landmarks, "native")
    pixels = torch.full((1, 224, 224, 3), 200, dtype=torch.uint8)
    rectangle = torch.tensor([[3, 5, 51, 31]])
    unit = unit_range(pixels)
    unit[:, :, 3:54, 5:36] = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    with torch.no_grad():
        expected, _ = priors.landmark_network(torch.nn.functional.avg_pool2d(unit, 2))
    assert torch.equal(priors(pixels, rectangle).landmark_features, expected)
    assert not torch.equal(priors(pixels).landmark_features, expected)


def test_the_disk_is_predicted(world: Any, built: Path) -> None:
    """K draws are predicted, and take, K times a view; small units and their records add some kilobytes."""
    priors = world.load_priors()
    fields = schema(priors.segmenter.feature_channels, priors.landmark_network.feature_channels, "float32")
    images = len(world.load_manifest().split("train"))
    predicted = bytes_needed(len(VIEWS) * images, fields)
    assert predicted == len(VIEWS) * bytes_needed(images, fields)
    maps = len(VIEWS) * images * 224 * 224  # of noise here; of faces they take a fortieth
    actual = PriorStore.open(built).nbytes()
    assert predicted - maps / 4 < actual < predicted + maps + 256 * 1024


def test_more_draws_later_compute_only_those(world: Any, built: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(built, tmp_path / "store.zarr"))
    before = {view: PriorStore.open(out).sealed("train", view).seal for view in VIEWS}
    computed = build(
        world.load_manifest(), out, world.load_priors(), ["augmented-4"],
        device=CPU, splits=["train"], feature_dtype="float32",
    ).computed  # fmt: skip
    assert computed == len(world.load_manifest().split("train"))
    store = PriorStore.open(out)
    assert store.views("train") == view_names(["augmented-4"])
    assert {view: store.sealed("train", view).seal for view in VIEWS} == before


def test_verified_converted_and_back_it_is_the_same_store(built: Path, tmp_path: Path) -> None:
    assert verify(built, True)[1] == []
    convert(built, tmp_path / "store.h5")
    convert(tmp_path / "store.h5", tmp_path / "again.zarr")
    for path in (tmp_path / "store.h5", tmp_path / "again.zarr"):
        assert verify(path, True)[1] == []
        for view in VIEWS:
            assert PriorStore.open(path).sealed("train", view).seal == PriorStore.open(built).sealed("train", view).seal


def test_a_damaged_unit_is_computed_again_to_the_same_seal(world: Any, built: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(built, tmp_path / "store.zarr"))
    shard = next((out / "train" / "augmented-seed1" / "landmark_features").glob("c.1.*"))
    shard.write_bytes(os.urandom(shard.stat().st_size))
    arguments = ["verify", out, "--deep", "--repair", "--manifest", world.manifest]
    networks = ["--segmenter", world.segmenter, "--landmarks", world.landmarks, "--device", "cpu"]
    ran = in_process(main, *arguments, *networks)
    assert ran.returncode == 0, ran.stderr
    assert verify(out, True)[1] == []
    seals = [PriorStore.open(path).sealed("train", "augmented-seed1").seal for path in (out, built)]
    assert seals[0] == seals[1]


def test_rows_are_reused_by_their_picture(world: Any, built: Path, tmp_path: Path) -> None:
    summary = build(
        world.load_manifest(), tmp_path / "new.zarr", world.load_priors(), ["augmented-2"],
        device=CPU, splits=["train"], feature_dtype="float32", rows_per_unit=5, reuse=built,
    )  # fmt: skip
    assert (summary.computed, summary.reused) == (0, 28)
    new, old = PriorStore.open(tmp_path / "new.zarr"), PriorStore.open(built)
    assert [new.sealed("train", view).seal for view in VIEWS[:2]] == [
        old.sealed("train", view).seal for view in VIEWS[:2]
    ]


def test_the_command_names_the_draws_and_their_disk(world: Any, tmp_path: Path) -> None:
    networks = ["--segmenter", world.segmenter, "--landmarks", world.landmarks, "--device", "cpu"]
    ran = in_process(
        main, "build", world.manifest, "--out", tmp_path / "s.zarr", "--views", "clean, augmented-2", "--splits", "valid", *networks
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "views clean, augmented, augmented-seed1; cpu; about 0.00 GB on disk" in ran.stdout
    assert "computed 18 views" in ran.stdout
