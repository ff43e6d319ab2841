"""What chooses the best epoch is not trained on, and the choice of images depends on nothing but their names."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orsanet_cache import OrsanetError, Sample, load_manifest
from orsanet_train.config import load_config
from orsanet_train.feed.split import held_out_images, selection_split, training_split
from orsanet_train.model.checkpoint import load_weights
from orsanet_train.run.train import train

CPU = torch.device("cpu")
HELD_OUT = "selection_split=held-out"


def samples(labels: list[int]) -> list[Sample]:
    return [Sample(f"{number}.png", label, "train", frozenset()) for number, label in enumerate(labels)]


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), share=st.floats(0.01, 0.5))
@settings(max_examples=100, deadline=None)
def test_every_class_gives_its_share_and_keeps_an_image(labels: list[int], share: float) -> None:
    chosen = held_out_images(samples(labels), share)
    counts = Counter(labels)
    taken = Counter(sample.label for sample in samples(labels) if sample.image in chosen)
    for label, count in counts.items():
        assert taken[label] <= count - 1
        if count > 1:
            assert taken[label] >= 1
            assert abs(taken[label] - share * count) < 1  # rounded, or the one that it needs


@given(labels=st.lists(st.integers(0, 2), min_size=4, max_size=40), order=st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_images_does_not_matter(labels: list[int], order) -> None:
    given_order = samples(labels)
    shuffled = list(given_order)
    order.shuffle(shuffled)
    assert held_out_images(shuffled, 0.2) == held_out_images(given_order, 0.2)


def test_held_out_and_trained_on_are_disjoint_and_all_of_the_split(world) -> None:
    manifest, store = world.load_manifest(), world.open_store()
    config = load_config("small", [HELD_OUT, "held_out_share=0.3"])
    training, selection = training_split(config, manifest, store), selection_split(config, manifest, store)
    trained, chosen = ({sample.image for sample in split.samples} for split in (training, selection))
    assert not trained & chosen
    assert trained | chosen == {sample.image for sample in manifest.split("train")}
    assert [store.sample_ids("train")[row] for row in selection.rows] == [sample.image for sample in selection.samples]
    assert selection.labels.tolist() == [sample.label for sample in selection.samples]
    everything = training_split(load_config("small"), manifest, store)
    assert len(everything.samples) == len(trained) + len(chosen)


def test_a_set_without_valid_can_be_trained_and_says_what_chose(world, tmp_path: Path) -> None:
    header, *lines = world.manifest.with_name("samples.csv").read_text().splitlines()
    (tmp_path / "samples.csv").write_text(
        "\n".join([header, *(line for line in lines if ",valid," not in line)]) + "\n"
    )
    (tmp_path / "dataset.toml").write_bytes(world.manifest.read_bytes())
    manifest = load_manifest(tmp_path / "dataset.toml", check_files=False)
    small = (
        "epochs=1",
        "model.depth=1",
        "model.width=32",
        "model.backbone_channels=[8,8,16]",
        "model.backbone_units=[1,1,1]",
    )
    with pytest.raises(OrsanetError, match=r"no such split; keep a part .* --set selection_split=held-out"):
        train(load_config("small", small), manifest, world.open_store(), tmp_path / "run", device=CPU)
    train(load_config("small", [*small, HELD_OUT]), manifest, world.open_store(), tmp_path / "run", device=CPU)
    _, identity = load_weights(tmp_path / "run" / "best.safetensors")
    assert identity.selection_split == "held-out"
    accuracy = pd.read_csv(tmp_path / "run" / "metrics.csv")["selection_accuracy"].iloc[0]
    assert accuracy in [count / 3 for count in range(4)]  # one image of each of three classes


def test_a_split_that_is_named_so_is_refused(world, tmp_path: Path) -> None:
    table = world.manifest.with_name("samples.csv").read_text().replace(",valid,", ",held-out,")
    (tmp_path / "samples.csv").write_text(table)
    text = world.manifest.read_text() + 'splits = ["train", "held-out", "test"]\n'
    (tmp_path / "dataset.toml").write_text(text)
    manifest = load_manifest(tmp_path / "dataset.toml", check_files=False)
    with pytest.raises(OrsanetError, match="rename the split"):
        selection_split(load_config("small", [HELD_OUT]), manifest, world.open_store())
