"""Labels find their rows by image path; what chooses the best epoch is not trained on, and the choice depends on names alone."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orsanet_cache import Manifest, OrsanetError, PriorStore, Sample, load_manifest
from orsanet_train.config import load_config
from orsanet_train.feed.split import held_out_images, join, selection_split, training_split
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


def test_a_set_for_evaluation_only_has_nothing_to_train_on(world) -> None:
    manifest = world.load_manifest()
    only_test = replace(manifest, samples=manifest.split("test"))
    said = (
        r"manifest 'small' has no split 'train', so there is nothing to train on; evaluate a run on its images \(test\)"
    )
    with pytest.raises(OrsanetError, match=said):
        training_split(load_config("small", [HELD_OUT]), only_test, world.open_store())


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


# --- joining labels to rows ---


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_sample_is_joined_to_the_row_of_its_image(split: str, manifest: Manifest, store: PriorStore) -> None:
    joined = join(manifest, store, split, ["clean", "hflip"])
    assert joined.name == split
    assert joined.samples == manifest.split(split)
    assert joined.rejected == {}
    ids = store.sample_ids(split)
    assert [ids[row] for row in joined.rows] == [sample.image for sample in joined.samples]
    assert joined.labels.tolist() == [sample.label for sample in joined.samples]


def test_the_order_of_csv_rows_does_not_matter(manifest: Manifest, reordered: Manifest, store: PriorStore) -> None:
    for split in ("train", "valid", "test"):
        one, two = (join(m, store, split, ["clean"]) for m in (manifest, reordered))
        assert one.samples != two.samples
        pairs = [set(zip(j.samples, j.rows.tolist(), j.labels.tolist(), strict=True)) for j in (one, two)]
        assert pairs[0] == pairs[1]


def test_labels_come_from_the_manifest_of_the_day(
    world: Any, store: PriorStore, tmp_path: Path, rewrite_manifest: Any
) -> None:
    """A corrected label needs no new store."""
    corrected = rewrite_manifest(
        world.manifest,
        tmp_path,
        lambda lines: [line.replace("train_0.png,anger", "train_0.png,neutral") for line in lines],
    )
    before, after = (join(m, store, "train", ["clean"]) for m in (world.load_manifest(), corrected))
    assert (before.labels[0], after.labels[0]) == (0, 2)
    assert np.array_equal(before.labels[1:], after.labels[1:])
    assert np.array_equal(before.rows, after.rows)


def test_a_manifest_of_fewer_images_takes_only_their_rows(
    world: Any, store: PriorStore, tmp_path: Path, rewrite_manifest: Any
) -> None:
    fewer = rewrite_manifest(world.manifest, tmp_path, lambda lines: lines[3:9])
    joined = join(fewer, store, "train", ["clean"])
    assert joined.rows.tolist() == [3, 4, 5, 6, 7, 8]


def test_images_that_the_store_lacks_are_refused_by_name(
    world: Any, store: PriorStore, tmp_path: Path, rewrite_manifest: Any
) -> None:
    more = rewrite_manifest(
        world.manifest, tmp_path, lambda lines: [*lines, "images/new.png,anger,train,", "images/newer.png,anger,train,"]
    )
    with pytest.raises(OrsanetError) as caught:
        join(more, store, "train", ["clean"])
    for part in ("2 image(s)", "images/new.png", "images/newer.png", "train", str(store.path)):
        assert part in str(caught.value)


def test_a_tag_chooses_exactly_the_samples_that_have_it(manifest: Manifest, store: PriorStore) -> None:
    joined = join(manifest, store, "test", ["clean"], tag="occluded")
    assert joined.samples == tuple(sample for sample in manifest.split("test") if "occluded" in sample.tags)
    assert 0 < len(joined.samples) < len(manifest.split("test"))
    ids = store.sample_ids("test")
    assert [ids[row] for row in joined.rows] == [sample.image for sample in joined.samples]
    assert joined.labels.tolist() == [sample.label for sample in joined.samples]


def test_an_unknown_tag_is_answered_with_the_known_ones(manifest: Manifest, store: PriorStore) -> None:
    with pytest.raises(OrsanetError, match=r"'profile'.*occluded"):
        join(manifest, store, "test", ["clean"], tag="profile")


def test_an_unknown_split_is_answered_with_the_known_ones(manifest: Manifest, store: PriorStore) -> None:
    with pytest.raises(OrsanetError, match=r"'holdout'.*train, valid, test"):
        join(manifest, store, "holdout", ["clean"])


@pytest.mark.parametrize(("views", "excluded"), [(["clean"], [1]), (["clean", "hflip"], [1, 3])])
def test_images_rejected_in_any_of_the_views_are_left_out_and_listed(
    views: list[str], excluded: list[int], damaged: Any
) -> None:
    joined = join(damaged.manifest, PriorStore.open(damaged.both), "train", views)
    names = [f"images/train_{index}.png" for index in range(5)]
    assert list(joined.rejected) == [names[index] for index in excluded]
    assert all(joined.rejected.values())
    assert joined.rows.tolist() == [index for index in range(5) if index not in excluded]
    assert [sample.image for sample in joined.samples] == [names[row] for row in joined.rows]
    assert joined.labels.tolist() == [sample.label for sample in joined.samples]


def test_only_rejected_images_with_the_tag_are_listed(damaged: Any) -> None:
    """Images 1 and 3 are rejected; image 3 loses its tag here."""
    samples = tuple(
        replace(sample, tags=frozenset()) if sample.image == "images/train_3.png" else sample
        for sample in damaged.manifest.samples
    )
    manifest = replace(damaged.manifest, samples=samples)
    joined = join(manifest, PriorStore.open(damaged.both), "train", ["clean", "hflip"], tag="occluded")
    assert list(joined.rejected) == ["images/train_1.png"]
    assert joined.samples == ()


def test_a_missing_view_is_answered_with_the_command_that_adds_it(damaged: Any) -> None:
    with pytest.raises(OrsanetError) as caught:
        join(damaged.manifest, PriorStore.open(damaged.clean), "train", ["clean", "hflip"])
    for part in ("hflip", "orsanet-cache build", "--views hflip", str(damaged.clean)):
        assert part in str(caught.value)


def test_exchanged_splits_are_told_by_their_seals_not_by_images_that_are_missing(world: Any, tmp_path: Path) -> None:
    """Training and evaluation join before they read anything."""
    store = Path(shutil.copytree(world.store, tmp_path / "store.zarr"))
    for source, target in (("train", "aside"), ("valid", "train"), ("aside", "valid")):
        (store / source).rename(store / target)
    with pytest.raises(OrsanetError, match="train/clean: it is recorded as valid/clean"):
        join(world.load_manifest(), PriorStore.open(store), "train", ["clean"])
