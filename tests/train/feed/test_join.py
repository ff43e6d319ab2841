"""Labels find their rows by image path."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feeds import CPU, Damaged, rewrite_manifest

from orsanet_cache import Manifest, OrsanetError, PriorStore
from orsanet_train.config import AugmentationConfig, ModelConfig, RunConfig
from orsanet_train.feed.feed import Feed, join


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


def test_labels_come_from_the_manifest_of_the_day(world: Any, store: PriorStore, tmp_path: Path) -> None:
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


def test_a_manifest_of_fewer_images_takes_only_their_rows(world: Any, store: PriorStore, tmp_path: Path) -> None:
    fewer = rewrite_manifest(world.manifest, tmp_path, lambda lines: lines[3:9])
    joined = join(fewer, store, "train", ["clean"])
    assert joined.rows.tolist() == [3, 4, 5, 6, 7, 8]


def test_images_that_the_store_lacks_are_refused_by_name(world: Any, store: PriorStore, tmp_path: Path) -> None:
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
    views: list[str], excluded: list[int], damaged: Damaged
) -> None:
    joined = join(damaged.manifest, PriorStore.open(damaged.both), "train", views)
    names = [f"images/train_{index}.png" for index in range(5)]
    assert list(joined.rejected) == [names[index] for index in excluded]
    assert all(joined.rejected.values())
    assert joined.rows.tolist() == [index for index in range(5) if index not in excluded]
    assert [sample.image for sample in joined.samples] == [names[row] for row in joined.rows]
    assert joined.labels.tolist() == [sample.label for sample in joined.samples]


def test_only_rejected_images_with_the_tag_are_listed(damaged: Damaged) -> None:
    """Images 1 and 3 are rejected; image 3 loses its tag here."""
    samples = tuple(
        replace(sample, tags=frozenset()) if sample.image == "images/train_3.png" else sample
        for sample in damaged.manifest.samples
    )
    manifest = replace(damaged.manifest, samples=samples)
    joined = join(manifest, PriorStore.open(damaged.both), "train", ["clean", "hflip"], tag="occluded")
    assert list(joined.rejected) == ["images/train_1.png"]
    assert joined.samples == ()


def test_a_missing_view_is_answered_with_the_command_that_adds_it(damaged: Damaged) -> None:
    with pytest.raises(OrsanetError) as caught:
        join(damaged.manifest, PriorStore.open(damaged.clean), "train", ["clean", "hflip"])
    for part in ("hflip", "orsanet-cache build", "--views hflip", str(damaged.clean)):
        assert part in str(caught.value)


def test_without_flips_the_flipped_view_is_not_needed(damaged: Damaged) -> None:
    store = PriorStore.open(damaged.clean)
    joined = join(damaged.manifest, store, "train", ["clean"])
    config = RunConfig(batch_size=3, augmentation=AugmentationConfig(hflip=0.0))
    batches = list(Feed(store, joined, ModelConfig(), CPU).epoch(config, 0))
    assert [len(batch.label) for batch in batches] == [3, 1]
