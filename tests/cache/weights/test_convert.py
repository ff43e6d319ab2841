"""A converted file has the networks' tensors, small and safe, and the same recipe as the original."""

import json
from pathlib import Path

import pytest
import torch
from weights_files import files, published_landmarks, refusal, seeded, sha256, small_segmenter

from orsanet_cache import FrozenPriors
from orsanet_cache.frozen.loading import load_strictly, read_weights, tensors_digest
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.weights.convert import ORIGIN_KEY, IR50Layout, convert_weights
from orsanet_train.model.ir50 import IR50, published_output_layer
from orsanet_train.model.model import backbone_weights


def test_a_store_built_from_converted_weights_has_the_recipe_of_one_built_from_the_originals(tmp_path: Path) -> None:
    segmenter = small_segmenter(tmp_path / "segmenter.safetensors")
    landmarks = published_landmarks(tmp_path / "landmarks.pth.tar")
    assert convert_weights(segmenter, tmp_path / "a.safetensors").network == "segface"
    assert convert_weights(landmarks, tmp_path / "b.safetensors").network == "mobilefacenet"
    converted = FrozenPriors.load(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert converted.recipe() == FrozenPriors.load(segmenter, landmarks).recipe()


def test_a_converted_file_holds_the_networks_tensors_and_its_origins_digest_and_nothing_else(tmp_path: Path) -> None:
    landmarks = published_landmarks(tmp_path / "landmarks.pth.tar")
    convert_weights(landmarks, tmp_path / "b.safetensors")
    converted = read_weights(tmp_path / "b.safetensors")
    assert converted.metadata == {ORIGIN_KEY: sha256(landmarks.read_bytes())}
    assert tensors_digest(converted.tensors) == tensors_digest(seeded(MobileFaceNet()))
    assert sorted(files(tmp_path)) == ["b.safetensors", "landmarks.pth.tar"]


def test_half_precision_and_strided_tensors_are_written_as_the_network_reads_them(tmp_path: Path) -> None:
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).mT.contiguous().mT
        if tensor.ndim > 1
        else tensor
        for name, tensor in seeded(MobileFaceNet()).items()
    }
    torch.save({"state_dict": tensors}, tmp_path / "half.pth")
    segmenter = small_segmenter(tmp_path / "segmenter.safetensors")
    convert_weights(tmp_path / "half.pth", tmp_path / "b.safetensors")
    recipes = [FrozenPriors.load(segmenter, tmp_path / name).recipe() for name in ("half.pth", "b.safetensors")]
    assert recipes[0] == recipes[1]


def test_ir50_is_converted_without_its_output_layer_and_is_the_same_start_of_a_training(
    ir50_files: tuple[Path, Path],
) -> None:
    original, out = ir50_files
    converted = read_weights(out)
    assert tensors_digest(converted.tensors) == tensors_digest(backbone_weights(read_weights(original)).tensors)
    with torch.device("meta"):
        backbone = IR50((64, 128, 256), (3, 4, 14))
    load_strictly(backbone, backbone_weights(converted))
    assert tensors_digest(backbone.state_dict()) == tensors_digest(converted.tensors)


def test_the_ir50_that_files_are_checked_against_is_stage_twos(shared: Path) -> None:
    with torch.device("meta"):
        network, output, layout = IR50((64, 128, 256), (3, 4, 14)), published_output_layer(), IR50Layout()
    expected = {**network.state_dict(), **{f"output_layer.{name}": t for name, t in output.state_dict().items()}}
    shapes = {name: list(tensor.shape) for name, tensor in layout.state_dict().items()}
    assert shapes == {name: list(tensor.shape) for name, tensor in expected.items()}
    assert len(shapes) == 304
    published = json.loads((shared / "reference" / "orsanet_state_dict.json").read_text())
    in_checkpoint = {name.removeprefix("ir_back."): entry for name, entry in published.items() if "ir_back." in name}
    assert shapes == {name: shape for name, (shape, _) in in_checkpoint.items()}


@pytest.mark.parametrize("damage", ["missing", "extra", "misshapen"])
def test_tensors_that_are_not_exactly_the_networks_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    tensors = seeded(MobileFaceNet())
    if damage == "missing":
        del tensors["output_layer.linear.weight"]
    elif damage == "extra":
        tensors["fc.weight"] = torch.ones(2)
    else:
        tensors["output_layer.linear.weight"] = torch.ones(10, 512)
    torch.save({"state_dict": tensors}, tmp_path / "a.pth")
    said = refusal(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert f"{damage}: {'fc.weight' if damage == 'extra' else 'output_layer.linear.weight'}" in said


def test_what_cannot_be_converted_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    landmarks, out = published_landmarks(tmp_path / "landmarks.pth.tar"), tmp_path / "b.safetensors"
    torch.save({"state_dict": {"fc.weight": torch.ones(1)}}, tmp_path / "unknown.pth")
    assert "neither SegFace, MobileFaceNet nor IR50; its tensors begin with fc.weight" in refusal(
        tmp_path / "unknown.pth", out
    )
    (tmp_path / "cut.pth").write_bytes(landmarks.read_bytes()[:100_000])
    assert "cut.pth" in refusal(tmp_path / "cut.pth", out)
    assert "absent.pth" in refusal(tmp_path / "absent.pth", out)
    convert_weights(landmarks, out)
    assert "already converted" in refusal(out, tmp_path / "c.safetensors")
    written = out.read_bytes()
    assert "exists already" in refusal(landmarks, out)
    assert out.read_bytes() == written
