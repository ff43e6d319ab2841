"""What every kind of model offers, and how one is built from its configuration.

    configuration ─ build_model ─▶ a network of orsanet.py, poster.py, poster_v2.py, backbone.py or landmarks.py
    its inputs (ModelConfig.reads) ─ forward ─▶ Expression

Parameter names are those of the published checkpoints, where there are any. A published
checkpoint's tensors that no forward reads are dropped by name when it is loaded.

Shapes: B batch, D width of the features, K classes.
"""

from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.loading import Weights, load_strictly, read_weights
from orsanet_cache.frozen.shipped import TRAINING_KEY, weights_path
from orsanet_cache.paths import StrPath, as_path
from orsanet_cache.reading import json_of
from orsanet_train.model.ir50 import IR50, StagedIR50, published_output_layer
from orsanet_train.model_config import ModelConfig

OUTPUT_LAYER = "ir_back.output_layer."  # of IR50's own weights: no model reads it


class Expression(NamedTuple):
    """The model's outputs for a batch."""

    logits: Tensor  # [B, K]
    features: Tensor  # [B, D], the head's input


class ExpressionModel(nn.Module):
    """A trainable network; `build_model` makes one.

    `forward` takes the inputs that `config.reads` names, in that order, then
    drop_path [B, *config.drop_path_shape], uniform in 0 … 1, which decides which branches are
    dropped (None: no branch, in training mode too).
    """

    frozen_prefixes: ClassVar[tuple[str, ...]] = ()  # of the frozen networks inside a published checkpoint
    unread_prefixes: ClassVar[tuple[str, ...]] = ()  # of a published checkpoint's tensors that no forward reads
    levels: ClassVar[str] = "pyramid_fuse.blocks."  # before the number of a level in a published checkpoint
    head_weight: ClassVar[str] = "head.linear.weight"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """The backbone's maps [B, C, H, W] of an image; the last one is the 14x14 map whose attention is drawn."""
        raise NotImplementedError

    def from_maps(self, maps: tuple[Tensor, ...], *priors: Tensor, drop_path: Tensor | None = None) -> Expression:
        """The rest of the forward: the backbone's maps and the inputs after the image -> logits and features."""
        raise NotImplementedError

    def unguided(self, maps: tuple[Tensor, ...], *priors: Tensor) -> Expression | None:
        """`from_maps` with the semantic guidance bypassed; None: the model has none."""
        return None

    def repeated_parts(self) -> Iterator[nn.Module]:
        """The parts that are worth compiling, each of which is repeated many times."""
        yield from ()

    def other_variant(self, names: Collection[str]) -> str:
        """Advice if these names are of another published variant than this model; else nothing."""
        return ""

    @classmethod
    def published_unread(cls) -> dict[str, Tensor]:
        """The parameters of a published checkpoint that no forward reads, on the meta device: name -> tensor."""
        return {}


def build_model(
    config: ModelConfig, classes: int, segmentation_channels: int = 1024, landmark_channels: int = 512
) -> ExpressionModel:
    """Build the model for these sizes. Channels are those of the store's features."""
    module, _, name = config.network.partition(":")
    network: Callable[..., ExpressionModel] = getattr(import_module(f"orsanet_train.model.{module}"), name)
    return network(config, classes, segmentation_channels, landmark_channels)


def output_layer_parameters() -> dict[str, Tensor]:
    """The parameters of IR50's output layer, on the meta device, by their names in a published checkpoint."""
    with torch.device("meta"):
        return {f"{OUTPUT_LAYER}{name}": value for name, value in published_output_layer().named_parameters()}


def trainable_weights(weights: Weights, model: ExpressionModel | type[ExpressionModel]) -> Weights:
    """The trainable tensors of a published checkpoint of this model.

    The frozen networks and the tensors that no forward uses are left out.
    """
    return _kept(weights, lambda name: not name.startswith((*model.frozen_prefixes, *model.unread_prefixes)))


def backbone_weights(weights: Weights) -> Weights:
    """The tensors of IR50's own weights file, without the output layer."""
    return _kept(weights, lambda name: not f"ir_back.{name}".startswith(OUTPUT_LAYER))


def read_backbone(path: StrPath) -> Weights:
    """Read IR50's weights: published ones, those of `orsanet-train pretrain`, or `demo`, the shipped ones."""
    return read_weights(weights_path(as_path(path, "ir50"), "backbone"))


def load_backbone(model: ExpressionModel, weights: Weights, config: ModelConfig) -> None:
    """Put IR50's weights into the model's backbone, in place.

    Raises OrsanetError for a model without a backbone, for weights of another size, and for others
    than IR50's.
    """
    backbone = getattr(model, "ir_back", None)
    if config.backbone is None or not isinstance(backbone, IR50 | StagedIR50):
        raise OrsanetError(f'--ir50 {weights.path}: model.kind = "{config.kind}" has no backbone; leave --ir50 out')
    if TRAINING_KEY in weights.metadata:
        trained = json_of(weights.metadata[TRAINING_KEY].encode())
        sizes = [trained.get("channels"), trained.get("units")] if isinstance(trained, dict) else None
        ours = [list(part) for part in config.backbone]
        if sizes != ours:
            raise OrsanetError(
                f"{weights.path}: a backbone with channels and units {sizes}, the configuration has {ours}; "
                "choose the preset that it was trained for (the demo's backbone: small or demo), or train one with `orsanet-train pretrain`"
            )
    ours_by_name = {backbone.own_name(name): tensor for name, tensor in backbone_weights(weights).tensors.items()}
    load_strictly(backbone, Weights(weights.path, ours_by_name, weights.metadata))


def _kept(weights: Weights, keep: Callable[[str], bool]) -> Weights:
    tensors = {name: tensor for name, tensor in weights.tensors.items() if keep(name)}
    return Weights(weights.path, tensors, weights.metadata)
