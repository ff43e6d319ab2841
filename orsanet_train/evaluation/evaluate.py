"""A checkpoint and a store -> predictions, one row per image and view, and metrics of groups.

groups ─▶ (split, view) ─ model, once ─▶ predictions, features ─┬▶ of each group: metrics ─▶ evaluation folder (predictions.py)
                      landmarks ─ linear model (landmark_model.py) ┘
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from orsanet_cache.data.images import image_reading
from orsanet_cache.data.manifest import Manifest, as_manifest
from orsanet_cache.device import as_device
from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.outputs import output_folder, read_steadily
from orsanet_cache.paths import StrPath, StrPlace, Url, as_names, as_path, as_place
from orsanet_cache.progress import Progress
from orsanet_cache.store.reader import PriorStore, as_store
from orsanet_cache.store.recipe import recipe_differences
from orsanet_train.config import HELD_OUT
from orsanet_train.evaluation.forward import model_outputs
from orsanet_train.evaluation.groups import Group, all_groups
from orsanet_train.evaluation.landmark_model import NAME, LandmarkModel, NotFitted, fit_landmark_model
from orsanet_train.evaluation.metrics import GroupReport, group_report
from orsanet_train.evaluation.predictions import FOLDER, Evaluation, labels_of, predictions_table, probability_columns
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.residence import Resident
from orsanet_train.feed.split import LabelledSplit, image_digests, join
from orsanet_train.model.beside import written
from orsanet_train.model.checkpoint import LANDMARKS_FILE, SEGMENTER_FILE, Identity, load_weights, read_identity
from orsanet_train.model.fetched import local_files
from orsanet_train.model.model import ExpressionModel

PACKAGES = ("orsanet", "torch", "numpy", "scikit-learn")  # whose versions an evaluation records


def evaluate(
    weights: StrPlace,
    manifest: Manifest | StrPath,
    store: PriorStore | StrPlace,
    out: StrPlace | None = None,
    *,
    groups: Sequence[str] | None = None,
    device: torch.device | str = "auto",
    resident: Resident = "auto",
) -> Evaluation:
    """Evaluate a checkpoint on groups of images, and write the evaluation folder `out`.

    An earlier evaluation there is replaced when the new one is whole. Raises OrsanetError before
    the model runs if the class order or the store's recipe differs from the checkpoint's, if a
    named group is empty, and if `out` has anything but an evaluation or another command writes it.

    Args:
        weights: A weights file, or a run folder, whose best.safetensors is then evaluated. Either may
            have a URL.
        manifest: The manifest of the images, or its path.
        store: A store with their priors, or its path.
        out: The folder to write, or for weights at a URL another URL. None: evaluation-best or
            evaluation-last beside the weights, also at a URL.
        groups: Each is a split (`test`) or its images with a tag (`test:occluded`), in the clean
            view or in another one (`test@erase-20`). None: every split except the training split,
            with each of its tags and each of its occluded views in the store.
        device: "auto", "cpu", "cuda", "cuda:N" or a torch.device.
        resident: Where the data is kept during the evaluation. "auto" streams it from the store,
            because every row is read once.
    """
    weights, manifest, store = as_place(weights, "weights", "run"), as_manifest(manifest), as_store(store)
    if isinstance(weights, Url):
        run, name = weights.parent if weights.name.endswith(".safetensors") else weights, weights.name
        name = name if run != weights else "best.safetensors"
        target = run / f"evaluation-{Path(name).stem}" if out is None else as_place(out, "out", "run")
        with local_files(run, name) as folder, written(target, FOLDER) as here:
            return evaluate(folder / name, manifest, store, here, groups=groups, device=device, resident=resident)
    weights = weights / "best.safetensors" if weights.is_dir() else weights
    out = weights.with_name(f"evaluation-{weights.stem}") if out is None else as_path(out, "out")
    groups, device = None if groups is None else as_names(groups, "groups"), as_device(device)
    model, identity = load_weights(weights)
    _check_fit(identity, manifest, store, weights)
    with output_folder(out, FOLDER) as staged:
        evaluation = _evaluated(model, identity, weights, manifest, store, groups, device, resident)
        evaluation.write_files(staged)
    return evaluation


def is_evaluated(
    weights: Path, manifest: Manifest, store: PriorStore, out: Path, groups: Sequence[str] | None = None
) -> bool:
    """Whether `out` has the evaluation of these weights already: of the same groups, images, labels, tags and priors.

    Arguments as for `evaluate`. Raises OrsanetError for a group or a view that does not exist.
    """
    try:
        evaluation = read_steadily(out, Evaluation.read)
    except OrsanetError:  # absent or damaged
        return False
    identity = read_identity(weights)
    chosen = _chosen(manifest, store, identity, groups)
    if (evaluation.checkpoint.tensors_sha256, evaluation.manifest, evaluation.store) != (
        identity.tensors_sha256, manifest.name, _place(store),
    ):  # fmt: skip
        return False
    if [report.name for report in evaluation.groups] != [str(group) for group in chosen]:
        return False
    splits = _splits(manifest, store, identity, chosen)
    now = [
        (split, view, sample.image, ";".join(sorted(sample.tags)), manifest.classes[sample.label])
        for (split, view), part in splits.items()
        for sample in part.samples
    ]
    known = evaluation.table[["split", "view", "image", "tags", "label"]]
    return _seals(store, splits, identity.model.fields) == evaluation.seals and now == list(
        known.itertuples(index=False, name=None)
    )


def _chosen(manifest: Manifest, store: PriorStore, identity: Identity, groups: Sequence[str] | None) -> list[Group]:
    """The groups to evaluate, each once."""
    if groups is None:
        return all_groups(manifest, store, identity)
    return list(dict.fromkeys(Group.parse(group).among(manifest.splits) for group in groups))


def _splits(
    manifest: Manifest, store: PriorStore, identity: Identity, groups: Sequence[Group]
) -> dict[tuple[str, str], LabelledSplit]:
    """The images of every (split, view) of the groups."""
    return {
        key: join(manifest, store, key[0], [key[1]], fields=identity.model.fields)
        for key in dict.fromkeys((group.split, group.view) for group in groups)
    }


def _place(store: PriorStore) -> str:
    """The store's absolute path, or its URL."""
    return str(store.path.absolute() if isinstance(store.path, Path) else store.path)


