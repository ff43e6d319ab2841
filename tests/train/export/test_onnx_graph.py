"""The graphs of a model read what every kind of store keeps, and compute what the model computes."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from orsanet_cache import FrozenPriors, OrsanetError, PriorStore, read_image, view_pixels
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.features import as_stored
from orsanet_train.export.export import largest_difference, probabilities, stored_rows
from orsanet_train.export.onnx_graph import (
    EXPRESSION,
    LARGEST,
    TrainablePart,
    WholePipeline,
    spectral_norm_folded,
    stored_inputs,
    write_graph,
)
from orsanet_train.model.checkpoint import Identity
from orsanet_train.model.inputs import model_inputs
from orsanet_train.model.model import build_model
from orsanet_train.model_config import ORSANetConfig

CPU = torch.device("cpu")
TINY = {"depth": 1, "width": 32, "multi_scale": False, "backbone_channels": (8, 8, 16), "backbone_units": (1, 1, 1)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def frozen(world) -> FrozenPriors:
    return world.load_priors()


def identity_of(recipe: dict[str, object], **changes: object) -> Identity:
    return Identity(
        classes=("a", "b", "c"), model=ORSANetConfig.model_validate({**TINY, **changes}), segmentation_channels=128,
        landmark_channels=512, store_recipe=recipe, ir50_sha256=None, epoch=1, data_set="small", train_split="train",
        selection="best", selection_split="valid", selection_accuracy=0.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "feature_dtype", "inputs"),
    [
        ({"segmentation_prior": "map"}, "float32", ("image", "segmentation_map", "landmark_features")),
        ({"segmentation_prior": "none", "tokens": "spatial"}, "int8", ("image", "landmark_features", "landmark_features_scale")),
    ],
)  # fmt: skip
def test_every_kind_of_store_and_prior_is_read_as_it_is_stored(
    world, frozen: FrozenPriors, tmp_path: Path, changes: dict[str, str], feature_dtype: str, inputs: tuple[str, ...]
) -> None:
    """But for the features of an int8 store, on which test_export.py exports a run."""
    manifest = world.load_manifest()
    build(
        manifest, tmp_path / "store", frozen, ["clean"], device=CPU, splits=["test"],
        feature_dtype=feature_dtype, batch_size=8,
    )  # fmt: skip
    store = PriorStore.open(tmp_path / "store")
    identity = identity_of(store.recipe, **changes)
    model = identity.build().eval()
    assert stored_inputs(identity) == inputs
    pixels = [view_pixels(read_image(manifest.root / sample.image).rgb, "clean") for sample in manifest.split("test")]
    ours = stored_rows(identity, frozen, torch.from_numpy(np.stack(pixels)))
    kept = {name: store.read("test", "clean", name, slice(None)) for name in inputs}
    for name in inputs:
        assert np.array_equal(ours[name].numpy(), kept[name]), name
    two = {name: values[:2] for name, values in ours.items()}
    write_graph(TrainablePart(model, identity), two, EXPRESSION, {}, tmp_path / "trainable.onnx")
    expected = probabilities(model, identity, ours)
    assert expected.std(axis=0).max() > 1e-4  # it looks at what it is given
    assert largest_difference(tmp_path / "trainable.onnx", kept, expected, [1, 5]) <= 1e-6


@pytest.mark.parametrize("feature_dtype", ["float16", "int8"])
def test_in_the_whole_pipeline_the_model_gets_what_a_store_would_give_it_to_the_last_bit(
    world, frozen: FrozenPriors, feature_dtype: str
) -> None:
    manifest = world.load_manifest()
    pictures = [view_pixels(read_image(manifest.root / sample.image).rgb, "clean") for sample in manifest.split("test")]
    pixels = torch.from_numpy(np.stack(pictures))
    identity, exact = (identity_of({**frozen.recipe(), "feature_dtype": kept}) for kept in (feature_dtype, "float32"))
    model = identity.build().eval()

    def seen(identity: Identity) -> tuple[Tensor, ...]:
        """What ORSANet gets in the pipeline of a store of this type."""
        pipeline, inputs = WholePipeline(model, identity, frozen), []
        pipeline.model.register_forward_pre_hook(lambda _, given: inputs.extend(given))
        with torch.no_grad():
            pipeline(pixels)
        return tuple(inputs)

    stored = model_inputs(identity.model, stored_rows(identity, frozen, pixels))
    assert [torch.equal(ours, theirs) for ours, theirs in zip(seen(identity), stored, strict=True)] == [True] * 3
    # Without rounding only the picture is the same.
    assert [torch.equal(ours, theirs) for ours, theirs in zip(seen(exact), stored, strict=True)] == [True, False, False]


class Rounding(nn.Module):
    """The pipeline's rounding, alone."""

    def __init__(self, feature_dtype: str) -> None:
        super().__init__()
        self.feature_dtype = feature_dtype

    def forward(self, features: Tensor) -> Tensor:
        return as_stored(features, self.feature_dtype)


@pytest.mark.parametrize("feature_dtype", ["float16", "int8"])
def test_a_graph_rounds_features_as_a_store_does_to_the_last_bit(tmp_path: Path, feature_dtype: str) -> None:
    features = torch.randn(5, 64, 7, 7) * torch.logspace(-4, 3, 64)[:, None, None]
    features[1, 5] = 0
    features[2, 7] = torch.arange(49).unflatten(0, (7, 7)) - 24.5  # halfway between steps, where the largest is 127
    features[2, 7, 0, 0] = 127
    path = tmp_path / "rounding.onnx"
    write_graph(Rounding(feature_dtype), {"features": features[:2]}, ["rounded"], {}, path)
    (rounded,) = onnxruntime.InferenceSession(path).run(None, {"features": features.numpy()})
    assert np.array_equal(rounded, as_stored(features, feature_dtype).numpy())
    assert not np.array_equal(rounded, features.numpy())


def test_folding_the_spectral_norm_changes_no_bit_of_what_pytorch_computes() -> None:
    model = build_model(ORSANetConfig.model_validate(TINY), 3, 128, 512).eval()
    folded = spectral_norm_folded(model)
    inputs = torch.randn(2, 3, 112, 112), torch.randn(2, 128, 7, 7), torch.randn(2, 512, 7, 7)
    with torch.no_grad():
        assert torch.equal(folded(*inputs).logits, model(*inputs).logits)
    assert not [name for name in folded.state_dict() if "weight_orig" in name]
    assert [name for name in model.state_dict() if "weight_orig" in name]


def test_a_network_too_large_for_one_file_is_refused_before_it_is_traced(tmp_path: Path) -> None:
    with torch.device("meta"):
        huge = build_model(ORSANetConfig(width=8192), 3)
    assert sum(value.nbytes for value in huge.state_dict().values()) > LARGEST
    with pytest.raises(OrsanetError, match=r"GiB of weights, but an ONNX file is limited to 2 GiB"):
        write_graph(huge, {}, EXPRESSION, {}, tmp_path / "huge.onnx")
    assert list(tmp_path.iterdir()) == []
