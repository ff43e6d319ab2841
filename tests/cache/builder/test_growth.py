"""A store grows with its manifest: only new pictures are computed, no sealed file changes, and every reader has the manifest's rows.

What the store then says of every picture is compared with a store of the same manifest that is built from nothing.
"""

import json
import os
import pickle
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from object_server import Proxy
from small_store import Remembering, content, everything, save_picture

from orsanet_cache import Manifest, OrsanetError, PriorStore, Sample
from orsanet_cache.builder.build import BuildSummary, build
from orsanet_cache.builder.layout import GONE
from orsanet_cache.builder.repair import repair
from orsanet_cache.cli import main
from orsanet_cache.frozen.priors import Priors
from orsanet_cache.store.reader import WrongStateError
from orsanet_cache.store.units import Share
from orsanet_cache.store.verify import unfinished, verify
from orsanet_cache.writing.compact import compact
from orsanet_cache.writing.convert import convert

CPU = torch.device("cpu")
VIEWS = ("clean", "hflip")
Lists = dict[str, list[str]]  # split -> names of pictures
OLD: Lists = {"train": [*"abcdef"], "test": ["m", "n"]}
LONGER: Lists = {"train": [*"abcdefghi"], "test": ["m", "n"]}
UNIT = 4
SEED = int(os.environ.get("ORSANET_SEED", random.SystemRandom().randrange(10**6)))


class OfPictures(Remembering):
    """The same networks, which remember pictures rather than batches: here the same ones are built in ever other company."""

    def __init__(self, priors: Remembering) -> None:
        super().__init__(priors)
        self.files = priors.files

    def forward(self, images: torch.Tensor) -> Priors:
        every = [super(OfPictures, self).forward(image.expand(UNIT, -1, -1, -1)) for image in images]
        return Priors(*(torch.stack([values[0] for values in field]) for field in zip(*every, strict=True)))


@dataclass(frozen=True)
class Faces:
    """A folder of pictures, the networks, and stores of any lists of them."""

    root: Path
    priors: Remembering
    folder: Path

    def manifest(self, lists: Lists) -> Manifest:
        samples = (Sample(f"{name}.png", 0, split, frozenset()) for split, names in lists.items() for name in names)
        return Manifest("faces", ("a", "b"), self.root, tuple(samples))

    def build(self, lists: Lists, out: Path, views: Sequence[str] = VIEWS, **options: Any) -> BuildSummary:
        return build(self.manifest(lists), out, self.priors, views, device=CPU, **{"rows_per_unit": UNIT, **options})

    def whole(self, lists: Lists, views: Sequence[str] = VIEWS) -> Path:
        """The store of these lists that is built from nothing."""
        out = self.folder / f"whole-{abs(hash((json.dumps(lists), tuple(views))))}.zarr"
        if not out.exists():
            self.build(lists, out, views)
        return out

    def assert_says(self, out: Path, lists: Lists, views: Sequence[str] = VIEWS) -> None:
        """The store has the rows of these lists in their order, undamaged, and says of them what a new store says."""
        names = {split: list(views) for split in lists}
        found, expected = (everything(path, names) for path in (out, self.whole(lists, views)))
        differ = [what for what in expected if not what.endswith("/seal") and found[what] != expected[what]]
        assert differ == []
        assert set(PriorStore.open(out).splits) >= set(lists)
        assert verify(out, deep=True)[1] == []
        assert unfinished(out) == []
        assert not (out / ".commits").exists()


@pytest.fixture(scope="module")
def faces(priors: Remembering, tmp_path_factory: pytest.TempPathFactory) -> Faces:
    folder = tmp_path_factory.mktemp("growth")
    (folder / "faces").mkdir()
    for number, name in enumerate("abcdefghijklmnop"):
        save_picture(folder / "faces" / f"{name}.png", number)
    for name in "ab":
        shutil.copy(folder / "faces" / f"{name}.png", folder / "faces" / f"{name}-again.png")
    return Faces(folder / "faces", OfPictures(priors), folder)


