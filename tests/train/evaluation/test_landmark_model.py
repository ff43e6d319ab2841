"""The landmark baseline is fitted to what the run trained on, chosen by what chose the run, and predicts from each view's landmarks."""

import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from orsanet_cache import Manifest, PriorStore
from orsanet_train.config import HELD_OUT, load_config
from orsanet_train.evaluation.landmark_model import ITERATIONS, STRENGTHS, NotFitted, fit_landmark_model
from orsanet_train.feed.split import image_digests, join, selection_split, training_split
from orsanet_train.model.checkpoint import Identity
from orsanet_train.model.known_images import KnownImages


def identity_of(manifest: Manifest, store: PriorStore, selection: str = "valid", known: bool = True) -> Identity:
    """The header of a run's weights."""
    config = load_config("small", [f"selection_split={selection}"])
    parts = training_split(config, manifest, store), selection_split(config, manifest, store)
    training, choosing = ([image_digests(store, part)] for part in parts)
    return Identity(
        classes=manifest.classes, model=config.model, segmentation_channels=128, landmark_channels=512,
        store_recipe=store.recipe, ir50_sha256=None, epoch=1, data_set=manifest.name, train_split="train",
        selection="best", selection_split=selection, selection_accuracy=0.5,
        images=KnownImages.of(training, choosing) if known else None,
    )  # fmt: skip


@pytest.mark.parametrize("known", [True, False], ids=["by digests", "by names"])
def test_it_is_logistic_regression_on_standardised_landmarks(world, known: bool) -> None:
    manifest, store = world.load_manifest(), world.open_store()
    model = fit_landmark_model(manifest, store, identity_of(manifest, store, known=known))
    train, valid, test = (join(manifest, store, split, ["clean"]) for split in ("train", "valid", "test"))
    arrays = {
        part.name: store.read(part.name, "clean", "landmarks", part.rows).reshape(-1, 136).astype(float)
        for part in (train, valid, test)
    }
    mean, deviation = arrays["train"].mean(axis=0), arrays["train"].std(axis=0)
    scaled = {name: (array - mean) / deviation for name, array in arrays.items()}
    fits = [
        LogisticRegression(C=strength, max_iter=ITERATIONS).fit(scaled["train"], train.labels) for strength in STRENGTHS
    ]
    right = [float((fit.predict(scaled["valid"]) == valid.labels).mean()) for fit in fits]
    best = int(np.argmax(right))  # of equal ones the first, the most strongly regularised
    assert model.predict(store, test, "clean").tolist() == fits[best].predict(scaled["test"]).tolist()
    assert model.meaning == (
        "logistic regression on the 68 landmarks, fitted to 14 training images; "
        f"its regularisation, C = {STRENGTHS[best]:g}, has the highest accuracy on the 6 images that chose the epoch"
    )


def test_another_view_is_predicted_from_its_own_landmarks(world) -> None:
    manifest, store = world.load_manifest(), world.open_store()
    model = fit_landmark_model(manifest, store, identity_of(manifest, store))
    part = join(manifest, store, "train", ["clean", "hflip"])
    for view in ("clean", "hflip"):
        landmarks = store.read("train", view, "landmarks", part.rows).reshape(len(part.rows), -1)
        assert model.predict(store, part, view).tolist() == model.fitted.predict(landmarks).tolist()
    assert not np.array_equal(*(store.read("train", view, "landmarks", part.rows) for view in ("clean", "hflip")))


def test_the_held_out_part_chooses_and_is_not_fitted_to(world) -> None:
    manifest, store = world.load_manifest(), world.open_store()
    identity = identity_of(manifest, store, HELD_OUT)
    held_out = selection_split(load_config("small", [f"selection_split={HELD_OUT}"]), manifest, store)
    meaning = fit_landmark_model(manifest, store, identity).meaning
    (fitted, chosen) = map(int, re.findall(r"(\d+) (?:training )?images", meaning))
    assert (fitted, chosen) == (14 - len(held_out.rows), len(held_out.rows))


def test_without_the_images_of_the_run_the_reason_is_named(world) -> None:
    manifest, store = world.load_manifest(), world.open_store()
    identity = identity_of(manifest, store)
    no_train = replace(manifest, samples=tuple(sample for sample in manifest.samples if sample.split != "train"))
    with pytest.raises(NotFitted, match=r"^manifest 'small' has no split 'train'$"):
        fit_landmark_model(no_train, store, identity)
    more = replace(manifest, samples=(*manifest.samples, replace(manifest.samples[0], image="images/new.png")))
    with pytest.raises(NotFitted, match=r"lacks images of split 'train'$"):
        fit_landmark_model(more, store, identity)
    others = KnownImages.of([np.zeros((1, 32), np.uint8)], [np.zeros((1, 32), np.uint8)])
    with pytest.raises(NotFitted, match="none of the images of split 'train' is one that the run trained on"):
        fit_landmark_model(manifest, store, identity.model_copy(update={"images": others}))
    one_class = replace(
        manifest, samples=tuple(sample for sample in manifest.samples if sample.label == 0 or sample.split != "train")
    )
    with pytest.raises(NotFitted, match="the training images in split 'train' are of one class"):
        fit_landmark_model(one_class, store, identity)
