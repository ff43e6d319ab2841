"""The reference modes: frozen networks in the step see and say what each mode's name promises, and go on exactly after a stop."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import swin_b
from torchvision.ops import StochasticDepth

from orsanet_cache import FrozenPriors, OrsanetError, PriorStore
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.frozen.priors import load_landmark_network
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.store.recipe import recipe_differences
from orsanet_train.config import RunConfig
from orsanet_train.engine.distributed import ONE, Ranks
from orsanet_train.engine.losses import training_loss
from orsanet_train.engine.sam import Pass, sam_gradient
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.split import LabelledSplit, join
from orsanet_train.model.model import build_model
from orsanet_train.model.orsanet import ORSANet
from orsanet_train.model_config import ORSANetConfig
from orsanet_train.reference.feed import OnlineBatch, OnlineFeed
from orsanet_train.reference.network import (
    OnlineMode,
    OnlineORSANet,
    check_batches,
    check_same_networks,
    check_statistics,
    drop_residual_branches,
    frozen_networks,
)

CPU = torch.device("cpu")
SIGMAS = 5  # the seeds are fixed; five make one on which a correct draw fails a one in a million accident
MODES: tuple[OnlineMode, ...] = ("clean", "erased", "published")


def model_config(**changes: Any) -> ORSANetConfig:
    small = {"depth": 2, "width": 64, "backbone_channels": (8, 16, 32), "backbone_units": (1, 1, 1)}
    return ORSANetConfig.model_validate({**small, **changes})


def run_config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate({"batch_size": 4, "model": model_config(), "learning_rate": 1e-3, **changes})


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are then added in the same order whatever else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def batch(feed: OnlineFeed) -> OnlineBatch:
    """Of seven, some flipped, some erased."""
    return next(feed.epoch(run_config(batch_size=7), 0))


def small_model(frozen: FrozenPriors, **changes: Any) -> ORSANet:
    torch.manual_seed(1)
    return build_model(model_config(**changes), 3, frozen.segmenter.feature_channels)


def network(frozen: FrozenPriors, mode: OnlineMode, **changes: Any) -> OnlineORSANet:
    return OnlineORSANet(small_model(frozen, **changes), frozen, mode)


def seen_by_model(online: OnlineORSANet, batch: OnlineBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Image, segmentation and landmark features that reach the trainable part."""
    met: list[tuple[Tensor, ...]] = []
    hook = online.model.register_forward_pre_hook(lambda _module, inputs: met.append(inputs))
    with torch.no_grad():
        online(*batch.inputs)
    hook.remove()
    image, segmentation, landmark_features, _ = met[0]
    return image, segmentation, landmark_features


def sam_step(online: OnlineORSANet, optimizer: torch.optim.Optimizer, batch: OnlineBatch, config: RunConfig) -> Tensor:
    """One step with both passes; returns their losses [2]."""

    def backward(index: int) -> Pass:
        logits = online(*batch.inputs, batch.drop_path[:, index]).logits
        loss = training_loss(logits, batch.label, config.loss, 0)
        loss.backward()
        return Pass(loss.detach(), logits.detach())

    first, second = sam_gradient(list(online.parameters()), backward, config.rho)
    optimizer.step()
    return torch.stack([first.loss, second.loss])


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- batches ---


@pytest.mark.parametrize("start", [0, 2])
def test_batches_are_those_of_the_cached_feed(
    store: PriorStore, split: LabelledSplit, frozen: FrozenPriors, feed: OnlineFeed, start: int
) -> None:
    """The backbone's image, labels and drop-path draws, bit for bit, in whatever mode."""
    config = run_config()
    cached = list(Feed(store, split, config.model, CPU).epoch(config, 3, start))
    online = list(feed.epoch(config, 3, start))
    assert len(online) == len(cached) == 4 - start
    assert sum(int((batch.erased[:, 2] > 0).sum()) for batch in online) > 0
    for mode in MODES:
        assembled = network(frozen, mode).eval()
        for ours, theirs in zip(online, cached, strict=True):
            assert torch.equal(seen_by_model(assembled, ours)[0], theirs.inputs[0])
            assert torch.equal(ours.label, theirs.label)
            assert torch.equal(ours.drop_path, theirs.drop_path)


