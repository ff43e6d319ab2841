"""Predicting is evaluation: every image once, in order, and the model afterwards as it was before."""

import numpy as np
import pytest
import torch

from orsanet_cache import OrsanetError
from orsanet_train.evaluation.forward import model_outputs
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.split import join
from orsanet_train.model.model import build_model
from orsanet_train.model.orsanet import ORSANet
from orsanet_train.model_config import ORSANetConfig

CPU = torch.device("cpu")
SMALL = ORSANetConfig(depth=1, width=32, backbone_channels=(8, 8, 16), backbone_units=(1, 1, 1))


@pytest.fixture
def model() -> ORSANet:
    torch.manual_seed(0)
    return build_model(SMALL, 3, 128, 512)


@pytest.fixture
def feed(world) -> Feed:
    store = world.open_store()
    return Feed(store, join(world.load_manifest(), store, "test", ["clean"]), SMALL, CPU)


def test_predicting_leaves_the_model_as_it_was(model: ORSANet, feed: Feed) -> None:
    before = {name: value.clone() for name, value in model.train().state_dict().items()}
    first, second = model_outputs(model, feed), model_outputs(model, feed)
    assert np.array_equal(first.probabilities, second.probabilities)
    assert np.array_equal(first.features, second.features)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_image_is_predicted_and_counted_once(model: ORSANet, feed: Feed) -> None:
    counted: list[int] = []
    outputs = model_outputs(model, feed, after_batch=counted.append)
    assert sum(counted) == len(outputs.probabilities) == len(outputs.features) == len(feed.split.rows)
    np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-6)  # float32 softmax


def test_outputs_that_are_not_finite_are_refused(model: ORSANet, feed: Feed) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(OrsanetError, match="the model's outputs on 'test' are not finite"):
        model_outputs(model, feed)
