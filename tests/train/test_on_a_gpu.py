"""What stands on which device, and what is copied between them, proven without a GPU: fake tensors have a device, shapes and no values.

Feed, augmentation, forward passes, losses, evaluation and the frozen networks. Only the backward pass needs a real device.
"""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import GPU, Copy, FakeGpu, fake_gpu, half_precision, stand_in_for_the_driver
from small_models import CLASSES, inputs, small, small_model
from torch import Tensor

from orsanet_cache import FrozenPriors, PriorStore
from orsanet_cache.builder.pipeline import computed_values
from orsanet_cache.frozen.features import as_stored
from orsanet_cache.frozen.priors import in_half_precision
from orsanet_cache.store.schema import schema
from orsanet_train.config import LossConfig, RunConfig, load_config
from orsanet_train.engine.losses import training_loss
from orsanet_train.evaluation.forward import model_outputs
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.split import join
from orsanet_train.model.inputs import random_inputs, seen_by_the_model
from orsanet_train.model.model import build_model
from orsanet_train.model_config import ORSANetConfig, kinds
from orsanet_train.reference.network import OnlineORSANet

PLAIN = {
    "tokens": "spatial",
    "segmentation_prior": "none",
    "multi_scale": False,
    "cross_interaction": False,
    "landmark_reintegration": False,
}
CHOICES = ({}, {"segmentation_prior": "map"}, PLAIN)  # whose parts are all others': a fake forward takes a second
FEW_LAYERS = ("model.depth=1", "model.backbone_units=[1,1,1]")
BATCH = 4
CONFIG = RunConfig(batch_size=BATCH)


def on_gpu(*tensors: Tensor) -> bool:
    return all(tensor.device == GPU for tensor in tensors)


# --- the model ---


@pytest.mark.parametrize(("choice", "half"), [*((choice, True) for choice in CHOICES), ({}, False)])
def test_forward_and_loss_stay_on_the_device_and_ask_it_for_nothing(choice: dict[str, Any], half: bool) -> None:
    config = small(**choice)
    model = small_model(config).train()
    with fake_gpu() as gpu:
        there = [values.to(GPU) for values in inputs(config, BATCH)]
        draws = torch.rand(BATCH, *config.drop_path_shape, device=GPU)
        label = torch.zeros(BATCH, dtype=torch.int64, device=GPU)
        model = model.to(GPU)
        begun = len(gpu.copies)
        if half:
            with half_precision():
                expression = model(*there, draws)
        else:
            expression = model(*there, draws)
        losses = [
            training_loss(expression.logits.float(), label, LossConfig(dare=form), epoch)  # type: ignore[arg-type]
            for form, epoch in (("published", 0), ("published", 9), ("paper", 9), ("none", 9))
        ]
        assert on_gpu(*expression, *losses)
        assert expression.logits.shape == (BATCH, CLASSES)
        assert gpu.copies[begun:] == []


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind != "orsanet"])
def test_a_forward_of_every_kind_stays_on_the_device_so_that_a_graph_can_record_it(kind: str) -> None:
    config = load_config(
        "small",
        [f"model.kind={kind}", *(one for one in FEW_LAYERS if one[6:].partition("=")[0] in kinds()[kind].model_fields)],
    ).model
    model = build_model(config, CLASSES).train()
    with fake_gpu() as gpu:
        there = [values.to(GPU) for values in random_inputs(config, BATCH)]
        draws = torch.rand(BATCH, *config.drop_path_shape, device=GPU)
        model = model.to(GPU)
        begun = len(gpu.copies)
        expression = model(*there, draws)
        assert on_gpu(*expression)
        assert gpu.copies[begun:] == []


