"""The reference modes: the frozen networks run inside the training step.

They run on the image files in every pass, instead of once for a store.

    OnlineBatch (feed.py): pixels, rectangles ─ frozen networks ─▶ priors ─ the model ─▶ logits

The modes measure the costs and gains of caching. The backbone's image is erased in all of them. The
input of the frozen networks is

    clean       the view before erasing, in evaluation mode: the outputs are a store's values before
                their rounding to int8, float16 or float32
    erased      the erased view, in evaluation mode
    published   the erased view, in the training mode of the step, because `model.train()` of the
                published code includes them: MobileFaceNet normalises by the batch's statistics,
                and its running statistics drift in every pass (so twice in a SAM step); Swin drops
                residual branches. Evaluation is in evaluation mode, with the drifted statistics

Their parameters never change, and no gradient is computed for them. They run in float32, also under
the step's autocast.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.pixels import erased_unit, imagenet_normalised, unit_range
from orsanet_cache.frozen.priors import FrozenPriors, map_of
from orsanet_cache.frozen.segface import SegFace
from orsanet_cache.frozen.shipped import weights_path
from orsanet_cache.store.reader import PriorStore
from orsanet_train.config import RunConfig
from orsanet_train.engine.distributed import Ranks
from orsanet_train.feed.plan import batch_spans
from orsanet_train.feed.split import LabelledSplit
from orsanet_train.model.frozen import check_recipe
from orsanet_train.model.inputs import IMAGE, arguments, model_image
from orsanet_train.model.model import Expression, ExpressionModel

OnlineMode = Literal["clean", "erased", "published"]

LANDMARK_FIELDS = ("landmark_features", "landmarks", "landmark_features_28", "landmark_features_14")
SWIN_STOCHASTIC_DEPTH = 0.5  # of swin_b's last block, as torchvision and so the published code builds it


class OnlineORSANet(nn.Module):
    """A model behind frozen networks: pixels and rectangles -> expression logits.

    An optimiser, a checkpoint and DistributedDataParallel get the parameters and the state of
    `model`, under the same names. The frozen networks move to another device together with the
    module. In published mode they are a copy of `frozen`, so that their drift does not reach other
    runs in the same process.
    """

    def __init__(self, model: ExpressionModel, frozen: FrozenPriors, mode: OnlineMode) -> None:
        super().__init__()
        self.model = model
        self.mode = mode
        if mode == "published":
            frozen = copy.deepcopy(frozen)
            drop_residual_branches(frozen.segmenter)
        self._frozen = (frozen,)  # a tuple: not a submodule
        self.train(model.training)

    @property
    def frozen(self) -> FrozenPriors:
        return self._frozen[0]

    def train(self, mode: bool = True) -> Self:
        """Set the mode; in published mode also that of the frozen networks."""
        super().train(mode)
        if self.mode == "published":
            self.frozen.segmenter.train(mode)  # one by one: FrozenPriors itself refuses training mode
            self.frozen.landmark_network.train(mode)
        return self

    def forward(self, pixels: Tensor, erased: Tensor, drop_path: Tensor | None = None) -> Expression:
        """Pixels and rectangles -> expression.

        pixels uint8 [B, 224, 224, 3]; erased int64 [B, 4] as in OnlineBatch; drop_path
        as in the model.
        """
        unit = unit_range(pixels)
        if self.mode != "clean":
            unit = erased_unit(unit, erased)
        config = self.model.config
        image = model_image(pixels[:, ::2, ::2], erased, config.image_channels)
        return self.model(*arguments(config, {IMAGE: image, **self._priors(unit)}), drop_path)

    def _priors(self, unit: Tensor) -> dict[str, Tensor]:
        """Pictures [B, 3, 224, 224] in 0 … 1 -> the fields that the model reads, and those that come with them.

        They have the memory layout of a store's rows, so that the model adds up the same numbers in
        the same order as from a cache.
        """
        segmenter, landmark_network = self.frozen.segmenter, self.frozen.landmark_network
        fields = self.model.config.fields
        priors: dict[str, Tensor] = {}
        with torch.no_grad(), torch.autocast(unit.device.type, enabled=False):
            if any(name.startswith("landmark") for name in fields):
                found = landmark_network.with_grids(self.frozen.landmark_crop(unit))
                priors |= {name: value.contiguous() for name, value in zip(LANDMARK_FIELDS, found, strict=True)}
            if any(name.startswith("segmentation") for name in fields):
                stages = segmenter.encode(imagenet_normalised(unit))
                priors["segmentation_features"] = stages[-1].movedim(-1, 1).contiguous()
                if "segmentation_map" in fields:
                    priors["segmentation_map"] = map_of(segmenter.decode(stages))
        return priors

    def frozen_state(self) -> dict[str, Tensor]:
        """A copy of the landmark network's state dict in published mode.

        It is empty in the other modes, in which nothing changes.
        """
        if self.mode != "published":
            return {}
        return {name: value.clone() for name, value in self.frozen.landmark_network.state_dict().items()}

    def load_frozen_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `frozen_state`, in place.

        Raises OrsanetError for the state of another mode.
        """
        if bool(state) != (self.mode == "published"):
            raise OrsanetError(
                f"the state was saved {'with' if state else 'without'} the statistics of a landmark network, "
                f'which only online = "published" changes; '
                f'resume with the mode of the run, not with "{self.mode}"'
            )
        if state:
            self.frozen.landmark_network.load_state_dict(state)

    def drifted_recipe(self) -> dict[str, object]:
        """The landmark network's current part of FrozenPriors.recipe().

        After a drift, no store built with the original network has it.
        """
        return {"landmarks": self.frozen.recipe()["landmarks"]}

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        return self.model.state_dict(*arguments, **options)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        return self.model.load_state_dict(*arguments, **options)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frozen._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def check_batches(config: RunConfig, split: LabelledSplit, ranks: Ranks) -> None:
    """Raises OrsanetError if the batches do not allow online = "published".

    Its landmark network needs the statistics of whole batches.
    """
    if config.online != "published":
        return
    if ranks.world > 1:
        raise OrsanetError(
            'online = "published": the landmark network\'s statistics would differ among several devices; train on one'
        )
    start, stop = batch_spans(len(split.rows), config.batch_size)[-1]
    if stop - start == 1:
        raise OrsanetError(
            f'online = "published": the last batch of {len(split.rows)} images has a single image, which has no batch statistics; '
            f"choose another batch_size"
        )


