"""A trained model as ONNX graphs, in evaluation mode and float32, for any number of images at a time.

    trainable.onnx   a store's rows ─ the model ─▶ probabilities, logits, features
    pipeline.onnx    pixels ─ frozen networks ─ the store's rounding ─ the model ─▶ these, landmarks, segmentation_map, segmentation_entropy

Inputs and outputs have the names and types of a store's fields, so arrays from `PriorStore.read`
can be passed unchanged.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.pixels import imagenet_normalised
from orsanet_cache.frozen.priors import FrozenPriors
from orsanet_cache.store.schema import LAPA_CLASSES, OPTIONAL, SCALE
from orsanet_train.model.checkpoint import Identity
from orsanet_train.model.fusion import SpectralConv
from orsanet_train.model.inputs import FEATURES, model_inputs, seen_by_the_model
from orsanet_train.model.model import ExpressionModel

TRAINABLE, PIPELINE = "trainable.onnx", "pipeline.onnx"
OPSET = 18  # the lowest that torch writes; later ones were not faster
IR_VERSION = 10  # of the file format: the highest that onnxruntime 1.22 reads
NO_ONNX = "exporting needs onnx, onnxruntime and onnxscript; in the clone of the project: pip install '.[export]'"
LARGEST = 2**31 - 2**24  # bytes of tensors: the file is one protobuf message, which is limited to 2 GiB

EXPRESSION = ("probabilities", "logits", "features")
PRIORS = ("landmarks", "segmentation_map", "segmentation_entropy")
MEANINGS = {
    "pixels": "RGB, 0 … 255, the whole crop resized to 224 by 224 with antialiasing",
    "image": "RGB, 0 … 255: every second pixel of the 224 by 224 crop",
    "segmentation_features": "SegFace's last Swin stage",
    "segmentation_features_scale": "factor of the int8 segmentation_features, per channel",
    "landmark_features": "MobileFaceNet's last grid",
    "landmark_features_scale": "factor of the int8 landmark_features, per channel",
    **{name: f"MobileFaceNet's grid of {side} pixels" for name, (_, side) in OPTIONAL.items()},
    **{f"{name}{SCALE}": f"factor of the int8 {name}, per channel" for name in OPTIONAL},
    "probabilities": "0 … 1, of the classes in label order; they sum to 1",
    "logits": "input of the softmax that gives the probabilities",
    "features": "input of the last layer",
    "landmarks": "68 points x, y in units of the crop, 0 … 1 (iBUG order)",
    "segmentation_map": f"LaPa class of every pixel: {', '.join(f'{k} {name}' for k, name in enumerate(LAPA_CLASSES))}; 255: not finite",
    "segmentation_entropy": "0 (certain of every pixel) … 1 (all classes equally probable)",
}


def onnx_installed() -> bool:
    """Whether the packages for exporting, an optional extra, are installed."""
    return all(find_spec(name) is not None for name in ("onnx", "onnxruntime", "onnxscript"))


class TrainablePart(nn.Module):
    """A store's rows -> EXPRESSION. The inputs are those of `stored_inputs`, in its order."""

    def __init__(self, model: ExpressionModel, identity: Identity) -> None:
        super().__init__()
        self.model = spectral_norm_folded(model)
        self.config = identity.model
        self.names = stored_inputs(identity)

    def forward(self, image: Tensor, *priors: Tensor) -> tuple[Tensor, ...]:
        stored = dict(zip(self.names, (image, *priors), strict=True))
        logits, features = self.model(*model_inputs(self.config, stored))
        return logits.softmax(dim=1), logits, features


