"""A build to a URL: what a folder's build says, parts, growth, changed pictures, copied rows and repair included."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from object_server import SECRET, Proxy
from small_store import Remembering, content, everything, save_picture

from orsanet_cache import Manifest, OrsanetError, PriorStore, Sample
from orsanet_cache.builder.build import BuildSummary, build
from orsanet_cache.builder.repair import repair
from orsanet_cache.cli import main
from orsanet_cache.paths import Url
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.store.schema import OPTIONAL
from orsanet_cache.store.units import Share
from orsanet_cache.store.verify import unfinished, verify
from orsanet_cache.writing.compact import compact
from orsanet_cache.writing.convert import convert

CPU = torch.device("cpu")
VIEWS = ("clean", "mask")
Lists = dict[str, str]  # split -> names of pictures, a letter each
OLD: Lists = {"train": "abcde", "test": "m"}
UNIT = 2


@dataclass(frozen=True)
class Faces:
    """A folder of pictures, the networks, and stores of any lists of them."""

    root: Path
    priors: Remembering

    def manifest(self, lists: Lists) -> Manifest:
        samples = (Sample(f"{name}.png", 0, split, frozenset()) for split, names in lists.items() for name in names)
        return Manifest("faces", ("a", "b"), self.root, tuple(samples))

    def build(self, lists: Lists, out: str | Path, views: Sequence[str] = VIEWS, **options: Any) -> BuildSummary:
        options = {"batch_size": UNIT, "rows_per_unit": UNIT, **options}
        return build(self.manifest(lists), out, self.priors, views, device=CPU, **options)


@pytest.fixture(scope="module")
def faces(priors: Remembering, tmp_path_factory: pytest.TempPathFactory) -> Faces:
    folder = tmp_path_factory.mktemp("faces")
    for number, name in enumerate("abcdefmn"):
        save_picture(folder / f"{name}.png", number)
    return Faces(folder, priors)


@pytest.fixture(scope="module")
def local(faces: Faces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "store.zarr"
    faces.build(OLD, out)
    return out


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    """A place of this process's memory."""
    return f"memory://{os.getpid()}/{request.node.name}.zarr"


def names(lists: Lists) -> dict[str, list[str]]:
    return {split: list(VIEWS) for split in lists}


def stored(place: str) -> dict[str, bytes]:
    objects = Bucket.open(Url(place))
    return {name: objects.read(name)[0] for name in objects.entries()}


def test_parts_in_any_order_make_the_store_of_a_folder(faces: Faces, local: Path, place: str) -> None:
    waiting = [faces.build(OLD, place, ["clean"], part=Share(part, 2)).waiting for part in (2, 1)]
    assert waiting == [2, 0]
    assert faces.build(OLD, place).computed == 6
    assert everything(place, names(OLD)) == everything(local, names(OLD))
    files = {path.relative_to(local).as_posix(): path.read_bytes() for path in local.rglob("*") if path.is_file()}
    there = stored(place)
    assert there.keys() == files.keys()
    assert {name for name in files if files[name] != there[name]} == set()
    assert faces.build(OLD, place).computed == 0


def test_a_store_at_a_url_grows_shrinks_and_is_reordered(faces: Faces, local: Path, place: str, tmp_path: Path) -> None:
    convert(local, place)
    before = stored(place)
    lists = {"train": "fedcba", "test": "nm"}
    summary = faces.build(lists, place)
    assert (summary.computed, summary.grown) == (2 * 2, ("train", "test"))
    assert {name: content for name, content in stored(place).items() if name in before and name != "zarr.json"} == {
        name: content for name, content in before.items() if name != "zarr.json"
    }
    here = tmp_path / "store.zarr"
    shutil.copytree(local, here)
    assert faces.build(lists, here).computed == summary.computed
    for now in ({"train": "bd", "test": "m"}, OLD):
        assert faces.build(now, place).computed == faces.build(now, here).computed == 0
        assert everything(place, names(now)) == everything(here, names(now))
    assert verify(place, deep=True)[1] == []
    assert unfinished(place) == []


def test_changed_pictures_are_refused_and_computed_when_accepted(
    faces: Faces, local: Path, place: str, tmp_path: Path
) -> None:
    root = tmp_path / "faces"
    shutil.copytree(faces.root, root)
    changing = Faces(root, faces.priors)
    changing.build(OLD, place)
    save_picture(root / "c.png", 100)
    with pytest.raises(OrsanetError, match=r"1 image\(s\) differ.*\n.*c.png"):
        changing.build(OLD, place)
    assert changing.build(OLD, place, accept_changed=True).computed == UNIT * len(VIEWS)
    changing.build(OLD, tmp_path / "here.zarr")
    assert everything(place, names(OLD)) == everything(tmp_path / "here.zarr", names(OLD))


def test_rows_of_another_store_are_copied_to_and_from_a_url(
    faces: Faces, local: Path, place: str, tmp_path: Path
) -> None:
    lists = {"train": "fab", "test": "n"}
    assert faces.build(lists, place, reuse=local).computed == 2 * 2
    assert PriorStore.open(place).provenance("train", "clean")["reused"][0]["store"] == str(local)
    assert faces.build({"train": "af", "test": "n"}, tmp_path / "here.zarr", reuse=place).computed == 0
    with pytest.raises(OrsanetError, match="overlap"):
        faces.build(lists, f"{place}/inner.zarr", reuse=place)


