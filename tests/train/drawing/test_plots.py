"""Figures hold the data they were given, read back from their axes, and can be drawn whatever a name holds."""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_fonts import bare_home
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from orsanet_cache import OrsanetError
from orsanet_train.drawing import plots
from orsanet_train.evaluation.metrics import GroupReport, group_report
from orsanet_train.evaluation.statistics import Estimate

CLASSES = ("anger", "$\\frac{", "_neutral")


def report(count: int = 200) -> GroupReport:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    probabilities = rng.dirichlet((1, 1, 1), count)
    return group_report("test:$\\foo$", labels, probabilities, CLASSES)


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def drawn(figure: Figure) -> Image.Image:
    """Drawing is where names go wrong: a formula, a layout that has no room."""
    content = base64.b64decode(plots.data_uri(figure).removeprefix("data:image/png;base64,"))
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert np.asarray(picture).std() > 5  # something is on it
    return picture


@pytest.mark.parametrize("of_both_passes", [False, True])
def test_curves_hold_the_history(of_both_passes: bool) -> None:
    """The accuracy of the second pass too, if the run recorded it."""
    columns = [
        "loss",
        "perturbed_loss",
        "train_accuracy",
        "selection_accuracy",
        *["perturbed_accuracy"] * of_both_passes,
    ]
    history = pd.DataFrame(np.random.default_rng(0).random((5, len(columns))), columns=columns)
    history.insert(0, "epoch", range(1, 6))
    figure = plots.curves(history, "$\\valid", None, 0)
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    for line, column in zip(lines, columns, strict=True):
        scale = 100 if "accuracy" in column else 1
        assert np.array_equal(line.get_xdata(), history["epoch"])
        np.testing.assert_array_equal(line.get_ydata(), scale * history[column])
    assert legend(figure.axes[1]) == [
        "training batches (augmented)", "split '$\\valid'", *["perturbed (SAM)"] * of_both_passes
    ]  # fmt: skip
    drawn(figure)


def test_one_epoch_has_curves() -> None:
    row = {"epoch": 1, "loss": 2.0, "perturbed_loss": 2.5, "train_accuracy": 0.4, "selection_accuracy": 0.5}
    drawn(plots.curves(pd.DataFrame([row]), "valid", 1, 5))


@pytest.mark.parametrize(("chosen", "warmup"), [(4, 2), (4, 0), (None, 2), (None, 5), (1, 9)])
def test_curves_mark_the_chosen_epoch_and_the_end_of_the_warm_up_between_two_epochs(
    chosen: int | None, warmup: int
) -> None:
    columns = ("loss", "perturbed_loss", "train_accuracy", "selection_accuracy")
    history = pd.DataFrame(np.full((5, 4), 0.5), columns=columns)
    history.insert(0, "epoch", range(1, 6))
    figure = plots.curves(history, "valid", chosen, warmup)
    expected = {f"chosen epoch, {chosen}": chosen} if chosen is not None else {}
    if 0 < warmup < 5:
        expected["end of the loss's warm-up"] = warmup + 0.5
    for axes in figure.axes:
        assert legend(axes)[2:] == list(expected)
        assert [line.get_xdata()[0] for line in axes.get_lines()[2:]] == list(expected.values())


def test_confusion_has_the_counts_and_shades_by_the_true_class() -> None:
    given = report()
    figure = plots.confusion(given)
    (axes,) = figure.axes
    counts = np.array(given.confusion)
    for text in axes.texts:
        column, row = map(round, text.get_position())
        assert text.get_text() == str(counts[row, column])
    assert len(axes.texts) == counts.size
    shade = np.asarray(axes.get_images()[0].get_array())
    np.testing.assert_allclose(shade.sum(axis=1), 1)
    np.testing.assert_allclose(shade * counts.sum(axis=1, keepdims=True), counts)
    assert tuple(tick.get_text() for tick in axes.get_yticklabels()) == CLASSES
    assert tuple(tick.get_text() for tick in axes.get_xticklabels()) == CLASSES
    drawn(figure)


def test_a_class_without_images_has_an_empty_row() -> None:
    figure = plots.confusion(group_report("g", np.zeros(2, np.int64), np.array([[0.9, 0.1], [0.2, 0.8]]), ("a", "b")))
    shade = np.asarray(figure.axes[0].get_images()[0].get_array())
    assert shade.tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_reliability_has_accuracy_the_gap_to_confidence_and_the_share_of_images() -> None:
    given = report()
    figure = plots.reliability(given)
    upper, lower = figure.axes
    bars, over, under = upper.containers
    for bar, part in zip(bars, given.reliability, strict=True):
        assert (bar.get_x(), bar.get_height()) == pytest.approx((part.low, 100 * part.accuracy))
        assert bar.get_x() + bar.get_width() == pytest.approx(part.high)
    surer = [part for part in given.reliability if part.confidence > part.accuracy]
    less_sure = [part for part in given.reliability if part.confidence <= part.accuracy]
    assert surer
    assert less_sure
    for side, parts in ((over, surer), (under, less_sure)):
        for gap, part in zip(side, parts, strict=True):
            ends = (gap.get_x(), gap.get_y(), gap.get_y() + gap.get_height())
            assert ends == pytest.approx((part.low, *(100 * end for end in sorted((part.accuracy, part.confidence)))))
    assert [bar.get_height() for bar in lower.containers[0]] == pytest.approx(
        [100 * part.images / given.images for part in given.reliability]
    )
    drawn(figure)


