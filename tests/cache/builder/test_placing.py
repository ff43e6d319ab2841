"""A build draws occluders where the sealed clean view's landmarks say, and never mixes what was placed or drawn otherwise."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_store import Remembering

from orsanet_cache import Manifest, OrsanetError, PriorStore, load_manifest
from orsanet_cache.builder.build import BuildSummary, build
from orsanet_cache.builder.occluders import OCCLUDERS_VERSION, occluded
from orsanet_cache.builder.repair import repair
from orsanet_cache.data.images import read_image, view_pixels
from orsanet_cache.data.views import PLACED, View
from orsanet_cache.frozen.priors import FrozenPriors
from orsanet_cache.store.units import WHOLE, Share
from orsanet_cache.store.verify import verify

CPU = torch.device("cpu")
ROWS = 2  # of a unit: the test split's six images are three units
FEATURES = ("segmentation_features", "landmark_features")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """A build computes every batch with one thread; two would round differently in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Stop(Exception):
    """Raised by the networks in the middle of a build."""


class Changing(Remembering):
    """The same networks by their recipe, whose landmarks are moved, or not finite for pictures that `spoils` picks."""

    move = 0.0
    spoils: NDArray[np.uint8] | None = None
    batches = 1_000_000  # then it stops

    def forward(self, images: torch.Tensor) -> Any:
        if not self.batches:
            raise Stop
        self.batches -= 1
        said = super().forward(images)
        landmarks = said.landmarks + self.move
        if self.spoils is not None:
            landmarks[(images == torch.from_numpy(self.spoils)).all(dim=(1, 2, 3))] = torch.inf
        return said._replace(landmarks=landmarks)


@pytest.fixture
def changing(priors: Remembering) -> Changing:
    changed = Changing(priors)
    changed.files, changed.said = priors.files, priors.said
    return changed


