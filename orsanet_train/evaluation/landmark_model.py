"""A linear model on the 68 landmarks, as a baseline: what the landmarks alone tell, without any picture.

    the run's training images, clean ─ landmarks, standardised ─▶ multinomial logistic regression, one for each C
    the images that chose the run's epoch ─────────────────────▶ the C with the highest accuracy there
    landmarks of a split and view ─────────────────────────────▶ predictions (baselines.py)

The model takes the same images for the same purposes as the run, so that the two can be compared.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from orsanet_cache.data.manifest import Manifest
from orsanet_cache.data.views import CLEAN
from orsanet_cache.store.reader import PriorStore
from orsanet_train.config import HELD_OUT
from orsanet_train.evaluation.baselines import BaselinePredictions
from orsanet_train.feed.split import LabelledSplit, image_digests, join
from orsanet_train.model.checkpoint import Identity

NAME = "linear model on landmarks"
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # C: the smaller, the stronger the regularisation
ITERATIONS = 300  # enough for the accuracy; the last digits of the weights do not matter
MOST_IMAGES = 20_000  # to fit to: 952 weights need no more, and the fit stays a matter of seconds
_FIELD = "landmarks"


class NotFitted(Exception):
    """The data has nothing to fit the model to. The message is the reason."""


@dataclass(frozen=True)
class LandmarkModel:
    """A fitted model, and what it was fitted to."""

    meaning: str
    fitted: Any

    def predict(self, store: PriorStore, part: LabelledSplit, view: str) -> NDArray[np.int64]:
        """Class indices [N] for the rows of a part, from their landmarks in a view."""
        return self.fitted.predict(_landmarks(store, part, view)).astype(np.int64)

    def baseline(self, predicted: NDArray[np.int64]) -> BaselinePredictions:
        """Its predictions for the images of a group."""
        return BaselinePredictions(NAME, self.meaning, predicted)


def fit_landmark_model(manifest: Manifest, store: PriorStore, identity: Identity) -> LandmarkModel:
    """Fit the model to the training images of the run that `identity` describes.

    Raises NotFitted if the data does not have the images of training and choice, and OrsanetError
    for a damaged store.
    """
    fitting = _part(manifest, store, identity, identity.train_split, chosen=False)
    selection = identity.train_split if identity.selection_split == HELD_OUT else identity.selection_split
    choosing = _part(manifest, store, identity, selection, chosen=True)
    used = np.unique(np.linspace(0, len(fitting.rows) - 1, MOST_IMAGES).round().astype(int))
    labels = fitting.labels[used]
    if len(np.unique(labels)) < 2:
        raise NotFitted(f"the training images in split '{fitting.name}' are of one class")
    inputs, unseen = _landmarks(store, fitting, CLEAN)[used], _landmarks(store, choosing, CLEAN)
    models: dict[float, Any] = {}
    for strength in STRENGTHS:
        models[strength] = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            models[strength].fit(inputs, labels)
    # Of equally good ones the most strongly regularised.
    best = max(models, key=lambda strength: (models[strength].predict(unseen) == choosing.labels).mean())
    count = f"{len(used):,}" if len(used) == len(fitting.rows) else f"{len(used):,} of the {len(fitting.rows):,}"
    meaning = (
        f"logistic regression on the 68 landmarks, fitted to {count} training images; "
        f"its regularisation, C = {best:g}, has the highest accuracy on the {len(choosing.rows):,} images that chose the epoch"
    )
    return LandmarkModel(meaning, models[best])


def _part(manifest: Manifest, store: PriorStore, identity: Identity, split: str, *, chosen: bool) -> LabelledSplit:
    """The images of a split that the run trained on, or that chose its epoch."""
    if split not in manifest.splits:
        raise NotFitted(f"manifest '{manifest.name}' has no split '{split}'")
    if split not in store.splits or CLEAN not in store.views(split):
        raise NotFitted(f"{store.path} has no clean view of split '{split}'")
    if {sample.image for sample in manifest.split(split)} - set(store.sample_ids(split)):
        raise NotFitted(f"{store.path} lacks images of split '{split}'")
    part = join(manifest, store, split, [CLEAN])
    if identity.images is not None:
        digests = image_digests(store, part)
        known = identity.images.chose(digests) if chosen else identity.images.trained(digests)
        part = part.where(known.tolist())
    if not len(part.rows):
        used = "chose the run's epoch" if chosen else "the run trained on"
        raise NotFitted(f"none of the images of split '{split}' is one that {used}")
    return part


def _landmarks(store: PriorStore, part: LabelledSplit, view: str) -> NDArray[np.float64]:
    """Landmarks of a view [N, 136]."""
    return store.read(part.name, view, _FIELD, part.rows).reshape(len(part.rows), -1).astype(np.float64)
