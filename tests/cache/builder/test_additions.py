"""Fields are added to a finished store: they alone are computed, and no byte and no seal of what was there changes.

What the store then says is compared with a store that had the fields from the beginning.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from object_server import Proxy
from small_store import CPU, Content, content, everything, save_picture
from torch import Tensor

from orsanet_cache import FrozenPriors, Manifest, OrsanetError, PriorStore, Sample
from orsanet_cache.builder.build import BuildSummary, build
from orsanet_cache.builder.repair import repair
from orsanet_cache.cli import main
from orsanet_cache.frozen.priors import Priors
from orsanet_cache.store.schema import OPTIONAL
from orsanet_cache.store.units import Share
from orsanet_cache.store.verify import unfinished, verify
from orsanet_cache.writing.compact import compact
from orsanet_cache.writing.convert import convert

VIEWS = ("clean", "augmented", "mask")  # one of the picture alone, one that loses a rectangle, one that landmarks place
FIELDS = tuple(OPTIONAL)
Lists = dict[str, str]  # split -> names of pictures, a letter each
OLD: Lists = {"train": "abcdef", "test": "mn"}
UNIT = 4


class Networks(FrozenPriors):
    """The small world's networks, which remember what they computed. With `alone` the landmark network's grids alone may run."""

    def __init__(self, priors: FrozenPriors, known: dict[Any, Any], alone: bool) -> None:
        super().__init__(priors.segmenter, priors.landmark_network, priors.landmark_input)
        self.files, self.known, self.alone = priors.files, known, alone

    def forward(self, images: Tensor, erased: Tensor | None = None) -> Priors:
        assert not self.alone
        return Priors(
            **self._once("priors", lambda *given: super(Networks, self).forward(*given)._asdict(), images, erased)
        )

    def landmark_grids(self, images: Tensor, erased: Tensor | None = None) -> dict[str, Tensor]:
        return self._once("grids", super().landmark_grids, images, erased)

    def _once(self, what: str, network: Any, images: Tensor, erased: Tensor | None) -> dict[str, Tensor]:
        given = images if erased is None else torch.cat([images.flatten(1).int(), erased.int()], 1)
        keys = [(what, self.landmark_input, one.numpy().tobytes()) for one in given]
        if any(key not in self.known for key in keys):
            values = network(images, erased)
            self.known |= {key: {name: values[name][row] for name in values} for row, key in enumerate(keys)}
        return {name: torch.stack([self.known[key][name] for key in keys]) for name in self.known[keys[0]]}


@dataclass(frozen=True)
class Faces:
    """A folder of pictures, the networks, and stores of any lists of them."""

    root: Path
    priors: FrozenPriors
    alone: FrozenPriors

    def manifest(self, lists: Lists, root: Path | None = None) -> Manifest:
        samples = (Sample(f"{name}.png", 0, split, frozenset()) for split, names in lists.items() for name in names)
        return Manifest("faces", ("a", "b"), root or self.root, tuple(samples))

    def build(self, lists: Lists, out: Path, views: Sequence[str] = VIEWS, **options: Any) -> BuildSummary:
        return build(self.manifest(lists), out, self.priors, views, device=CPU, **{"rows_per_unit": UNIT, **options})

    def add(
        self,
        out: Path,
        lists: Lists = OLD,
        fields: Sequence[str] = FIELDS,
        views: Sequence[str] = VIEWS,
        **options: Any,
    ) -> BuildSummary:
        """Add fields where there is neither a picture nor a segmenter that may run."""
        manifest = self.manifest(lists, self.root / "nowhere")
        return build(manifest, out, self.alone, views, fields=fields, device=CPU, **options)


@pytest.fixture(scope="module")
def faces(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Faces:
    folder = tmp_path_factory.mktemp("additions")
    for number, name in enumerate("abcdefghmn"):
        save_picture(folder / f"{name}.png", number)
    known: dict[Any, Any] = {}
    return Faces(folder, *(Networks(world.load_priors(), known, alone) for alone in (False, True)))


@pytest.fixture(scope="module")
def finished(faces: Faces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without the fields."""
    out = tmp_path_factory.mktemp("plain") / "faces.zarr"
    faces.build(OLD, out)
    return out


