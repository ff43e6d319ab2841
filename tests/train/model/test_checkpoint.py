"""Checkpoints: what is read is what was written, anything else is refused, and a failed write leaves the previous file whole."""

import copy
import json
import os
import re
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from failing_disk import full_disk
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from orsanet_cache import OrsanetError
from orsanet_cache.durable import write_whole
from orsanet_train.model.checkpoint import HEADER, Identity, how_chosen, load_weights, save_weights
from orsanet_train.model.orsanet import ORSANet
from orsanet_train.model_config import ORSANetConfig

CLASSES = ("surprise", "fear", "anger")
IDENTITY = Identity(
    classes=CLASSES,
    model=ORSANetConfig(depth=1, width=64, backbone_channels=(4, 8, 16), backbone_units=(1, 1, 1), tokens="spatial"),
    segmentation_channels=24,
    landmark_channels=32,
    ir50_sha256=None,
    store_recipe={"segmenter": {"weights_sha256": "00ff"}, "precision": "fp32", "nested": [1, 2.5, None]},
    epoch=3,
    data_set="faces",
    train_split="train",
    selection="best",
    selection_split="valid",
    selection_accuracy=2 / 3,
)


def inputs(count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((count, 3, 112, 112), (count, 24, 7, 7), (count, 32, 7, 7))
    image, segmentation, landmark_features = (torch.randn(shape, generator=generator) for shape in shapes)
    return image, segmentation, landmark_features


def trained_model() -> tuple[ORSANet, Adam]:
    """A small model after one training step, so that batch statistics and optimiser state are not what a new model has."""
    torch.manual_seed(0)
    model = IDENTITY.build().train()
    optimizer = Adam(model.parameters(), lr=1e-3)
    cross_entropy(model(*inputs()).logits, torch.tensor([0, 2])).backward()
    optimizer.step()
    return model, optimizer


@cache
def finished() -> tuple[ORSANet, Adam]:
    """The trained model, made once; not to be changed."""
    model, optimizer = trained_model()
    return model.eval(), optimizer


@pytest.fixture
def model() -> ORSANet:
    return finished()[0]


@pytest.fixture
def weights_file(model: ORSANet, tmp_path: Path) -> Path:
    save_weights(tmp_path / "best.safetensors", model, IDENTITY)
    return tmp_path / "best.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    """Write a weights file again with changed tensors or header."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
    tensors = safetensors.torch.load_file(path)
    change(tensors, header)
    safetensors.torch.save_file(tensors, path, metadata=header or None)


def refusal(path: Path) -> str:
    with pytest.raises(OrsanetError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_weights_read_back_as_the_same_model_in_evaluation_mode(model: ORSANet, weights_file: Path) -> None:
    loaded, identity = load_weights(weights_file)
    assert identity.model_copy(update={"tensors_sha256": ""}) == IDENTITY
    assert not any(module.training for module in loaded.modules())
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    aligned = copy.deepcopy(loaded)  # a file's tensors lie in memory as they come, and kernels round differently there
    with torch.no_grad():
        assert torch.equal(aligned(*inputs()).logits, model(*inputs()).logits)


def test_a_loaded_model_is_whole_and_can_be_trained_on(weights_file: Path) -> None:
    """It is created without memory; no parameter or buffer may be left so."""
    loaded, _ = load_weights(weights_file)
    assert {tensor.device.type for tensor in [*loaded.parameters(), *loaded.buffers()]} == {"cpu"}
    loaded.train()(*inputs()).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_a_model_in_another_memory_format_and_training_mode_is_saved_the_same(
    model: ORSANet, weights_file: Path, tmp_path: Path
) -> None:
    other, _ = load_weights(weights_file)
    save_weights(tmp_path / "other.safetensors", other.to(memory_format=torch.channels_last).train(), IDENTITY)
    assert (tmp_path / "other.safetensors").read_bytes() == weights_file.read_bytes()


def test_the_header_names_the_classes_in_label_order(weights_file: Path) -> None:
    with safetensors.safe_open(weights_file, framework="pt") as file:
        identity = Identity.model_validate_json(file.metadata()[HEADER])
    assert identity.classes == CLASSES
    assert identity.model_copy(update={"tensors_sha256": ""}) == IDENTITY


def test_weights_without_our_header_are_refused(weights_file: Path) -> None:
    rewrite(weights_file, lambda tensors, header: header.clear())
    assert "header" in refusal(weights_file)


def test_a_pickle_is_refused(model: ORSANet, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "best.pt")
    assert "header" in refusal(tmp_path / "best.pt")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '"classes"'])
def test_a_broken_header_is_refused(text: str, weights_file: Path) -> None:
    rewrite(weights_file, lambda tensors, header: header.update({HEADER: text}))
    assert "header" in refusal(weights_file)