def _seals(store: PriorStore, splits: Iterable[tuple[str, str]], fields: Sequence[str]) -> dict[str, str]:
    """The seals of the views and of the groups of added fields that are read, by "split/view" and "split/view.NAME"."""
    return {
        f"{split}/{group}": store.sealed(split, group).seal
        for split, view in splits
        for group in store.groups_of(split, view, fields)
    }


def _evaluated(
    model: ExpressionModel, identity: Identity, weights: Path, manifest: Manifest, store: PriorStore, groups: list[str] | None,
    device: torch.device, resident: Resident,
) -> Evaluation:  # fmt: skip
    fields = identity.model.fields
    chosen = _chosen(manifest, store, identity, groups)
    if not chosen:
        raise OrsanetError(
            f"manifest '{manifest.name}' has no split besides '{identity.train_split}'; name one with --splits"
        )
    parts = {group: join(manifest, store, group.split, [group.view], group.tag, fields) for group in chosen}
    empty = [group for group, part in parts.items() if not part.samples]
    if empty and groups is not None:
        raise OrsanetError(f"no image of '{empty[0]}' can be used: the build rejected all; see `orsanet-cache info`")
    notes = [f"'{group}' is left out: the build rejected all its images" for group in empty]
    chosen = [group for group in chosen if group not in empty]
    splits = _splits(manifest, store, identity, chosen)

    landmark_model, why_not = _landmark_model(manifest, store, identity)
    model = model.to(device)
    tables, features, by_landmarks = [], [], []
    with Progress(sum(len(split.rows) for split in splits.values()), "evaluate", "img") as progress:
        for (name, view), split in splits.items():
            feed = Feed(store, split, identity.model, device, "stream" if resident == "auto" else resident)
            outputs = model_outputs(model, feed, view, progress.update)
            table = predictions_table(split.samples, split.labels, outputs.probabilities, manifest.classes, name, view)
            tables.append(table)
            features.append(outputs.features)
            if landmark_model is not None:
                by_landmarks.append(landmark_model.predict(store, split, view))
    table = pd.concat(tables, ignore_index=True)
    labels = labels_of(table, manifest.classes)
    probabilities = table[probability_columns(manifest.classes)].to_numpy()

    reports = []
    for group in chosen:
        rows = np.flatnonzero(group.of(table))
        trained, chose = _known(identity, manifest, store, parts[group], len(rows))
        reports.append(
            group_report(
                str(group), labels[rows], probabilities[rows], manifest.classes,
                rejected=len(parts[group].rejected),
                chose_checkpoint=chose > 0, trained_on=trained > 0,
                chose_images=None if identity.images is None else chose,
                trained_images=None if identity.images is None else trained,
                baselines=()
                if landmark_model is None
                else (landmark_model.baseline(np.concatenate(by_landmarks)[rows]),),
            )
        )  # fmt: skip
    notes += [*_notes(reports, splits, identity), *why_not]
    return Evaluation(
        identity.model_copy(update={"images": None}), weights.name, manifest.name, _place(store),
        _seals(store, splits, fields),
        tuple(notes), tuple(reports), table, np.concatenate(features),
        datetime.now(UTC).isoformat(timespec="seconds"), {package: version(package) for package in PACKAGES},
    )  # fmt: skip


