"""The sections follow from the evaluation: choices from the history, drops and quartiles image by image, the stamp from what chose."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from orsanet_cache import Sample
from orsanet_cache.frozen.loading import tensors_digest
from orsanet_cache.frozen.priors import load_landmark_network, load_segmenter
from orsanet_cache.frozen.shipped import DEMO, NetworkName, weights_path
from orsanet_train.evaluation.groups import Group
from orsanet_train.evaluation.metrics import group_report
from orsanet_train.evaluation.predictions import Evaluation, labels_of, predictions_table, probability_columns, right
from orsanet_train.model.checkpoint import Identity
from orsanet_train.model_config import ORSANetConfig
from orsanet_train.report.sections import choices, networks, quartiles, robustness, stamp, warnings

CLASSES = ("surprise", "fear", "anger")
IMAGES = 24
RECIPE = {"segmenter": {"weights_sha256": "a" * 64}, "landmarks": {"weights_sha256": "b" * 64}}


def evaluation(selection: str = "best", *, chose: bool = False) -> Evaluation:
    """24 images of split `test` in four views, predicted at random; every third is tagged occluded."""
    identity = Identity.model_validate(
        {
            "classes": CLASSES, "model": ORSANetConfig(), "segmentation_channels": 8, "landmark_channels": 8, "store_recipe": RECIPE,
            "ir50_sha256": None, "epoch": 7, "data_set": "small", "train_split": "train", "selection": selection,
            "selection_split": "test", "selection_accuracy": 0.5,
        }
    )  # fmt: skip
    rng = np.random.default_rng(0)
    tags = [frozenset() if index % 3 else frozenset({"occluded"}) for index in range(IMAGES)]
    samples = tuple(Sample(f"images/{index}.png", 0, "test", tags[index]) for index in range(IMAGES))
    labels = rng.integers(0, 3, IMAGES)
    tables = [
        predictions_table(samples, labels, rng.dirichlet(np.ones(3), IMAGES).astype(np.float32), CLASSES, "test", view)
        for view in ("clean", "hflip", "erase-10", "mask")
    ]
    table = pd.concat(tables, ignore_index=True)
    whole = Evaluation(
        identity,
        "best.safetensors",
        "small",
        "/a/store",
        {},
        ("a note",),
        (),
        table,
        np.zeros((len(table), 2), np.float32),
    )
    names = ("test", "test:occluded", "test@hflip", "test@erase-10", "test@mask", "test:occluded@mask")
    labels, probabilities = labels_of(table, CLASSES), table[probability_columns(CLASSES)].to_numpy()
    rows = {name: Group.parse(name).of(table) for name in names}
    groups = (
        group_report(name, labels[of], probabilities[of], CLASSES, chose_checkpoint=chose) for name, of in rows.items()
    )
    return replace(whole, groups=tuple(groups))


def history(*accuracies: float) -> pd.DataFrame:
    return pd.DataFrame({"selection_accuracy": accuracies})


def test_the_choices_are_the_last_epoch_the_best_and_a_mean() -> None:
    accuracy = [0.1, 0.5, 0.9, 0.6, 0.7, 0.9, 0.8, 0.7, 0.6]
    last, best, mean = choices(history(*accuracy), "valid")
    assert (last.protocol, last.epoch, last.accuracy, last.deviation) == ("last epoch", "9", 0.6, None)
    assert (best.protocol, best.epoch, best.accuracy, best.deviation) == ("best epoch on 'valid'", "3", 0.9, None)
    assert (mean.protocol, mean.epoch) == ("mean of the last 5 epochs", "5–9")
    assert mean.accuracy == pytest.approx(np.mean(accuracy[4:]), rel=1e-14)  # rounding
    assert mean.deviation == pytest.approx(np.std(accuracy[4:], ddof=1), rel=1e-12)


def test_the_mean_is_over_the_last_eighth_of_the_epochs() -> None:
    """50 of the published 400."""
    *_, mean = choices(history(*(np.arange(400) / 400)), "test")
    assert (mean.protocol, mean.epoch) == ("mean of the last 50 epochs", "351–400")
    assert mean.accuracy == pytest.approx(np.arange(350, 400).mean() / 400, rel=1e-12)


def test_one_epoch_is_last_best_and_mean_at_once() -> None:
    chosen = choices(history(0.25), "valid")
    assert [(choice.epoch, choice.accuracy, choice.deviation) for choice in chosen] == [
        ("1", 0.25, None), ("1", 0.25, None), ("1–1", 0.25, None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("selection", "chose", "epochs", "said"),
    [
        ("last", False, 7, "last of 7 epochs"),
        ("best", False, 9, "best of 9 epochs on 'test'"),
        ("best", True, 9, "best of 9 epochs on 'test', as published: optimistic"),
        ("best", False, None, "best of 7 epochs on 'test'"),  # no history: at least so many
        ("published", True, None, "published checkpoint, best epoch on 'test', as published: optimistic"),
    ],
)
def test_the_stamp_says_what_chose(selection: str, chose: bool, epochs: int | None, said: str) -> None:
    evaluated = evaluation(selection, chose=chose)
    assert stamp(evaluated, evaluated.groups[0], None if epochs is None else history(*[0.5] * epochs)) == said


def test_numbers_of_the_images_that_chose_are_warned_of_before_all_else() -> None:
    evaluated = evaluation(chose=True)
    evaluated = replace(evaluated, groups=tuple(replace(group, baselines=()) for group in evaluated.groups))
    assert warnings(evaluated, evaluated.groups[0]) == [
        "the checkpoint was chosen on 'test', so the numbers below are optimistic", "a note"
    ]  # fmt: skip
    assert warnings(evaluated, evaluation().groups[0]) == ["a note"]


def test_a_model_that_is_not_shown_to_beat_a_baseline_is_warned_of_after_the_notes() -> None:
    evaluated = evaluation()  # predicted at random
    note, warning = warnings(evaluated, evaluated.groups[0])
    assert note == "a note"
    assert warning.startswith("the model is not shown to be better than the baseline 'commonest class'")


@pytest.mark.parametrize("demo", [("segmenter",), ("landmarks",), ("segmenter", "landmarks"), ()])
def test_the_demos_networks_are_named_and_warned_of_first_of_all(demo: tuple[NetworkName, ...]) -> None:
    load = {"segmenter": load_segmenter, "landmarks": load_landmark_network}
    digests = {part: tensors_digest(load[part](weights_path(DEMO, part)).state_dict()) for part in demo}
    recipe = {**RECIPE, **{part: {"weights_sha256": digest} for part, digest in digests.items()}}
    evaluated = evaluation()
    evaluated = replace(evaluated, checkpoint=evaluated.checkpoint.model_copy(update={"store_recipe": recipe}))
    named = " and ".join({"segmenter": "SegFace", "landmarks": "MobileFaceNet"}[part] for part in demo)
    first = warnings(evaluated, evaluated.groups[0])[0]
    assert (first == "a note") is not bool(demo)
    if demo:
        assert first.startswith(f"the priors are those of the demo's {named}, which have seen drawn faces only: ")
    found = networks(evaluated.checkpoint, {"segmenter_file": "/a/b/model_299.pt"})
    assert [(one.network, one.file, one.demo) for one in found] == [
        ("SegFace", "model_299.pt", "segmenter" in demo), ("MobileFaceNet", None, "landmarks" in demo)
    ]  # fmt: skip


def test_a_drop_is_the_difference_on_the_same_images() -> None:
    """Of every view that is an occlusion, over the whole split."""
    evaluated = evaluation()
    accuracy = {group.name: group.accuracy.value for group in evaluated.groups}
    drops = robustness(evaluated, "test")
    assert [(drop.group, drop.view) for drop in drops] == [("test@erase-10", "erase-10"), ("test@mask", "mask")]
    for drop in drops:
        assert drop.images == IMAGES
        assert drop.clean == accuracy["test"]
        assert drop.occluded == accuracy[drop.group]
        assert drop.difference.value == pytest.approx(accuracy[drop.group] - accuracy["test"], abs=1e-15)
    assert robustness(evaluated, "valid") == []


def test_an_image_that_one_view_lacks_is_in_no_drop() -> None:
    whole = evaluation()
    gone = whole.table["image"] == "images/0.png"
    lacking = replace(whole, table=whole.table[~(gone & (whole.table["view"] == "mask"))].reset_index(drop=True))
    erased, masked = robustness(lacking, "test")
    assert (erased.images, masked.images) == (IMAGES, IMAGES - 1)
    both = whole.table[~gone]
    expected = [right(both[both["view"] == view]).mean() for view in ("clean", "mask")]
    assert [masked.clean, masked.occluded] == expected
    assert masked.difference.value == pytest.approx(expected[1] - expected[0], abs=1e-15)


def test_quartiles_part_the_images_the_worst_first() -> None:
    evaluated = evaluation()
    rows = np.flatnonzero(Group.parse("test").of(evaluated.table))[:10]
    score = np.random.default_rng(1).permutation(10) / 10
    parts = quartiles(evaluated, rows, score)
    assert [part.name for part in parts] == ["1 (worst priors)", "2", "3", "4 (best priors)"]
    assert [(part.images, part.low, part.high) for part in parts] == [
        (3, 0.0, 0.2), (3, 0.3, 0.5), (2, 0.6, 0.7), (2, 0.8, 0.9)
    ]  # fmt: skip
    table = evaluated.table.iloc[rows].iloc[np.argsort(score)]
    assert parts[0].accuracy.value == right(table[:3]).mean()
    assert parts[0].occluded == (table["tags"][:3] == "occluded").mean()
    assert parts[3].accuracy.value == right(table[8:]).mean()


def test_without_a_tag_the_share_of_occluded_images_is_not_known() -> None:
    evaluated = evaluation()
    untagged = replace(evaluated, table=evaluated.table.assign(tags=""))
    assert {part.occluded for part in quartiles(untagged, np.arange(8), np.arange(8) / 8)} == {None}


def test_fewer_than_four_images_have_no_quartiles() -> None:
    assert quartiles(evaluation(), np.arange(3), np.arange(3) / 3) == []