def test_evaluation_takes_every_image_once_in_the_manifests_order_unerased(
    store: PriorStore, split: LabelledSplit, frozen: FrozenPriors, feed: OnlineFeed
) -> None:
    cached = Feed(store, split, model_config(), CPU)
    assembled = network(frozen, "erased").eval()
    for view in ("clean", "hflip"):
        for ours, theirs in zip(feed.in_order(5, view), cached.in_order(5, view), strict=True):
            assert torch.equal(seen_by_model(assembled, ours)[0], theirs.inputs[0])
            assert torch.equal(ours.label, theirs.label)
            assert ours.drop_path.numel() == 0


# --- what the frozen networks see and say ---


@pytest.mark.parametrize("landmark_input", ["published", "native"])
@pytest.mark.parametrize("prior", ["features", "map"])
def test_clean_says_what_FrozenPriors_says(world: Any, batch: OnlineBatch, landmark_input: Any, prior: Any) -> None:
    frozen = FrozenPriors.load(world.segmenter, world.landmarks, landmark_input)
    said = frozen(batch.pixels)
    _, segmentation, landmark_features = seen_by_model(network(frozen, "clean", segmentation_prior=prior), batch)
    assert torch.equal(segmentation, said.segmentation_features if prior == "features" else said.segmentation_map)
    assert torch.equal(landmark_features, said.landmark_features)


def test_clean_meets_a_float16_store_within_its_rounding(
    store: PriorStore, split: LabelledSplit, frozen: FrozenPriors, feed: OnlineFeed
) -> None:
    config = run_config()
    assembled = network(frozen, "clean")
    for ours, theirs in zip(feed.epoch(config, 0), Feed(store, split, config.model, CPU).epoch(config, 0), strict=True):
        _, *priors = seen_by_model(assembled, ours)
        for online, cached in zip(priors, (theirs.inputs[1], theirs.inputs[2]), strict=True):
            # Half a unit in the last of float16's 11 bits, or of its smallest steps; and 1e-5 for float32 sums over other batches.
            rounding = online.abs() * 2**-11 + 2**-25
            assert ((online - cached).abs() <= rounding + 1e-5 * online.abs().max()).all()


def test_clean_gives_the_logits_of_a_float32_store(world: Any, frozen: FrozenPriors, tmp_path: Path) -> None:
    """Training and evaluation, flipped and not: to 1e-5, since batches of other sizes add up float32 sums in another order."""
    manifest, path, views = world.load_manifest(), tmp_path / "store.zarr", ["clean", "hflip"]
    build(manifest, path, frozen, views, device=CPU, splits=["valid"], feature_dtype="float32")
    store = PriorStore.open(path)
    split = join(manifest, store, "valid", views)
    config = run_config(batch_size=4)
    cached, online = Feed(store, split, config.model, CPU), OnlineFeed(world.folder, store, split, CPU)
    model = small_model(frozen)
    assembled = OnlineORSANet(copy.deepcopy(model), frozen, "clean")
    flipped = 0
    for ours, theirs in zip(online.epoch(config, 0), cached.epoch(config, 0), strict=True):
        for index in range(2):
            expected = model(*theirs.inputs, theirs.drop_path[:, index]).logits
            logits = assembled(*ours.inputs, ours.drop_path[:, index]).logits
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    model.eval()
    assembled.eval()
    for view in views:
        for ours, theirs in zip(online.in_order(4, view), cached.in_order(4, view), strict=True):
            torch.testing.assert_close(assembled(*ours.inputs).logits, model(*theirs.inputs).logits, rtol=0, atol=1e-5)
            flipped += view == "hflip"
    assert flipped == 2


