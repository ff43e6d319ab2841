"""A run -> ONNX files whose outputs were compared with PyTorch's, and a model card.

    RUN/best.safetensors ─┬─────────────────────▶ trainable.onnx ─┐
                          └─ frozen networks ───▶ pipeline.onnx  ─┴─ onnxruntime beside PyTorch, on pictures ─▶ MODEL_CARD.md

The folder is written under a temporary name and renamed when every file has passed the comparison.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orsanet_cache.data.images import image_reading
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.features import kept
from orsanet_cache.frozen.priors import FrozenPriors
from orsanet_cache.outputs import output_folder
from orsanet_cache.paths import Place, StrPath, StrPlace, as_path, as_place
from orsanet_cache.store.schema import OPTIONAL, schema
from orsanet_train.export.check_pictures import BATCHES, check_pictures
from orsanet_train.export.model_card import CARD, Port, WrittenGraph, evaluation_of, licences, model_card, training_of
from orsanet_train.export.onnx_graph import (
    EXPRESSION,
    NO_ONNX,
    PIPELINE,
    PRIORS,
    TRAINABLE,
    TrainablePart,
    WholePipeline,
    onnx_installed,
    stored_inputs,
    write_graph,
)
from orsanet_train.model.beside import written
from orsanet_train.model.checkpoint import Identity, load_weights
from orsanet_train.model.fetched import local_runs
from orsanet_train.model.frozen import frozen_priors
from orsanet_train.model.inputs import FEATURES, IMAGE, model_inputs
from orsanet_train.model.model import ExpressionModel

ExportedPart = Literal["pipeline", "trainable", "both"]

# Of a probability. Sums in another order differ by much less, except with int8, where they can move
# a feature to the next step. A graph that computes something else exceeds this limit. A graph that
# is only less exact, for example without a float16 store's rounding, may stay below it.
MAX_DIFFERENCE = 1e-4
PYTORCH_BATCH = 8


@dataclass(frozen=True)
class Exported:
    """The written files."""

    folder: Place
    graphs: tuple[WrittenGraph, ...]


def export_onnx(
    run_folder: StrPlace,
    checkpoint: str,
    out: StrPlace,
    *,
    part: ExportedPart = "both",
    segmenter: StrPath | None = None,
    landmarks: StrPath | None = None,
    check: StrPath | None = None,
) -> Exported:
    """Write trainable.onnx, pipeline.onnx (or one of them) and MODEL_CARD.md into a new folder.

    Raises OrsanetError, and writes nothing, if `out` exists, if onnxruntime is not installed, if
    the frozen networks are not the run's or not used, if a picture cannot be read, or if a
    probability differs from PyTorch's by more than MAX_DIFFERENCE.

    Args:
        run_folder: The run folder, or its URL.
        checkpoint: "best" or "last".
        out: The folder to write, or its URL; it must not exist.
        part: The files to write: "pipeline", "trainable" or "both".
        segmenter: As for `frozen_priors`; None for the trainable part alone.
        landmarks: As for `frozen_priors`; None for the trainable part alone.
        check: A folder or manifest of pictures for the comparison with PyTorch. None: pictures that
            come with scikit-learn.
    """
    if not onnx_installed():
        raise OrsanetError(NO_ONNX)
    run, target = as_place(run_folder, "run_folder", "run"), as_place(out, "out", "run")
    if isinstance(target, Path) and target.exists():
        raise OrsanetError(f"{target}: already exists; remove it, or choose another --out")
    if part == "trainable" and (segmenter is not None or landmarks is not None):
        raise OrsanetError(
            "--part trainable has no frozen networks in it; leave out --segmenter and --landmarks, or export --part both"
        )
    with (
        local_runs([run], checkpoint) as (here,),
        written(target, None) as there,
        output_folder(there, None) as folder,
    ):
        graphs = _write(here, checkpoint, folder, part, segmenter, landmarks, check)
    return Exported(target, tuple(graphs))


def _write(
    run_folder: Path, checkpoint: str, folder: Path, part: ExportedPart, segmenter: StrPath | None, landmarks: StrPath | None,
    check: StrPath | None,
) -> list[WrittenGraph]:  # fmt: skip
    """Write the files into an empty folder."""
    model, identity = load_weights(run_folder / f"{checkpoint}.safetensors")
    evaluation = evaluation_of(run_folder, checkpoint)
    frozen = None if part == "trainable" else frozen_priors(run_folder, identity, segmenter, landmarks)
    source = None if check is None else as_path(check, "check")
    pictures, described = check_pictures(source, image_reading(identity.store_recipe))
    pixels = torch.from_numpy(pictures)
    stored = random_rows(identity, pixels) if frozen is None else stored_rows(identity, frozen, pixels)
    export = partial(_export, identity=identity, folder=folder)
    graphs = []
    expected = probabilities(model, identity, stored)
    if part != "pipeline":
        graphs.append(export(TrainablePart(model, identity), TRAINABLE, stored, EXPRESSION, expected))
    if frozen is not None:
        network = WholePipeline(model, identity, frozen)
        graphs.append(export(network, PIPELINE, {"pixels": pixels}, (*EXPRESSION, *PRIORS), expected))
    card = model_card(checkpoint, identity, evaluation, graphs, described, training_of(run_folder, identity))
    (folder / CARD).write_text(card, encoding="utf-8")
    return graphs


def stored_rows(identity: Identity, frozen: FrozenPriors, pixels: Tensor) -> dict[str, Tensor]:
    """The fields that the model reads from a store of the run's recipe, for these pictures.

    `pixels` is uint8 [N, 224, 224, 3]; every field has N rows.
    """
    feature_dtype = str(identity.store_recipe["feature_dtype"])
    parts: list[dict[str, Tensor]] = []
    for batch in pixels.split(PYTORCH_BATCH):
        priors = frozen(batch)
        row = {"image": batch[:, ::2, ::2]}
        for name in identity.model.fields:
            if name != IMAGE:
                value = getattr(priors, name)
                row |= kept(name, value, feature_dtype) if FEATURES in name else {name: value}
        parts.append(row)
    return {name: torch.cat([row[name] for row in parts]).contiguous() for name in stored_inputs(identity)}


def random_rows(identity: Identity, pixels: Tensor) -> dict[str, Tensor]:
    """The same fields with seeded random priors, for an export without frozen networks."""
    feature_dtype = str(identity.store_recipe["feature_dtype"])
    generator, count = torch.Generator().manual_seed(0), len(pixels)
    row = {"image": pixels[:, ::2, ::2].contiguous()}
    for field in schema(identity.segmentation_channels, identity.landmark_channels, "float32", OPTIONAL):
        if field.compressed:  # the map
            row[field.name] = torch.randint(0, 11, (count, *field.shape), generator=generator, dtype=torch.uint8)
        elif FEATURES in field.name:
            row |= kept(field.name, torch.randn(count, *field.shape, generator=generator), feature_dtype)
        elif field.name != IMAGE:
            row[field.name] = torch.rand(count, *field.shape, generator=generator)
    return {name: row[name] for name in stored_inputs(identity)}


def probabilities(model: ExpressionModel, identity: Identity, stored: Mapping[str, Tensor]) -> NDArray[np.float32]:
    """PyTorch's probabilities for a store's rows, [N, K], computed as in an evaluation."""
    parts = []
    with torch.no_grad():
        for start in range(0, len(next(iter(stored.values()))), PYTORCH_BATCH):
            row = {name: values[start : start + PYTORCH_BATCH] for name, values in stored.items()}
            parts.append(model(*model_inputs(identity.model, row)).logits.softmax(dim=1))
    return torch.cat(parts).numpy()


def largest_difference(
    path: Path, inputs: Mapping[str, NDArray[Any]], expected: NDArray[np.float32], batches: Sequence[int] = BATCHES
) -> float:
    """The largest difference between onnxruntime's probabilities and the expected ones, [N, K].

    onnxruntime computes them in batches of each of the sizes `batches`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for size in batches:
        for start in range(0, len(expected), size):
            span = slice(start, start + size)
            (computed,) = session.run(["probabilities"], {name: values[span] for name, values in inputs.items()})
            difference = np.abs(computed - expected[span]).max()
            if not difference <= largest:  # also for NaN
                largest = float(difference)
    return largest


