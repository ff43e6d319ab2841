"""A checkpoint of the published code -> a run folder, and the frozen networks it was trained with.

    {iter, model_state_dict, optimizer_state_dict} ─┬─ face_segment.*   ─▶ segmenter.safetensors ─┐
                                                    ├─ face_landback.*  ─▶ landmarks.safetensors ─┴─▶ orsanet-cache build
                                                    └─ the trainable part ─▶ best.safetensors (config.toml, run.json) ─▶ evaluate

A checkpoint contains its own frozen networks. They differ from those of the original files: the
published training put MobileFaceNet into training mode, so its statistics drifted. The run folder
therefore has the checkpoint's networks, with the segmenter's decoder, and requires a store that was
built with exactly these.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from orsanet_cache.data.images import preprocessing
from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.frozen.loading import Weights, load_strictly, read_weights
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.priors import ARCHITECTURE_KEY, FrozenPriors, load_segmenter
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.frozen.shipped import weights_path
from orsanet_cache.outputs import output_folder
from orsanet_cache.paths import StrPath, as_names, as_path
from orsanet_cache.weights.networks import in_weights_folder
from orsanet_train.config import RunConfig, parse_config
from orsanet_train.model.checkpoint import LANDMARKS_FILE, SEGMENTER_FILE, Identity, save_weights
from orsanet_train.model.model import ExpressionModel, build_model, trainable_weights
from orsanet_train.model_config import SIZES, ModelConfig
from orsanet_train.run.folder import begin_folder

SEGMENTER, LANDMARKS = "face_segment.", "face_landback."  # the frozen networks in a published checkpoint
SWIN_B = SegFaceConfig()
# The published training: the frozen networks get the erased picture, in training mode.
TRAINED = {"priors": "online", "online": "published"}
# The published code computes priors in float32 and does not round them, so its numbers need a store
# that does the same, from images read as its loader does.
EXACT = {"precision": "fp32", "feature_dtype": "float32"}


def import_checkpoint(
    path: StrPath,
    out: StrPath,
    config: RunConfig,
    classes: Sequence[str],
    data_set: str,
    segmenter_config: SegFaceConfig = SWIN_B,
    segmenter_file: StrPath | None = None,
) -> Identity:
    """Write the run folder `out`: best, segmenter and landmarks .safetensors, config.toml, run.json.

    The optimiser's state is left out.

    Args:
        path: the checkpoint of the published code.
        out: the run folder, which must not exist.
        config: the sizes of the model, and the splits.
        classes: names of the classes, in label order.
        data_set: the name of the manifest that the checkpoint was trained with.
        segmenter_config: the sizes of the checkpoint's segmenter (published: Swin-B).
        segmenter_file: for checkpoints without a segmenter, the one that the store is built with: a
            weights file, or the word demo. None: the published one in the weights folder.

    Raises OrsanetError, and writes no files, if `out` exists, if the file is not such a checkpoint,
    and if its networks have other sizes or another number of classes.
    """
    path, out, classes = as_path(path, "checkpoint"), as_path(out, "out"), as_names(classes, "classes")
    if out.exists():
        raise OrsanetError(f"{out}: already exists; choose another --out")
    if not config.model.published_sizes:
        raise OrsanetError(f'model.kind = "{config.model.kind}" has no published code, and so no checkpoint of it')
    _check_forms(config.model)
    weights = read_weights(path)
    with torch.device("meta"):
        segmenter, landmarks = SegFace(segmenter_config), MobileFaceNet()
        model = build_model(config.model, len(classes), segmenter.feature_channels, landmarks.feature_channels)
    _check_parts(weights, model, classes)
    if SEGMENTER in model.frozen_prefixes:
        load_strictly(segmenter, _part(weights, SEGMENTER))
    else:
        segmenter = _segmenter_of_the_store(segmenter_file, config.model)
    load_strictly(landmarks, _part(weights, LANDMARKS))
    load_strictly(model, trainable_weights(weights, model))

    recipe = {
        **FrozenPriors(segmenter, landmarks, "published").recipe(),
        "preprocessing": preprocessing("published"),
        **EXACT,
    }
    identity = Identity(
        classes=tuple(classes),
        model=config.model,
        segmentation_channels=segmenter.feature_channels,
        landmark_channels=landmarks.feature_channels,
        store_recipe=recipe,
        ir50_sha256=None,
        epoch=None,
        data_set=data_set,
        train_split=config.train_split,
        selection="published",
        selection_split=config.selection_split,
        selection_accuracy=None,
    )
    with path.open("rb") as file:
        source = {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    data = {"classes": list(classes), "store": recipe, "published_checkpoint": source}
    trained = parse_config({**config.model_dump(mode="json"), **TRAINED}, "the preset")
    with output_folder(out, None) as folder:
        begin_folder(folder, trained, data)
        _save(folder / SEGMENTER_FILE, segmenter, {ARCHITECTURE_KEY: segmenter.config.model_dump_json()})
        _save(folder / LANDMARKS_FILE, landmarks)
        save_weights(folder / "best.safetensors", model, identity)
    return identity


def _check_forms(model: ModelConfig) -> None:
    """Raises OrsanetError if parts of the model do not have the published form.

    Another form would load the same tensors and compute something else.
    """
    ours, published = model.model_dump(mode="json"), type(model)().model_dump(mode="json")
    others = [
        f"model.{name} is {json.dumps(ours[name])}, in published checkpoints {json.dumps(published[name])}"
        for name in ours
        if name not in (*SIZES, *model.published_choices) and ours[name] != published[name]
    ]
    if others:
        raise OrsanetError(
            f"the preset has another model than the published code; choose another preset:\n{listed(others)}"
        )


def _check_parts(weights: Weights, model: ExpressionModel, classes: Sequence[str]) -> None:
    """Raises OrsanetError unless the file has all parts and sizes of a published checkpoint."""
    names, config = weights.tensors, model.config
    parts = ("ir_back.", *model.frozen_prefixes, model.levels)
    absent = [f"{part}*" for part in parts if not any(name.startswith(part) for name in names)]
    if model.head_weight not in names or names[model.head_weight].dim() != 2:
        absent.append(f"{model.head_weight} [K, D]")
    if absent:
        raise OrsanetError(
            f"{weights.path}: not a checkpoint of {config.title}'s published code, which has the whole network; "
            f"it lacks {', '.join(absent)}"
        )
    depth = config.model_dump()["depth"]
    levels = len({name.removeprefix(model.levels).partition(".")[0] for name in names if name.startswith(model.levels)})
    if levels != depth:
        published = ", ".join(f"{levels} {name}".strip() for levels, name in config.published_sizes.items())
        raise OrsanetError(
            f"{weights.path}: it has {levels} levels ({model.levels}), the configuration has {depth} (published: {published}); "
            f"if the file is whole, pass --set model.depth={levels}"
        )
    if advice := model.other_variant(names):
        raise OrsanetError(f"{weights.path}: {advice}")
    if len(set(classes)) < len(classes) or not all(classes):
        raise OrsanetError(f"--classes {','.join(classes)}: name each class once, in label order")
    count = len(names[model.head_weight])
    if count != len(classes):
        raise OrsanetError(
            f"{weights.path}: its head has {count} classes, --classes has {len(classes)} "
            f"({', '.join(classes)}); name the classes of its training, in label order"
        )


def _segmenter_of_the_store(path: StrPath | None, model: ModelConfig) -> SegFace:
    """The segmenter for a model that reads none: every store has one, and `predict` draws its maps."""
    file = in_weights_folder("segmenter") if path is None else weights_path(as_path(path, "segmenter"), "segmenter")
    if path is None and not file.exists():
        raise OrsanetError(
            f"a checkpoint of {model.title} contains no segmenter; pass --segmenter with the file that its store is to be "
            "built with, or demo, or fetch the published one with `orsanet-cache weights fetch`"
        )
    return load_segmenter(file)


def _part(weights: Weights, prefix: str) -> Weights:
    """One network of the checkpoint, under its own names."""
    tensors = {name.removeprefix(prefix): value for name, value in weights.tensors.items() if name.startswith(prefix)}
    return Weights(weights.path, tensors)


def _save(path: Path, network: nn.Module, metadata: dict[str, str] | None = None) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    content = safetensors.torch.save(tensors, metadata=metadata)
    write_whole(path, lambda temporary: temporary.write_bytes(content))