def test_erased_networks_see_zeros_in_the_rectangle_of_the_normalised_image(
    frozen: FrozenPriors, batch: OnlineBatch
) -> None:
    reference = imagenet_normalised(unit_range(batch.pixels))
    for row, (top, left, height, width) in enumerate(batch.erased.tolist()):
        reference[row, :, top : top + height, left : left + width] = 0
    with torch.no_grad():
        features = frozen.segmenter.encode(reference)[-1].movedim(-1, 1)
        landmark_features, _ = frozen.landmark_network(reference[..., ::2, ::2])
    _, *erased = seen_by_model(network(frozen, "erased"), batch)
    assert torch.equal(erased[0], features)
    assert torch.equal(erased[1], landmark_features)


def test_only_the_erased_images_priors_differ_between_clean_and_erased(
    frozen: FrozenPriors, batch: OnlineBatch
) -> None:
    priors = [seen_by_model(network(frozen, mode), batch)[1:] for mode in ("clean", "erased")]
    is_erased = batch.erased[:, 2] > 0
    assert 0 < int(is_erased.sum()) < len(is_erased)
    for clean, erased in zip(*priors, strict=True):
        assert torch.equal((clean != erased).flatten(1).any(dim=1), is_erased)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("prior", "encoded", "decoded"), [("features", 1, 0), ("map", 1, 1), ("none", 0, 0)])
def test_only_what_the_model_takes_is_computed(
    frozen: FrozenPriors, batch: OnlineBatch, mode: OnlineMode, prior: Any, encoded: int, decoded: int
) -> None:
    assembled = network(frozen, mode, segmentation_prior=prior)
    calls: list[str] = []
    segmenter = assembled.frozen.segmenter
    for name, module in (("encode", segmenter.backbone.get_submodule("0.0")), ("decode", segmenter.face_decoder)):
        module.register_forward_hook(lambda _module, _inputs, _output, name=name: calls.append(name))
    logits = assembled(*batch.inputs, batch.drop_path[:, 0]).logits
    assert logits.isfinite().all()
    assert (calls.count("encode"), calls.count("decode")) == (encoded, decoded)


@pytest.mark.parametrize("mode", MODES)
def test_frozen_networks_keep_float32_inside_autocast(
    frozen: FrozenPriors, batch: OnlineBatch, mode: OnlineMode
) -> None:
    assembled = network(frozen, mode).eval()
    expected = seen_by_model(assembled, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = seen_by_model(assembled, batch)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


# --- published: the training mode of the published code ---


def test_a_published_step_moves_the_landmark_statistics_exactly_twice(frozen: FrozenPriors, batch: OnlineBatch) -> None:
    """r becomes 0.9 r + 0.1 m in either pass, m the batch's mean: the input of the first BatchNorm is the same in both."""
    assembled, config = network(frozen, "published"), run_config()
    seen = torch.where(batch_rectangles(batch), 0.0, imagenet_normalised(unit_range(batch.pixels)))
    first = frozen.landmark_network.conv1
    mean = first.conv(seen[..., ::2, ::2]).mean(dim=(0, 2, 3))
    expected = 0.81 * first.bn.running_mean + 0.19 * mean
    sam_step(assembled, torch.optim.Adam(assembled.parameters()), batch, config)
    moved = assembled.frozen_state()
    torch.testing.assert_close(moved["conv1.bn.running_mean"], expected)  # float32 sums in another order
    counters = [value for name, value in moved.items() if name.endswith("num_batches_tracked")]
    assert len(counters) == sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in frozen.modules())
    assert {int(counter) for counter in counters} == {2}


def batch_rectangles(batch: OnlineBatch) -> Tensor:
    """bool [B, 1, 224, 224]."""
    inside = torch.zeros(len(batch.pixels), 1, 224, 224, dtype=torch.bool)
    for row, (top, left, height, width) in enumerate(batch.erased.tolist()):
        inside[row, :, top : top + height, left : left + width] = True
    return inside


