"""From the pixels of real faces, onnxruntime and PyTorch say the same, nearer than what the store's rounding changes, whatever its type."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from small_store import Remembering
from torch import Tensor, nn

from orsanet_cache import FrozenPriors
from orsanet_cache.data.images import PREPROCESSING
from orsanet_cache.frozen.shipped import weights_path
from orsanet_train.export.check_pictures import check_pictures
from orsanet_train.export.export import MAX_DIFFERENCE, largest_difference, probabilities, stored_rows
from orsanet_train.export.onnx_graph import EXPRESSION, PRIORS, TrainablePart, WholePipeline, write_graph
from orsanet_train.model.checkpoint import Identity
from orsanet_train.model.orsanet import ORSANet
from orsanet_train.model_config import ORSANetConfig

DEMO = Path("demo")
TINY = ORSANetConfig(depth=1, width=32, multi_scale=False, backbone_channels=(8, 8, 16), backbone_units=(1, 1, 1))


@pytest.fixture(scope="module")
def frozen() -> FrozenPriors:
    """The shipped networks, which look at every face once."""
    return Remembering(FrozenPriors.load(weights_path(DEMO, "segmenter"), weights_path(DEMO, "landmarks"), "native"))


@pytest.fixture(scope="module")
def faces(shared: Path) -> NDArray[np.uint8]:
    torch.set_num_threads(1)
    pictures, said = check_pictures(shared / "faces" / "faces")
    assert said == "100 of the 959 pictures of faces"
    return pictures[::2]  # whose probabilities differ as much as those of all


def model_of(frozen: FrozenPriors, feature_dtype: str) -> tuple[ORSANet, Identity]:
    """A model as sure of itself as one that was trained on these faces: 0.39 on average."""
    torch.manual_seed(0)
    recipe = {**frozen.recipe(), "preprocessing": PREPROCESSING, "precision": "fp32", "feature_dtype": feature_dtype}
    identity = Identity(
        classes=tuple("abcdefg"), model=TINY, segmentation_channels=frozen.segmenter.feature_channels, landmark_channels=512,
        store_recipe=recipe, ir50_sha256=None, epoch=1, data_set="faces", train_split="train", selection="best",
        selection_split="valid", selection_accuracy=0.5,
    )  # fmt: skip
    model = identity.build().eval()
    torch.nn.init.normal_(model.head.linear.weight, std=0.5)
    return model, identity


def checked(expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of a model that looks: neither unsure of all faces nor telling them all the same."""
    assert expected.max(axis=1).mean() == pytest.approx(0.4, abs=0.05)
    assert expected.std(axis=0).max() > 0.1
    return expected


class Once(FrozenPriors):
    """The same networks, run once for all pipelines that get the same pixels."""

    def __init__(self, frozen: FrozenPriors) -> None:
        super().__init__(frozen.segmenter, frozen.landmark_network, frozen.landmark_input)
        self.forward = lru_cache(maxsize=1)(super().forward)


class Pipelines(nn.Module):
    """The pipelines of one model for stores of several types, side by side in a graph: most of the tracing is the frozen networks'."""

    def __init__(self, frozen: FrozenPriors, feature_dtypes: Sequence[str]) -> None:
        super().__init__()
        once = Once(frozen)
        self.pipelines = nn.ModuleList(WholePipeline(*model_of(frozen, kept), once) for kept in feature_dtypes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(output for pipeline in self.pipelines for output in pipeline(pixels))


@pytest.fixture(scope="module")
def computed(
    faces: NDArray[np.uint8], frozen: FrozenPriors, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, NDArray[np.float32]]:
    """onnxruntime's probabilities from the faces' pixels, by the type of the store."""
    path, feature_dtypes = tmp_path_factory.mktemp("pipelines") / "pipelines.onnx", ("float16", "int8")
    outputs = [f"{kept}_{name}" for kept in feature_dtypes for name in (*EXPRESSION, *PRIORS)]
    write_graph(Pipelines(frozen, feature_dtypes), {"pixels": torch.from_numpy(faces[:2])}, outputs, {}, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    wanted = [f"{kept}_probabilities" for kept in feature_dtypes]
    parts = [session.run(wanted, {"pixels": faces[start : start + 7]}) for start in range(0, len(faces), 7)]
    return dict(zip(feature_dtypes, map(np.concatenate, zip(*parts, strict=True)), strict=True))


@pytest.mark.parametrize(
    ("feature_dtype", "tolerance"),
    [
        # Sums in another order decide to which of two neighbours some features round: measured 8.4e-6, and 9.3e-5 without rounding.
        ("float16", 3e-5),
        ("int8", MAX_DIFFERENCE),  # the steps are wider: measured 5.5e-5, and 2.0e-3 without rounding
    ],
)
def test_from_pixels_with_the_rounding_of_the_store_and_not_without(
    faces: NDArray[np.uint8],
    frozen: FrozenPriors,
    computed: dict[str, NDArray[np.float32]],
    feature_dtype: str,
    tolerance: float,
) -> None:
    model, identity = model_of(frozen, feature_dtype)
    pixels = torch.from_numpy(faces)
    expected = checked(probabilities(model, identity, stored_rows(identity, frozen, pixels)))
    assert np.abs(computed[feature_dtype] - expected).max() <= tolerance
    exact = identity.model_copy(update={"store_recipe": {**identity.store_recipe, "feature_dtype": "float32"}})
    with torch.no_grad():
        unrounded = WholePipeline(model, exact, frozen)
        said = torch.cat([unrounded(batch)[0] for batch in pixels.split(8)]).numpy()
    assert np.abs(said - expected).max() > tolerance


def test_from_an_int8_stores_rows(faces: NDArray[np.uint8], frozen: FrozenPriors, tmp_path: Path) -> None:
    model, identity = model_of(frozen, "int8")
    rows = stored_rows(identity, frozen, torch.from_numpy(faces))
    expected = checked(probabilities(model, identity, rows))
    path, two = tmp_path / "trainable.onnx", {name: values[:2] for name, values in rows.items()}
    write_graph(TrainablePart(model, identity), two, EXPRESSION, {}, path)
    assert largest_difference(path, {name: values.numpy() for name, values in rows.items()}, expected, [7]) <= 1e-5
