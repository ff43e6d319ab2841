"""Too few open files are told as that: no evaluation, weights or state counts as damaged or missing because of them."""

from pathlib import Path

import pytest
import torch
from few_files import answers, at_most
from small_states import everything, small

from orsanet_cache.errors import ShortageError
from orsanet_train.config import load_config
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.split import join
from orsanet_train.model.checkpoint import Identity, load_weights, read_identity, save_weights
from orsanet_train.predict.inputs import find_inputs
from orsanet_train.predict.pictures import InputPicture, pictures
from orsanet_train.predict.seen import Looker
from orsanet_train.run.state import load_state, save_state

TINY = ("model.depth=1", "model.width=32", "model.backbone_channels=[8,8,8]", "model.backbone_units=[1,1,1]")


@pytest.fixture
def weights(world, tmp_path: Path) -> Path:
    config = load_config("small", TINY)
    store = world.open_store()
    fields = store.fields("train", "clean")
    identity = Identity(
        classes=world.load_manifest().classes, model=config.model,
        segmentation_channels=fields["segmentation_features"].shape[1], landmark_channels=fields["landmark_features"].shape[1],
        store_recipe=store.recipe, ir50_sha256=None, epoch=1, data_set="small", train_split="train", selection="best",
        selection_split="valid", selection_accuracy=0.5,
    )  # fmt: skip
    save_weights(tmp_path / "best.safetensors", identity.build(), identity)
    return tmp_path / "best.safetensors"


def test_weights_are_read_or_the_files_are_too_few(weights: Path) -> None:
    for ask in (lambda: load_weights(weights), lambda: read_identity(weights)):
        said = answers(ask)
        assert said
        assert all("damaged" not in text for text in said)


def test_no_older_state_is_taken_for_the_newest(tmp_path: Path) -> None:
    """A newest state that cannot be opened is not one that is damaged."""
    for step in (1, 2):
        save_state(tmp_path, small(0, step))
    found = []
    assert answers(lambda: found.append(everything(load_state(tmp_path))))
    assert found == [everything(small(0, 2))] * 2


def test_a_feed_ends_with_the_cause(world) -> None:
    store = world.open_store()
    joined = join(world.load_manifest(), store, "train", ["clean"])
    feed = Feed(store, joined, load_config("small", TINY).model, torch.device("cpu"))
    with at_most(0), pytest.raises(ShortageError, match="too many open files"):
        list(feed.in_order(4))
    assert sum(len(batch.label) for batch in feed.in_order(4)) == 14


def test_a_picture_to_predict_is_not_rejected(world, tmp_path: Path) -> None:
    looker = Looker("none", 1.0)
    picture = InputPicture(world.folder / "images" / "test_0.png")
    with at_most(0), pytest.raises(ShortageError):
        looker.look(picture, preview=False)
    assert looker.look(picture, preview=False).reason == ""
    (tmp_path / "video.mp4").write_bytes(bytes(64))
    for ask in (lambda: list(pictures([tmp_path / "video.mp4"], 1.0)), lambda: find_inputs([world.folder / "images"])):
        with at_most(0), pytest.raises(ShortageError):
            ask()
