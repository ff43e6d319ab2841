"""The stages overlap, and what they compute depends on neither threads nor neighbours."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orsanet_cache import FrozenPriors, OrsanetError, PriorStore
from orsanet_cache.bench.build import bench_build, published_sizes
from orsanet_cache.builder.build import build
from orsanet_cache.builder.pipeline import DecodedUnit, Pipeline, ahead
from orsanet_cache.builder.precision import MAX_DRIFT, chosen_precision, half_precision_drift
from orsanet_cache.data.images import read_image, view_pixels
from orsanet_cache.store.schema import schema

CPU = torch.device("cpu")


def pipeline(world, priors: FrozenPriors, batch_size: int = 3) -> Pipeline:
    fields = schema(priors.segmenter.feature_channels, priors.landmark_network.feature_channels, "float32")
    return Pipeline(world.load_manifest().root, priors, fields, CPU, batch_size)


def computed(world, threads: int) -> dict[str, Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pipeline(world, world.load_priors()) as running:
            samples = world.load_manifest().split("train")
            unit = running.start_decoding(samples, ["clean", "hflip"]).result()
            return running.start_networks(unit, "hflip").result().arrays
    finally:
        assert torch.get_num_threads() == threads  # left as it was found
        torch.set_num_threads(before)


def test_values_do_not_depend_on_the_number_of_threads(world) -> None:
    one, many = computed(world, 1), computed(world, 3)
    for name, values in one.items():
        assert np.array_equal(values, many[name]), name


class Watching(FrozenPriors):
    """The same networks, which note how many threads are in them at once."""

    inside = most = 0

    def forward(self, images):
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.05)
        said = super().forward(images)
        self.inside -= 1
        return said


def test_batches_run_side_by_side_and_their_time_is_counted_once(world) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    loaded = world.load_priors()
    watching = Watching(loaded.segmenter, loaded.landmark_network, "published")
    try:
        with pipeline(world, watching) as running:
            unit = running.start_decoding(world.load_manifest().split("train"), ["clean"]).result()
            began = time.monotonic()
            running.start_networks(unit, "clean").result()
            assert 0 < running.networks_seconds() <= time.monotonic() - began
    finally:
        torch.set_num_threads(before)
    assert watching.most == 2


def test_what_is_ahead_is_begun_before_it_is_asked_for() -> None:
    begun: list[int] = []

    def work() -> Iterator[int]:
        for item in range(5):
            begun.append(item)
            yield item

    items = ahead(work(), 2)
    assert [(item, len(begun)) for item in items] == [(0, 3), (1, 4), (2, 5), (3, 5), (4, 5)]
    assert list(ahead([], 1)) == []


def test_leaving_early_ends_every_thread(world) -> None:
    before = threading.active_count()
    with pipeline(world, world.load_priors(), batch_size=1) as running:
        decoding = running.start_decoding(world.load_manifest().split("train"), ["clean"])
        running.start_networks(decoding.result(), "clean")
    assert threading.active_count() == before


def test_an_int8_store_keeps_features_to_a_relative_error_of_one_per_cent(world, tmp_path: Path) -> None:
    for features in ("int8", "float32"):
        build(
            world.load_manifest(), tmp_path / features, world.load_priors(), ["clean"],
            device=CPU, splits=["test"], feature_dtype=features,
        )  # fmt: skip
    small, full = (PriorStore.open(tmp_path / features) for features in ("int8", "float32"))
    for field in ("segmentation_features", "landmark_features"):
        steps = small.read("test", "clean", f"{field}_scale", slice(None))
        values = small.read("test", "clean", field, slice(None)) * steps[:, :, None, None]
        exact = full.read("test", "clean", field, slice(None))
        # A uniform error of one step of max/127: RMS max/440, where the RMS of a 7x7 channel is at least max/7.
        assert np.linalg.norm(values - exact) <= 7 / 440 * np.linalg.norm(exact)
    assert not any(small.rejected("test", "clean"))


def test_an_int8_overflow_is_rejected_by_name(world, tmp_path: Path) -> None:
    priors = world.load_priors()
    with torch.no_grad():
        priors.landmark_network.conv_6_sep.bn.weight *= 1e38
        priors.landmark_network.conv_6_sep.bn.bias += 1e38
        priors.landmark_network.conv_6_sep.conv.weight *= 1e38
    with pytest.raises(OrsanetError, match=r"the networks' landmark.* not finite as float32"):
        build(world.load_manifest(), tmp_path / "s", priors, ["clean"], device=CPU, feature_dtype="int8")


def test_a_cpu_computes_in_single_precision(world) -> None:
    assert chosen_precision(world.load_priors(), world.load_manifest(), "train", CPU) == "fp32"


def test_half_precision_drifts_and_leaves_the_networks_as_they_are(world) -> None:
    priors = world.load_priors()
    before = {name: tensor.clone() for name, tensor in priors.state_dict().items()}
    images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    drift = half_precision_drift(priors, images, CPU)
    assert 2**-13 < drift < 10 * MAX_DRIFT  # at least float16's own rounding; random weights are not the published ones
    assert all(torch.equal(tensor, before[name]) for name, tensor in priors.state_dict().items())


@pytest.mark.cuda
def test_a_gpu_takes_half_precision_only_where_it_drifts_little(world) -> None:
    priors, device, manifest = world.load_priors(), torch.device("cuda"), world.load_manifest()
    pictures = [view_pixels(read_image(manifest.root / one.image).rgb, "clean") for one in manifest.split("train")]
    drift = half_precision_drift(priors, torch.from_numpy(np.stack(pictures)), device)
    assert chosen_precision(priors, manifest, "train", device) == ("fp16" if drift <= MAX_DRIFT else "fp32")


def test_the_benchmark_measures_what_it_says(world) -> None:
    speed = bench_build(world.load_manifest(), world.load_priors(), 8, ["clean", "hflip"], CPU, "fp32", 4, None)
    assert speed.views == 16
    assert 0 < speed.networks_share <= 1
    assert speed.build > 0
    assert speed.networks_alone > 0


def test_the_benchmarks_networks_have_the_published_sizes() -> None:
    priors = published_sizes()
    assert priors.segmenter.feature_channels == 1024
    assert priors.landmark_network.feature_channels == 512


def test_rows_that_could_not_be_read_stay_black(world) -> None:
    samples = world.load_manifest().split("valid")
    pixels = np.zeros((6, 224, 224, 3), np.uint8)
    unit = DecodedUnit(samples, {"clean": pixels}, ["aa" * 32] * 6, {samples[2].image: "torn"})
    with pipeline(world, world.load_priors()) as running:
        result = running.start_networks(unit, "clean").result()
    assert result.rejected == {samples[2].image: "torn"}
    assert not result.arrays["landmarks"][2].any()
    assert result.arrays["landmarks"][[0, 1, 3, 4, 5]].any(axis=(1, 2)).all()
