"""A build copies the rows of known pictures from another store, and the result is the store that a build from nothing makes."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_store import Remembering, content, save_picture

from orsanet_cache import Manifest, OrsanetError, PriorStore, Sample
from orsanet_cache.builder.build import BuildSummary, build
from orsanet_cache.builder.occluders import OCCLUDERS_VERSION
from orsanet_cache.builder.reuse import PlannedRows
from orsanet_cache.cli import main
from orsanet_cache.data.images import read_image, view_pixels
from orsanet_cache.store.units import Share
from orsanet_cache.store.verify import verify
from orsanet_cache.writing.convert import convert

CPU = torch.device("cpu")
VIEWS = ("clean", "erase-30", "mask")
OLD = {"train": ["0", "1", "2", "3", "4", "5"], "test": ["6", "7"]}
# Without 1 and 2, in another order, two in the other split, one renamed, two new.
NEW = {"train": ["8", "5", "6", "again/3", "9", "4"], "test": ["7", "0"]}
ADDED = ("8", "9")


class Stop(Exception):
    """Raised by the networks in the middle of a build."""


class Seeing(Remembering):
    """The same networks, which note the pictures that they are given, and may stop before a batch."""

    def __init__(self, priors: Remembering) -> None:
        super().__init__(priors)
        self.said, self.files = priors.said, priors.files
        self.seen: set[bytes] = set()
        self.batches = 1_000_000

    def forward(self, images: torch.Tensor) -> Any:
        if not self.batches:
            raise Stop
        self.batches -= 1
        self.seen |= {image.numpy().tobytes() for image in images}
        return super().forward(images)


class Moving(Remembering):
    """The same networks by their recipe, with other landmarks."""

    def forward(self, images: torch.Tensor) -> Any:
        said = super().forward(images)
        return said._replace(landmarks=said.landmarks + 0.02)


@dataclass(frozen=True)
class Grown:
    """A data set before and after it has grown, and the stores of both, built from nothing."""

    root: Path
    old: Path
    whole: Path

    def manifest(self, splits: dict[str, list[str]]) -> Manifest:
        return manifest(self.root, splits)


def manifest(root: Path, splits: dict[str, list[str]]) -> Manifest:
    samples = (Sample(f"{name}.png", 0, split, frozenset()) for split, names in splits.items() for name in names)
    return Manifest("faces", ("a", "b"), root, tuple(samples))


def build_small(
    manifest: Manifest, out: Path, priors: Remembering, views: Sequence[str] = VIEWS, **options: Any
) -> BuildSummary:
    return build(manifest, out, priors, views, device=CPU, **{"rows_per_unit": 4, **options})


@pytest.fixture(scope="module")
def grown(priors: Remembering, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder = tmp_path_factory.mktemp("grown")
    (folder / "faces" / "again").mkdir(parents=True)
    for number in range(10):
        save_picture(folder / "faces" / f"{number}.png", number)
    shutil.copy(folder / "faces" / "3.png", folder / "faces" / "again" / "3.png")
    made = Grown(folder / "faces", folder / "old.zarr", folder / "whole.zarr")
    build_small(made.manifest(OLD), made.old, priors)
    build_small(made.manifest(NEW), made.whole, priors)
    return made


@pytest.fixture
def seeing(priors: Remembering) -> Seeing:
    return Seeing(priors)


def assert_same(out: Path, whole: Path) -> None:
    """The same seals, the same files but for the views' provenance, and nothing damaged."""
    found, expected = PriorStore.open(out), PriorStore.open(whole)
    assert found.splits == expected.splits
    for split in expected.splits:
        assert found.views(split) == expected.views(split)
        for view in expected.views(split):
            assert found.sealed(split, view).seal == expected.sealed(split, view).seal, (split, view)
    own = {f"{split}/{view}/zarr.json" for split in expected.splits for view in expected.views(split)}
    files, wanted = content(out), content(whole)
    assert sorted(name for name in {*files, *wanted} - own if files.get(name) != wanted.get(name)) == []
    assert verify(out, deep=True)[1] == []


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_a_changed_list_of_pictures_is_the_store_built_from_nothing(
    grown: Grown, seeing: Seeing, tmp_path: Path, form: str
) -> None:
    old = grown.old if form == "zarr" else tmp_path / "old.h5"
    if form == "hdf5":
        convert(grown.old, old)
    before = old.read_bytes() if form == "hdf5" else content(old)
    plans: list[PlannedRows] = []
    summary = build_small(grown.manifest(NEW), tmp_path / "new.zarr", seeing, reuse=old, on_plan=plans.append)
    assert_same(tmp_path / "new.zarr", grown.whole)
    assert (summary.reused, summary.computed, summary.damaged) == (3 * 6, 3 * 2, {})
    assert plans == [PlannedRows(3 * 6, 3 * 2)]
    expected = {
        view_pixels(read_image(grown.root / f"{name}.png").rgb, view).tobytes() for name in ADDED for view in VIEWS[:2]
    }
    assert expected <= seeing.seen
    assert len(seeing.seen - expected) <= len(ADDED)  # the masks, unless they lie outside the pictures
    assert (old.read_bytes() if form == "hdf5" else content(old)) == before
    (entry,) = PriorStore.open(tmp_path / "new.zarr").provenance("train", "mask")["reused"]
    assert entry["store"] == str(old)
    assert entry["views"]["test/mask"]["occluders"] == OCCLUDERS_VERSION


