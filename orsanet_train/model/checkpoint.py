"""Weights files that contain their origin.

The header of `best.safetensors` and `last.safetensors` has the classes in label order, the model's
configuration, the recipe of the training store, the choice of the epoch and the digests of the
images of training and choice. Each file is written under another name and then renamed, so a kill
leaves the previous file whole.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError, listed, refuse_shortage, validation_findings
from orsanet_cache.frozen.loading import load_strictly, read_weights, tensors_digest
from orsanet_cache.paths import StrPath, as_path
from orsanet_cache.reading import check_regular
from orsanet_train.model.known_images import KnownImages
from orsanet_train.model.model import ExpressionModel, build_model
from orsanet_train.model_config import AnyModelConfig

MAX_CHANNELS = 65536  # of a feature map: far above every network's
HEADER = "orsanet"  # of a weights file: Identity as JSON
WEIGHTS_FILES = ("best.safetensors", "last.safetensors")
# Beside the weights of a published checkpoint: the frozen networks of that checkpoint.
SEGMENTER_FILE, LANDMARKS_FILE = "segmenter.safetensors", "landmarks.safetensors"


class Identity(BaseModel):
    """The header of a weights file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: Annotated[tuple[str, ...], Field(min_length=2)]  # in label order
    model: AnyModelConfig
    segmentation_channels: Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
    landmark_channels: Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
    store_recipe: dict[str, Any]
    ir50_sha256: str | None  # of the backbone's initial weights; None: random, or not known (published)
    epoch: int | None  # counted from 1, as in metrics.csv; None: of a published checkpoint
    data_set: str  # the manifest's name
    train_split: str
    selection: Literal["best", "last", "published"]  # published: best on `selection_split` according to its authors
    selection_split: str
    selection_accuracy: float | None  # None: of a published checkpoint
    tensors_sha256: str = ""  # filled in when saved
    # Only in the weights file. None: published, or from before the digests were kept.
    images: Annotated[KnownImages | None, Field(exclude=True)] = None

    @property
    def published_choice(self) -> str:
        """How a published checkpoint was chosen, according to its authors."""
        return f"published checkpoint, according to its authors the best epoch on split '{self.selection_split}' of '{self.data_set}'"

    def build(self) -> ExpressionModel:
        return build_model(self.model, len(self.classes), self.segmentation_channels, self.landmark_channels)


def how_chosen(*checkpoints: Identity) -> str:
    """How a checkpoint, or the checkpoints of several seeds, were chosen.

    This text accompanies their numbers everywhere.
    """
    first = checkpoints[0]
    if first.selection == "published":
        return first.published_choice
    epochs = ", ".join(dict.fromkeys(str(checkpoint.epoch) for checkpoint in checkpoints))
    if first.selection == "last":
        return f"last checkpoint (epoch {epochs}), not chosen by any result"
    splits = "', '".join(dict.fromkeys(checkpoint.selection_split for checkpoint in checkpoints))
    return f"best checkpoint (epoch {epochs}), chosen by its accuracy on split '{splits}'"


def chosen_in_short(checkpoint: Identity, epochs: int | None, *, optimistic: bool) -> str:
    """The same, short enough for a heading.

    `epochs` is the number of trained epochs (None: the checkpoint's). `optimistic`: the numbers
    below the heading are of the images that chose the epoch.
    """
    epochs = checkpoint.epoch if epochs is None else epochs
    if checkpoint.selection == "last":
        return f"last of {checkpoint.epoch} epochs"
    chosen = f"best of {epochs} epochs on '{checkpoint.selection_split}'"
    if checkpoint.selection == "published":
        chosen = f"published checkpoint, best epoch on '{checkpoint.selection_split}'"
    return f"{chosen}, as published: optimistic" if optimistic else chosen


def save_weights(path: Path, model: nn.Module, identity: Identity) -> None:
    """Write a weights file with its identity."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    identity = identity.model_copy(update={"tensors_sha256": tensors_digest(tensors)})
    images = None if identity.images is None else identity.images.model_dump(mode="json")
    header = {HEADER: json.dumps({**identity.model_dump(mode="json"), "images": images})}
    # Bytes, not save_file, which makes the file readable by its owner only.
    content = safetensors.torch.save(tensors, metadata=header)
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def load_weights(path: StrPath) -> tuple[ExpressionModel, Identity]:
    """Read the model of a weights file, in evaluation mode, and its header.

    Raises OrsanetError for any other file.
    """
    path = as_path(path, "weights")
    try:
        weights = read_weights(path)
    except OrsanetError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise OrsanetError(_missing(path)) from error
        raise
    identity = _identity(path, weights.metadata)
    with torch.device("meta"):
        model = identity.build()
    load_strictly(model, weights)
    if identity.tensors_sha256 != tensors_digest(weights.tensors):
        raise OrsanetError(
            f"{path}: damaged, the tensors do not match the checksum of the header; copy or train it again"
        )
    return model.eval(), identity


def _missing(path: Path) -> str:
    folder = path.parent
    if there := [name for name in WEIGHTS_FILES if (folder / name).is_file()]:
        return f"{folder} has no {path.name}, only {there[0]}; choose {there[0]} with --checkpoint"
    return f"{folder} is not a run folder: it has no {path.name}; pass one that `orsanet-train run` or `import` wrote"


def read_identity(path: Path) -> Identity:
    """The header of a weights file, without reading its tensors.

    Raises OrsanetError for any other file.
    """
    try:
        check_regular(path)  # and safetensors calls a file missing whatever the reason that it cannot be opened
        with safetensors.safe_open(path, framework="pt") as file:
            return _identity(path, file.metadata() or {})
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:  # torch maps the file itself
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: cannot be read as weights ({error})") from error


def _identity(path: Path, metadata: Mapping[str, str]) -> Identity:
    if HEADER not in metadata:
        raise OrsanetError(f"{path}: not written by `orsanet-train run` or `import` (its header has no classes)")
    try:
        return Identity.model_validate_json(metadata[HEADER])
    except ValidationError as error:
        raise OrsanetError(
            f"{path}: the header does not describe a model:\n{listed(validation_findings(error, Identity))}"
        ) from error
