"""The published model's parameters: their number, names and shapes, and its checkpoints load strictly."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from orsanet_cache import OrsanetError
from orsanet_cache.frozen.loading import Weights, load_strictly, read_weights
from orsanet_train.model.ir50 import IR50
from orsanet_train.model.model import backbone_weights, build_model, trainable_weights
from orsanet_train.model.orsanet import ORSANet
from orsanet_train.model_config import ORSANetConfig


def published_shapes(shared: Path) -> dict[str, tuple[list[int], str]]:
    return json.loads((shared / "reference" / "orsanet_state_dict.json").read_text(encoding="utf-8"))


def is_trainable(name: str) -> bool:
    return not re.match(r"face_segment\.|face_landback\.|ir_back\.output_layer\.|pyramid_fuse\.cls_token$", name)


@pytest.fixture(scope="module")
def filled(shared: Path, filler: ModuleType) -> dict[str, Tensor]:
    """The trainable tensors of a published checkpoint, filled."""
    chosen = {name: torch.empty(shape) for name, (shape, _) in published_shapes(shared).items() if is_trainable(name)}
    return filler.fill(chosen)


@pytest.fixture(scope="module")
def checkpoint(shared: Path, filled: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A file as the published training script writes it, read back; what is dropped by its name alone is one number long."""
    tensors = {f"module.{name}": filled.get(name, torch.zeros(1)) for name in published_shapes(shared)}
    path = tmp_path_factory.mktemp("published") / "checkpoint.pth"
    torch.save(
        {"iter": 400, "model_state_dict": tensors, "optimizer_state_dict": {"state": {}, "param_groups": []}}, path
    )
    weights = read_weights(path)
    path.unlink()  # 190 MB
    return weights


def meta_model() -> ORSANet:
    with torch.device("meta"):
        return build_model(ORSANetConfig(), 7)


def test_the_parameters_of_the_published_model_count_as_published() -> None:
    used = sum(parameter.numel() for parameter in meta_model().parameters())
    unused = sum(tensor.numel() for tensor in ORSANet.published_unread().values())
    assert (used, used + unused) == (47_441_447, 60_289_575)


def test_names_shapes_and_types_are_the_published_checkpoints(shared: Path) -> None:
    """What our model lacks are the frozen networks, what no forward reads, and that layer's buffers."""
    published = {
        name: (shape, f"torch.{dtype}")
        for name, (shape, dtype) in published_shapes(shared).items()
        if is_trainable(name)
    }
    ours = {name: (list(tensor.shape), str(tensor.dtype)) for name, tensor in meta_model().state_dict().items()}
    assert ours == published


def test_unused_parameters_are_those_of_the_published_checkpoint(shared: Path) -> None:
    published = published_shapes(shared)
    unused = {name: list(tensor.shape) for name, tensor in ORSANet.published_unread().items()}
    assert unused == {name: published[name][0] for name in unused}
    left_out = {name for name in published if name.startswith(("ir_back.output_layer.", "pyramid_fuse.cls_token"))}
    assert {name for name in left_out if not re.search(r"running_|num_batches", name)} == unused.keys()


def test_trainable_weights_drop_the_frozen_and_unread_tensors_and_keep_the_rest(checkpoint: Weights) -> None:
    trainable = trainable_weights(checkpoint, ORSANet)
    assert trainable.tensors.keys() == {name for name in checkpoint.tensors if is_trainable(name)}
    dropped = {".".join(name.split(".")[:1]) for name in checkpoint.tensors.keys() - trainable.tensors.keys()}
    assert dropped == {"face_segment", "face_landback", "ir_back", "pyramid_fuse"}
    assert (trainable.path, trainable.metadata) == (checkpoint.path, checkpoint.metadata)


def test_a_published_checkpoint_loads_strictly(checkpoint: Weights, filled: dict[str, Tensor]) -> None:
    model = meta_model()
    load_strictly(model, trainable_weights(checkpoint, ORSANet))
    state = model.state_dict()
    assert state.keys() == filled.keys()
    assert [name for name, tensor in filled.items() if not torch.equal(state[name], tensor)] == []
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_missing_and_extra_tensors_of_a_checkpoint_are_refused_by_name(checkpoint: Weights) -> None:
    missing = ("head.linear.bias", "pyramid_fuse.blocks.7.block_s.scale", "seg_fusion.conv_1.weight_u")
    extra = ("head.linear.scale", "face_segmenter.weight", "pyramid_fuse.blocks.8.block_l.scale")
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in missing}
    with pytest.raises(OrsanetError) as caught:
        load_strictly(meta_model(), trainable_weights(replace(checkpoint, tensors=tensors), ORSANet))
    findings = re.findall(r"(missing|extra|misshapen|not finite): (\S+)", str(caught.value))
    assert sorted(findings) == sorted(("missing", name) for name in missing)
    tensors = {**checkpoint.tensors, **dict.fromkeys(extra, torch.zeros(1))}
    with pytest.raises(OrsanetError) as caught:
        load_strictly(meta_model(), trainable_weights(replace(checkpoint, tensors=tensors), ORSANet))
    findings = re.findall(r"(missing|extra|misshapen|not finite): (\S+)", str(caught.value))
    assert sorted(findings) == sorted(("extra", name) for name in extra)


def test_a_checkpoint_of_another_depth_or_number_of_classes_is_refused(checkpoint: Weights) -> None:
    with torch.device("meta"):
        base, eight = build_model(ORSANetConfig(depth=6), 7), build_model(ORSANetConfig(), 8)
    with pytest.raises(OrsanetError, match=re.escape("extra: pyramid_fuse.blocks.6.")):
        load_strictly(base, trainable_weights(checkpoint, ORSANet))
    with pytest.raises(OrsanetError, match=re.escape("misshapen: head.linear.weight")):
        load_strictly(eight, trainable_weights(checkpoint, ORSANet))


def test_the_backbones_own_file_of_304_entries_loads_strictly(checkpoint: Weights) -> None:
    """Its names are those below `ir_back.`, with the output layer that is dropped."""
    prefix = "ir_back."
    tensors = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
    assert len(tensors) == 304
    with torch.device("meta"):
        backbone: nn.Module = IR50((64, 128, 256), (3, 4, 14))
    load_strictly(backbone, backbone_weights(Weights(Path("ir50.pth"), tensors)))
    state = backbone.state_dict()
    assert len(state) == 304 - sum(name.startswith("output_layer.") for name in tensors)
    assert [name for name, tensor in state.items() if not torch.equal(tensor, tensors[name])] == []
