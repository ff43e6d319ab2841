"""Features are rounded as promised, and come back from a store exactly as they are rounded without one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orsanet_cache import PriorStore, read_image, view_pixels
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.features import as_stored, quantised


@settings(max_examples=30, deadline=None)
@given(exponent=st.integers(-60, 60), seed=st.integers(0, 2**32 - 1))
def test_int8_is_off_by_at_most_half_a_step(exponent: int, seed: int) -> None:
    features = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    features[0, 1] = 0  # a dead channel
    values, steps = quantised(features)
    assert values.dtype == torch.int8
    assert values.abs().amax(dim=(2, 3)).tolist() == [[127, 0, 127], [127, 127, 127]]
    error = (values.float() * steps[:, :, None, None] - features).abs()
    # half a step, and the rounding of the float32 division: 127 steps of 2**-23 relative
    assert (error <= steps[:, :, None, None] * (0.5 + 127 * 2**-22)).all()


@pytest.mark.parametrize("feature_dtype", ["float32", "float16", "int8"])
def test_features_as_stored_are_to_the_last_bit_what_a_store_gives_back(
    world, tmp_path: Path, feature_dtype: str
) -> None:
    frozen, manifest = world.load_priors(), world.load_manifest()
    build(
        manifest, tmp_path / "store", frozen, ["clean"], device=torch.device("cpu"), splits=["test"],
        feature_dtype=feature_dtype, batch_size=8,
    )  # fmt: skip
    store = PriorStore.open(tmp_path / "store")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the build computes
    pixels = np.stack([_pixels(manifest.root / sample.image) for sample in manifest.split("test")])
    priors = frozen(torch.from_numpy(pixels))
    torch.set_num_threads(threads)
    for name in ("segmentation_features", "landmark_features"):
        kept = store.read("test", "clean", name, slice(None))
        given_back = kept.astype(np.float32)
        if feature_dtype == "int8":
            scale = store.read("test", "clean", f"{name}_scale", slice(None))
            steps, our_scale = quantised(getattr(priors, name))
            assert np.array_equal(steps.numpy(), kept)
            assert np.array_equal(our_scale.numpy(), scale)
            given_back *= scale[..., None, None]
        assert np.array_equal(as_stored(getattr(priors, name), feature_dtype).numpy(), given_back)


def test_a_channel_of_zeros_stays_one() -> None:
    features = torch.zeros(1, 2, 7, 7)
    features[0, 1, 3, 3] = -5
    assert torch.equal(as_stored(features, "int8"), features)


def _pixels(path: Path) -> np.ndarray:
    return view_pixels(read_image(path).rgb, "clean")
