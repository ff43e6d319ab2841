"""How image files are read is part of a store: it is stated, kept by every further build, and followed by repair and reuse."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from encoded_pictures import encoded, orientation, picture
from PIL import Image
from small_store import CPU, Remembering
from torchvision.datasets.folder import pil_loader

from orsanet_cache import Manifest, OrsanetError, PriorStore, Sample
from orsanet_cache.builder.build import build
from orsanet_cache.builder.repair import repair
from orsanet_cache.cli import main
from orsanet_cache.data.images import image_reading
from orsanet_cache.store.verify import verify

NAMES = ("turned", "transparent", "deep")


@dataclass(frozen=True)
class Awkward:
    """Three pictures that the two readings see differently, and a store of them as the published loader reads them."""

    manifest: Manifest
    table: Path  # the same as a .csv
    store: Path

    def expected(self, name: str) -> np.ndarray:
        """The backbone's picture [112, 112, 3] by torchvision's loader."""
        loaded = pil_loader(str(self.manifest.root / f"{name}.img.png"))
        return np.asarray(loaded.resize((224, 224), Image.Resampling.BILINEAR))[::2, ::2]


@pytest.fixture(scope="module")
def awkward(priors: Remembering, tmp_path_factory: pytest.TempPathFactory) -> Awkward:
    folder = tmp_path_factory.mktemp("awkward")
    plain = Image.fromarray(picture(height=64, width=48))
    alpha = Image.fromarray((np.arange(64 * 48).reshape(64, 48) % 256).astype(np.uint8))
    deep = Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 2)
    transparent = plain.copy()
    transparent.putalpha(alpha)
    for name, data in zip(
        NAMES,
        (encoded(plain, "PNG", exif=orientation(6)), encoded(transparent, "PNG"), encoded(deep, "PNG")),
        strict=True,
    ):
        (folder / f"{name}.img.png").write_bytes(data)
    samples = tuple(Sample(f"{name}.img.png", 0, "test", frozenset()) for name in NAMES)
    table = folder / "awkward.csv"
    table.write_text("image,label,split\n" + "".join(f"{one.image},a,test\n" for one in samples), encoding="utf-8")
    made = Awkward(Manifest("awkward", ("a", "b"), folder, samples), table, folder / "published.zarr")
    build(made.manifest, made.store, priors, ["clean"], device=CPU, image_reading="published")
    return made


def test_the_store_has_the_pixels_of_the_published_loader_and_says_so(awkward: Awkward) -> None:
    store = PriorStore.open(awkward.store)
    assert image_reading(store.recipe) == "published"
    for row, name in enumerate(NAMES):
        assert np.array_equal(store.read("test", "clean", "image", [row])[0], awkward.expected(name)), name


def test_a_further_build_keeps_the_reading_and_refuses_another(awkward: Awkward, priors: Remembering) -> None:
    build(awkward.manifest, awkward.store, priors, ["clean", "hflip"], device=CPU)
    assert PriorStore.open(awkward.store).views("test") == ("clean", "hflip")
    with pytest.raises(OrsanetError, match="orientation"):
        build(awkward.manifest, awkward.store, priors, ["clean"], device=CPU, image_reading="upright")


def test_a_build_that_reuses_rows_follows_the_other_store(
    awkward: Awkward, priors: Remembering, tmp_path: Path
) -> None:
    summary = build(awkward.manifest, tmp_path / "new", priors, ["clean"], device=CPU, reuse=awkward.store)
    assert (summary.reused, summary.computed) == (len(NAMES), 0)
    with pytest.raises(OrsanetError, match="another recipe"):
        build(
            awkward.manifest, tmp_path / "upright", priors, ["clean"],
            device=CPU, reuse=awkward.store, image_reading="upright",
        )  # fmt: skip


def test_the_command_builds_it_and_repair_follows_it(awkward: Awkward, world, tmp_path: Path) -> None:
    out = tmp_path / "store"
    networks = ["--segmenter", world.segmenter, "--landmarks", world.landmarks]
    arguments = [
        "build", awkward.table, "--root", awkward.manifest.root, "--classes", "a,b", "--out", out, *networks,
        "--views", "clean", "--device", "cpu", "--image-reading", "published",
    ]  # fmt: skip
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    before = PriorStore.open(out).sealed("test", "clean").seal
    shard = out / "test" / "clean" / "image" / "c.0.0.0.0"
    damaged = bytearray(shard.read_bytes())
    damaged[10] ^= 255
    shard.write_bytes(damaged)
    damage = verify(out)[1]
    assert repair(out, damage, awkward.manifest, world.segmenter, world.landmarks, CPU) == len(NAMES)
    assert verify(out)[1] == []
    assert PriorStore.open(out).sealed("test", "clean").seal == before
