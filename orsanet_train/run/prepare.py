"""The checks and preparations before the first step of a run.

Arguments that do not fit are refused here.

splits ─▶ identity ─▶ model ─▶ the run folder, the state to resume from ─▶ engine ─▶ feeds
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from orsanet_cache.data.manifest import Manifest
from orsanet_cache.errors import OrsanetError
from orsanet_cache.frozen.loading import Weights, tensors_digest
from orsanet_cache.store.reader import PriorStore
from orsanet_train.config import RunConfig
from orsanet_train.engine.distributed import Ranks
from orsanet_train.engine.engine import Companion, Engine, build_engine
from orsanet_train.evaluation.history import CLASS_COUNTS
from orsanet_train.feed.batches import Batches
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.residence import Resident, check_cache
from orsanet_train.feed.split import LabelledSplit, image_digests, selection_split, training_split
from orsanet_train.model.checkpoint import Identity
from orsanet_train.model.known_images import KnownImages
from orsanet_train.model.model import backbone_weights, load_backbone
from orsanet_train.run.folder import IMAGE_FILES, SEALS, begun_store, check_folder
from orsanet_train.run.state import TrainingState, load_state


@dataclass(frozen=True)
class Prepared:
    """The parts of a run, before any file is written and any step is taken."""

    network: nn.Module  # on the device; called with a batch's inputs
    engine: Engine
    training: Batches
    selection: Batches
    identity: Identity  # of the weights that the run will write
    data: dict[str, Any]  # run.json: values that must be the same when the run is resumed
    state: TrainingState | None  # to resume from; not loaded into the engine yet


def prepare(
    config: RunConfig,
    manifest: Manifest,
    store: PriorStore,
    out: Path,
    *,
    device: torch.device,
    ir50: Weights | None,
    resume: bool,
    resident: Resident,
    compiled: bool,
    frozen_weights: tuple[Path | None, Path | None],
    images: int | None,
    ranks: Ranks,
) -> Prepared:
    """Check the arguments of a run and build its parts.

    Args:
        config: the settings of the run.
        manifest: the labels.
        store: the priors.
        out: the run folder.
        device: where to train.
        ir50: initial weights of the backbone; None: random weights.
        resume: whether to resume the run in `out`.
        resident: where the data is kept.
        compiled: whether to compile the model with torch.compile.
        frozen_weights: the segmenter's and the landmark network's files, for priors = "online".
        images: use only the first images of both splits, at most this many; None: all images.
        ranks: the processes that share every batch.

    Raises OrsanetError for arguments that do not fit.
    """
    store = begun_store(out, store) if resume else store
    training = training_split(config, manifest, store)
    selection = selection_split(config, manifest, store)
    if images is not None:
        training, selection = training.first(images), selection.first(images)
    known = KnownImages.of([image_digests(store, training)], [image_digests(store, selection)])
    identity = _identity(config, manifest, store, training, ir50).model_copy(update={"images": known})
    torch.manual_seed(config.seed)
    model = identity.build()
    if ir50 is not None:
        load_backbone(model, ir50, config.model)
    data = {
        "classes": list(manifest.classes),
        "store": store.recipe,
        "training_images_sha256": training.sha256(),
        "selection_images_sha256": selection.sha256(),
        SEALS: {
            f"{split.name}/{group}": store.sealed(split.name, group).seal
            for split in (training, selection)
            for view in split.views
            for group in store.groups_of(split.name, view, config.model.fields)
        },
        IMAGE_FILES: known.sha256,
        CLASS_COUNTS: training.class_counts(manifest.classes),
        "ir50_sha256": identity.ir50_sha256,
        "compiled": compiled,
    }
    # Without a state no step is finished yet, and resuming starts from the beginning.
    state = load_state(out / "checkpoints") if resume else None
    check_folder(out, config, data, resume)
    if len(selection.rows) < ranks.world:
        raise OrsanetError(
            f"split '{config.selection_split}' has fewer images than the run has processes; start fewer processes"
        )
    model = model.to(device)
    network: nn.Module = model
    companion: Companion | None = None
    batches: Callable[[LabelledSplit], Batches]
    if config.priors == "online":
        # Imported only here: the frozen networks need torchvision, which takes seconds to import.
        from orsanet_train.reference.feed import OnlineFeed
        from orsanet_train.reference.network import OnlineORSANet, check_batches, frozen_networks

        check_batches(config, training, ranks)
        frozen = frozen_networks(frozen_weights, store, config.online)
        network = companion = OnlineORSANet(model, frozen, config.online).to(device)
        batches = partial(OnlineFeed, manifest.root, store, device=device, ranks=ranks)
    else:
        batches = partial(Feed, store, model=config.model, device=device, resident=resident, ranks=ranks)
    engine = build_engine(network, model, config, device, ranks, compiled=compiled, companion=companion)
    feeds = batches(training), batches(selection)
    if isinstance(feeds[0], Feed) and isinstance(feeds[1], Feed) and feeds[0].residence.mode == "stream":
        units = len(np.unique(training.units))
        check_cache(config, store.cache_bytes, feeds[0].shard_bytes, feeds[1].shard_bytes, units)
    return Prepared(network, engine, *feeds, identity, data, state)


def _identity(
    config: RunConfig, manifest: Manifest, store: PriorStore, training: LabelledSplit, ir50: Weights | None
) -> Identity:
    """The identity of the weights before the first epoch."""
    fields = store.fields(training.name, training.views[0])
    return Identity(
        classes=manifest.classes,
        model=config.model,
        segmentation_channels=fields["segmentation_features"].shape[1],
        landmark_channels=fields["landmark_features"].shape[1],
        store_recipe=store.recipe,
        ir50_sha256=None if ir50 is None else tensors_digest(backbone_weights(ir50).tensors),
        epoch=0,
        data_set=manifest.name,
        train_split=config.train_split,
        selection="last",
        selection_split=config.selection_split,
        selection_accuracy=0.0,
    )