def _export(
    network: torch.nn.Module,
    name: str,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    expected: NDArray[np.float32],
    *,
    identity: Identity,
    folder: Path,
) -> WrittenGraph:
    """Write one file and compare it with PyTorch."""
    path = folder / name
    write_graph(network, {key: values[:2] for key, values in inputs.items()}, outputs, _metadata(identity), path)
    difference = largest_difference(path, {key: values.numpy() for key, values in inputs.items()}, expected)
    if not difference <= MAX_DIFFERENCE:
        cause = ""
        if identity.store_recipe["feature_dtype"] == "int8":
            cause = " (the only cause may be features between two steps of an int8 store, which round to either)"
        raise OrsanetError(
            f"{name}: onnxruntime's probabilities differ from PyTorch's by up to {difference:.1e}, more than {MAX_DIFFERENCE:.0e}{cause}, "
            f"so nothing was written; try --part trainable or another version of onnxruntime, and report the difference"
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return WrittenGraph(name, sha256, path.stat().st_size, *_ports(path), difference, len(expected))


def _metadata(identity: Identity) -> dict[str, str]:
    """The metadata_props of an ONNX file."""
    return {
        "classes": json.dumps(identity.classes),
        "tensors_sha256": identity.tensors_sha256,
        "store_recipe": json.dumps(identity.store_recipe),
        "preprocessing": "RGB uint8, not normalised: normalisation is in the graph; "
        + "; ".join(f"{key}: {value}" for key, value in identity.store_recipe["preprocessing"].items()),
        "licence": "; ".join(licences(identity)),
    }


def _ports(path: Path) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a file as onnxruntime reads them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    both = session.get_inputs(), session.get_outputs()
    inputs, outputs = (tuple(Port(port.name, _dtype(port.type), tuple(port.shape)) for port in ports) for ports in both)
    return inputs, outputs


def _dtype(onnx_type: str) -> str:
    """tensor(float) -> float32, the only type whose name has no number in ONNX."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return "float32" if name == "float" else name