def test_rows_are_found_whatever_the_units_are(grown: Grown, seeing: Seeing, tmp_path: Path) -> None:
    for name, reuse in (("new.zarr", grown.old), ("whole.zarr", None)):
        build_small(grown.manifest(NEW), tmp_path / name, seeing, ["clean"], reuse=reuse, rows_per_unit=7, batch_size=4)
    assert_same(tmp_path / "new.zarr", tmp_path / "whole.zarr")


def test_of_an_unfinished_store_the_committed_units_are_copied(grown: Grown, seeing: Seeing, tmp_path: Path) -> None:
    old = tmp_path / "old.zarr"
    build_small(grown.manifest(OLD), old, seeing, ["clean"], part=Share(1, 2))  # rows 0 to 3 of train, and test
    before, seeing.seen = content(old), set()
    summary = build_small(grown.manifest(NEW), tmp_path / "new.zarr", seeing, ["clean"], reuse=old)
    assert (summary.reused, summary.computed) == (4, 4)  # 3 as again/3, 0, 6 and 7
    assert len(seeing.seen) == 4
    build_small(grown.manifest(NEW), tmp_path / "whole.zarr", seeing, ["clean"])
    assert_same(tmp_path / "new.zarr", tmp_path / "whole.zarr")
    assert content(old) == before
    assert "reused" in PriorStore.open(tmp_path / "new.zarr").provenance("test", "clean")


def test_an_interrupted_build_goes_on_with_another_store_with_none_and_in_parts(
    grown: Grown, seeing: Seeing, tmp_path: Path
) -> None:
    out, few = tmp_path / "new.zarr", tmp_path / "few.zarr"
    build_small(grown.manifest({"train": ["7", "8"]}), few, seeing, VIEWS[:2])
    seeing.batches = 2
    with pytest.raises(Stop):
        build_small(grown.manifest(NEW), out, seeing, reuse=few)
    seeing.batches = 2
    with pytest.raises(Stop):
        build_small(grown.manifest(NEW), out, seeing)
    seeing.batches = 1_000_000
    for part in (Share(2, 3), Share(1, 3)):
        build_small(grown.manifest(NEW), out, seeing, VIEWS[:2], part=part, reuse=grown.old)
    summary = build_small(grown.manifest(NEW), out, seeing, VIEWS[:2], part=Share(3, 3))
    assert (summary.waiting, summary.reused) == (0, 0)
    summary = build_small(grown.manifest(NEW), out, seeing, reuse=grown.old)
    assert (summary.reused, summary.computed) == (6, 2)
    assert_same(out, grown.whole)
    assert not (out / ".commits").exists()
    assert build_small(grown.manifest(NEW), out, seeing, reuse=grown.old).reused == 0


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_damaged_row_is_named_and_computed(grown: Grown, seeing: Seeing, tmp_path: Path) -> None:
    old = tmp_path / "old.zarr"
    shutil.copytree(grown.old, old)
    flip(old / "train/clean/image/c.1.0.0.0", 3)  # row 4
    flip(old / "train/erase-30/segmentation_map/c.0.0.0", 3)  # row 0: a compressed record
    flip(old / "test/clean/landmarks/c.0.0.0", 3)  # row 0 (6.png), which the masks are compared with, too
    (old / "train/erase-30/landmark_features/c.1.0.0.0").unlink()  # rows 4 and 5
    summary = build_small(grown.manifest(NEW), tmp_path / "new.zarr", seeing, reuse=old)
    assert set(summary.damaged) == {
        "train/clean: '4.png'", "train/erase-30: '0.png'", "train/erase-30: '4.png'", "train/erase-30: '5.png'", "test/clean: '6.png'"
    }  # fmt: skip
    assert "image" in summary.damaged["train/clean: '4.png'"]
    assert summary.computed == 3 * 2 + 5 + 1  # the mask of 6, whose landmarks are not known
    assert_same(tmp_path / "new.zarr", grown.whole)