def test_a_robustness_curve_has_every_run_its_intervals_and_the_published_line() -> None:
    runs = {
        "_full": {0: Estimate(0.9, 0.88, 0.91), 30: Estimate(0.8, 0.77, 0.84), 10: Estimate(0.85, 0.8, 0.9)},
        "$x": {0: Estimate(0.7, None, None)},
    }
    published = {10: 0.9051, 0: 0.9228}
    figure = plots.robustness_curve(runs, published)
    (axes,) = figure.axes
    first, second = (container.lines for container in axes.containers)
    np.testing.assert_allclose(first[0].get_ydata(), [90, 85, 80])
    assert np.array_equal(np.round(first[0].get_xdata()), [0, 10, 30])
    (whiskers,) = first[2]
    np.testing.assert_allclose([segment[:, 1] for segment in whiskers.get_segments()], [(88, 91), (80, 90), (77, 84)])
    np.testing.assert_allclose(second[0].get_ydata(), [70])
    (dashed,) = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed.get_xydata(), [(0, 92.28), (10, 90.51)])
    assert legend(axes) == ["_full", "$x", "published"]
    assert axes.get_xticks().tolist() == [0, 10, 30]
    drawn(figure)


def test_robustness_bars_have_the_differences_and_their_intervals() -> None:
    differences = {
        "mask": Estimate(-0.21, -0.25, -0.18),
        "cap": Estimate(0.01, -0.01, 0.02),
        "hand": Estimate(0, None, None),
    }
    figure = plots.robustness_bars(differences)
    (axes,) = figure.axes
    error, bars = axes.containers
    assert [bar.get_width() for bar in bars] == pytest.approx([-21, 1, 0])
    (whiskers,) = error.lines[2]
    np.testing.assert_allclose([segment[:, 0] for segment in whiskers.get_segments()[:2]], [(-25, -18), (-1, 2)])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(differences)
    bottom, top = axes.get_ylim()
    assert bottom > top  # the first is on top
    drawn(figure)


def test_accuracy_by_quality_has_the_quartiles_in_order() -> None:
    quartiles = {"1 (worst)": Estimate(0.7, 0.6, 0.8), "2": Estimate(0.8, 0.75, 0.9), "3": Estimate(1, 0.95, 1)}
    figure = plots.accuracy_by_quality(quartiles)
    (axes,) = figure.axes
    points, _, (whiskers,) = axes.containers[0].lines
    np.testing.assert_allclose(points.get_xydata(), [(0, 70), (1, 80), (2, 100)])
    np.testing.assert_allclose([segment[:, 1] for segment in whiskers.get_segments()], [(60, 80), (75, 90), (95, 100)])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(quartiles)
    drawn(figure)


def test_an_interval_that_leaves_its_value_out_is_drawn_on_its_own_side() -> None:
    figure = plots.accuracy_by_quality({"a": Estimate(0.5, 0.6, 0.7)})
    (whiskers,) = figure.axes[0].containers[0].lines[2]
    np.testing.assert_allclose(whiskers.get_segments()[0][:, 1], (50, 70))