@pytest.fixture
def old(faces: Faces, tmp_path: Path) -> Path:
    """A store of OLD: six pictures in units of four, and two."""
    out = tmp_path / "faces.zarr"
    shutil.copytree(faces.whole(OLD), out)
    return out


def root(path: Path) -> Any:
    """The root's attributes."""
    return json.loads((path / "zarr.json").read_bytes())["attributes"]


def rows(path: Path) -> dict[str, bytes]:
    """Every file but the one that says what the splits mean."""
    return {name: data for name, data in content(path).items() if name != "zarr.json"}


def test_of_a_longer_manifest_only_the_new_pictures_are_computed_and_no_sealed_file_changes(
    faces: Faces, old: Path
) -> None:
    before = rows(old)
    summary = faces.build(LONGER, old)
    assert (summary.computed, summary.reused, summary.grown) == (3 * len(VIEWS), 0, ("train",))
    assert {name: data for name, data in rows(old).items() if name in before} == before
    faces.assert_says(old, LONGER)
    assert PriorStore.open(old).segments("train") == ("train", "train.2")
    assert faces.build(LONGER, old) == BuildSummary(11, 0, pytest.approx(0, abs=60), 0.0, {"train": {}, "test": {}}, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "lists",
    [
        pytest.param({"train": [*"fedcba"], "test": ["n", "m"]}, id="reordered"),
        pytest.param({"train": [*"bdf"], "test": ["n"]}, id="shortened"),
        pytest.param({"train": [*"abm"], "valid": [*"cdn"], "test": ["e", "f"]}, id="split otherwise"),
        pytest.param({"train": ["a-again", *"cdef", "b-again"], "test": ["m", "n"]}, id="renamed"),
        pytest.param({"train": [*"abcdef", "a-again"], "test": ["m", "n", "b-again"]}, id="listed twice"),
    ],
)
def test_of_a_reordered_shortened_resplit_or_renamed_manifest_nothing_is_computed(
    faces: Faces, old: Path, lists: Lists
) -> None:
    before = rows(old)
    summary = faces.build(lists, old)
    assert (summary.computed, summary.reused) == (0, 0)
    assert {name: data for name, data in rows(old).items() if name in before} == before
    faces.assert_says(old, lists)


def test_a_new_picture_of_two_names_is_computed_once(faces: Faces, tmp_path: Path) -> None:
    """In one growth, and where the growth that began with one of the names was not finished."""
    before = {"train": [*"cdefg"], "test": ["m", "n"]}
    longer = {**before, "train": [*"cdefg", "a", "a-again"]}
    at_once, begun = tmp_path / "at-once.zarr", tmp_path / "begun.zarr"
    for out in (at_once, begun):
        shutil.copytree(faces.whole(before), out)
    assert faces.build(longer, at_once).computed == len(VIEWS)
    faces.build({**before, "train": [*"cdefghijkl", "a"]}, begun, part=Share(1, 2))
    faces.build({**longer, "train": [*"cdefghijkl", "a", "a-again"]}, begun)
    faces.assert_says(at_once, longer)
    faces.assert_says(begun, {**longer, "train": [*"cdefghijkl", "a", "a-again"]})


def test_a_picture_in_a_split_with_more_views_is_copied_in_those_that_the_store_has(faces: Faces, old: Path) -> None:
    faces.build(OLD, old, ["erase-30"], splits=["train"])
    views = (*VIEWS, "erase-30")
    lists = {"train": [*"abcdefm"], "test": ["n"]}
    summary = faces.build(lists, old)  # with every view that the split has
    assert (summary.reused, summary.computed) == (len(VIEWS), 1)
    faces.assert_says(old, {"train": lists["train"]}, views)
    assert PriorStore.open(old).views("test") == VIEWS


