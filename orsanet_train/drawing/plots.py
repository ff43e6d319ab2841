"""Figures of a run and of its evaluation, drawn by matplotlib on white.

They are readable at a width of 360 pixels and without colour. Every function returns a Figure;
`write_picture` and `data_uri` turn it, or a picture of gallery.py, into a file or part of a page.
matplotlib is an optional extra: check `matplotlib_installed` before drawing a Figure. A name that no
installed font can draw is shown as its number (inspection/fonts.py): a class by its label, followed
by the name of the group.

Shapes: N images, D features.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError
from orsanet_cache.inspection.fonts import fallback_fonts, numbered, printable
from orsanet_train.evaluation.metrics import GroupReport
from orsanet_train.evaluation.statistics import Estimate, decimals

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import Container
    from matplotlib.figure import Figure

NO_MATPLOTLIB = (
    "curves, confusion matrices and other figures need matplotlib; in the clone of the project: pip install '.[plots]'"
)
WIDTH = 5.0  # inches: text of 10 points is 9 pixels high when the figure is shown 360 pixels wide
DPI = 200
LONGEST_NAME = 28  # characters; tags may be of any length
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip # distinguishable for colour-blind readers (Petroff 2021)
BLUE, ORANGE, RED = COLOURS[:3]
GREY = COLOURS[8]
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # seven and ten have no common divisor: 70 pairs of colour and marker
PNG_LEVEL = 3  # of zlib's 9: a third of the default's time, a tenth larger
SHOWN = 2000  # images of a t-SNE map
TSNE_STEPS = 500  # half of scikit-learn's default: half the time, with a final divergence 2 % higher
FEWEST = 5


class NotDrawable(OrsanetError):
    """The data is not enough for a figure; the message is the reason."""


def matplotlib_installed() -> bool:
    """Whether figures can be drawn; nothing else requires matplotlib."""
    return find_spec("matplotlib") is not None


def write_picture(picture: "Figure | Image.Image", path: Path) -> None:
    """Write a PNG file atomically: the file is complete or does not exist."""
    write_whole(path, lambda temporary: temporary.write_bytes(_encoded(picture, "PNG")))


def data_uri(picture: "Figure | Image.Image") -> str:
    """A URI for an img's `src`: figures as PNG, pictures of faces as JPEG, which is smaller."""
    kind = "JPEG" if isinstance(picture, Image.Image) else "PNG"
    return f"data:image/{kind.lower()};base64,{base64.b64encode(_encoded(picture, kind)).decode()}"