class WholePipeline(nn.Module):
    """pixels uint8 [B, 224, 224, 3] -> EXPRESSION and PRIORS."""

    def __init__(self, model: ExpressionModel, identity: Identity, frozen: FrozenPriors) -> None:
        super().__init__()
        self.frozen = frozen
        self.model = spectral_norm_folded(model)
        self.config = identity.model
        self.feature_dtype = str(identity.store_recipe["feature_dtype"])

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        priors = self.frozen(pixels)
        logits, features = self.model(*seen_by_the_model(self.config, pixels, priors, self.feature_dtype))
        expression = (logits.softmax(dim=1), logits, features)
        return *expression, priors.landmarks, priors.segmentation_map, priors.segmentation_entropy


def stored_inputs(identity: Identity) -> tuple[str, ...]:
    """The store's fields that the model reads, in the order of the graph's inputs."""
    names = identity.model.fields
    rounded = identity.store_recipe["feature_dtype"] == "int8"
    return (*names, *(f"{name}{SCALE}" for name in names if rounded and FEATURES in name))


def spectral_norm_folded(model: ExpressionModel) -> ExpressionModel:
    """A copy with plain instead of spectrally normalised convolutions.

    Their weights are those that evaluation mode computes.
    """
    folded = copy.deepcopy(model).eval()
    for name, module in model.named_modules():
        if isinstance(module, SpectralConv):
            state = module.state_dict()
            width = len(state["bias"])
            sigma = torch.dot(state["weight_u"], torch.mv(state["weight_orig"].flatten(1), state["weight_v"]))
            plain = nn.Conv2d(width, width, 3, padding=1)
            plain.load_state_dict({"weight": state["weight_orig"] / sigma, "bias": state["bias"]})
            folded.set_submodule(name, plain)
    return folded.requires_grad_(False)


def write_graph(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    metadata: Mapping[str, str],
    path: Path,
) -> None:
    """Trace a network and write its graph.

    Raises OrsanetError if the network is too large for one file.

    Args:
        network: `TrainablePart` or `WholePipeline`.
        inputs: Inputs for the trace by the names of the graph's inputs, [B, …] with B ≥ 2.
        outputs: Names of the outputs.
        metadata: The file's metadata_props.
        path: The file to write.
    """
    from onnx_ir.passes import PassManager, common
    from onnxscript.optimizer import fold_constants

    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size > LARGEST:
        raise OrsanetError(
            f"{path.name}: {size / 2**30:.1f} GiB of weights, but an ONNX file is limited to 2 GiB; export a smaller model"
        )
    imagenet_normalised(torch.zeros(1, 3, 1, 1))  # creates its constants, which would not be numbers if traced
    batch = torch.export.Dim("batch")
    first, *rest = [{0: batch} for _ in inputs]
    shapes = (first, tuple(rest)) if rest else (first,)  # the trainable part takes its priors as *priors
    with torch.no_grad(), _quiet():
        exported = torch.export.export(network.eval(), tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(
            exported, input_names=list(inputs), output_names=list(outputs), dynamo=True, opset_version=OPSET, optimize=False, verbose=False,
            dynamic_shapes=(first, *(None for _ in rest)),  # here they only name the axis, which all inputs share
        )  # fmt: skip
        assert program is not None  # dynamo=True returns a program
        # torch's optimisation is off: its rewriting rules take minutes, and onnxruntime applies the
        # same rules when it opens a file.
        fold_constants(program.model)
        PassManager([
            common.RemoveUnusedNodesPass(), common.CommonSubexpressionEliminationPass(), common.DeduplicateInitializersPass(),
            common.RemoveUnusedNodesPass(), common.ClearMetadataAndDocStringPass(),  # removes each node's stack trace on this machine
        ])(program.model)  # fmt: skip
        program.model.ir_version = IR_VERSION
        program.model.metadata_props.update(metadata)
        program.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages of torch and onnxscript about their own code."""
    with warnings.catch_warnings():
        # torch uses functions that it deprecates (copyreg, jit, isinstance(…, LeafSpec)).
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        logger = logging.getLogger("onnxscript")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it logs every node that it does not fold
        try:
            yield
        finally:
            logger.setLevel(level)