@pytest.mark.parametrize("mode", ["clean", "erased"])
def test_nothing_of_the_frozen_networks_moves_in_the_other_modes(
    frozen: FrozenPriors, batch: OnlineBatch, mode: OnlineMode
) -> None:
    assembled, before = network(frozen, mode), copy.deepcopy(frozen.state_dict())
    sam_step(assembled, torch.optim.Adam(assembled.parameters()), batch, run_config())
    assert same_tensors(frozen.state_dict(), before)
    assert not any(module.training for module in frozen.modules())
    assert assembled.frozen_state() == {}
    assert assembled.drifted_recipe() == {"landmarks": frozen.recipe()["landmarks"]}


def test_published_evaluation_is_in_evaluation_mode_with_the_drifted_statistics(
    frozen: FrozenPriors, batch: OnlineBatch
) -> None:
    assembled = network(frozen, "published")
    sam_step(assembled, torch.optim.Adam(assembled.parameters()), batch, run_config())
    assembled.eval()
    found = seen_by_model(assembled, batch)
    assert all(torch.equal(a, b) for a, b in zip(found, seen_by_model(assembled, batch), strict=True))
    original = seen_by_model(network(frozen, "erased").eval(), batch)
    frozen.landmark_network.load_state_dict(assembled.frozen_state())
    drifted = seen_by_model(network(frozen, "erased").eval(), batch)
    assert all(torch.equal(a, b) for a, b in zip(found, drifted, strict=True))
    assert torch.equal(found[1], original[1])
    assert not torch.equal(found[2], original[2])


def test_published_training_differs_from_evaluation_in_both_priors(frozen: FrozenPriors, batch: OnlineBatch) -> None:
    training = seen_by_model(network(frozen, "published").train(), batch)
    evaluation = seen_by_model(network(frozen, "published").eval(), batch)
    assert torch.equal(training[0], evaluation[0])
    assert not torch.equal(training[1], evaluation[1])
    assert not torch.equal(training[2], evaluation[2])


def test_residual_branches_are_dropped_at_swin_bs_own_rates() -> None:
    """Those of torchvision's swin_b, which the published code builds: linear from 0 to a half over its 24 blocks."""
    with torch.device("meta"):
        segmenter, published = SegFace(SegFaceConfig()), swin_b(weights=None)
    drop_residual_branches(segmenter)
    ours, theirs = (
        [(module.p, module.mode) for module in network.modules() if isinstance(module, StochasticDepth)]
        for network in (segmenter, published)
    )
    assert ours == theirs
    rates = [rate for rate, _ in ours]
    assert rates == [0.5 * block / 23 for block in range(24)]