def build_test(
    manifest: Manifest, out: Path, priors: FrozenPriors, views: Sequence[str], part: Share = WHOLE, **options: Any
) -> BuildSummary:
    return build(manifest, out, priors, views, device=CPU, splits=["test"], part=part, rows_per_unit=ROWS, **options)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole(world: Any, priors: Remembering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test split with three views, in one call."""
    out = tmp_path_factory.mktemp("placing") / "store.zarr"
    build_test(world.load_manifest(), out, priors, ["mask", "clean", "hand-seed1"])
    return out


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "store.zarr"))


def copy_of(world: Any, folder: Path) -> Manifest:
    shutil.copytree(world.folder / "images", folder / "images")
    for name in ("samples.csv", "dataset.toml"):
        shutil.copy(world.folder / name, folder / name)
    return load_manifest(folder / "dataset.toml")


@pytest.fixture
def copied(world: Any, tmp_path: Path) -> Manifest:
    """The same data set, to be changed."""
    return copy_of(world, tmp_path)


def change(copied: Manifest) -> None:
    shutil.copy(copied.root / "images" / "train_3.png", copied.root / "images" / "test_3.png")


@pytest.fixture(scope="module")
def changed_whole(world: Any, priors: Remembering, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of a store that is built after the change."""
    folder = tmp_path_factory.mktemp("changed")
    manifest = copy_of(world, folder)
    change(manifest)
    build_test(manifest, folder / "store.zarr", priors, ["clean", "mask", "hand-seed1"])
    return digests(folder / "store.zarr")


def clean_pixels(manifest: Manifest, split: str = "test") -> list[NDArray[np.uint8]]:
    return [view_pixels(read_image(manifest.root / sample.image).rgb, "clean") for sample in manifest.split(split)]


def test_the_stored_image_and_all_priors_are_those_of_the_occluded_pixels(world: Any, tmp_path: Path) -> None:
    """In one call, whatever the order of the views; one batch, as the networks are asked here."""
    views = [*PLACED, "mask-seed2", "erase-30", "clean"]
    manifest, priors, out = world.load_manifest(), world.load_priors(), tmp_path / "store.zarr"
    summary = build(manifest, out, priors, views, device=CPU, splits=["test"])
    assert (summary.images, summary.computed, summary.waiting) == (6, 6 * len(views), 0)
    store, pictures = PriorStore.open(out), clean_pixels(manifest)
    landmarks = store.read("test", "clean", "landmarks", slice(None))
    assert set(store.views("test")) == set(views)
    of_clean = priors(torch.from_numpy(np.stack(pictures))).segmentation_features
    for view in views[:-1]:
        if View.parse(view).is_placed:
            seen = [occluded(rgb, points, View.parse(view)) for rgb, points in zip(pictures, landmarks, strict=True)]
        else:
            seen = [view_pixels(read_image(manifest.root / s.image).rgb, view) for s in manifest.split("test")]
        pixels = np.stack(seen)
        said = priors(torch.from_numpy(pixels))
        assert np.array_equal(store.read("test", view, "image", slice(None)), pixels[:, ::2, ::2]), view
        assert np.array_equal(store.read("test", view, "segmentation_map", slice(None)), said.segmentation_map)
        assert np.array_equal(store.read("test", view, "landmarks", slice(None)), said.landmarks)
        for field in FEATURES:
            stored = store.read("test", view, field, slice(None))
            assert np.array_equal(stored, getattr(said, field).numpy().astype(np.float16)), (view, field)
        assert not np.array_equal(said.segmentation_features, of_clean)


def test_the_provenance_says_what_drew_and_what_placed_it(whole: Path) -> None:
    store = PriorStore.open(whole)
    for view in ("mask", "hand-seed1"):
        said = store.provenance("test", view)
        assert said["occluders"] == OCCLUDERS_VERSION
        assert said["placed_by"] == store.sealed("test", "clean").seal
    assert "occluders" not in store.provenance("test", "clean")
    assert not (whole / ".commits").exists()


def test_a_view_added_later_is_the_one_built_at_once_and_touches_no_other(
    world: Any, priors: Remembering, whole: Path, tmp_path: Path
) -> None:
    out, manifest = tmp_path / "store.zarr", world.load_manifest()
    build_test(manifest, out, priors, ["clean"])
    before = digests(out / "test" / "clean")
    build_test(manifest, out, priors, ["mask"])
    assert digests(out / "test" / "clean") == before
    assert build_test(manifest, out, priors, ["hand-seed1", "clean"]).computed == 6
    assert digests(out) == digests(whole)
    assert build_test(manifest, out, priors, ["hand-seed1", "mask"]).computed == 0


def test_without_a_clean_view_nothing_is_written(world: Any, priors: Remembering, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match=r"landmarks of the clean view.*split 'test'.*--views clean,hflip,mask"):
        build_test(world.load_manifest(), tmp_path / "s", priors, ["hflip", "mask"])
    assert not (tmp_path / "s").exists()


def test_the_clean_view_must_be_of_the_same_split(world: Any, priors: Remembering, store: Path) -> None:
    before = digests(store)
    with pytest.raises(OrsanetError, match="not finished for split 'train'; request it too: --views clean,mask"):
        build(world.load_manifest(), store, priors, ["mask"], device=CPU)
    assert digests(store) == before


def test_rows_that_the_clean_view_rejected_are_rejected_for_the_same_reason(
    world: Any, changing: Changing, copied: Manifest, tmp_path: Path
) -> None:
    unreadable, spoilt = (copied.split("test")[row].image for row in (1, 4))
    (copied.root / unreadable).write_bytes(b"<html>")
    changing.spoils = view_pixels(read_image(copied.root / spoilt).rgb, "clean")
    summary = build_test(copied, tmp_path / "s", changing, ["clean", "mask"])
    opened = PriorStore.open(tmp_path / "s")
    rejected = opened.rejected("test", "mask")
    assert rejected == opened.rejected("test", "clean") == summary.rejected["test"]
    assert list(rejected) == [unreadable, spoilt]
    assert "landmarks is not finite" in rejected[spoilt]
    assert opened.accepted("test", "mask").tolist() == [True, False, True, True, False, True]
    assert not opened.read("test", "mask", "image", np.array([1, 4])).any()
    digest = opened.sealed("test", "mask").image_sha256
    assert np.array_equal(digest, opened.sealed("test", "clean").image_sha256)
    assert build_test(copied, tmp_path / "s", changing, ["clean", "mask"]).computed == 0


def test_a_part_whose_clean_view_waits_for_others_says_so_and_keeps_what_it_has(
    world: Any, priors: Remembering, whole: Path, tmp_path: Path
) -> None:
    out, manifest = tmp_path / "store.zarr", world.load_manifest()
    views = ["clean", "mask", "hand-seed1"]
    with pytest.raises(OrsanetError) as raised:
        build_test(manifest, out, priors, views, Share(1, 2))
    said = str(raised.value)
    assert "mask, hand-seed1 are placed by the landmarks of the clean view" in said
    assert "other parts still compute the clean view of test" in said
    assert "run the same command again when the other parts have finished" in said
    second = build_test(manifest, out, priors, views, Share(2, 2))
    assert (second.computed, second.waiting) == (
        3 * ROWS,
        2,
    )  # its unit in all views; both of the first part are to come
    first = build_test(manifest, out, priors, views, Share(1, 2))
    assert (first.computed, first.waiting) == (2 * 2 * ROWS, 0)
    assert digests(out) == digests(whole)


@pytest.mark.parametrize("batches", [0, 3, 5])
def test_an_interrupted_build_goes_on_to_the_same_store(
    world: Any, priors: Remembering, changing: Changing, whole: Path, tmp_path: Path, batches: int
) -> None:
    out, manifest = tmp_path / "store.zarr", world.load_manifest()
    changing.batches = batches
    with pytest.raises(Stop):
        build_test(manifest, out, changing, ["clean", "mask", "hand-seed1"])
    build_test(manifest, out, priors, ["clean", "mask", "hand-seed1"])
    assert digests(out) == digests(whole)


@pytest.mark.parametrize("views", [["clean"], ["mask"]])
def test_a_changed_image_is_drawn_again_by_its_new_landmarks_in_every_view(
    priors: Remembering, copied: Manifest, store: Path, changed_whole: dict[str, str], views: list[str]
) -> None:
    change(copied)
    with pytest.raises(OrsanetError, match=r"1 image\(s\) differ from those"):
        build_test(copied, store, priors, views)
    summary = build_test(copied, store, priors, views, accept_changed=True)
    assert summary.computed == 3 * ROWS  # one unit in three views
    assert digests(store) == changed_whole


@pytest.mark.parametrize("batches", [0, 1, 2])  # before the clean unit, and before either of those that it places
def test_an_interrupted_change_goes_on_to_the_new_landmarks(
    priors: Remembering, changing: Changing, copied: Manifest, store: Path, changed_whole: dict[str, str], batches: int
) -> None:
    change(copied)
    changing.batches = batches
    with pytest.raises(Stop):
        build_test(copied, store, changing, ["clean"], accept_changed=True)
    assert not {"mask", "hand-seed1"} & set(PriorStore.open(store).views("test"))  # nothing that is out of date is read
    build_test(copied, store, priors, ["clean"], accept_changed=True)
    assert digests(store) == changed_whole


def test_a_damaged_unit_of_an_occluded_view_is_repaired_alone(world: Any, whole: Path, store: Path) -> None:
    (store / "test/mask/landmarks/c.1.0.0").unlink()
    damage = verify(store)[1]
    assert repair(store, damage, world.load_manifest(), world.segmenter, world.landmarks, CPU) == ROWS
    assert digests(store) == digests(whole)


def test_repairing_the_clean_view_draws_again_what_it_places(world: Any, whole: Path, store: Path) -> None:
    (store / "test/clean/landmarks/c.1.0.0").unlink()
    damage = verify(store)[1]
    assert repair(store, damage, world.load_manifest(), world.segmenter, world.landmarks, CPU) == 3 * ROWS
    assert digests(store) == digests(whole)


def test_repairing_everything_at_once_works(world: Any, whole: Path, store: Path) -> None:
    for view in ("clean", "mask", "hand-seed1"):
        (store / f"test/{view}/image/c.0.0.0.0").unlink()
    (store / "test/clean/unit_sha256/c.0.0.0").unlink()  # and the records of the view that places the others
    damage = verify(store)[1]
    repair(store, damage, world.load_manifest(), world.segmenter, world.landmarks, CPU)
    assert verify(store, deep=True)[1] == []
    assert digests(store) == digests(whole)


def as_version(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The next release's occluders, which draw as these do: only the number counts."""
    monkeypatch.setattr("orsanet_cache.builder.placing.OCCLUDERS_VERSION", number)


def test_a_finished_view_of_another_version_is_refused(
    world: Any, priors: Remembering, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(store)
    as_version(monkeypatch, OCCLUDERS_VERSION + 1)
    said = rf"test/mask: was drawn by version {OCCLUDERS_VERSION} of the occluders, this is version {OCCLUDERS_VERSION + 1}.*delete .*test/mask and run"
    with pytest.raises(OrsanetError, match=said):
        build_test(world.load_manifest(), store, priors, ["mask"])
    build_test(world.load_manifest(), store, priors, ["clean"])  # of which it is no matter
    (store / "test/mask/landmarks/c.1.0.0").unlink()
    with pytest.raises(OrsanetError, match=said):
        repair(store, verify(store)[1], world.load_manifest(), world.segmenter, world.landmarks, CPU)
    assert digests(store) == {name: digest for name, digest in before.items() if name != "test/mask/landmarks/c.1.0.0"}
    shutil.rmtree(store / "test" / "mask")
    build_test(world.load_manifest(), store, priors, ["mask"])
    assert PriorStore.open(store).provenance("test", "mask")["occluders"] == OCCLUDERS_VERSION + 1


def test_changed_images_do_not_mix_versions_either(
    world: Any, priors: Remembering, copied: Manifest, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(copied)
    as_version(monkeypatch, OCCLUDERS_VERSION + 1)
    before = digests(store)
    with pytest.raises(OrsanetError, match="was drawn by version"):
        build_test(copied, store, priors, ["clean"], accept_changed=True)
    assert digests(store) == before


def test_an_unfinished_view_of_another_version_is_not_gone_on_with(
    world: Any, priors: Remembering, changing: Changing, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, manifest = tmp_path / "store.zarr", world.load_manifest()
    changing.batches = 3 + 2  # the clean view, and two units of the mask
    with pytest.raises(Stop):
        build_test(manifest, out, changing, ["clean", "mask"])
    as_version(monkeypatch, OCCLUDERS_VERSION + 1)
    for _ in range(2):  # not the second time either
        with pytest.raises(
            OrsanetError, match=r"was drawn by version .*delete .*test/mask and .*\.commits/test/mask and run"
        ):
            build_test(manifest, out, priors, ["mask"])
    as_version(monkeypatch, OCCLUDERS_VERSION)
    build_test(manifest, out, priors, ["mask", "hand-seed1"])
    assert digests(out) == digests(whole)


def test_a_view_placed_by_another_clean_view_is_refused(world: Any, changing: Changing, store: Path) -> None:
    shutil.rmtree(store / "test" / "clean")
    changing.move = 0.01
    build_test(world.load_manifest(), store, changing, ["clean"])
    with pytest.raises(OrsanetError, match=r"test/mask: was placed by the landmarks of another clean view.*delete"):
        build_test(world.load_manifest(), store, changing, ["mask"])
    shutil.rmtree(store / "test" / "mask")
    build_test(world.load_manifest(), store, changing, ["mask"])
    opened = PriorStore.open(store)
    assert opened.provenance("test", "mask")["placed_by"] == opened.sealed("test", "clean").seal


class Replacing(Changing):
    """The same networks. When they run for the `at`-th time, somebody puts one picture in the place of another."""

    at = 1
    picture: Path
    place: Path

    def forward(self, images: torch.Tensor) -> Any:
        self.at -= 1
        if self.at == 0:
            shutil.copy(self.picture, self.place)
        return super().forward(images)


def replacing(priors: Remembering, manifest: Manifest, image: str, at: int) -> Replacing:
    networks = Replacing(priors)
    networks.files = priors.files
    networks.picture, networks.place, networks.at = manifest.root / "images/test_0.png", manifest.root / image, at
    return networks


@pytest.mark.parametrize("accept", [False, True])
def test_a_picture_replaced_between_the_clean_and_a_placed_view_ends_the_build(
    priors: Remembering, copied: Manifest, whole: Path, tmp_path: Path, accept: bool
) -> None:
    out, image, views = tmp_path / "store.zarr", "images/test_5.png", ["mask", "clean", "hand-seed1"]
    before = (copied.root / image).read_bytes()
    with pytest.raises(
        OrsanetError,
        match=r"1 image\(s\) changed while the store was built: \S+ would be of other files than clean.*\n.*test_5\.png",
    ):
        build_test(copied, out, replacing(priors, copied, image, at=3), views)  # the clean view's last unit
    assert PriorStore.open(out).views("test") == ("clean",)
    if not accept:
        (copied.root / image).write_bytes(before)
        assert build_test(copied, out, priors, views).computed < 2 * 6  # finished units were kept
        assert digests(out) == digests(whole)
        return
    with pytest.raises(OrsanetError, match="accept-changed"):
        build_test(copied, out, priors, views)
    build_test(copied, out, priors, views, accept_changed=True)
    assert verify(out, deep=True) == (9, [])
    now = hashlib.sha256((copied.root / image).read_bytes()).digest()
    store = PriorStore.open(out)
    assert all(store.sealed("test", view).image_sha256[5].tobytes() == now for view in views)


def test_a_picture_replaced_while_another_view_is_added_ends_the_build(
    priors: Remembering, copied: Manifest, tmp_path: Path
) -> None:
    """After the pictures were compared, and before this one is decoded."""
    out = tmp_path / "store.zarr"
    options: dict[str, Any] = {"device": CPU, "splits": ["train"], "rows_per_unit": ROWS}
    build(copied, out, priors, ["clean"], **options)
    with pytest.raises(
        OrsanetError, match=r"hflip would be of other files than clean.*\n.*train: 'images/train_13\.png'"
    ):
        build(copied, out, replacing(priors, copied, "images/train_13.png", at=1), ["hflip"], **options)
    assert PriorStore.open(out).views("train") == ("clean",)