def test_occluders_are_drawn_by_the_landmarks_of_their_own_rows(faces: Faces, tmp_path: Path) -> None:
    out, views = tmp_path / "faces.zarr", ("clean", "mask")
    faces.build(OLD, out, views)
    before = PriorStore.open_segments(out).sealed("train", "mask")
    assert faces.build(LONGER, out, ["clean"]).computed == 3 * len(views)
    faces.assert_says(out, LONGER, views)
    segments = PriorStore.open_segments(out)
    assert segments.sealed("train", "mask").provenance == before.provenance
    for name in ("train", "train.2"):
        assert segments.provenance(name, "mask")["placed_by"] == segments.sealed(name, "clean").seal
    assert faces.build({"train": ["m", *"abc"]}, out, ["clean"]).computed == 0
    faces.assert_says(out, {"train": ["m", *"abc"]}, views)


def test_a_view_that_is_added_later_leaves_out_pictures_that_are_gone_until_they_return(
    faces: Faces, old: Path, tmp_path: Path
) -> None:
    gone = Faces(tmp_path / "faces", faces.priors, faces.folder)
    shutil.copytree(faces.root, gone.root)
    (gone.root / "b.png").unlink()
    few = {"train": [*"acdef"], "test": ["m", "n"]}
    gone.build(few, old)
    assert gone.build(few, old, ["mask"]).computed == 5 + 2 + 1  # rows of units, of which one is left out
    gone.assert_says(old, few, (*VIEWS, "mask"))
    assert PriorStore.open_segments(old).rejected("train", "mask") == {"b.png": GONE}
    summary = faces.build(OLD, old, VIEWS)
    assert (summary.reused, summary.computed) == (len(VIEWS), 1)
    faces.assert_says(old, OLD, (*VIEWS, "mask"))


def test_every_state_stays_readable_by_its_seals(faces: Faces, old: Path) -> None:
    lists = [OLD, LONGER, {"train": [*"gca"], "test": ["m"]}, {"train": [*"jgca"], "test": ["b", "m"]}]
    states = []
    for wanted in lists:
        faces.build(wanted, old)
        store = PriorStore.open(old)
        seals = {f"{split}/{view}": store.sealed(split, view).seal for split in wanted for view in VIEWS}
        states.append((wanted, seals, everything(old, {split: list(VIEWS) for split in wanted})))
    assert len({seals["train/clean"] for _, seals, _ in states}) == len(lists)
    for wanted, seals, said in states:
        store = PriorStore.open(old).at(seals)
        for split in wanted:
            assert store.sample_ids(split) == said[f"{split}/ids"]
            for view in VIEWS:
                assert store.sealed(split, view).seal == said[f"{split}/{view}/seal"]
                for field in store.fields(split, view):
                    assert store.read(split, view, field, slice(None)).tobytes() == said[f"{split}/{view}/{field}"]
            store.check_unchanged(split)
    with pytest.raises(WrongStateError, match="no state with the seals that train/clean had"):
        PriorStore.open(old).at({"train/clean": "0" * 64})
    summary = faces.build(OLD, old)
    assert (summary.computed, summary.grown) == (0, ("train", "test"))
    assert PriorStore.open(old).sealed("train", "clean").seal == states[0][1]["train/clean"]
    assert len(root(old)["orsanet_splits"]["train"]["states"]) == 3
    faces.assert_says(old, OLD)


def test_any_sequence_of_manifests_ends_in_what_a_new_store_says(faces: Faces, tmp_path: Path) -> None:
    chance, out, seen = random.Random(SEED), tmp_path / "faces.zarr", set[str]()
    for _ in range(8):
        names = chance.sample([*"abcdefghijklmnop", "a-again", "b-again"], chance.randint(3, 12))
        cut = chance.randint(1, len(names) - 1)
        lists = {"train": names[:cut], "test": names[cut:]}
        pictures = {name[0] for name in names}
        is_first = not out.exists()
        parts = [(1, 1)] if chance.random() < 0.7 else [(2, 2), (1, 2)]
        computed = sum(faces.build(lists, out, part=Share(*part)).computed for part in parts)
        assert computed == len(VIEWS) * (len(names) if is_first else len(pictures - seen)), SEED
        seen |= pictures
        faces.assert_says(out, lists)