def test_residual_branches_are_dropped_by_whole_images_and_the_others_made_up_for(
    frozen: FrozenPriors, batch: OnlineBatch
) -> None:
    segmenter = network(frozen, "published").frozen.segmenter
    blocks = [module for module in segmenter.modules() if isinstance(module, StochasticDepth)]
    assert [block.p for block in blocks] == [0, 0.5 / 3, 0.5 * 2 / 3, 0.5]
    dropped: dict[nn.Module, list[bool]] = {block: [] for block in blocks}

    def watch(block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        scale = torch.ones(()).div(1 - block.p)
        for branch, kept in zip(inputs[0], output, strict=True):
            dropped[block].append(not kept.any())
            assert torch.equal(kept, branch * 0 if dropped[block][-1] else branch * scale)

    for block in blocks:
        block.register_forward_hook(watch)
    pixels = imagenet_normalised(unit_range(batch.pixels))
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(20):
            segmenter.encode(pixels)
    for block, outcomes in dropped.items():
        draws = 20 * 2 * len(pixels)  # two branches a block
        assert len(outcomes) == draws
        assert abs(sum(outcomes) - draws * block.p) <= SIGMAS * (draws * block.p * (1 - block.p)) ** 0.5


def test_published_leaves_the_networks_it_was_given_as_they_were(frozen: FrozenPriors, batch: OnlineBatch) -> None:
    """The next seed's run starts from the original ones."""
    before = frozen.recipe()
    assembled = network(frozen, "published").train()
    assembled(*batch.inputs)
    assert frozen.recipe() == before
    assert not any(module.training for module in frozen.modules())
    assert {module.p for module in frozen.modules() if isinstance(module, StochasticDepth)} == {0.0}


def test_resumed_at_any_batch_it_goes_on_bit_for_bit(frozen: FrozenPriors, feed: OnlineFeed) -> None:
    config = run_config(batch_size=7)

    def fresh() -> tuple[OnlineORSANet, torch.optim.Optimizer]:
        assembled = network(frozen, "published").train()
        return assembled, torch.optim.Adam(assembled.parameters(), lr=config.learning_rate)

    assembled, optimizer = fresh()
    losses, saved = [], []
    for batch in feed.epoch(config, 2):
        saved.append(copy.deepcopy((assembled.state_dict(), optimizer.state_dict(), assembled.frozen_state())))
        losses.append(sam_step(assembled, optimizer, batch, config))
    assert len(losses) == 2
    final = {**assembled.state_dict(), **assembled.frozen_state()}

    for start, (weights, moments, statistics) in enumerate(saved):
        again, optimizer = fresh()
        again.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        again.load_frozen_state(statistics)
        torch.manual_seed(99 + start)  # another process's generator is elsewhere
        resumed = [sam_step(again, optimizer, batch, config) for batch in feed.epoch(config, 2, start)]
        assert torch.equal(torch.stack(resumed), torch.stack(losses[start:]))
        assert same_tensors({**again.state_dict(), **again.frozen_state()}, final)


@pytest.mark.parametrize(
    ("ranks", "batch_size", "message"),
    [(ONE, 13, "last batch of 14 images has a single image"), (Ranks(0, 2), 4, "train on one")],
)
def test_published_is_refused_where_it_cannot_be(
    split: LabelledSplit, ranks: Ranks, batch_size: int, message: str
) -> None:
    with pytest.raises(OrsanetError, match=message):
        check_batches(run_config(online="published", batch_size=batch_size), split, ranks)
    check_batches(run_config(online="erased", batch_size=batch_size), split, ranks)


# --- what others see of the assembled network ---


@pytest.mark.parametrize("mode", MODES)
def test_no_gradient_reaches_the_frozen_networks(frozen: FrozenPriors, batch: OnlineBatch, mode: OnlineMode) -> None:
    assembled = network(frozen, mode).train()
    before = copy.deepcopy(dict(assembled.frozen.named_parameters()))
    sam_step(assembled, torch.optim.Adam(assembled.parameters()), batch, run_config())
    after = dict(assembled.frozen.named_parameters())
    assert same_tensors(after, before)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in after.values())
    assert any(parameter.grad is not None for parameter in assembled.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_parameters_and_state_are_the_trainable_parts(frozen: FrozenPriors, mode: OnlineMode) -> None:
    assembled = network(frozen, mode)
    assert [id(p) for p in assembled.parameters()] == [id(p) for p in assembled.model.parameters()]
    assert same_tensors(assembled.state_dict(), assembled.model.state_dict())
    other = network(frozen, mode)
    for value in other.state_dict().values():
        value.zero_()
    other.load_state_dict(assembled.state_dict())
    assert same_tensors(other.state_dict(), assembled.state_dict())


@pytest.mark.parametrize("mode", MODES)
def test_the_frozen_networks_go_along_to_another_device(frozen: FrozenPriors, mode: OnlineMode) -> None:
    assembled = network(frozen, mode).to("meta")
    assert {value.device.type for value in assembled.frozen.state_dict().values()} == {"meta"}
    assert {value.device.type for value in assembled.state_dict().values()} == {"meta"}


def test_the_networks_of_the_store_pass_and_others_are_refused_by_name(
    store: PriorStore, frozen: FrozenPriors, batch: OnlineBatch
) -> None:
    check_same_networks(frozen, store)
    assembled = network(frozen, "published").train()
    assert assembled.frozen.recipe() == frozen.recipe()
    assembled(*batch.inputs)
    with pytest.raises(OrsanetError, match=r"store\.zarr was built with other frozen networks") as refused:
        check_same_networks(assembled.frozen, store)
    assert "landmarks.weights_sha256" in str(refused.value)
    assert "segmenter" not in str(refused.value)
    native = FrozenPriors(frozen.segmenter, frozen.landmark_network, "native")
    with pytest.raises(OrsanetError, match=r'landmarks\.input: "published" before, "native" now'):
        check_same_networks(native, store)


def test_a_store_of_the_original_networks_does_not_fit_drifted_ones(
    store: PriorStore, frozen: FrozenPriors, batch: OnlineBatch
) -> None:
    assembled = network(frozen, "published").train()
    assembled(*batch.inputs)
    trained_on = {**store.recipe, **assembled.drifted_recipe()}
    differences = list(recipe_differences(trained_on, store.recipe))
    assert len(differences) == 1
    assert differences[0].startswith("landmarks.weights_sha256: ")


def test_statistics_of_another_mode_are_refused(frozen: FrozenPriors) -> None:
    published, clean = network(frozen, "published"), network(frozen, "clean")
    with pytest.raises(OrsanetError, match="saved without the statistics"):
        published.load_frozen_state(clean.frozen_state())
    with pytest.raises(OrsanetError, match="saved with the statistics"):
        clean.load_frozen_state(published.frozen_state())
    clean.load_frozen_state(clean.frozen_state())


# --- networks that cannot be trained ---


def folded(network: MobileFaceNet) -> MobileFaceNet:
    """The same outputs in evaluation mode, with the statistics of every BatchNorm in its scale and shift."""
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            with torch.no_grad():
                scale = layer.weight / torch.sqrt(layer.running_var + layer.eps)
                layer.bias -= layer.running_mean * scale
                layer.weight.copy_(scale)
                layer.running_mean.zero_()
                layer.running_var.fill_(1 - layer.eps)
    return network.eval()


def trained_a_little() -> MobileFaceNet:
    """With statistics of its own in every layer."""
    torch.manual_seed(3)
    network = MobileFaceNet().train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(4, 3, 112, 112))
    return network.eval()


