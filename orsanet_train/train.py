"""Stage two: train the trainable part on cached priors.

Reads top to bottom: join labels to the store, build the model, then epoch by epoch train, evaluate, write. An epoch's randomness
depends on seed and epoch alone, so a run resumed after any epoch continues exactly.
"""

import json
import math
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.optim import Adam
from tqdm import tqdm

from orsanet_cache import (
    Manifest,
    OrsanetError,
    PriorStore,
    Weights,
    listed,
    load_strictly,
    recipe_differences,
    tensors_digest,
)
from orsanet_train import plots
from orsanet_train.checkpoint import Identity, ResumeState, save_weights, write_whole
from orsanet_train.config import RunConfig, config_toml, load_config
from orsanet_train.epoch import epoch_seed
from orsanet_train.evaluate import predict
from orsanet_train.feed import Feed, LabelledSplit, PriorBatch, join
from orsanet_train.losses import training_loss
from orsanet_train.model import ORSANet, backbone_weights
from orsanet_train.residence import Resident
from orsanet_train.sam import sam_step

_BEGUN = {"config.toml", ".config.toml.tmp", ".run.json.tmp"}  # all that a kill before run.json can leave
MOSAICS = 3  # labelled pictures of the first training batches


@dataclass(frozen=True)
class RunSummary:
    """How a run ended."""

    epochs: int
    best_epoch: int
    best_accuracy: float
    last_accuracy: float


def train(
    config: RunConfig,
    manifest: Manifest,
    store: PriorStore,
    out: Path,
    *,
    device: torch.device,
    ir50: Weights | None = None,
    resume: bool = False,
    resident: Resident = "auto",
) -> RunSummary:
    """Train into the run folder `out`; `resident` says where the data is kept meanwhile, which changes no result.

    Raises OrsanetError for anything that does not fit, before the first step.
    """
    training = training_split(config, manifest, store)
    selection = _selection_split(config, manifest, store)
    _check_classes(training, manifest)
    fields = store.fields(config.train_split, "clean")
    identity = Identity(
        classes=manifest.classes,
        model=config.model,
        segmentation_channels=fields["segmentation_features"].shape[1],
        landmark_channels=fields["landmark_features"].shape[1],
        store_recipe=store.recipe,
        ir50_sha256=None if ir50 is None else tensors_digest(ir50.tensors),
        epoch=0,
        train_split=config.train_split,
        selection="last",
        selection_split=config.selection_split,
        selection_accuracy=0.0,
    )
    torch.manual_seed(config.seed)
    model = identity.build()
    if ir50 is not None:
        load_strictly(model.ir_back, backbone_weights(ir50))
    data = {
        "classes": list(manifest.classes),
        "store": store.recipe,
        "training_images_sha256": training.sha256(),
        "selection_images_sha256": selection.sha256(),
        "ir50_sha256": identity.ir50_sha256,
    }
    # Without a state nothing is finished yet, and resuming is starting.
    state = ResumeState.load(out / "resume.pt") if resume and (out / "resume.pt").exists() else None
    history = [] if state is None else state.history
    if len(history) > config.epochs:
        raise OrsanetError(
            f"{out}: already trained for {len(history)} epochs, not {config.epochs}; ask for at least as many, or start a new run"
        )
    _check_folder(out, config, data, resume)
    training_feed, selection_feed = (
        Feed(store, split, config.model, device, resident) for split in (training, selection)
    )
    for feed in (training_feed, selection_feed):
        tqdm.write(f"'{feed.split.name}': {feed.residence.reason}", file=sys.stderr)
    _begin_folder(out, config, data)
    model = model.to(device)
    optimizer = Adam(model.parameters(), lr=config.learning_rate)

    if state is not None:
        model.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
    else:
        for step, batch in enumerate(islice(training_feed.epoch(config, 0), MOSAICS)):
            plots.batch_mosaic(batch, manifest.classes, out / f"train_batch{step}.png")

    for epoch in range(len(history), config.epochs):
        row = _train_epoch(model, optimizer, training_feed, config, epoch)
        correct = predict(model, selection_feed).argmax(axis=1) == selection.labels
        history.append({**row, "selection_accuracy": float(correct.mean())})
        _save_epoch(out, model, optimizer, identity, history)

    best = max(history, key=lambda row: row["selection_accuracy"])
    return RunSummary(len(history), int(best["epoch"]), best["selection_accuracy"], history[-1]["selection_accuracy"])


def training_split(config: RunConfig, manifest: Manifest, store: PriorStore) -> LabelledSplit:
    """The images that a run of this configuration trains on."""
    views = ["clean", "hflip"] if config.augmentation.hflip > 0 else ["clean"]
    return join(manifest, store, config.train_split, views)