def test_a_row_replaced_by_another_rows_record_is_noticed(grown: Grown, seeing: Seeing, tmp_path: Path) -> None:
    old = tmp_path / "old.zarr"
    shutil.copytree(grown.old, old)
    shard = old / "train/clean/landmarks/c.0.0.0"
    data = bytearray(shard.read_bytes())
    record = 68 * 2 * 4 + 4
    data[:record], data[3 * record : 4 * record] = data[3 * record : 4 * record], data[:record]
    shard.write_bytes(data)
    summary = build_small(grown.manifest(NEW), tmp_path / "new.zarr", seeing, ["clean"], reuse=old)
    assert set(summary.damaged) == {"train/clean: '0.png'", "train/clean: '3.png'"}
    found = PriorStore.open(tmp_path / "new.zarr").sealed("train", "clean").seal
    assert found == PriorStore.open(grown.whole).sealed("train", "clean").seal


def test_a_view_with_damaged_records_is_refused_before_anything_is_written(
    grown: Grown, seeing: Seeing, tmp_path: Path
) -> None:
    old = tmp_path / "old.zarr"
    shutil.copytree(grown.old, old)
    flip(old / "train/clean/image_sha256/c.0.0", 3)
    with pytest.raises(OrsanetError, match=r"old\.zarr: train/clean is damaged .*verify .*old\.zarr --deep"):
        build_small(grown.manifest(NEW), tmp_path / "new.zarr", seeing, reuse=old)
    assert not (tmp_path / "new.zarr").exists()


def test_a_changed_picture_is_computed_and_a_rejected_one_is_tried_again(
    grown: Grown, seeing: Seeing, tmp_path: Path
) -> None:
    root, (bad, mended, changed) = tmp_path / "faces", ("0.png", "1.png", "2.png")
    shutil.copytree(grown.root, root)
    for name in (bad, mended):
        (root / name).write_bytes(b"GIF89a" + name.encode())
    before = manifest(root, {"train": ["0", "1", "2", "3", "4"]})
    build_small(before, tmp_path / "old.zarr", seeing)
    save_picture(root / mended, 20)
    save_picture(root / changed, 21)
    after = manifest(root, {"train": ["4", "3", "2", "1", "0", "5"]})
    summary = build_small(after, tmp_path / "new.zarr", seeing, reuse=tmp_path / "old.zarr")
    assert (summary.reused, summary.computed) == (3 * 2, 3 * 4)
    assert list(summary.rejected["train"]) == [bad]
    build_small(after, tmp_path / "whole.zarr", seeing)
    assert_same(tmp_path / "new.zarr", tmp_path / "whole.zarr")


def test_a_picture_replaced_after_it_was_hashed_is_refused_by_name(
    grown: Grown, seeing: Seeing, tmp_path: Path
) -> None:
    root = tmp_path / "faces"
    shutil.copytree(grown.root, root)
    build_small(manifest(root, OLD), tmp_path / "old.zarr", seeing, ["clean"])
    with pytest.raises(OrsanetError, match=r"1 image\(s\) changed while the store was built.*\n  train: '5.png'"):
        build_small(
            manifest(root, NEW), tmp_path / "new.zarr", seeing, ["clean", "hflip"],
            reuse=tmp_path / "old.zarr", on_plan=lambda _: save_picture(root / "5.png", 22),
        )  # fmt: skip