def test_folded_statistics_are_refused_with_the_file_and_what_to_do() -> None:
    network = trained_a_little()
    check_statistics(network, Path("whole.pth"))
    check_statistics(MobileFaceNet(), Path("untrained.pth"))
    image = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(folded(network)(image)[1], network(image)[1], rtol=1e-3, atol=1e-4)
    with pytest.raises(
        OrsanetError, match=r"folded\.pth: cannot be trained as published.*folded into the weights.*online"
    ):
        check_statistics(folded(network), Path("folded.pth"))


def test_the_landmark_network_of_a_converted_model_is_refused(shared: Path) -> None:
    path = shared / "landmark_weights" / "mobilefacenet_model_best.pth.tar"
    with pytest.raises(OrsanetError, match="cannot be trained as published"):
        check_statistics(load_landmark_network(path), path)


def test_a_folded_network_trains_no_published_run_but_a_clean_one(world, tmp_path: Path) -> None:
    network = folded(trained_a_little())
    safetensors.torch.save_file(network.state_dict(), tmp_path / "landmarks.safetensors")
    frozen = FrozenPriors.load(world.segmenter, tmp_path / "landmarks.safetensors")
    build(world.load_manifest(), tmp_path / "s", frozen, ["clean"], device=CPU, splits=["test"])
    paths = (world.segmenter, tmp_path / "landmarks.safetensors")
    with pytest.raises(OrsanetError, match=r"landmarks\.safetensors: cannot be trained as published"):
        frozen_networks(paths, PriorStore.open(tmp_path / "s"), "published")
    assert frozen_networks(paths, PriorStore.open(tmp_path / "s"), "clean")