@pytest.fixture(scope="module")
def expected(faces: Faces, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a store says that has had the fields from the beginning."""
    out = tmp_path_factory.mktemp("with") / "faces.zarr"
    faces.build(OLD, out, fields=FIELDS)
    return said(out)


@pytest.fixture(scope="module")
def whole(faces: Faces, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store with the fields added: treat as read-only."""
    out = tmp_path_factory.mktemp("added") / "faces.zarr"
    shutil.copytree(finished, out)
    faces.add(out)
    return out


@pytest.fixture
def old(finished: Path, tmp_path: Path) -> Path:
    out = tmp_path / "faces.zarr"
    shutil.copytree(finished, out)
    return out


def said(out: Path | str, lists: Lists = OLD, views: Sequence[str] = VIEWS) -> dict[str, Any]:
    """What a store says, but for the seals, which are those of a store without the fields."""
    found = everything(out, {split: list(views) for split in lists})
    return {what: value for what, value in found.items() if not what.endswith("/seal")}


def seals(out: Path) -> dict[str, str]:
    store = PriorStore.open(out)
    return {f"{split}/{view}": store.sealed(split, view).seal for split in store.splits for view in store.views(split)}


def unchanged(before: Content, out: Path) -> bool:
    now = content(out)
    return all(now.get(name) == data for name, data in before.items())


def assert_sound(out: Path) -> None:
    assert verify(out, deep=True)[1] == []
    assert unfinished(out) == []
    assert not (out / ".commits").exists()


def test_only_the_fields_are_computed_without_the_pictures_and_nothing_else_changes(
    faces: Faces, old: Path, expected: dict[str, Any]
) -> None:
    before, sealed = content(old), seals(old)
    summary = faces.add(old)
    assert (summary.computed, summary.added, summary.waiting) == (0, 8 * len(VIEWS) * len(FIELDS), 0)
    assert unchanged(before, old)
    assert seals(old) == sealed
    assert said(old) == expected
    assert_sound(old)
    assert faces.add(old).added == 0
    assert faces.build(OLD, old) == BuildSummary(8, 0, pytest.approx(0, abs=60), 0.0, {"train": {}, "test": {}}, 0)  # type: ignore[arg-type]


def test_fields_can_be_added_one_after_the_other_in_any_order(faces: Faces, old: Path, whole: Path) -> None:
    faces.add(old, fields=FIELDS[1:])
    assert "landmark_features_28" not in PriorStore.open(old).fields("train", "mask")
    faces.add(old, fields=FIELDS[:1])
    assert content(old) == content(whole)


def test_another_reader_finds_the_fields_beside_their_view(whole: Path) -> None:
    group = zarr.open_group(whole, mode="r")["train/clean.landmark_features_14"]
    assert np.array_equal(
        group["landmark_features_14"][1:3], PriorStore.open(whole).read("train", "clean", FIELDS[1], [1, 2])
    )
    assert group.attrs["network"]["name"] == "landmark_features_14"
    assert group.attrs["provenance"]["added_to"] == PriorStore.open(whole).sealed("train", "clean").seal


def test_killed_anywhere_a_view_has_the_field_or_it_has_not_and_goes_on(
    faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, out, taken = {"train": "abcdef"}, tmp_path / "faces.zarr", list[Path]()
    faces.build(lists, out, ["clean"])
    with monkeypatch.context() as patch:
        for name in ("replace", "link", "rmdir"):
            real = getattr(os, name)

            def call(*arguments: Any, real: Any = real, **options: Any) -> Any:
                if "dir_fd" not in options:  # as a kill just before leaves the store
                    taken.append(tmp_path / "taken" / str(len(taken)))
                    shutil.copytree(out, taken[-1])
                return real(*arguments, **options)

            patch.setattr(os, name, call)
        for index in (2, 1, 3):
            faces.add(out, lists, FIELDS[1:], views=["clean"], part=Share(index, 3))
    has = [FIELDS[1] in PriorStore.open(path).fields("train", "clean") for path in (*taken, out)]
    assert has == sorted(has)
    assert set(has) == {False, True}
    for number, path in enumerate(taken[:: max(1, len(taken) // 8)]):
        if number % 2:
            faces.build(lists, path, ["clean"])  # without naming the field: what was begun is finished
        faces.add(path, lists, FIELDS[1:], views=["clean"])
        assert content(path) == content(out), path


def test_native_landmarks_are_read_from_the_pictures_which_must_be_those_of_the_store(
    faces: Faces, tmp_path: Path
) -> None:
    loaded = FrozenPriors(faces.priors.segmenter, faces.priors.landmark_network, "native")
    native = Networks(loaded, {}, alone=False)
    changing = Faces(tmp_path / "faces", native, native)
    shutil.copytree(faces.root, changing.root)
    lists = {"train": "abcdef"}
    changing.build(lists, tmp_path / "with.zarr", fields=FIELDS)
    changing.build(lists, tmp_path / "old.zarr")
    before = content(tmp_path / "old.zarr")
    with pytest.raises(OrsanetError, match="6 image\\(s\\) differ"):
        changing.add(tmp_path / "old.zarr", lists)
    save_picture(changing.root / "c.png", 50)
    with pytest.raises(OrsanetError, match=r"'c\.png': changed"):
        changing.build(lists, tmp_path / "old.zarr", fields=FIELDS)
    shutil.copy(faces.root / "c.png", changing.root / "c.png")
    changing.build(lists, tmp_path / "old.zarr", fields=FIELDS)
    assert unchanged(before, tmp_path / "old.zarr")
    assert said(tmp_path / "old.zarr", lists) == said(tmp_path / "with.zarr", lists)


def test_it_is_converted_there_and_back_and_compacted(whole: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    convert(whole, tmp_path / "faces.h5")
    assert said(tmp_path / "faces.h5") == expected
    convert(tmp_path / "faces.h5", tmp_path / "back.zarr")
    assert content(tmp_path / "back.zarr") == content(whole)
    compact(whole, tmp_path / "small.zarr")
    assert content(tmp_path / "small.zarr") == content(whole)


def test_it_is_read_from_a_url(faces: Faces, tmp_path: Path, bucket: Proxy, url: str) -> None:
    lists, out, field = {"train": "abcdef"}, tmp_path / "faces.zarr", FIELDS[1]
    faces.build(lists, out, ["clean"])
    faces.add(out, lists, [field], ["clean"])
    convert(out, url)
    assert said(url, lists, ["clean"]) == said(out, lists, ["clean"])
    assert verify(url, deep=True) == verify(out, deep=True)
    assert PriorStore.open(url).shard_bytes("train", ["clean"], [field]) > 6 * 128 * 14 * 14 * 2


def test_a_store_grows_with_its_fields_and_a_grown_store_gets_them(faces: Faces, tmp_path: Path) -> None:
    longer, views = {"train": "gabcdehf", "valid": "m", "test": "n"}, ["clean"]
    new, old, had = (tmp_path / name for name in ("new.zarr", "old.zarr", "had.zarr"))
    faces.build(longer, new, views, fields=FIELDS)
    expected = said(new, longer, views)
    faces.build(OLD, old, views)
    shutil.copytree(old, had)
    faces.add(had, views=views)
    first, before = PriorStore.open(old).sealed("train", "clean").seal, content(had)
    del before["zarr.json"]
    summary = faces.build(longer, had, views)
    assert (summary.computed, summary.added) == (2, 2 * len(FIELDS))
    assert unchanged(before, had)
    faces.build(longer, old, views)
    assert faces.add(old, longer, views=views).added == 10 * len(FIELDS)
    for out in (had, old):
        assert said(out, longer, views) == expected
        assert_sound(out)
        assert PriorStore.open(out).at({"train/clean": first}).sample_ids("train")[0] == "a.png"
        compact(out, tmp_path / f"small-{out.name}")
        assert said(tmp_path / f"small-{out.name}", longer, views) == expected


def test_a_new_store_with_the_fields_copies_the_rows_of_one_that_they_were_added_to(
    faces: Faces, whole: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    summary = faces.build(OLD, tmp_path / "copied.zarr", fields=FIELDS, reuse=whole)
    assert (summary.computed, summary.reused, summary.added) == (0, 8 * len(VIEWS), 8 * len(VIEWS) * len(FIELDS))
    assert said(tmp_path / "copied.zarr") == expected


def test_a_view_that_is_built_later_has_the_fields_of_the_others(faces: Faces, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "whole.zarr")
    summary = faces.build(OLD, tmp_path / "whole.zarr", ["hflip"], splits=["test"])
    assert (summary.computed, summary.added) == (2, 2 * len(FIELDS))
    assert {*FIELDS} <= {*PriorStore.open(tmp_path / "whole.zarr").fields("test", "hflip")}


def test_damage_is_found_and_repaired_and_does_not_reach_the_view(faces: Faces, whole: Path, tmp_path: Path) -> None:
    out, what = tmp_path / "whole.zarr", "train/mask.landmark_features_28"
    shutil.copytree(whole, out)
    shard = out / what / "landmark_features_28" / "c.1.0.0.0"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    (damage,) = verify(out)[1]
    assert str(damage).startswith(f"{what}, rows 4 to 5: landmark_features_28: ")
    with pytest.raises(OrsanetError, match=f"{what}/landmark_features_28 is damaged"):
        PriorStore.open(out).read("train", "mask", "landmark_features_28", [5])
    PriorStore.open(out).read("train", "mask", "landmarks", [5])
    assert (
        repair(out, [damage], faces.manifest(OLD), *(Path(one) for one in faces.priors.files.values()), device=CPU) == 2
    )
    assert content(out) == content(whole)


def test_fields_of_a_view_that_was_computed_again_are_refused_and_computed_again(
    faces: Faces, whole: Path, tmp_path: Path
) -> None:
    out, root = tmp_path / "whole.zarr", tmp_path / "faces"
    shutil.copytree(whole, out)
    shutil.copytree(faces.root, root)
    save_picture(root / "b.png", 60)
    changing = Faces(root, faces.priors, faces.alone)
    changing.build(OLD, out, accept_changed=True)
    changing.build(OLD, tmp_path / "new.zarr", fields=FIELDS)
    assert said(out) == said(tmp_path / "new.zarr")
    shutil.rmtree(out / "train" / "mask")  # by hand: the view alone, which is then built with another picture
    shutil.copytree(whole / "train" / "mask", out / "train" / "mask")
    with pytest.raises(OrsanetError, match="computed from"):
        PriorStore.open(out).fields("train", "mask")


def test_the_command_adds_them_without_pictures_and_prints_so(faces: Faces, world: Any, tmp_path: Path) -> None:
    out, data = tmp_path / "store.zarr", tmp_path / "data"
    shutil.copytree(world.store, out)
    shutil.copytree(world.manifest.parent, data, ignore=shutil.ignore_patterns("*.zarr", "images"))
    command = [
        "build",
        str(data / world.manifest.name),
        "--out",
        str(out),
        "--fields",
        ",".join(FIELDS),
        "--device",
        "cpu",
        "--quiet",
    ]
    result = CliRunner().invoke(
        main, [*command, "--segmenter", str(world.segmenter), "--landmarks", str(world.landmarks)]
    )
    assert result.exit_code == 0, result.output
    assert (
        "landmark_features_14, landmark_features_28 are computed from its images, and no picture is read"
        in result.output
    )
    assert {*FIELDS} <= {*PriorStore.open(out).fields("test", "hflip")}
    shown = CliRunner().invoke(main, ["info", str(out)])
    assert "added landmark_features_28: 14 usable; seal " in shown.output