def _landmark_model(
    manifest: Manifest, store: PriorStore, identity: Identity
) -> tuple[LandmarkModel | None, tuple[str, ...]]:
    """The baseline that is fitted to the training images, or a note why there is none."""
    try:
        return fit_landmark_model(manifest, store, identity), ()
    except NotFitted as reason:
        return None, (f"no {NAME} is fitted beside the run: {reason}",)


def _known(
    identity: Identity, manifest: Manifest, store: PriorStore, part: LabelledSplit, images: int
) -> tuple[int, int]:
    """How many of a group's images the model was trained on, and how many chose the checkpoint.

    They are counted by their digests. Weights without digests are judged by the names of manifest
    and split: all images of the group, or none.
    """
    if identity.images is None:
        here = manifest.name == identity.data_set  # another data set's splits may have the same names
        trained = images if here and part.name == identity.train_split else 0
        chose = images if here and part.name == identity.selection_split else 0
    else:
        digests = image_digests(store, part)
        trained, chose = int(identity.images.trained(digests).sum()), int(identity.images.chose(digests).sum())
    return trained, 0 if identity.selection == "last" else chose


def _notes(
    reports: Sequence[GroupReport], splits: Mapping[tuple[str, str], LabelledSplit], identity: Identity
) -> Iterator[str]:
    if identity.images is None:
        yield (
            "the weights do not have the digests of their training's images: which images they were trained on and chosen by "
            "is judged by the names of manifest and split"
        )
    if trained := [report.name for report in reports if report.all_trained_on]:
        held_out = ", except for the held-out part, on which the checkpoint was chosen"
        part = held_out if identity.images is None and identity.selection_split == HELD_OUT else ""
        yield f"the model was trained on the images of {', '.join(trained)}{part}"
    for report in reports:
        if report.trained_on and not report.all_trained_on:
            yield f"the model was trained on {report.trained_images:,} of the {report.images:,} images of {report.name}"
        if report.chose_checkpoint and not report.all_chose_checkpoint:
            yield (
                f"the checkpoint was chosen on {report.chose_images:,} of the {report.images:,} images of {report.name}, "
                "so their numbers are optimistic"
            )
    rejected: dict[str, set[str]] = {}
    for (name, _), split in splits.items():
        rejected.setdefault(name, set()).update(split.rejected)
    for name, images in rejected.items():
        if images:
            yield f"'{name}': the numbers do not include {len(images)} image(s) that the build rejected"
    yield from (f"'{report.name}': {report.label_warning}" for report in reports if report.label_warning)


def _check_fit(identity: Identity, manifest: Manifest, store: PriorStore, weights: Path) -> None:
    if identity.classes != manifest.classes:
        raise OrsanetError(
            f"{weights} was trained with the classes {', '.join(identity.classes)} (in this order), "
            f"manifest '{manifest.name}' has {', '.join(manifest.classes)}; use a manifest with the same order"
        )
    differences = list(recipe_differences(identity.store_recipe, store.recipe))
    if differences:
        fix = "build a store with the same recipe"
        if identity.selection == "published":
            fix = (
                f"build a store with the networks of the checkpoint: --segmenter {weights.with_name(SEGMENTER_FILE)} "
                f"--landmarks {weights.with_name(LANDMARKS_FILE)} --precision fp32 --features float32 "
                f"--image-reading {image_reading(identity.store_recipe)}"
            )
        raise OrsanetError(
            f"{weights} was trained on priors of another recipe than {store.path}; {fix}; differences:\n{listed(differences)}"
        )
