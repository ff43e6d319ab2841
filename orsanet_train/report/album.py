"""The pictures of a report: the drawings of plots.py and gallery.py with titles and captions."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache.errors import OrsanetError, listed
from orsanet_cache.inspection.fonts import legend
from orsanet_train.drawing import gallery, plots
from orsanet_train.drawing.attention import Attention, attention
from orsanet_train.evaluation.predictions import labels_of, probability_columns
from orsanet_train.evaluation.statistics import Estimate
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.split import LabelledSplit
from orsanet_train.model.checkpoint import load_weights
from orsanet_train.model.inputs import IMAGE
from orsanet_train.model.model import ExpressionModel
from orsanet_train.report.contents import Source
from orsanet_train.report.paper import published
from orsanet_train.report.report import store_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATTENTION_ROWS = 6  # images whose attention is shown if none are named
ERASED = re.compile(r"erase-(\d+)")


@dataclass(frozen=True)
class ReportPicture:
    """A picture of the page. Without a source, the caption is the reason why it was not drawn."""

    name: str  # unique among a run's
    title: str
    caption: str
    source: str | None  # data URI
    maps: bool = False  # it shows segmentation maps, so their colours are explained


def albums(sources: Sequence[Source], images: Sequence[str] | None, device: torch.device) -> list[list[ReportPicture]]:
    """The pictures of each run (`album`); of several runs, those of the first end with `compared_attention`."""
    pictures = [album(source, images, device) for source in sources]
    if len(sources) > 1:
        pictures[0].append(compared_attention(sources, images, device))
    return pictures


def album(source: Source, images: Sequence[str] | None, device: torch.device) -> list[ReportPicture]:
    """The pictures of one run, with the attention of `images` (None: the most confident mistakes).

    Raises OrsanetError for an image that was not evaluated, or if matplotlib is not installed.
    """
    if not plots.matplotlib_installed():
        raise OrsanetError(f"a report has pictures; {plots.NO_MATPLOTLIB}")
    model, _ = load_weights(source.run / source.evaluation.weights)
    evaluation, report = source.evaluation, source.report
    classes = evaluation.classes
    table = evaluation.table.iloc[source.rows]
    labels = labels_of(table, classes)
    probabilities = table[probability_columns(classes)].to_numpy()
    rows = store_rows(source.store, source.group.split, table)
    stored = gallery.StoredImages(source.store, source.group.split, source.group.view, rows)
    chosen = _chosen(table, labels, probabilities, images)
    seen = gallery.StoredImages(stored.store, stored.split, stored.view, rows[chosen])
    detailed, features = report.detailed, evaluation.features[source.rows]
    score = source.quality["score"].to_numpy()

    pictures = [
        _picture(
            "confusion", "Confusion matrix", "Counts; the shade is the share of the true class.", lambda: plots.confusion(detailed),
            [*classes, detailed.name],
        ),
        _picture(
            "reliability", "Calibration", "The expected calibration error is the mean gap over 15 bins, weighted by their images.",
            lambda: plots.reliability(detailed), [detailed.name],
        ),
    ]  # fmt: skip
    if (curve := erased_shares(source)) and len(curve) > 1:
        title = report.config.model.title
        drawn = {row.group: row.accuracy for row in published(evaluation.manifest, classes) if row.model == title}
        beside = {share: drawn[group] for share, group in _erased_groups(source).items() if group in drawn}
        pictures.append(
            _picture(
                "robustness-curve", "Accuracy under erased squares",
                "One square with this share of the picture is erased, at a position derived from the pixels, before the frozen networks run.",
                lambda: plots.robustness_curve({report.name: curve}, beside), [report.name],
            )
        )  # fmt: skip
    if report.robustness:
        pictures.append(
            _picture(
                "robustness", "Change of accuracy by occlusion", "The same images with and without the occlusion.",
                lambda: plots.robustness_bars({drop.view: drop.difference for drop in report.robustness}),
            )
        )  # fmt: skip
    if report.quartiles:
        pictures.append(
            _picture(
                "quality", "Accuracy by the quality of the priors", "Quarters of the images by score, the worst first.",
                lambda: plots.accuracy_by_quality({part.name: part.accuracy for part in report.quartiles}),
            )
        )  # fmt: skip
    if source.history is not None:
        history = source.history
        checkpoint, warmup = evaluation.checkpoint, report.config.loss.warmup_epochs
        pictures.append(
            _picture(
                "curves", "Training", _curves_caption(checkpoint.epoch, warmup, len(history)),
                lambda: plots.curves(history, checkpoint.selection_split, checkpoint.epoch, warmup),
                [checkpoint.selection_split],
            )
        )  # fmt: skip
    pictures += [
        _picture(
            "t-sne", "Features before the head", "t-SNE: neighbourhoods are meaningful, distances and sizes are not.",
            lambda: plots.tsne(features, labels, probabilities.argmax(axis=1), classes), classes,
        ),
        _picture(
            "mistakes", "The most confident mistakes", "Of each true class, with the predicted class.",
            lambda: gallery.mistakes(stored, labels, probabilities, classes), classes,
        ),
        _picture(
            "attention", "Attention of the backbone",
            "Image, landmarks, segmentation map, and Grad-CAM of the predicted class at the backbone's last map: with the semantic guidance, "
            "and with the guidance bypassed in the same model (not a model trained without it).",
            lambda: gallery.attention_columns(
                seen, labels[chosen], probabilities[chosen], classes, _attention(source, model, seen.rows, labels[chosen], device)
            ),
            classes,
            maps=True,
        ),
        _picture(
            "worst-priors", "The worst priors", "Images with the lowest scores: landmarks and segmentation map.",
            lambda: gallery.worst_priors(stored, score), gallery.worst_names(stored, score), first=1, maps=True,
        ),
    ]  # fmt: skip
    return pictures


def compared_attention(sources: Sequence[Source], images: Sequence[str] | None, device: torch.device) -> ReportPicture:
    """The attention of several runs side by side, for the images of the first run's attention.

    A run whose model has no attention, or that was not evaluated on these images, is named in the caption.
    """
    first = sources[0]
    classes = first.evaluation.classes
    table = first.evaluation.table.iloc[first.rows]
    labels = labels_of(table, classes)
    chosen = _chosen(table, labels, table[probability_columns(classes)].to_numpy(), images)
    names, titles = table["image"].to_numpy()[chosen], {}
    columns, without = [], []
    for source in sources:
        run = source.report.name.partition(", seed ")[0]
        rows = source.evaluation.table.iloc[source.rows].set_index("image").reindex(names).reset_index()
        try:
            if source.group != first.group or rows["split"].isna().any():
                raise plots.NotDrawable(f"not evaluated on the same images of {first.group}")
            model, _ = load_weights(source.run / source.evaluation.weights)
            found = _attention(
                source, model, store_rows(source.store, source.group.split, rows), labels[chosen], device
            )
        except plots.NotDrawable as reason:
            without.append(f"Without {run}: {reason}.")
            continue
        titles[run] = source.report.config.model.title
        shares = rows[probability_columns(classes)].to_numpy()
        columns.append(gallery.Seeing(run, shares, found.with_prior.numpy()))

    def draw() -> Image.Image:
        if len(columns) < 2:
            raise plots.NotDrawable(" ".join(["fewer than two of the runs have attention.", *without]))
        stored = store_rows(first.store, first.group.split, table)[chosen]
        seen = gallery.StoredImages(first.store, first.group.split, first.group.view, stored)
        return gallery.attention_side_by_side(seen, labels[chosen], classes, columns)

    models = ", ".join(f"{run} ({title})" for run, title in titles.items())
    caption = f"Grad-CAM of each model's predicted class at its backbone's last map, for the same images: {models}."
    return _picture(
        "compared-attention", "Attention of the runs side by side", " ".join([caption, *without]), draw,
        [*classes, *titles],
    )  # fmt: skip


def erased_shares(source: Source) -> dict[int, Estimate]:
    """Accuracy of the detailed split by the erased share in per cent; 0 is the clean view."""
    reports = {share: source.evaluation.group(group) for share, group in _erased_groups(source).items()}
    return {share: report.accuracy for share, report in reports.items() if report is not None}


def _erased_groups(source: Source) -> dict[int, str]:
    """Erased share in per cent -> the evaluated group."""
    views = {drop.view: drop.group for drop in source.report.robustness}
    erased = {int(match[1]): group for view, group in views.items() if (match := ERASED.fullmatch(view))}
    return {0: str(source.group), **dict(sorted(erased.items()))}


def _curves_caption(chosen: int | None, warmup: int, epochs: int) -> str:
    """What the curves show, and what they cannot mark."""
    parts = ["Loss and accuracy per epoch."]
    parts.append("The chosen epoch is not known." if chosen is None else f"Dotted: the chosen epoch, {chosen}.")
    if warmup == 0:
        parts.append("The loss has no warm-up.")
    elif warmup < epochs:
        parts.append(f"Dash-dotted: the end of the loss's warm-up, after epoch {warmup}.")
    else:
        parts.append(f"All epochs are the loss's warm-up, which has {warmup}.")
    return " ".join(parts)


def _picture(
    name: str,
    title: str,
    caption: str,
    draw: "Callable[[], Figure | Image.Image]",
    names: Sequence[str] = (),
    first: int = 0,
    *,
    maps: bool = False,
) -> ReportPicture:
    """Draw a picture. If it cannot be drawn (too few images), the caption is the reason.

    `names` are the names in the picture, numbered from `first`: the caption has those that no font
    can draw, with the numbers that stand in their place.
    """
    try:
        source = plots.data_uri(draw())
    except plots.NotDrawable as reason:
        return ReportPicture(name, title, f"Not drawn: {reason}", None)
    numbers = legend(names, first)
    return ReportPicture(
        name, title, f"{caption} Numbers in the picture: {numbers}." if numbers else caption, source, maps
    )


def _chosen(
    table: pd.DataFrame, labels: NDArray[np.int64], probabilities: NDArray[np.float32], images: Sequence[str] | None
) -> NDArray[np.int64]:
    """Positions of the named images, or of ATTENTION_ROWS images if none are named.

    Those are the most confident mistakes, followed by the least confident correct predictions.
    """
    if images is not None:
        found = pd.Index(table["image"].to_numpy()).get_indexer(list(images))
        if absent := [image for image, position in zip(images, found, strict=True) if position < 0]:
            raise OrsanetError(f"--images: not among the images of this split that were evaluated:\n{listed(absent)}")
        return found.astype(np.int64)
    wrong = probabilities.argmax(axis=1) != labels
    certainty = probabilities.max(axis=1)
    return np.lexsort((np.where(wrong, -certainty, certainty), ~wrong))[:ATTENTION_ROWS]


def _attention(
    source: Source, model: ExpressionModel, rows: NDArray[np.int64], labels: NDArray[np.int64], device: torch.device
) -> Attention:
    if IMAGE not in model.config.fields:
        raise plots.NotDrawable("the model reads no image")
    name = source.group.split
    split = LabelledSplit(name, (source.group.view,), (), rows, source.store.units(name, rows), labels, {})
    feed = Feed(source.store, split, model.config, device, "stream")
    (batch,) = feed.in_order(len(rows), source.group.view)
    return attention(model.to(device), *batch.inputs)