def test_damage_at_a_url_is_repaired_there(faces: Faces, world: Any, local: Path, place: str) -> None:
    convert(local, place)
    objects = Bucket.open(Url(place))
    whole = stored(place)
    damaged = "train/clean/landmarks/c.1.0.0"
    objects.write(damaged, whole[damaged][:-8] + bytes(8))
    objects.delete(["test/mask/image/c.0.0.0.0"])
    damage = verify(place, deep=True)[1]
    assert len(damage) == 2
    repair(place, damage, faces.manifest(OLD), world.segmenter, world.landmarks, CPU)
    assert verify(place, deep=True)[1] == []
    assert {name for name, content in stored(place).items() if content != whole[name]} <= {
        f"{split}/{view}/zarr.json"
        for split in OLD
        for view in VIEWS  # whose provenance has the batch
    }


def test_fields_that_are_added_at_a_url_are_the_folders_and_change_nothing_else(
    faces: Faces, local: Path, place: str, tmp_path: Path
) -> None:
    here, fields = tmp_path / "here.zarr", tuple(OPTIONAL)
    shutil.copytree(local, here)
    convert(local, place)
    before = stored(place)
    added = len(fields) * len(VIEWS)
    assert faces.build(OLD, here, fields=fields).added == 6 * added
    parts = [faces.build(OLD, place, fields=fields, part=Share(part, 2)).added for part in (2, 1)]
    assert sum(parts) == 6 * added
    assert all(parts)
    assert stored(place) == content(here)
    assert stored(place).items() >= before.items()
    assert {*fields} <= {*PriorStore.open(place).fields("test", "mask")}


def test_on_a_server_of_other_hands_a_store_gets_a_field_and_is_compacted(
    faces: Faces, s3: Proxy, url: str, tmp_path: Path
) -> None:
    here, small, lists, views, fields = (
        tmp_path / "here.zarr",
        url.replace("store", "small"),
        {"test": "mn"},
        ["clean"],
        ["landmark_features_14"],
    )
    faces.build({"test": "m"}, here, views)
    faces.build(lists, here, views)
    convert(here, url)
    before = stored(url)
    for out in (here, url):
        assert faces.build(lists, out, views, fields=fields).added == 2
    assert stored(url) == content(here)
    assert stored(url).items() >= before.items()
    compact(here, tmp_path / "small.zarr")
    ended = CliRunner().invoke(main, ["compact", url, small, "--cache", str(tmp_path / "cache"), "--quiet"])
    assert ended.output == f"wrote {small}\n"
    assert stored(small) == content(tmp_path / "small.zarr")
    compact(small, tmp_path / "down.zarr")
    assert content(tmp_path / "down.zarr") == stored(small)
    with pytest.raises(OrsanetError, match="already exists; choose another name"):
        compact(url, small)


def test_a_compaction_killed_anywhere_is_no_store_and_goes_on(
    faces: Faces, local: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = {"train": "fcba", "test": "nm"}
    convert(local, place)
    faces.build(lists, place, ["clean"])
    real, puts, kill = Bucket._put, list[str](), [-1]

    def put(bucket: Bucket, name: str, *arguments: Any) -> Any:
        puts.append(name)
        if len(puts) == kill[0]:
            raise Killed
        return real(bucket, name, *arguments)

    monkeypatch.setattr(Bucket, "_put", put)
    compact(place, f"{place}-expected")
    expected, total = stored(f"{place}-expected"), len(puts)
    for point in (1, *range(2, total, total // 6), total):
        kill[0], target = point, f"{place}-{point}"
        puts.clear()
        with pytest.raises(Killed):
            compact(place, target)
        assert "zarr.json" not in stored(target)
        with pytest.raises(OrsanetError, match="no such store"):
            PriorStore.open(target)
        compact(place, target)
        assert stored(target) == expected
    Bucket.open(Url(f"{place}-other")).write("train/thesis.pdf", b"of somebody")
    with pytest.raises(OrsanetError, match=r"train/thesis.pdf: there are other objects at this place"):
        compact(place, f"{place}-other")
    assert "zarr.json" not in stored(f"{place}-other")


class Killed(BaseException):
    """The process is dead."""


def test_the_command_builds_and_keeps_secrets(
    world: Any, bucket: Proxy, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    networks = ["--segmenter", str(world.segmenter), "--landmarks", str(world.landmarks)]
    rows = [f"images/test_{number}.png,anger,test" for number in range(2)]
    (tmp_path / "few.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
    (tmp_path / "few.toml").write_text(
        f'name = "few"\nclasses = ["anger", "neutral"]\nsamples = "few.csv"\nroot = "{world.folder}"\n'
    )
    line = ["build", "few.toml", "--out", url, *networks, "--views", "clean"]
    built = CliRunner().invoke(main, line)
    assert built.exit_code == 0, built.output
    assert f"{url}: 2 of 2 images usable" in built.output
    assert sorted(os.listdir()) == ["few.csv", "few.toml"]
    assert not any(SECRET.encode() in content for content in stored(url).values())
    assert SECRET not in built.output
