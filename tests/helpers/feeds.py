"""Feeds over the small world, the batches they give, and stores and manifests that are a little different."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from orsanet_cache import Manifest, PriorStore, load_manifest
from orsanet_cache.store.schema import schema
from orsanet_cache.store.units import UnitRecord
from orsanet_cache.store.writer import StoreWriter
from orsanet_train.config import ModelConfig, RunConfig
from orsanet_train.feed.feed import Feed, PriorBatch, join
from orsanet_train.feed.residence import Resident

CPU = torch.device("cpu")


def rewrite_manifest(source: Path, folder: Path, change: Callable[[list[str]], list[str]]) -> Manifest:
    """The manifest with other CSV lines (without the header); the images stay where they are and are not looked at."""
    shutil.copy(source, folder)
    header, *lines = (source.parent / "samples.csv").read_text(encoding="utf-8").splitlines()
    (folder / "samples.csv").write_text("\n".join([header, *change(lines)]) + "\n", encoding="utf-8")
    return load_manifest(folder / source.name, check_files=False)


@dataclass(frozen=True)
class Damaged:
    """A store of five images, with the clean view only and with both: image 1 was not readable, image 3 has no priors in hflip."""

    manifest: Manifest
    clean: Path
    both: Path


def write_store(path: Path, manifest: Manifest, rejected: Mapping[str, Sequence[str]]) -> Path:
    """A store of the manifest's images with arbitrary values: view -> the images rejected in it."""
    fields = schema(8, 512, "float16")
    rng = np.random.default_rng(0)
    with StoreWriter.open(path, {}, fields) as writer:
        for split in manifest.splits:
            writer.add_split(split, [sample.image for sample in manifest.split(split)])
            for view, images in rejected.items():
                writer.add_view(split, view)
                for unit in writer.units(split):
                    count = unit.stop - unit.start
                    arrays = {
                        field.name: rng.integers(0, 99, (count, *field.shape)).astype(field.dtype) for field in fields
                    }
                    record = UnitRecord(["00" * 32] * count, dict.fromkeys(images, "no image"))
                    writer.commit(unit, view, arrays, record)
                writer.seal(split, view, {})
    return path


MODES: tuple[Resident, ...] = ("stream", "host", "device")  # on a CPU the device's memory is the host's
PRIORS = ("features", "map")


def joined_feed(
    store: PriorStore, manifest: Manifest, resident: Resident, prior: str = "features", device: torch.device = CPU
) -> Feed:
    joined = join(manifest, store, "train", ["clean", "hflip"])
    return Feed(store, joined, ModelConfig.model_validate({"segmentation_prior": prior}), device, resident)


def drawn(feed: Feed) -> list[PriorBatch]:
    """An epoch with a short last batch, and both views in order, all kept until the last is drawn."""
    return [*feed.epoch(RunConfig(batch_size=4), 2), *feed.in_order(5), *feed.in_order(14, "hflip")]


def assert_same_batches(batches: Sequence[PriorBatch], others: Sequence[PriorBatch]) -> None:
    for batch, other in zip(batches, others, strict=True):
        for one, two in zip(batch, other, strict=True):
            assert one.dtype == two.dtype
            assert one.device == two.device
            assert one.stride() == two.stride()  # or a convolution may round otherwise
            assert torch.equal(one, two)