def clusters(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features float16 [N, 64] of three classes that are far apart, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    return (10 * np.eye(3, 64)[labels] + rng.normal(size=(count, 64)) / 8).astype(np.float16), labels


def dots(figure: Figure) -> list[PathCollection]:
    return [part for part in figure.axes[0].collections if isinstance(part, PathCollection)]


def test_tsne_keeps_the_classes_together_and_marks_what_is_wrong() -> None:
    features, labels = clusters(90)
    predicted = labels.copy()
    predicted[:7] = (labels[:7] + 1) % 3
    figure = plots.tsne(features, labels, predicted, CLASSES)
    parts = dots(figure)
    right, wrong = parts[::2], parts[1::2]
    sizes = [len(part.get_offsets()) for part in right], [len(part.get_offsets()) for part in wrong]
    assert sizes == ([27, 28, 28], [3, 2, 2])
    assert all(len(part.get_edgecolors()) == 0 for part in right)
    assert all((part.get_edgecolors() == (0, 0, 0, 1)).all() for part in wrong)
    places = np.concatenate([np.asarray(part.get_offsets()) for part in parts])
    of = np.repeat([0, 0, 1, 1, 2, 2], [len(part.get_offsets()) for part in parts])
    nearest = NearestNeighbors(n_neighbors=2).fit(places).kneighbors(places, return_distance=False)[:, 1]
    assert (of[nearest] == of).all()
    assert figure.axes[0].get_title() == "t-SNE of the gated features\n90 images; black edge: 7 wrong"
    assert legend(figure.axes[0]) == list(CLASSES)
    drawn(figure)


def test_tsne_of_many_images_shows_some_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "SHOWN", 30)
    features, labels = clusters(90)

    def offsets(seed: int) -> np.ndarray:
        figure = plots.tsne(features, labels, labels, CLASSES, seed)
        assert figure.axes[0].get_title().splitlines()[1] == "30 of 90 images, drawn at random; black edge: 0 wrong"
        return np.concatenate([np.asarray(part.get_offsets()) for part in dots(figure)])

    assert len(offsets(0)) == 30
    assert np.array_equal(offsets(0), offsets(0))
    assert not np.array_equal(offsets(0), offsets(1))


@pytest.mark.parametrize("count", [5, 6, 11])
def test_tsne_of_few_images(count: int) -> None:
    features, labels = clusters(count)
    assert sum(len(part.get_offsets()) for part in dots(plots.tsne(features, labels, labels, CLASSES))) == count


@pytest.mark.parametrize(
    ("count", "scale", "words"), [(4, 1, "needs 5 images, the group has 4"), (8, 0, "the same features")]
)
def test_tsne_says_why_there_is_nothing_to_show(count: int, scale: int, words: str) -> None:
    features, labels = clusters(count)
    with pytest.raises(OrsanetError, match=words):
        plots.tsne(scale * features, labels, labels, CLASSES)


@pytest.mark.parametrize(
    "name", ["$\\frac{", "_", "two\nlines\x00\ud800", "a" * 5000, "<b>&amp;", "", "表情 😀", "غضب e\u0301"]
)
def test_every_figure_draws_any_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DPI", 50)  # faster
    estimate = Estimate(0.5, 0.4, 0.6)
    features, labels = clusters(6)
    probabilities = np.eye(3)[labels]
    drawn(
        plots.curves(
            pd.DataFrame(
                {c: [1.0] for c in ("epoch", "loss", "perturbed_loss", "train_accuracy", "selection_accuracy")}
            ),
            name,
            1,
            0,
        )
    )
    drawn(plots.confusion(group_report(name, labels, probabilities, (name, "b", "c"))))
    drawn(plots.reliability(group_report(name, labels, probabilities, (name, "b", "c"))))
    drawn(plots.robustness_curve({name: {0: estimate}}))
    drawn(plots.robustness_bars({name: estimate}))
    drawn(plots.accuracy_by_quality({name: estimate}))
    drawn(plots.tsne(features, labels, labels, (name, "b", "c")))


def test_names_that_no_font_has_are_numbers_and_others_have_their_font(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_home(tmp_path / "bare", monkeypatch)
    classes = ("anger", "生气", "高兴")
    labels = np.array([0, 1, 2, 1])
    given = group_report("test:遮挡", labels, np.eye(3)[labels], classes)

    def ticks() -> tuple[list[str], str]:
        figure = plots.confusion(given)
        drawn(figure)
        (axes,) = figure.axes
        return [text.get_text() for text in axes.get_yticklabels()], axes.get_title()

    assert ticks() == (
        ["anger", "#1", "#2"],
        "#3: 4 images, 100 % right\nshade: share of the true class",
    )
    font = bare_home(tmp_path / "home", monkeypatch)("Chinese.ttf", "生气遮挡")
    names, title = ticks()
    assert names == ["anger", "生气", "#2"]
    assert title.startswith("test:遮挡: 4 images")
    (axes,) = plots.confusion(given).axes
    assert str(font) in axes.get_yticklabels()[1].get_fontfamily()


def test_figures_are_a_thousand_pixels_wide() -> None:
    """At 360 pixels of width their text of 10 points is then 10 of them high."""
    assert drawn(plots.accuracy_by_quality({"a": Estimate(0.5, 0.4, 0.6)})).width == 1000


def test_a_picture_is_written_and_embedded_as_it_is(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    plots.write_picture(noise, tmp_path / "noise.png")
    with Image.open(tmp_path / "noise.png") as written:
        assert written.format == "PNG"
        assert np.array_equal(np.asarray(written), np.asarray(noise))
    start, _, content = plots.data_uri(noise).partition(",")
    assert start == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as embedded:
        assert (embedded.format, embedded.size) == ("JPEG", (30, 20))
    assert [path.name for path in tmp_path.iterdir()] == ["noise.png"]