def curves(history: pd.DataFrame, selection_split: str, chosen: int | None, warmup: int) -> "Figure":
    """Loss and accuracy per epoch, with lines at the chosen epoch and at the end of the warm-up.

    `chosen` is the epoch of the weights, counted from 1; None: not known. `warmup` is the number of
    epochs with the warm-up's loss; its end is marked if further epochs follow.
    """
    figure = _figure(6.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    epoch = history["epoch"]
    (selection,) = numbered([selection_split])
    # An epoch that an older version began has no accuracy of the second pass.
    perturbed = {"perturbed (SAM)": 100 * history["perturbed_accuracy"]} if "perturbed_accuracy" in history else {}
    for axes, label, series in (
        (upper, "training loss", {"at the weights": history["loss"], "perturbed (SAM)": history["perturbed_loss"]}),
        (
            lower,
            "accuracy, %",
            {
                "training batches (augmented)": 100 * history["train_accuracy"],
                f"split '{selection}'": 100 * history["selection_accuracy"],
                **perturbed,
            },
        ),
    ):
        lines = [
            axes.plot(epoch, values, style, color=colour, marker=".")[0]
            for values, style, colour in zip(series.values(), ("-", "--", ":"), (BLUE, RED, BLUE), strict=False)
        ]
        marks: dict[str, Artist] = {}
        if chosen is not None:
            name = f"chosen epoch, {chosen}"
            marks[name] = axes.axvline(chosen, color="black", linestyle=":", linewidth=1.4)
        if 0 < warmup < epoch.max():
            marks["end of the loss's warm-up"] = axes.axvline(warmup + 0.5, color=GREY, linestyle="-.", linewidth=1.4)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        _legend(axes, [*lines, *marks.values()], [*series, *marks])
    lower.set_xlabel("epoch")
    lower.xaxis.get_major_locator().set_params(integer=True)
    return figure


def curves_by_loss(runs: Mapping[str, Sequence[pd.DataFrame]], measure: str, title: str) -> "Figure":
    """Training loss and a measure on the test samples per tested epoch: a line per loss, the mean over its seeds.

    `runs` has the rows of metrics.csv of each loss's runs, the same epochs in all of them; `measure`
    is a column of shares and `title` its name. The band is from the lowest to the highest seed.
    """
    figure = _figure(6.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, column, factor, label in ((upper, "loss", 1, "training loss"), (lower, measure, 100, f"{title}, %")):
        lines: dict[str, Artist] = {}
        for (name, histories), colour, marker in zip(runs.items(), cycle(COLOURS), cycle(MARKERS)):
            epoch = histories[0]["epoch"].to_numpy()
            values = factor * np.stack([history[column].to_numpy() for history in histories])
            axes.fill_between(epoch, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
            (lines[name],) = axes.plot(
                epoch,
                values.mean(axis=0),
                color=colour,
                marker=marker,
                markevery=max(1, len(epoch) // 12),
                markersize=4,
            )
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        _legend(axes, lines.values(), lines)
    lower.set_xlabel("epoch")
    lower.xaxis.get_major_locator().set_params(integer=True)
    return figure


def confusion(report: GroupReport) -> "Figure":
    """Confusion matrix: counts, shaded by the share of each true class."""
    *classes, group = _names([*report.classes, report.name])
    family, digits = _family(classes), decimals(report.accuracy, report.images)
    counts = np.array(report.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(WIDTH, 1.8 + 0.45 * len(classes))
    figure = _figure(size, size)
    axes = figure.subplots()
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(
        range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor", parse_math=False, family=family
    )
    axes.set_yticks(range(len(classes)), classes, parse_math=False, family=family)
    axes.set(xlabel="predicted", ylabel="true")
    _title(
        axes,
        f"{group}: {report.images} images, {100 * report.accuracy.value:.{digits}f} % right",
        "shade: share of the true class",
    )
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column, row, str(count), ha="center", va="center", color="white" if share[row, column] > 0.5 else "black"
        )
    return figure


def reliability(report: GroupReport) -> "Figure":
    """Accuracy by the model's confidence, its gap to the confidence, and the share of images."""
    bins = report.reliability
    error = f"{100 * report.calibration_error:.{decimals(report.accuracy, report.images)}f}"
    low, width, images, confidence, accuracy = (
        np.array(values)
        for values in zip(*((b.low, b.high - b.low, b.images, b.confidence, b.accuracy) for b in bins), strict=True)
    )
    figure = _figure(5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    # An overconfident bin has its gap on top of the bar, an underconfident bin in its upper part.
    bars = upper.bar(low, 100 * accuracy, width, align="edge", color=BLUE, edgecolor="white")
    gaps = [
        upper.bar(
            low[side], 100 * np.abs(confidence - accuracy)[side], width[side],
            bottom=100 * np.minimum(confidence, accuracy)[side], align="edge", facecolor="none", edgecolor=colour, hatch=hatch,
        )
        for side, colour, hatch in ((confidence > accuracy, RED, "////"), (confidence <= accuracy, "black", "...."))
    ]  # fmt: skip
    (ideal,) = upper.plot((0, 1), (0, 100), "--", color="black", linewidth=1)
    upper.set(ylabel="accuracy, %", xlim=(0, 1), ylim=(0, 100))
    _legend(upper, (bars, *gaps, ideal), ("accuracy", "overconfident by", "underconfident by", "perfectly calibrated"))
    _title(upper, *_names([report.name]), f"calibration error {error} %, {report.images} images")
    lower.bar(low, 100 * images / report.images, width, align="edge", color=GREY, edgecolor="white")
    lower.set(xlabel="probability of the predicted class", ylabel="images, %")
    return figure


def robustness_curve(
    runs: Mapping[str, Mapping[int, Estimate]], published: Mapping[int, float] | None = None
) -> "Figure":
    """Accuracy with its 95 % interval against the occluded share of the picture, one line per run.

    `runs` has each run's accuracies by the share in per cent; `published` has the paper's
    accuracies (0 … 1) by the same shares.
    """
    figure = _figure(4.0)
    axes = figure.subplots()
    lines: dict[str, Artist | Container] = {}
    for number, (name, by_share) in enumerate(runs.items()):
        shares = np.array(sorted(by_share))
        estimates = [by_share[share] for share in shares.tolist()]
        aside = 0.4 * (number - (len(runs) - 1) / 2)  # so that intervals do not cover each other
        lines[name] = axes.errorbar(
            shares + aside, _per_cent(estimates), _intervals(estimates),
            color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)], capsize=3,
        )  # fmt: skip
    if published:
        shares = np.array(sorted(published))
        (line,) = axes.plot(shares, [100 * published[share] for share in shares.tolist()], "k--", marker="x")
        lines["published"] = line
    axes.set(xlabel="occluded share of the picture, %", ylabel="accuracy, %")
    axes.set_xticks(sorted({share for by_share in (*runs.values(), published or {}) for share in by_share}))
    axes.grid(alpha=0.3)
    _legend(axes, lines.values(), lines)
    return figure


def robustness_bars(differences: Mapping[str, Estimate]) -> "Figure":
    """Accuracy under each occluder minus that of the same images without it, in points.

    `differences` has the difference (a share) and its 95 % interval by occluder.
    """
    figure = _figure(1.3 + 0.42 * len(differences))
    axes = figure.subplots()
    estimates = list(differences.values())
    places = range(len(estimates))
    axes.barh(places, _per_cent(estimates), 0.6, color=BLUE, xerr=_intervals(estimates), capsize=3)
    axes.axvline(0, color="black", linewidth=1)
    names = _names(list(differences))
    axes.set_yticks(places, names, parse_math=False, family=_family(names))
    axes.invert_yaxis()
    axes.set_xlabel("change of accuracy, points")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def accuracy_by_quality(quartiles: Mapping[str, Estimate]) -> "Figure":
    """Accuracy with its 95 % interval of each quarter of the images, in the given order."""
    figure = _figure(3.4)
    axes = figure.subplots()
    estimates = list(quartiles.values())
    axes.errorbar(range(len(estimates)), _per_cent(estimates), _intervals(estimates), fmt="o", color=BLUE, capsize=4)
    names = _names(list(quartiles))
    axes.set_xticks(range(len(estimates)), names, parse_math=False, family=_family(names))
    axes.set_xlim(-0.5, len(estimates) - 0.5)
    axes.set(xlabel="quarter of the images, by the quality of their priors", ylabel="accuracy, %")
    axes.grid(axis="y", alpha=0.3)
    return figure


def tsne(
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: Sequence[str],
    seed: int = 0,
) -> "Figure":
    """t-SNE of features, coloured by label; wrong predictions have a black edge.

    At most 2,000 images are shown. Raises NotDrawable for fewer than 5 images, and if all have the
    same features.

    Args:
        features: [N, D].
        labels: [N] in 0 … K-1.
        predicted: The predicted classes, [N] in 0 … K-1.
        classes: The names of the K classes in label order.
        seed: Seed of the choice of images and of the layout.
    """
    shown = np.arange(len(labels))
    if len(shown) > SHOWN:
        shown = np.sort(np.random.default_rng(seed).choice(shown, SHOWN, replace=False))
    places = _tsne_places(features[shown].astype(np.float32), seed)
    wrong = predicted[shown] != labels[shown]
    figure = _figure(6.0)
    axes = figure.subplots()
    points: dict[str, Artist] = {}
    for label, (name, colour, marker) in enumerate(zip(classes, cycle(COLOURS), cycle(MARKERS))):
        of_class = labels[shown] == label
        for edge, size, some in (("none", 14, ~wrong), ("black", 22, wrong)):
            x, y = places[of_class & some].T
            above = 2 + (edge == "black")
            dots = axes.scatter(x, y, size, colour, marker=marker, edgecolors=edge, linewidths=0.8, zorder=above)
            if edge == "none":
                points[name] = dots
    drawn = (
        f"{len(shown)} of {len(labels)} images, drawn at random" if len(shown) < len(labels) else f"{len(shown)} images"
    )
    _title(axes, "t-SNE of the gated features", f"{drawn}; black edge: {wrong.sum()} wrong")
    axes.set(xticks=[], yticks=[], xlabel="neighbourhoods are meaningful, distances are not")
    _legend(axes, points.values(), points, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, markerscale=1.6)
    return figure


def _tsne_places(features: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """[N, D] -> [N, 2]."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(features) < FEWEST:
        raise NotDrawable(f"t-SNE needs {FEWEST} images, the group has {len(features)}; show a larger group")
    if (features == features[0]).all():
        raise NotDrawable("t-SNE: the model has the same features for all images; train it for longer")
    reduced = PCA(min(50, *features.shape), random_state=seed).fit_transform(features)
    perplexity = min(30, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", max_iter=TSNE_STEPS, random_state=seed).fit_transform(reduced)


def _figure(height: float, width: float = WIDTH) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def _encoded(picture: "Figure | Image.Image", kind: str) -> bytes:
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(buffer, kind, quality=88, compress_level=PNG_LEVEL)  # each format takes its own option
    else:
        picture.savefig(buffer, format=kind.lower(), pil_kwargs={"compress_level": PNG_LEVEL})
    return buffer.getvalue()


def _names(names: Sequence[str]) -> list[str]:
    """The names, or the numbers of those that no font can draw, in one line of bounded length each."""
    return [_bounded(name) for name in numbered(names)]


def _bounded(name: str) -> str:
    name = printable(name)
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _family(texts: Sequence[str]) -> list[str]:
    """Names by which matplotlib finds the fonts of the texts: its own, then the installed ones for other letters.

    Each name stands for one file, so that matplotlib takes the fonts in which the letters were found.
    """
    from matplotlib import font_manager, get_data_path

    files = [Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), *fallback_fonts(texts)]
    known = {entry.name for entry in font_manager.fontManager.ttflist}
    for file in files:
        if str(file) not in known:
            entry = font_manager.FontEntry(fname=str(file), name=str(file), weight=400, size="scalable")
            font_manager.fontManager.ttflist.append(entry)
    return list(dict.fromkeys(map(str, files)))


def _title(axes: "Axes", *lines: str) -> None:
    axes.set_title("\n".join(lines), fontsize=10, parse_math=False, family=_family(lines))  # "$" starts no formula


def _legend(axes: "Axes", artists: Iterable["Artist | Container"], names: Iterable[str], **place: Any) -> None:
    """Add a legend.

    The names are set afterwards, because a legend would omit names that begin with "_" and set
    those with "$" as formulas.
    """
    handles, shown = list(artists), _names(list(names))
    legend = axes.legend(handles, ["name"] * len(handles), fontsize=9, **place)
    family = _family(shown)
    for text, name in zip(legend.get_texts(), shown, strict=True):
        text.set(text=name, parse_math=False, family=family)


def _per_cent(estimates: Sequence[Estimate]) -> NDArray[np.float64]:
    return np.array([100 * estimate.value for estimate in estimates])


def _intervals(estimates: Sequence[Estimate]) -> NDArray[np.float64]:
    """[2, n] below and above the values, in per cent; NaN (draws nothing) without interval."""
    low, high = np.array([(estimate.low, estimate.high) for estimate in estimates], float).reshape(-1, 2).T
    value = _per_cent(estimates)
    return np.maximum((value - 100 * low, 100 * high - value), 0)  # an interval of resamples may not contain the value