@pytest.mark.parametrize(
    ("update", "key"),
    [
        ({"classes": "anger"}, "classes"),
        ({"epoch": "third"}, "epoch"),
        ({"selection": "lucky"}, "selection"),
        ({"colour": "red"}, "colour"),
        ({"model": {"depth": 0}}, "model.depth"),
        ({"model": {"width": 40}}, "model.width"),
        ({"segmentation_channels": -1}, "segmentation_channels"),
        ({"landmark_channels": -1}, "landmark_channels"),
    ],
)
def test_a_header_that_describes_no_model_is_refused_by_its_key(
    update: dict[str, object], key: str, weights_file: Path
) -> None:
    text = json.dumps({**IDENTITY.model_dump(mode="json"), **update})
    rewrite(weights_file, lambda tensors, header: header.update({HEADER: text}))
    assert key in refusal(weights_file)


@pytest.mark.parametrize(
    "name", ["head.linear.weight", "ir_back.input_layer.1.running_mean", "seg_fusion.conv_0.weight_u"]
)
def test_a_missing_tensor_is_refused_by_name(name: str, weights_file: Path) -> None:
    rewrite(weights_file, lambda tensors, header: tensors.__delitem__(name))
    assert f"missing: {name}" in refusal(weights_file)


def test_extra_misshapen_and_not_finite_tensors_are_refused_by_name(weights_file: Path) -> None:
    def change(tensors: dict[str, Tensor], header: dict[str, str]) -> None:
        tensors["stranger"] = torch.zeros(1)
        tensors["head.linear.bias"] = torch.zeros(4)
        tensors["se_block.linear1.bias"][5] = float("nan")

    rewrite(weights_file, change)
    message = refusal(weights_file)
    assert "extra: stranger" in message
    assert "misshapen: head.linear.bias" in message
    assert "not finite: se_block.linear1.bias" in message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_weights_file_is_refused(share: float, weights_file: Path) -> None:
    os.truncate(weights_file, int(share * weights_file.stat().st_size))
    refusal(weights_file)


def test_a_missing_weights_file_is_refused_by_its_folder_and_its_name(tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match=re.escape(f"{tmp_path} is not a run folder: it has no last.safetensors; ")):
        load_weights(tmp_path / "last.safetensors")
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(
        OrsanetError, match=r"has no last\.safetensors, only best\.safetensors; choose best\.safetensors"
    ):
        load_weights(tmp_path / "last.safetensors")
    with pytest.raises(OrsanetError, match=r"best\.safetensors is not a run folder: it has no last"):
        load_weights(tmp_path / "best.safetensors" / "last.safetensors")


def write_text(path: Path) -> None:
    write_whole(path, lambda temporary: temporary.write_text("x" * 100_000))


def write_weights(path: Path) -> None:
    save_weights(path, finished()[0], IDENTITY)


WRITERS = pytest.mark.parametrize("write", [write_text, write_weights])


@WRITERS
@pytest.mark.parametrize("folder", ["gone", "a file"])
def test_a_folder_that_cannot_be_written_into_is_an_orsanet_error(
    folder: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(OrsanetError, match="cannot be written") as caught:
        write(tmp_path / folder / "best")
    assert str(tmp_path / folder / "best") in str(caught.value)


@WRITERS
def test_a_full_disk_is_an_orsanet_error_and_leaves_the_old_file(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("the old file")
    with full_disk(20_000), pytest.raises(OrsanetError, match="cannot be written") as caught:
        write(path)
    assert str(path) in str(caught.value)
    assert path.read_text() == "the old file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@WRITERS
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_written_files_have_the_permissions_of_any_new_file(
    write: Callable[[Path], None], umask: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


@WRITERS
def test_a_write_replaces_the_old_file_and_a_stale_temporary(write: Callable[[Path], None], tmp_path: Path) -> None:
    """A kill leaves a temporary behind; the next write in the folder removes it."""
    (tmp_path / "fresh").mkdir()
    write(tmp_path / "fresh" / "file")
    (tmp_path / "file").write_text("the old file")
    (tmp_path / ".file.orsanet-0123abcd").write_text("stale" * 100_000)
    write(tmp_path / "file")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "fresh"]
    assert (tmp_path / "file").read_bytes() == (tmp_path / "fresh" / "file").read_bytes()


def test_a_flipped_bit_in_a_weights_file_is_refused(weights_file: Path) -> None:
    """safetensors itself has no checksum over the values."""
    content = bytearray(weights_file.read_bytes())
    content[-10] ^= 1  # the last tensor's mantissa: still a finite number
    weights_file.write_bytes(content)
    assert "damaged" in refusal(weights_file)


def test_how_checkpoints_were_chosen_is_one_sentence_for_all_seeds() -> None:
    other = IDENTITY.model_copy(update={"epoch": 7, "selection_split": "test"})
    assert how_chosen(IDENTITY) == "best checkpoint (epoch 3), chosen by its accuracy on split 'valid'"
    assert how_chosen(IDENTITY, other, IDENTITY) == (
        "best checkpoint (epoch 3, 7), chosen by its accuracy on split 'valid', 'test'"
    )
    last = [checkpoint.model_copy(update={"selection": "last"}) for checkpoint in (IDENTITY, IDENTITY, other)]
    assert how_chosen(*last) == "last checkpoint (epoch 3, 7), not chosen by any result"
    published = IDENTITY.model_copy(update={"selection": "published", "epoch": None})
    assert how_chosen(published) == published.published_choice