def test_a_placed_view_is_copied_only_where_it_would_be_drawn_alike(
    grown: Grown, seeing: Seeing, priors: Remembering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved.zarr"
    moving = Moving(priors)
    moving.files = priors.files
    build_small(grown.manifest(OLD), moved, moving)  # the same recipe, other landmarks
    out = tmp_path / "new.zarr"
    build_small(grown.manifest(NEW), out, seeing, VIEWS[:2], reuse=grown.old)
    summary = build_small(grown.manifest(NEW), out, seeing, reuse=moved)
    assert (summary.reused, summary.computed) == (0, 8)
    assert_same(out, grown.whole)

    monkeypatch.setattr("orsanet_cache.builder.placing.OCCLUDERS_VERSION", OCCLUDERS_VERSION + 1)
    plans: list[PlannedRows] = []
    summary = build_small(grown.manifest(NEW), tmp_path / "next.zarr", seeing, reuse=grown.old, on_plan=plans.append)
    assert (summary.reused, summary.computed) == (2 * 6, 2 * 2 + 8)
    assert plans[0].copied == summary.reused
    assert plans[0].skipped == tuple(
        f"{grown.old}: {split}/mask was drawn by version {OCCLUDERS_VERSION} of the occluders, this is version "
        f"{OCCLUDERS_VERSION + 1}, so it is computed"
        for split in ("test", "train")
    )


def test_another_recipe_the_store_itself_and_what_is_no_store_are_refused(
    grown: Grown, seeing: Seeing, tmp_path: Path
) -> None:
    out = tmp_path / "new.zarr"
    with pytest.raises(OrsanetError) as raised:
        build_small(grown.manifest(NEW), out, seeing, reuse=grown.old, feature_dtype="float32")
    assert "old.zarr was built with another recipe, so none of its rows can be reused" in str(raised.value)
    assert str(raised.value).endswith('feature_dtype: "float16" before, "float32" now')
    link = tmp_path / "link.zarr"
    link.symlink_to(grown.old)
    for place in (grown.old, link, grown.old / "inside.zarr"):
        with pytest.raises(OrsanetError, match=rf"--reuse .* and --out {place} overlap"):
            build_small(grown.manifest(NEW), place, seeing, reuse=grown.old)
    with pytest.raises(OrsanetError, match="no such store"):
        build_small(grown.manifest(NEW), out, seeing, reuse=tmp_path / "nowhere.zarr")
    with pytest.raises(OrsanetError, match="not a store"):
        build_small(grown.manifest(NEW), out, seeing, reuse=grown.root)
    assert not out.exists()


def test_the_command_for_a_grown_data_set(world: Any, grown: Grown, tmp_path: Path) -> None:
    def run(names: Sequence[str], *options: str) -> tuple[int, str]:
        rows = [f"{name}.png,{'ab'[position % 2]},train" for position, name in enumerate(names)]
        (tmp_path / "faces.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
        table = [tmp_path / "faces.csv", "--root", grown.root, "--classes", "a,b", "--views", "clean"]
        result = CliRunner().invoke(main, ["build", *map(str, table), *options])
        return result.exit_code, result.output

    old, new = str(tmp_path / "old.zarr"), str(tmp_path / "new.zarr")
    networks = ["--segmenter", str(world.segmenter), "--landmarks", str(world.landmarks)]
    assert run(["0", "1"], "--out", old, *networks)[0] == 0
    code, said = run(["0", "1", "2"], "--out", new, "--reuse", old)  # the networks are those of the other store
    assert code == 0, said
    assert f"2 of 3 views are known in {old} and copied; 1 are computed" in said
    assert f"copied 2 views from {old}, each row against its checksum" in said
    assert "computed 1 views" in said
    flip(Path(old) / "train/clean/image/c.0.0.0.0", 3)
    code, said = run(["1", "0"], "--out", str(tmp_path / "again.zarr"), "--reuse", old)
    assert code == 0, said
    assert f"{old}: damaged, so it was computed: train/clean: '0.png'" in said
    assert f"orsanet-cache verify {old} --deep" in said
    code, said = run(["1"], "--out", str(tmp_path / "fewer.zarr"), "--reuse", new)
    assert code == 0, said
    assert "copied 1 views" in said
    assert "nothing to do" not in said
    assert np.array_equal(
        PriorStore.open(tmp_path / "fewer.zarr").read("train", "clean", "landmarks", [0]),
        PriorStore.open(old).read("train", "clean", "landmarks", [1]),
    )