def test_half_precision_reaches_convolutions_and_products_and_leaves_the_spectral_norm_alone() -> None:
    config = small()
    model = small_model(config).train()
    with fake_gpu(), half_precision():
        model = model.to(GPU)
        kinds: dict[str, torch.dtype] = {}
        for name, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(lambda _m, _i, out, name=name: kinds.update({name: out.dtype}))
        model(
            *(values.to(GPU) for values in inputs(config, BATCH)),
            torch.rand(BATCH, *config.drop_path_shape, device=GPU),
        )
    assert kinds["ir_back.input_layer.0"] == kinds["ir_layer"] == kinds["seg_fusion.conv_0"] == torch.float16
    assert kinds["pyramid_fuse.blocks.0.block_l.mlp.fc1"] == torch.float16
    assert kinds["pyramid_fuse.norm"] == torch.float32
    assert model.seg_fusion.conv_0.weight_u.dtype == torch.float32


# --- the feed ---


def feed_of(world: Any, resident: str, views: tuple[str, ...] = ("clean", "hflip")) -> Feed:
    store: PriorStore = world.open_store()
    return Feed(store, join(world.load_manifest(), store, "train", views), ORSANetConfig(), GPU, resident)  # type: ignore[arg-type]


def test_resident_data_needs_no_copy_for_a_batch(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch's places and draws are copied at once; then the device gathers, erases and normalises alone."""
    stand_in_for_the_driver(monkeypatch)
    with fake_gpu() as gpu:
        feed = feed_of(world, "device")
        loaded = list(gpu.copies)
        assert all(entry.to == "device" for entry in loaded)
        assert sum(entry.shape[0] for entry in loaded) == 3 * 2 * 14  # fields, views, images: every row once
        batches = feed.epoch(CONFIG, 0)
        first = next(batches)
        start = gpu.copies[len(loaded) :]
        assert [(entry.to, entry.shape[0]) for entry in start if entry.shape != (3,)] == [("device", 14)] * 4
        begun = len(gpu.copies)
        rest = list(batches)
        assert gpu.copies[begun:] == []
        assert [len(batch.label) for batch in (first, *rest)] == [4, 4, 4, 2]
        assert all(on_gpu(*batch) for batch in (first, *rest))


@pytest.mark.parametrize("resident", ["stream", "host"])
def test_a_streamed_batch_is_a_copy_for_each_field_from_pinned_memory_which_nobody_waits_for(
    resident: str, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As large as the store has it; floats and pictures are made of it on the device. A buffer is filled again once it was copied."""
    events = stand_in_for_the_driver(monkeypatch)
    feed = feed_of(world, resident)
    with fake_gpu() as gpu:
        begun, sizes = 0, []
        for batch in feed.epoch(CONFIG, 0):
            assert on_gpu(*batch)
            size = len(batch.label)
            sizes.append(size)
            copies = [entry for entry in gpu.copies[begun:] if entry.shape != (3,)]  # without the colours, made once
            begun = len(gpu.copies)
            draws = CONFIG.model.drop_path_shape
            assert copies == [
                Copy("device", (size, 112, 112, 3), torch.uint8, waits=False),
                Copy("device", (size, 128, 7, 7), torch.float16, waits=False),
                Copy("device", (size, 512, 7, 7), torch.float16, waits=False),
                Copy("device", (size,), torch.int64, waits=False),
                Copy("device", (size, 4), torch.int64, waits=False),
                Copy("device", (size, 2, *draws), torch.float32, waits=False),
            ]
        assert sizes == [4, 4, 4, 2]
    of_slot = {slot: [what for what, which in events if which == slot] for _, slot in events}
    assert len(of_slot) == 3
    for order in of_slot.values():  # nothing is recorded before the first filling, which waits for nothing
        assert order == ["waited for", "recorded"] * (len(order) // 2)


# --- evaluation ---


def test_evaluation_copies_back_twice_after_everything_is_computed(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_the_driver(monkeypatch)
    config = small()
    model = build_model(config, 3, 128, 512).train()
    with fake_gpu() as gpu:
        model = model.to(GPU)
        store: PriorStore = world.open_store()
        feed = Feed(store, join(world.load_manifest(), store, "test", ["clean"]), config, GPU, "stream")
        outputs = model_outputs(model, feed)
    assert (outputs.probabilities.shape, outputs.features.shape) == ((6, 3), (6, 64))
    back = [entry for entry in gpu.copies if entry.to == "host"]
    assert [(entry.shape, entry.dtype) for entry in back] == [((6, 3), torch.float32), ((6, 64), torch.float32)]
    assert not computed_after(gpu, back[0])
    assert model.training


def computed_after(gpu: FakeGpu, entry: Copy) -> list[str]:
    """What the device computes after a copy; concatenating results is no computation."""
    later = gpu.log[gpu.log.index(entry) :]
    return [one for one in later if isinstance(one, str) and "aten.cat" not in one and "detach" not in one]


# --- the frozen networks ---


@pytest.mark.parametrize(("half", "dtype"), [(False, "int8"), (True, "float16")])
def test_a_build_copies_pixels_there_and_each_field_back_once_after_everything_is_computed(
    world: Any, half: bool, dtype: str
) -> None:
    frozen = in_half_precision(world.load_priors()) if half else world.load_priors()
    fields = schema(128, 512, dtype)
    with fake_gpu() as gpu:
        frozen = frozen.to(GPU)
        begun = len(gpu.log)
        values = computed_values(frozen, np.zeros((BATCH, 224, 224, 3), np.uint8), fields, GPU)
    copies = [entry for entry in gpu.log[begun:] if isinstance(entry, Copy) and entry.shape != (3,)]
    assert copies[0] == Copy("device", (BATCH, 224, 224, 3), torch.uint8, waits=True)
    assert [(entry.to, entry.shape) for entry in copies[1:]] == [("host", array.shape) for array in values.values()]
    assert computed_after(gpu, copies[1]) == []
    layouts = {field.name: (field.shape, field.dtype) for field in fields}
    for name, array in values.items():
        assert (array.shape[1:], str(array.dtype)) == layouts[name]


def test_what_predict_gives_the_model_is_made_on_the_device(world: Any) -> None:
    frozen = world.load_priors()
    with fake_gpu() as gpu:
        frozen = frozen.to(GPU)
        pixels = torch.zeros(BATCH, 224, 224, 3, dtype=torch.uint8, device=GPU)
        frozen(pixels)  # makes the constants
        begun = len(gpu.copies)
        priors = frozen(pixels)
        configs = [ORSANetConfig(segmentation_prior=prior) for prior in ("features", "map", "none")]
        seen = [seen_by_the_model(config, pixels, priors, "float16") for config in configs]
        assert on_gpu(
            *priors, *(values for one in seen for values in one), as_stored(priors.segmentation_features, "int8")
        )
        assert gpu.copies[begun:] == []


@pytest.mark.parametrize("mode", ["clean", "published"])
def test_the_frozen_networks_in_a_step_stay_on_the_device(world: Any, mode: str) -> None:
    frozen: FrozenPriors = copy.deepcopy(world.load_priors())
    config = small()
    network = OnlineORSANet(build_model(config, 3, 128, 512), frozen, mode).train()  # type: ignore[arg-type]
    with fake_gpu() as gpu:
        network = network.to(GPU)
        pixels = torch.zeros(BATCH, 224, 224, 3, dtype=torch.uint8, device=GPU)
        erased = torch.zeros(BATCH, 4, dtype=torch.int64, device=GPU)
        draws = torch.rand(BATCH, *config.drop_path_shape, device=GPU)
        network(pixels, erased, draws)
        begun = len(gpu.copies)
        assert on_gpu(*network(pixels, erased, draws))
        assert gpu.copies[begun:] == []


# --- and it finds faults ---


def test_a_value_a_branch_a_chosen_part_and_a_mix_of_devices_are_refused() -> None:
    with fake_gpu() as gpu:
        there = torch.rand(3, device=GPU)
        for asked in (
            lambda: there.sum().item(), lambda: bool(there.any()), lambda: there[there > 0], lambda: there + torch.rand(3),
        ):  # fmt: skip
            with pytest.raises(Exception, match=r"aten|device"):
                asked()
        assert gpu.copies == []
        there.cpu()
        there.to(torch.device("cpu"))
        torch.zeros(3).copy_(there)
        assert gpu.copies == [Copy("host", (3,), torch.float32, waits=True)] * 3
