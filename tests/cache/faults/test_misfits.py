"""What does not fit the store: changed images, another recipe, priors that are no numbers."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from failing_disk import FAULTS, faults
from small_store import CPU, Remembering, Small, answer, content, everything, save_picture
from torch import Tensor

from orsanet_cache import FrozenPriors, Manifest, OrsanetError, PriorStore, Sample
from orsanet_cache.builder.build import build
from orsanet_cache.cli import main
from orsanet_cache.frozen.priors import Priors


@dataclass
class Pictures:
    """Pictures that may change: three of training, in units of two, and two of testing, of which the first is no picture."""

    folder: Path
    priors: Remembering

    def __post_init__(self) -> None:
        (self.folder / "images").mkdir(parents=True)
        splits = {"train": 3, "test": 2}
        names = [(split, f"images/{split}_{index}.png") for split, count in splits.items() for index in range(count)]
        for seed, (_, name) in enumerate(names):
            save_picture(self.folder / name, seed)
        (self.folder / "images" / "test_0.png").write_text("no picture")
        samples = tuple(Sample(name, 0, split, frozenset()) for split, name in names)
        self.manifest = Manifest("small", ("a", "b"), self.folder, samples)

    def change(self) -> None:
        """One of training, in its first unit, and the one that was none."""
        save_picture(self.folder / "images" / "train_1.png", 101)
        save_picture(self.folder / "images" / "test_0.png", 102)

    def build(self, out: Path, views: tuple[str, ...] = ("clean",), **options: Any) -> Any:
        return build(self.manifest, out, self.priors, views, device=CPU, **{"rows_per_unit": 2, **options})

    def build_all(self, out: Path) -> Path:
        """Two views, and a third of the test split alone."""
        self.build(out, ("clean", "hflip"))
        self.build(out, ("erase-10",), splits=["test"])
        return out


@pytest.fixture
def pictures(small: Small, tmp_path: Path) -> Pictures:
    return Pictures(tmp_path / "pictures", small.priors)


def test_changed_images_are_refused_by_name_with_the_option_that_accepts_them(
    pictures: Pictures, tmp_path: Path
) -> None:
    out = pictures.build_all(tmp_path / "store.zarr")
    before = content(out)
    pictures.change()
    (pictures.folder / "images" / "train_2.png").unlink()
    with pytest.raises(OrsanetError) as raised:
        pictures.build(out)
    said = str(raised.value)
    for finding in (
        "train: 'images/train_1.png': changed",
        "train: 'images/train_2.png': cannot be read now",
        "test: 'images/test_0.png': changed",
        "3 image(s)",
        "--accept-changed",
    ):
        assert finding in said
    assert "train_0" not in said
    assert content(out) == before


def test_changed_images_of_an_unfinished_store_are_refused_too(small: Small, begun: Path, tmp_path: Path) -> None:
    out = tmp_path / "store.zarr"
    shutil.copytree(begun, out)
    shutil.copytree(small.folder / "images", tmp_path / "images")
    save_picture(tmp_path / "images" / "2.png", 99)  # in the unit that is committed
    save_picture(tmp_path / "images" / "5.png", 98)  # in the one that is not
    moved = Manifest("small", small.manifest.classes, tmp_path, small.manifest.samples)
    with pytest.raises(OrsanetError, match=r"1 image\(s\)[^$]*--accept-changed[^$]*'images/2.png': changed"):
        build(moved, out, small.priors, ["clean"], device=CPU)
    build(moved, out, small.priors, ["clean"], device=CPU, accept_changed=True)
    build(moved, tmp_path / "fresh", small.priors, ["clean"], device=CPU, rows_per_unit=4)
    assert content(out) == content(tmp_path / "fresh")


def test_accepting_changed_images_computes_exactly_their_units_in_every_view_as_a_fresh_build_does(
    pictures: Pictures, tmp_path: Path
) -> None:
    out = pictures.build_all(tmp_path / "store.zarr")

    def files() -> dict[str, int]:  # every rename brings another inode
        return {str(path.relative_to(out)): path.stat().st_ino for path in out.rglob("c.*.0.0*") if path.is_file()}

    before = files()
    pictures.change()
    summary = pictures.build(out, ("clean",), accept_changed=True)
    assert (
        summary.computed == 2 * 2 + 2 * 3
    )  # the first unit of training in two views, the only one of testing in three
    after = files()
    assert after.keys() == before.keys()
    shards = {name for name in before if not name.split("/")[2].endswith("_sha256")}
    same = {name for name in shards if after[name] == before[name]}
    assert same == {name for name in shards if name.startswith("train/") and "/c.1." in name}
    assert content(out) == content(pictures.build_all(tmp_path / "fresh"))
    assert summary.rejected == {"train": {}, "test": {}}
    assert pictures.build(out).computed == 0


@pytest.mark.parametrize("call", ["write", "replace"])
def test_accepting_changed_images_survives_a_fault_at_any_call(pictures: Pictures, tmp_path: Path, call: str) -> None:
    number, lasting, _ = FAULTS[call]
    """In one view of both splits, and in another of the training split alone."""

    def fresh(out: Path) -> Path:
        pictures.build(out)
        pictures.build(out, ("hflip",), splits=["train"])
        return out

    first = fresh(tmp_path / "first")
    pictures.change()
    wanted = content(fresh(tmp_path / "fresh"))
    names = {"train": ["clean", "hflip"], "test": ["clean"]}
    read = {"before": everything(first, names), "after": everything(tmp_path / "fresh", names)}
    shutil.copytree(first, tmp_path / "counted")
    with faults(call) as counted:
        pictures.build(tmp_path / "counted", accept_changed=True)
    assert content(tmp_path / "counted") == wanted
    for at in range(1, counted.calls + 1):
        out = tmp_path / "store.zarr"
        shutil.copytree(first, out)
        with faults(call, at, number, lasting), pytest.raises((OrsanetError, OSError)):
            pictures.build(out, accept_changed=True)
        for split, views in names.items():
            for view in views:
                found, said = answer(lambda: everything(out, {split: [view]}))  # noqa: B023
                assert said or any(found.items() <= known.items() for known in read.values()), (at, split, view)
        pictures.build(out, accept_changed=True)
        assert content(out) == wanted, at
        shutil.rmtree(out)


@pytest.mark.parametrize("finished", [True, False])
def test_another_recipe_is_refused_field_by_field_and_changes_nothing(
    small: Small, begun: Path, tmp_path: Path, finished: bool
) -> None:
    out = tmp_path / "store.zarr"
    shutil.copytree(small.store if finished else begun, out)
    before = {name: data for name, data in content(out).items() if not name.startswith(".commits/")}
    markers = content(out / ".commits" / "train") if not finished else {}
    other = Remembering(small.priors)
    other.same = {**small.priors.recipe(), "landmarks": {**small.priors.recipe()["landmarks"], "input": "native"}}  # type: ignore[dict-item]
    with pytest.raises(OrsanetError) as raised:
        build(small.manifest, out, other, ["clean"], device=CPU, feature_dtype="float32")
    first, *differences = str(raised.value).splitlines()
    assert str(out) in first
    assert "pass its options again, or build into another folder" in first
    assert {line.strip() for line in differences} == {
        'landmarks.input: "published" before, "native" now',
        'feature_dtype: "float16" before, "float32" now',
    }
    after = content(out)
    assert {name: data for name, data in after.items() if not name.startswith(".commits/")} == before
    assert finished or content(out / ".commits" / "train") == markers


@pytest.mark.parametrize("way", ["the same name", "another name of the same file"])
def test_an_image_that_is_listed_twice_is_refused_before_anything_is_written(
    small: Small, tmp_path: Path, way: str
) -> None:
    save_picture(tmp_path / "0.png", 0)
    save_picture(tmp_path / "1.png", 1)
    (tmp_path / "again.png").symlink_to("0.png")
    again = "0.png" if way == "the same name" else "again.png"
    (tmp_path / "faces.csv").write_text(f"image,label,split\n0.png,a,train\n1.png,b,train\n{again},b,train\n")
    command = ["build", tmp_path / "faces.csv", "--root", tmp_path, "--classes", "a,b", "--out", tmp_path / "out",
               "--segmenter", "demo", "--landmarks", "demo"]  # fmt: skip
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 1
    assert "line 4: image" in result.stderr
    assert "is already on line 2" in result.stderr or "is the same file as '0.png'" in result.stderr
    assert not (tmp_path / "out").exists()


class Poisoned(Remembering):
    """The same networks, which say something that is not a number of one picture."""

    def __init__(self, priors: FrozenPriors, field: str, value: float, picture: bytes) -> None:
        super().__init__(priors)
        self.field, self.value, self.picture = field, value, picture

    def forward(self, images: Tensor) -> Priors:
        said = super().forward(images)
        poisoned = getattr(said, self.field).clone()
        last = (-1,) * (poisoned.ndim - 1)
        for row, image in enumerate(images):
            if image[::2, ::2].numpy().tobytes() == self.picture:
                poisoned[row][last] = self.value
        return said._replace(**{self.field: poisoned})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e6])
@pytest.mark.parametrize("field", ["segmentation_entropy", "segmentation_features", "landmark_features", "landmarks"])
def test_a_picture_of_which_the_networks_say_no_number_is_rejected_alone(
    small: Small, tmp_path: Path, field: str, value: float
) -> None:
    out, healthy = tmp_path / "store.zarr", PriorStore.open(small.store)
    picture = healthy.read("train", "clean", "image", slice(4, 5)).tobytes()
    build(small.manifest, out, Poisoned(small.priors, field, value, picture), ["clean"], device=CPU, rows_per_unit=4)
    store = PriorStore.open(out)
    if value == 1e6 and field in ("segmentation_entropy", "landmarks"):  # kept as float32, which holds it
        assert store.accepted("train", "clean").all()
        return
    assert store.accepted("train", "clean").tolist() == [True, True, True, True, False, True]
    reason = store.rejected("train", "clean")["images/4.png"]
    assert f"{field} is not finite as float" in reason
    others = np.array([0, 1, 2, 3, 5])
    for name in store.fields("train", "clean"):
        rows = store.read("train", "clean", name, others)
        assert np.array_equal(rows, healthy.read("train", "clean", name, others))
        assert rows.dtype.kind != "f" or np.isfinite(rows).all()
