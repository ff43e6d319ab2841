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
from orsanet_cache.frozen.priors import ARCHITECTURE_KEY, FrozenPriors
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_cache.outputs import output_folder
from orsanet_cache.paths import StrPath, as_names, as_path
from orsanet_train.config import ModelConfig, RunConfig, parse_config
from orsanet_train.model.checkpoint import LANDMARKS_FILE, SEGMENTER_FILE, Identity, save_weights
from orsanet_train.model.orsanet import FROZEN_PREFIXES, build_model, trainable_weights
from orsanet_train.run.folder import begin_folder

SEGMENTER, LANDMARKS = FROZEN_PREFIXES
HEAD, LEVELS = "head.linear.weight", "pyramid_fuse.blocks."
PARTS = ("ir_back.", SEGMENTER, LANDMARKS, LEVELS)
SWIN_B = SegFaceConfig()
FORMS = (
    "tokens", "segmentation_prior", "spade", "landmark_prior", "mcm", "multi_scale", "cross_interaction", "query",
    "landmark_reintegration",
)  # fmt: skip
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
) -> Identity:
    """Write the run folder `out`: best, segmenter and landmarks .safetensors, config.toml, run.json.

    The optimiser's state is left out.

    Args:
        path: the checkpoint of the published code.
        out: the run folder, which must not exist.
        config: the sizes of the model, and the splits.
        classes: names of the classes, in label order.
        data_set: the name of the manifest that the checkpoint was trained with.
        segmenter_config: the sizes of the segmenter (published: Swin-B).

    Raises OrsanetError, and writes no files, if `out` exists, if the file is not such a checkpoint,
    and if its networks have other sizes or another number of classes.
    """
    path, out, classes = as_path(path, "checkpoint"), as_path(out, "out"), as_names(classes, "classes")
    if out.exists():
        raise OrsanetError(f"{out}: already exists; choose another --out")
    _check_forms(config.model)
    weights = read_weights(path)
    _check_parts(weights, config.model, classes)
    with torch.device("meta"):
        segmenter, landmarks = SegFace(segmenter_config), MobileFaceNet()
        model = build_model(config.model, len(classes), segmenter.feature_channels, landmarks.feature_channels)
    load_strictly(segmenter, _part(weights, SEGMENTER))
    load_strictly(landmarks, _part(weights, LANDMARKS))
    load_strictly(model, trainable_weights(weights))

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
        _save(folder / SEGMENTER_FILE, segmenter, {ARCHITECTURE_KEY: segmenter_config.model_dump_json()})
        _save(folder / LANDMARKS_FILE, landmarks)
        save_weights(folder / "best.safetensors", model, identity)
    return identity


def _check_forms(model: ModelConfig) -> None:
    """Raises OrsanetError if parts of the model do not have the published form.

    Another form would load the same tensors and compute something else.
    """
    published = ModelConfig()
    others = [
        f"model.{name} is {json.dumps(getattr(model, name))}, in published checkpoints {json.dumps(getattr(published, name))}"
        for name in FORMS
        if getattr(model, name) != getattr(published, name)
    ]
    if others:
        raise OrsanetError(
            f"the preset has another model than the published code; choose another preset:\n{listed(others)}"
        )


def _check_parts(weights: Weights, model: ModelConfig, classes: Sequence[str]) -> None:
    """Raises OrsanetError unless the file has all parts and sizes of a published checkpoint."""
    names = weights.tensors
    absent = [f"{part}*" for part in PARTS if not any(name.startswith(part) for name in names)]
    if HEAD not in names or names[HEAD].dim() != 2:
        absent.append(f"{HEAD} [K, D]")
    if absent:
        raise OrsanetError(
            f"{weights.path}: not a checkpoint of the published code, which has the whole network; it lacks {', '.join(absent)}"
        )
    levels = len({name.removeprefix(LEVELS).partition(".")[0] for name in names if name.startswith(LEVELS)})
    if levels != model.depth:
        raise OrsanetError(
            f"{weights.path}: its MCM has {levels} levels, the configuration has {model.depth} (published: 4 small, 6 base, 8 large); "
            f"if the file is whole, pass --set model.depth={levels}"
        )
    if len(set(classes)) < len(classes) or not all(classes):
        raise OrsanetError(f"--classes {','.join(classes)}: name each class once, in label order")
    if len(names[HEAD]) != len(classes):
        raise OrsanetError(
            f"{weights.path}: its head has {len(names[HEAD])} classes, --classes has {len(classes)} "
            f"({', '.join(classes)}); name the classes of its training, in label order"
        )


def _part(weights: Weights, prefix: str) -> Weights:
    """One network of the checkpoint, under its own names."""
    tensors = {name.removeprefix(prefix): value for name, value in weights.tensors.items() if name.startswith(prefix)}
    return Weights(weights.path, tensors)


def _save(path: Path, network: nn.Module, metadata: dict[str, str] | None = None) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    content = safetensors.torch.save(tensors, metadata=metadata)
    write_whole(path, lambda temporary: temporary.write_bytes(content))