def frozen_networks(weights: tuple[Path | None, Path | None], store: PriorStore, mode: OnlineMode) -> FrozenPriors:
    """The store's frozen networks from their weights files (segmenter, landmarks).

    Raises OrsanetError unless they are the store's, and if `mode` is published and they cannot be
    put into training mode.
    """
    segmenter, landmarks = weights
    if segmenter is None or landmarks is None:
        raise OrsanetError(
            'priors = "online" needs the frozen networks: pass --segmenter and --landmarks, as for the build'
        )
    paths = weights_path(segmenter, "segmenter"), weights_path(landmarks, "landmarks")
    frozen = FrozenPriors.load(*paths, store.recipe["landmarks"]["input"])
    check_same_networks(frozen, store)
    if mode == "published":
        for network, path in zip((frozen.segmenter, frozen.landmark_network), paths, strict=True):
            check_statistics(network, path)
    return frozen


def check_statistics(network: nn.Module, path: Path) -> None:
    """Raises OrsanetError if the network's batch statistics were folded into its weights.

    Such a layer has the same statistics in every channel, usually mean 0 and variance 1, and its
    scale and shift are no longer those of training. In training mode it would normalise by the
    statistics of the batch, which its weights contain already. A layer that nobody has trained has
    the same statistics too, and the initial scale 1 and shift 0.
    """
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) or layer.running_mean is None:
            continue
        mean, variance = layer.running_mean, layer.running_var
        assert variance is not None  # nn.BatchNorm has both or neither
        untrained = bool((layer.weight == 1).all() and (layer.bias == 0).all())
        if len(mean) > 1 and bool((mean == mean[0]).all() and (variance == variance[0]).all()) and not untrained:
            raise OrsanetError(
                f"{path}: cannot be trained as published, because the batch statistics of its layer '{name}' were folded into the weights "
                f"(mean {mean[0]:.5g} and variance {variance[0]:.5g} in every channel); pass the weights before they were folded, or "
                f'train with online = "clean" or "erased"'
            )


def drop_residual_branches(segmenter: SegFace) -> None:
    """Give Swin's blocks torchvision's stochastic depth: linear from 0 to SWIN_STOCHASTIC_DEPTH.

    It acts in training mode. SegFace builds the blocks without it, because everywhere else it is in
    evaluation mode.
    """
    blocks = [module for module in segmenter.backbone.modules() if isinstance(module, StochasticDepth)]
    for index, block in enumerate(blocks):
        block.p = SWIN_STOCHASTIC_DEPTH * index / (len(blocks) - 1)


def check_same_networks(frozen: FrozenPriors, store: PriorStore) -> None:
    """Raises OrsanetError, with the differences, unless the store was built with these networks."""
    refusal = f"{store.path} was built with other frozen networks; pass the weights files it was built with"
    check_recipe(frozen.recipe(), store.recipe, refusal)
