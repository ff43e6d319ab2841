"""A checkpoint and a store -> predictions, one row per image, and the report made from them."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from orsanet_cache import Manifest, OrsanetError, PriorStore, listed, recipe_differences
from orsanet_train import plots
from orsanet_train.checkpoint import Identity, load_weights, write_whole
from orsanet_train.feed import Feed, join
from orsanet_train.online import OnlineFeed
from orsanet_train.report import SplitReport, split_report
from orsanet_train.residence import Resident

EVALUATION_BATCH = 64


@torch.no_grad()
def predict(
    model: nn.Module, feed: Feed | OnlineFeed, view: str = "clean", between: Callable[[], None] = lambda: None
) -> NDArray[np.float32]:
    """Class probabilities float32 [N, K] of a split's usable samples (of this rank's part), in the manifest's order.

    The model's mode is kept. `between` is called between batches; what it raises ends the prediction.
    """
    was_training = model.training
    model.eval()
    parts = []
    for batch in feed.in_order(EVALUATION_BATCH, view):
        parts.append(model(*batch.inputs).logits.softmax(dim=1))
        between()
    model.train(was_training)
    if not parts:
        raise OrsanetError(f"split '{feed.split.name}' has no usable image to evaluate")
    probabilities = torch.cat(parts).cpu().numpy()
    if not np.isfinite(probabilities).all():
        raise OrsanetError(
            f"the model's outputs on '{feed.split.name}' are not finite; train with a lower learning_rate"
        )
    return probabilities


def predictions_table(
    feed: Feed, probabilities: NDArray[np.float32], classes: Sequence[str], group: str
) -> pd.DataFrame:
    """One row per image: group, image, label, predicted (class names), and a probability column per class."""
    frame = pd.DataFrame(probabilities, columns=[f"p_{name}" for name in classes])
    names = np.array(classes)
    frame.insert(0, "split", group)
    frame.insert(1, "image", [sample.image for sample in feed.split.samples])
    frame.insert(2, "label", names[feed.split.labels])
    frame.insert(3, "predicted", names[probabilities.argmax(axis=1)])
    return frame


@dataclass(frozen=True)
class Group:
    """Images to evaluate together, written SPLIT[:TAG][@VIEW]: `test`, `test:occluded`, `test@erase-20`."""

    split: str
    tag: str | None
    view: str

    @classmethod
    def parse(cls, text: str) -> Self:
        rest, at, view = text.partition("@")
        split, colon, tag = rest.partition(":")
        return cls(split, tag if colon else None, view if at else "clean")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    reports: list[SplitReport]
    protocol: str  # how the checkpoint was chosen, in a sentence
    notes: list[str]  # what was left out


def evaluate(
    weights: Path,
    manifest: Manifest,
    store: PriorStore,
    out: Path,
    *,
    groups: Sequence[str] | None,
    device: torch.device,
    resident: Resident = "auto",
) -> Evaluation:
    """Evaluate a checkpoint on groups of images and write report.json, predictions.csv and confusion matrices to `out`.

    A group is a split (`test`), its images with a tag (`test:occluded`), either in another view than the clean one
    (`test@erase-20`); None means every split but the training split. `resident` says where the data is kept meanwhile; "auto" is to
    stream it, because every row is read once.
    Raises OrsanetError for another class order or another store recipe than the checkpoint's, or an empty group.
    """
    model, identity = load_weights(weights)
    _check_fit(identity, manifest, store, weights)
    model = model.to(device)
    if groups is None:
        groups = [split for split in manifest.splits if split != identity.train_split]
    if not groups:
        raise OrsanetError(
            f"manifest '{manifest.name}' has no split besides '{identity.train_split}'; name one with --splits"
        )
    reports, tables, notes = [], [], []
    for group in dict.fromkeys(groups):
        part = Group.parse(group)
        split = join(manifest, store, part.split, [part.view], part.tag)
        feed = Feed(store, split, identity.model, device, "stream" if resident == "auto" else resident)
        table = predictions_table(feed, predict(model, feed, part.view), manifest.classes, group)
        chose = split.name == identity.selection_split and identity.selection == "best"
        reports.append(split_report(group, table, manifest.classes, len(split.rejected), chose))
        tables.append(table)
        if split.name == identity.train_split:
            notes.append(f"'{group}': the model was trained on these images")
        if split.rejected:
            notes.append(f"'{group}': {len(split.rejected)} image(s) that the build rejected are in no number above")
    protocol = _protocol(identity)
    if any(report.chose_checkpoint for report in reports):
        protocol += "; * chosen on these images, so their numbers are optimistic"

    content = {
        "checkpoint": {"file": weights.name, **identity.model_dump(mode="json")},
        "protocol": protocol,
        "manifest": manifest.name,
        "store": str(store.path),
        "splits": [report.as_json() for report in reports],
    }
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob("confusion_*.png"):  # of an earlier evaluation of other groups
        stale.unlink()
    write_whole(out / "report.json", lambda path: path.write_text(json.dumps(content, indent=2), encoding="utf-8"))
    write_whole(out / "predictions.csv", lambda path: pd.concat(tables).to_csv(path, index=False))
    if plots.matplotlib_installed():
        for report in reports:
            file_name = re.sub(r"[^\w.@-]", "_", report.name)[:80]  # a tag may hold anything
            plots.confusion(report, out / f"confusion_{file_name}.png")
    else:
        notes.append(plots.NO_MATPLOTLIB)
    return Evaluation(reports, protocol, notes)


def _check_fit(identity: Identity, manifest: Manifest, store: PriorStore, weights: Path) -> None:
    if identity.classes != manifest.classes:
        raise OrsanetError(
            f"{weights} was trained with the classes {', '.join(identity.classes)} (in this order), "
            f"manifest '{manifest.name}' has {', '.join(manifest.classes)}; use a manifest with the same order"
        )
    differences = list(recipe_differences(identity.store_recipe, store.recipe))
    if differences:
        raise OrsanetError(
            f"{weights} was trained on priors of another recipe than {store.path}; build a store with the same:\n"
            f"{listed(differences)}"
        )


def _protocol(identity: Identity) -> str:
    if identity.selection == "last":
        return f"last checkpoint (epoch {identity.epoch}), not chosen by any result"
    return f"best checkpoint: epoch {identity.epoch}, chosen by its accuracy on split '{identity.selection_split}'"