def _train_epoch(model: ORSANet, optimizer: Adam, feed: Feed, config: RunConfig, epoch: int) -> dict[str, float]:
    """Train one epoch (counted from 0) and return its row of metrics.csv; the device is read once, at the end.

    Raises OrsanetError if a loss was not finite: nothing of the epoch is saved then.
    """
    model.train()
    torch.manual_seed(epoch_seed(config.seed, epoch))  # drop-path draws
    rate = config.learning_rate * config.learning_rate_decay**epoch
    for group in optimizer.param_groups:
        group["lr"] = rate
    began = time.monotonic()
    sums = torch.zeros(3, device=feed.device)  # loss, perturbed loss, correct
    count = len(feed.split.rows)
    with tqdm(total=count, unit="img", desc=f"epoch {epoch + 1}/{config.epochs}", leave=False) as progress:
        for batch in feed.epoch(config, epoch):

            def forward(batch: PriorBatch = batch) -> tuple[Tensor, Tensor]:
                logits = model(batch.image, batch.segmentation, batch.landmark_features).logits
                return training_loss(logits, batch.label, config.loss, epoch), logits

            step = sam_step(optimizer, forward, config.rho)
            size = len(batch.label)
            correct = (step.output.argmax(dim=1) == batch.label).sum()
            sums += torch.stack([step.loss * size, step.perturbed_loss * size, correct])
            progress.update(size)
    loss, perturbed_loss, accuracy = (sums / count).tolist()
    if not math.isfinite(loss + perturbed_loss):
        raise OrsanetError(
            f"the loss was not finite in epoch {epoch + 1}; nothing of it was saved. Lower learning_rate"
        )
    return {
        "epoch": epoch + 1,
        "learning_rate": rate,
        "loss": loss,
        "perturbed_loss": perturbed_loss,
        "train_accuracy": accuracy,
        "images_per_second": count / (time.monotonic() - began),
    }


def _save_epoch(
    out: Path,
    model: ORSANet,
    optimizer: Adam,
    identity: Identity,
    history: list[dict[str, float]],
) -> None:
    """Write what a finished epoch leaves; resume.pt last, so that what it counts as done is all there."""
    *before, row = history
    identity = identity.model_copy(update={"epoch": int(row["epoch"]), "selection_accuracy": row["selection_accuracy"]})
    if row["selection_accuracy"] > max((earlier["selection_accuracy"] for earlier in before), default=-math.inf):
        save_weights(out / "best.safetensors", model, identity.model_copy(update={"selection": "best"}))
    save_weights(out / "last.safetensors", model, identity)
    table = pd.DataFrame(history).astype({"epoch": int})
    write_whole(out / "metrics.csv", lambda path: table.to_csv(path, index=False))
    if plots.matplotlib_installed():
        plots.curves(table, identity.selection_split, out / "curves.png")
    state = ResumeState(history=history, model=model.state_dict(), optimizer=optimizer.state_dict())
    state.save(out / "resume.pt")


def _selection_split(config: RunConfig, manifest: Manifest, store: PriorStore) -> LabelledSplit:
    if config.selection_split not in manifest.splits:
        others = [split for split in manifest.splits if split != config.train_split]
        raise OrsanetError(
            f"selection_split = \"{config.selection_split}\", but manifest '{manifest.name}' has no such split; "
            f"choose one with --set selection_split=NAME (it has {', '.join(others) or 'none besides training'})"
        )
    if config.selection_split == config.train_split:
        raise OrsanetError(
            f"selection_split is the training split '{config.train_split}': choose images not trained on"
        )
    selection = join(manifest, store, config.selection_split, ["clean"])
    if not selection.samples:
        raise OrsanetError(
            f"split '{selection.name}' has no usable image to choose the best epoch by; see `orsanet-cache info`"
        )
    return selection


def _check_classes(training: LabelledSplit, manifest: Manifest) -> None:
    present = set(training.labels.tolist())
    absent = [name for label, name in enumerate(manifest.classes) if label not in present]
    if absent:
        raise OrsanetError(
            f"split '{training.name}' has no usable image of class {', '.join(absent)}; "
            f"remove the class from the manifest or add images"
        )


def _check_folder(out: Path, config: RunConfig, data: dict[str, Any], resume: bool) -> None:
    """There is no run folder yet, or one to resume that says the same; only the number of epochs may change."""
    if resume:
        if not (out / "run.json").exists():
            raise OrsanetError(f"{out}: no run to resume (no run.json there); start it without --resume")
        before = load_config(str(out / "config.toml")).model_dump(mode="json")
        if changed := list(recipe_differences({**before, "epochs": config.epochs}, config.model_dump(mode="json"))):
            raise OrsanetError(f"{out}: resumed with another configuration; pass the same:\n{listed(changed)}")
        if changed := list(recipe_differences(read_json(out / "run.json"), data)):
            raise OrsanetError(
                f"{out}: resumed on other data or weights; pass the same, or start a new run:\n{listed(changed)}"
            )
    elif out.exists() and (not out.is_dir() or {entry.name for entry in out.iterdir()} - _BEGUN):
        raise OrsanetError(f"{out}: already exists; go on with --resume, or choose another --out")


def _begin_folder(out: Path, config: RunConfig, data: dict[str, Any]) -> None:
    """The run folder says what it is."""
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "config.toml", lambda path: path.write_text(config_toml(config), encoding="utf-8"))
    write_whole(out / "run.json", lambda path: path.write_text(json.dumps(data, indent=2), encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Raises OrsanetError for a damaged file."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise OrsanetError(f"{path}: damaged ({error}); start a new run") from error