@dataclass
class Snapshots:
    """Copies of a store as a kill leaves it: before each call that gives a file its name or takes it away."""

    store: Path
    folder: Path
    taken: list[Path]

    def take(self) -> None:
        self.taken.append(self.folder / str(len(self.taken)))
        shutil.copytree(self.store, self.taken[-1])


@pytest.fixture
def snapshots(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Snapshots]:
    found = Snapshots(old, tmp_path / "snapshots", [])
    with monkeypatch.context() as patch:
        for name in ("replace", "link", "rmdir"):
            real = getattr(os, name)

            def call(*arguments: Any, real: Any = real, **options: Any) -> Any:
                if "dir_fd" not in options:
                    found.take()
                return real(*arguments, **options)

            patch.setattr(os, name, call)
        yield found


def test_killed_anywhere_the_store_is_the_old_one_or_the_new_one_and_goes_on(
    faces: Faces, old: Path, snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = {"train": [*"gabcdhf"], "test": ["m", "e"]}
    names = {split: list(VIEWS) for split in lists}
    before = everything(old, names)
    faces.build(lists, old)
    snapshots.take()
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", os.fstat)
    after = everything(old, names)
    found = [everything(taken, names) for taken in snapshots.taken]
    assert all(said in (before, after) for said in found)
    is_new = [said == after for said in found]
    assert is_new == sorted(is_new)  # never back
    assert set(is_new) == {False, True}
    whole = content(old)
    for taken in snapshots.taken[:: max(1, len(snapshots.taken) // 8)]:
        faces.build(lists, taken)
        assert content(taken) == whole, taken


def test_the_last_part_to_finish_says_what_the_splits_mean(faces: Faces, old: Path) -> None:
    lists = {"train": [*"abcdefghijkl"], "test": ["m", "n"]}  # two units more
    for index in (1, 2, 3):
        summary = faces.build(lists, old, part=Share(index, 4))
        assert (summary.waiting > 0, summary.grown) == (True, ())
        assert PriorStore.open(old).sample_ids("train") == tuple(f"{name}.png" for name in OLD["train"])
    assert faces.build(lists, old, part=Share(4, 4)).grown == ("train",)
    faces.assert_says(old, lists)


def test_what_an_interrupted_growth_began_is_finished_by_a_manifest_that_grew_again(faces: Faces, old: Path) -> None:
    longer = {"train": [*"abcdefghijkl"], "test": ["m", "n"]}
    faces.build(longer, old, part=Share(3, 4))  # a unit of the new rows
    assert unfinished(old) == ["train.2/clean: 1 of 2 units of 4 images", "train.2/hflip: 1 of 2 units of 4 images"]
    again = {"train": ["p", *"abcdefghijkl", "o"], "test": ["m"]}
    summary = faces.build(again, old)
    assert summary.computed == len(VIEWS) * (2 + 2)  # the other unit's two, and two more
    assert PriorStore.open(old).segments("train") == ("train", "train.2", "train.3")
    faces.assert_says(old, again)


def test_an_unfinished_store_goes_on_with_another_list(faces: Faces, tmp_path: Path) -> None:
    out = tmp_path / "faces.zarr"
    faces.build(OLD, out, part=Share(1, 3))
    changed = {"train": [*"fgabc"], "test": ["m", "n"]}
    with pytest.raises(OrsanetError, match=r"'train' is not finished and was begun from another list .* has none"):
        faces.build({"train": ["k"]}, out)
    summary = faces.build(changed, out)
    faces.assert_says(out, changed)
    assert summary.computed == len(VIEWS) * (1 + 1 + 2 + 1)  # f, with the row of e that is left out; m, n; g


def test_a_picture_that_returns_before_its_segment_is_finished_is_computed(faces: Faces, tmp_path: Path) -> None:
    out = tmp_path / "faces.zarr"
    faces.build(OLD, out, part=Share(3, 3))
    faces.build({"train": [*"abdf"], "test": ["m", "n"]}, out, part=Share(1, 4))  # a unit without c
    assert faces.build(OLD, out).computed > 0
    faces.assert_says(out, OLD)


def test_changed_pictures_are_refused_or_new_and_the_state_before_stays(
    faces: Faces, old: Path, tmp_path: Path
) -> None:
    changing = Faces(tmp_path / "faces", faces.priors, tmp_path)
    shutil.copytree(faces.root, changing.root)
    seal = PriorStore.open(old).sealed("train", "clean").seal
    before = PriorStore.open(old).read("train", "clean", "landmarks", [1])
    save_picture(changing.root / "b.png", 50)
    with pytest.raises(OrsanetError, match=r"1 image\(s\) of 'train' differ .*--accept-changed.*\n  'b.png': changed"):
        changing.build(LONGER, old)
    assert changing.build(LONGER, old, accept_changed=True).computed == (3 + 1) * len(VIEWS)
    changing.assert_says(old, LONGER)
    store = PriorStore.open(old).at({"train/clean": seal})
    assert np.array_equal(store.read("train", "clean", "landmarks", [1]), before)


def test_pictures_that_cannot_be_read_keep_their_verdict_until_they_can(faces: Faces, tmp_path: Path) -> None:
    out = tmp_path / "faces.zarr"
    bad = Faces(tmp_path / "faces", faces.priors, tmp_path)
    shutil.copytree(faces.root, bad.root)
    (bad.root / "b.png").write_bytes(b"GIF89a")
    (bad.root / "c.png").unlink()
    bad.build(OLD, out)
    lists = {"train": [*"gbca"], "test": ["n"]}
    summary = bad.build(lists, out)
    assert (summary.computed, [*summary.rejected["train"]]) == (len(VIEWS), ["b.png", "c.png"])
    bad.assert_says(out, lists)
    shutil.copy(faces.root / "c.png", bad.root / "c.png")
    with pytest.raises(OrsanetError, match=r"'c\.png': can be read now"):
        bad.build(lists, out)
    assert bad.build(lists, out, accept_changed=True).computed == len(VIEWS)
    assert [*PriorStore.open(out).rejected("train", "clean")] == ["b.png"]


def test_rows_come_from_another_store_too(faces: Faces, old: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    faces.build({"any": ["g", "h"]}, other, ["clean"])
    summary = faces.build(LONGER, old, reuse=other)
    assert (summary.reused, summary.computed) == (2, 3 * len(VIEWS) - 2)
    faces.assert_says(old, LONGER)
    third = tmp_path / "third.zarr"
    lists = {"train": ["i", "a", "k"]}
    assert faces.build(lists, third, reuse=old).reused == 2 * len(VIEWS)  # rows of both segments
    faces.assert_says(third, lists)


def test_a_grown_store_is_converted_there_and_back_and_compacted(faces: Faces, old: Path, tmp_path: Path) -> None:
    lists = {"train": [*"gabcdhf"], "valid": ["m"], "test": ["n", "e"]}
    first = PriorStore.open(old).sealed("train", "clean").seal
    faces.build(lists, old)
    names = {split: list(VIEWS) for split in lists}
    convert(old, tmp_path / "faces.h5")
    convert(tmp_path / "faces.h5", tmp_path / "back.zarr")
    assert everything(tmp_path / "faces.h5", names) == everything(old, names)
    assert content(tmp_path / "back.zarr") == content(old)
    assert PriorStore.open(tmp_path / "faces.h5").at({"train/clean": first}).sample_ids("train")[1] == "b.png"

    compact(tmp_path / "faces.h5", tmp_path / "small.zarr")
    own = {f"{split}/{view}/zarr.json" for split in lists for view in VIEWS}  # the provenance
    found, expected = content(tmp_path / "small.zarr"), content(faces.whole(lists))
    assert sorted(name for name in {*found, *expected} - own if found.get(name) != expected.get(name)) == []
    assert everything(tmp_path / "small.zarr", names) == everything(faces.whole(lists), names)


def test_a_grown_store_at_a_url_is_the_one_in_the_folder(
    faces: Faces, old: Path, tmp_path: Path, bucket: Proxy, url: str
) -> None:
    lists = {"train": [*"gabcdhf"], "valid": ["m"], "test": ["n", "e"]}
    first = PriorStore.open(old).sealed("train", "clean").seal
    faces.build(lists, old)
    names = {split: list(VIEWS) for split in lists}
    convert(old, url)
    assert everything(url, names) == everything(old, names)
    assert verify(url, deep=True) == verify(old, deep=True)
    assert unfinished(url) == []
    opened = PriorStore.open(url, tmp_path / "cache")
    earlier = opened.at({"train/clean": first})
    for store in (earlier, pickle.loads(pickle.dumps(earlier))):
        assert (store.cache, store.path) == (opened.cache, opened.path)
        assert store.sample_ids("train")[:2] == ("a.png", "b.png")
        assert np.array_equal(store.read("train", "clean", "image", [5]), opened.read("train", "clean", "image", [6]))

    convert(url, tmp_path / "down.zarr")
    assert content(tmp_path / "down.zarr") == content(old)
    convert(url, tmp_path / "down.h5")
    assert everything(tmp_path / "down.h5", names) == everything(old, names)
    compact(url, tmp_path / "small.zarr")
    compact(old, tmp_path / "expected.zarr")
    assert content(tmp_path / "small.zarr") == content(tmp_path / "expected.zarr")


def test_of_a_grown_store_at_a_url_the_shards_of_a_splits_rows_are_fetched_once_ahead_of_their_reader(
    faces: Faces, old: Path, tmp_path: Path, bucket: Proxy, url: str
) -> None:
    faces.build(
        {"train": [*"iahbg"], "valid": ["f", "c"], "test": ["n"]}, old
    )  # units 0 and 0; valid: 1 and 0 of the first segment
    convert(old, url)
    here, fields = PriorStore.open(old), ["image", "landmarks"]
    for split, shards in (("train", 2), ("valid", 2), ("test", 1)):
        store = PriorStore.open(url, tmp_path / f"cache-{split}")
        count = len(store.sample_ids(split))
        rows = np.arange(count)[::-1]
        assert len(np.unique(store.units(split, rows))) == shards
        assert np.array_equal(store.units(split, rows), here.units(split, rows))
        assert here.shard_bytes(split, VIEWS, fields) == 0
        for view in VIEWS:
            store.sealed(split, view)
        bucket.log.clear()
        view = np.repeat(np.arange(2), count)
        with store.ahead(split, VIEWS, fields, view, np.tile(rows, 2)) as ahead:
            ahead.reached(0)
            for name in VIEWS:
                for field in fields:
                    found = store.read(split, name, field, rows)
                    assert np.array_equal(found, here.read(split, name, field, rows))
        fetched = [line for line in bucket.requests("GET") if "/c." in line]
        assert len(fetched) == len(set(fetched)) == shards * len(VIEWS) * len(fields)
        copies = [
            path for path in (tmp_path / f"cache-{split}").rglob("*") if path.is_file() and path.suffix != ".lock"
        ]
        assert sum(path.stat().st_size for path in copies) == store.shard_bytes(split, VIEWS, fields)
        store.check_unchanged(split)


def test_a_damaged_index_is_not_copied(faces: Faces, old: Path, url: str, bucket: Proxy, tmp_path: Path) -> None:
    faces.build({"train": [*"gab"], "test": ["m", "n"]}, old)
    (damaged,) = old.glob("train/row.*/c.0.0")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for target in (url, tmp_path / "faces.h5"):
        with pytest.raises(OrsanetError, match="the index of a split is damaged"):
            convert(old, target)
    assert not (tmp_path / "faces.h5").exists()
    assert not bucket.requests("PUT")


def test_damage_is_found_in_every_segment_and_repaired(faces: Faces, world: Any, old: Path) -> None:
    faces.build(LONGER, old)
    for shard in ("train/clean/landmarks/c.1.0.0", "train.2/hflip/image/c.0.0.0.0"):
        (old / shard).write_bytes((old / shard).read_bytes()[:-1])
    damage = verify(old)[1]
    assert [(one.split, one.view, one.unit.index) for one in damage if one.unit] == [
        ("train", "clean", 1),
        ("train.2", "hflip", 0),
    ]
    with pytest.raises(OrsanetError, match=r"train/landmarks|train/clean/landmarks is damaged"):
        PriorStore.open(old).read("train", "clean", "landmarks", [5])
    assert repair(old, damage, faces.manifest(LONGER), world.segmenter, world.landmarks, CPU) == 2 + 3
    faces.assert_says(old, LONGER)


def test_a_damaged_index_is_named_and_written_again_without_computing(faces: Faces, old: Path) -> None:
    faces.build(LONGER, old)
    index = old / "train" / "row.2" / "c.0.0"
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    assert [str(one).partition(";")[0] for one in verify(old)[1]] == ["train/row.2: train/row.2 has a wrong checksum"]
    with pytest.raises(OrsanetError, match=r"the index of split 'train' is damaged .*orsanet-cache build"):
        PriorStore.open(old).sample_ids("train")
    assert faces.build(LONGER, old).computed == 0
    faces.assert_says(old, LONGER)


def test_an_index_that_leads_elsewhere_is_damage(faces: Faces, old: Path) -> None:
    from orsanet_cache.places.folder import FolderOutput
    from orsanet_cache.store.states import State, write_state
    from orsanet_cache.writing.zarr_writer import ZarrWriter

    faces.build(LONGER, old)
    state = State(("a.png",), ("train", "train.2"), np.array([[1, 3]], np.int64))  # train.2 has three rows
    write_state(ZarrWriter(FolderOutput(old, old / "temporary"), UNIT), "train", 2, state)
    document = json.loads((old / "zarr.json").read_bytes())
    document["attributes"]["orsanet_splits"]["train"]["states"]["2"]["sha256"] = state.sha256
    (old / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(OrsanetError, match="its index leads outside its segments"):
        PriorStore.open(old).read("train", "clean", "landmarks", [0])


def test_any_zarr_reader_reads_a_grown_store_with_one_more_line(faces: Faces, old: Path) -> None:
    faces.build(LONGER, old)
    group = zarr.open_group(str(old), mode="r")
    grown = group.attrs["orsanet_splits"]["train"]
    number = grown["state"]
    segments = grown["states"][str(number)]["segments"]
    store = PriorStore.open(old)
    for sample, (segment, row) in enumerate(group[f"train/row.{number}"][:].tolist()):
        expected = store.read("train", "clean", "landmarks", [sample])[0]
        assert np.array_equal(group[f"{segments[segment]}/clean/landmarks"][row], expected)


def test_a_store_that_never_grew_is_of_the_schema_before(faces: Faces, old: Path) -> None:
    assert root(old)["orsanet_store"]["schema"] == 4
    faces.build(LONGER, old)
    assert root(old)["orsanet_store"]["schema"] == 5


def test_the_command_grows_a_store_by_one_picture(world: Any, faces: Faces, tmp_path: Path) -> None:
    out = tmp_path / "faces.zarr"

    def run(names: str) -> str:
        table = tmp_path / "faces.csv"
        table.write_text("image,label,split\n" + "".join(f"{name}.png,a,train\n" for name in names))
        networks = [] if out.exists() else ["--segmenter", str(world.segmenter), "--landmarks", str(world.landmarks)]
        result = CliRunner().invoke(
            main, ["build", str(table), "--root", str(faces.root), "--classes", "a,b", "--views", "clean", "--out", str(out), *networks]
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        return result.output

    run("ab")
    said = run("cab")
    assert f"2 of 3 images have their rows in {out}, which stay as they are" in said
    assert "computed 1 views" in said
    said = run("ab")
    assert "split train has the manifest's images now" in said
    assert "nothing to do" not in said
    assert "nothing to do" in run("ab")
    said = CliRunner().invoke(main, ["info", str(out)]).output
    assert "split train: 2 images\n" in said
    run("bc")
    assert "split train: 2 images, rows of train, train.2" in CliRunner().invoke(main, ["info", str(out)]).output
    result = CliRunner().invoke(main, ["compact", str(out), str(tmp_path / "small.zarr")])
    assert result.exit_code == 0, result.output
    assert PriorStore.open(tmp_path / "small.zarr").sample_ids("train") == ("b.png", "c.png")


def segment(path: Path, name: str) -> list[str]:
    """The rows of a segment, by name."""
    return [image.removesuffix(".png") for image in PriorStore.open_segments(path).sample_ids(name)]


def test_mixed_rows_lie_in_another_order_and_are_read_in_the_manifests(faces: Faces, tmp_path: Path) -> None:
    out, parts = tmp_path / "mixed.zarr", tmp_path / "parts.zarr"
    assert faces.build(OLD, out, mix_rows=True).computed == 8 * len(VIEWS)
    order = segment(out, "train")
    assert order != sorted(order) == OLD["train"]
    faces.assert_says(out, OLD)
    for index in (2, 1):
        faces.build(OLD, parts, part=Share(index, 2), mix_rows=True)
    assert content(parts) == content(out)
    before = content(out)
    for options in ({"mix_rows": True}, {}):  # the rows stay where they are
        assert faces.build(OLD, out, **options).computed == 0
        assert content(out) == before


def test_mixed_rows_of_an_interrupted_build_are_gone_on_with(faces: Faces, tmp_path: Path) -> None:
    out, whole = tmp_path / "mixed.zarr", tmp_path / "whole.zarr"
    faces.build(OLD, whole, mix_rows=True)
    faces.build(OLD, out, part=Share(1, 3), mix_rows=True)  # one unit of three
    assert faces.build(OLD, out).computed == 4 * len(VIEWS)
    assert content(out) == content(whole)


def test_rows_that_are_added_are_mixed_too(faces: Faces, tmp_path: Path) -> None:
    lists = {"train": [*"abcdefghijkl"], "test": ["m", "n", "h"]}  # h is new in both
    out = tmp_path / "mixed.zarr"
    faces.build(OLD, out, mix_rows=True)
    assert faces.build(lists, out, mix_rows=True).computed == 6 * len(VIEWS)
    added = segment(out, "train.2")
    assert added != sorted(added) == [*"ghijkl"]
    faces.assert_says(out, lists)


def test_rows_in_the_manifests_order_are_mixed_by_a_copy_alone(faces: Faces, old: Path, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match=r"the rows of 'train' have the manifest's order.*--mix-rows --reuse"):
        faces.build(OLD, old, mix_rows=True)
    summary = faces.build(OLD, tmp_path / "mixed.zarr", mix_rows=True, reuse=old)
    assert (summary.computed, summary.reused) == (0, 8 * len(VIEWS))
    faces.assert_says(tmp_path / "mixed.zarr", OLD)
