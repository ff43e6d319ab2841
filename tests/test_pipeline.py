"""Cached equals online: logits from a store are the logits of running the frozen networks directly, for any weights."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from small_store import Remembering

from orsanet_cache import FrozenPriors, PriorStore, load_manifest
from orsanet_cache.builder.build import build
from orsanet_cache.data.images import read_image, view_pixels
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.split import join
from orsanet_train.model.model import build_model
from orsanet_train.model.orsanet import ORSANet
from orsanet_train.model_config import ORSANetConfig

CPU = torch.device("cpu")
# Relative to the largest logit. float32: the same numbers, batched otherwise. float16: features are kept to 2^-11, 5e-4 relative
# at worst, and the model is Lipschitz enough that its logits move no more. int8: at most 7/440 of the features' norm (half a step of
# max/127 where the RMS of a 7x7 channel is at least max/7), and the same of the model.
TOLERANCE = {"float32": 1e-5, "float16": 1e-3, "int8": 7 / 440}


PUBLISHED, SMALL = "published sizes, filler weights", "small, random weights"
# What a store makes of features does not depend on their networks' sizes: all combinations with the small ones are enough.
CASES = [
    *((PUBLISHED, dtype, view) for dtype, view in (("float32", "clean"), ("float16", "hflip"), ("int8", "clean"))),
    *((SMALL, dtype, view) for dtype in TOLERANCE for view in ("clean", "hflip")),
]


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[Remembering, ORSANet]]:
    """Networks by the names of their sizes: pytest would make those of a parameter anew for every case."""
    return {}


@pytest.fixture
def networks(request: pytest.FixtureRequest, world, made) -> tuple[Remembering, ORSANet]:
    """(frozen networks, which see a batch once, and trainable model) with seeded weights, in evaluation mode."""
    if request.param not in made:
        filler = None if request.param == SMALL else request.getfixturevalue("filler")
        frozen, model = new_networks(world, filler)
        made[request.param] = Remembering(frozen), model
    return made[request.param]


def new_networks(world, filler: ModuleType | None) -> tuple[FrozenPriors, ORSANet]:
    if filler is None:
        torch.manual_seed(3)
        return world.load_priors(), build_model(ORSANetConfig(depth=2, width=64), 3, 128, 512).eval()

    def filled(network, prefix):
        names = filler.fill({prefix + name: value for name, value in network.state_dict().items()}, salt=1)
        network.load_state_dict({name.removeprefix(prefix): value for name, value in names.items()})
        return network.eval()

    segmenter = filled(SegFace(SegFaceConfig()), "face_segment.")
    landmark_network = filled(MobileFaceNet(), "face_landback.")
    model = filled(build_model(ORSANetConfig(depth=4), 3), "")
    return FrozenPriors(segmenter, landmark_network, "published"), model


@pytest.mark.parametrize(("networks", "feature_dtype", "view"), CASES, indirect=["networks"])
def test_cached_equals_online(networks, tmp_path: Path, feature_dtype: str, view: str) -> None:
    priors, model = networks
    rng = np.random.default_rng(0)
    lines = ["image,label,split"]
    for index in range(4):
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((100, 120), Image.Resampling.BICUBIC).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{'abc'[index % 3]},test")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    manifest = load_manifest(tmp_path / "m.csv", tmp_path, ["a", "b", "c"])

    pixels = torch.from_numpy(
        np.stack([view_pixels(read_image(tmp_path / s.image).rgb, view) for s in manifest.samples])
    )
    said = priors(pixels)
    image = imagenet_normalised(unit_range(pixels))[..., ::2, ::2]
    with torch.no_grad():
        online = model(image, said.segmentation_features, said.landmark_features).logits

    build(manifest, tmp_path / "store.zarr", priors, [view], device=CPU, feature_dtype=feature_dtype, batch_size=3)
    store = PriorStore.open(tmp_path / "store.zarr")
    feed = Feed(store, join(manifest, store, "test", [view]), ORSANetConfig(), CPU)
    with torch.no_grad():
        cached = torch.cat(
            [model(batch.inputs[0], batch.inputs[1], batch.inputs[2]).logits for batch in feed.in_order(2, view)]
        )
    difference = float((cached - online).abs().max() / online.abs().max())
    assert difference <= TOLERANCE[feature_dtype]
