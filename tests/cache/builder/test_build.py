"""A build writes what the networks say, survives interruption, and refuses what does not fit."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_store import Remembering

from orsanet_cache import OrsanetError, PriorStore, load_manifest
from orsanet_cache.builder.build import build
from orsanet_cache.data.images import read_image, view_pixels
from orsanet_cache.frozen.priors import FrozenPriors
from orsanet_cache.store.schema import schema
from orsanet_cache.store.units import Share, UnitRecord
from orsanet_cache.writing.writer import StoreWriter

CPU = torch.device("cpu")
FIELDS = (
    "image", "segmentation_map", "segmentation_entropy", "segmentation_features", "landmark_features", "landmarks"
)  # fmt: skip
# oneDNN picks other kernels for other batch sizes; float32 sums then differ in their last bits.
BATCH_ROUNDING = 1e-4


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A build computes every batch with one thread; two would round differently in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_row_is_what_the_networks_say_of_that_view(world, one_thread) -> None:
    manifest, priors, store = world.load_manifest(), world.load_priors(), world.open_store()
    samples = manifest.split("test")
    for view in ("clean", "hflip"):
        pixels = np.stack([view_pixels(read_image(manifest.root / s.image).rgb, view) for s in samples])
        said = priors(torch.from_numpy(pixels))
        assert np.array_equal(store.read("test", view, "image", slice(None)), pixels[:, ::2, ::2])
        assert np.array_equal(store.read("test", view, "segmentation_map", slice(None)), said.segmentation_map)
        for field in ("segmentation_features", "landmark_features"):
            stored = store.read("test", view, field, slice(None))
            assert stored.dtype == np.float16
            np.testing.assert_array_equal(stored, getattr(said, field).numpy().astype(np.float16))
        for field in ("segmentation_entropy", "landmarks"):
            np.testing.assert_array_equal(store.read("test", view, field, slice(None)), getattr(said, field))


def test_priors_do_not_depend_on_the_batch_size(world, tmp_path: Path) -> None:
    stores = []
    for size in (1, 5):  # of six images
        out, options = tmp_path / f"{size}.zarr", {"feature_dtype": "float32", "splits": ["test"], "batch_size": size}
        build(world.load_manifest(), out, world.load_priors(), ["clean"], device=CPU, **options)
        stores.append(PriorStore.open(out))
    for field in ("segmentation_features", "landmark_features", "landmarks"):
        a, b = (store.read("test", "clean", field, slice(None)) for store in stores)
        np.testing.assert_allclose(a, b, rtol=0, atol=BATCH_ROUNDING * float(np.abs(a).max()))


def test_the_flipped_view_has_its_own_pixels_and_its_own_priors(world) -> None:
    store = world.open_store()
    clean, flipped = (store.read("train", view, "image", slice(None)) for view in ("clean", "hflip"))
    assert not np.array_equal(flipped, clean[:, :, ::-1])  # every second pixel keeps the even columns of either
    clean, flipped = (store.read("train", view, "segmentation_features", slice(None)) for view in ("clean", "hflip"))
    assert not np.array_equal(flipped, clean[..., ::-1])


def test_a_store_holds_no_labels(world) -> None:
    text = "".join(path.read_text(errors="ignore") for path in world.store.rglob("zarr.json"))
    assert not any(name in text for name in world.load_manifest().classes)


def test_a_finished_build_is_left_alone(world, priors: Remembering, tmp_path: Path) -> None:
    copy = tmp_path / "store.zarr"
    shutil.copytree(world.store, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    summary = build(world.load_manifest(), copy, priors, ["clean", "hflip"], device=CPU)
    assert summary.computed == 0
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


class Stop(Exception):
    """Raised by the networks in the middle of a build."""


class Stopping(Remembering):
    """The same networks, which stop after a number of batches: a build interrupted from inside."""

    batches = 0

    def forward(self, images):
        if self.batches == 0:
            raise Stop
        self.batches -= 1
        return super().forward(images)


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 5])
def test_an_interrupted_build_goes_on_to_the_same_store(
    world, priors: Remembering, tmp_path: Path, batches: int
) -> None:
    out, manifest = tmp_path / "store.zarr", world.load_manifest()
    stopping = Stopping(priors)
    stopping.said = priors.said
    stopping.batches = batches
    with pytest.raises(Stop):
        build(manifest, out, stopping, ["clean", "hflip"], device=CPU)
    with pytest.raises(OrsanetError, match=r"not finished|no view"):
        PriorStore.open(out).read("test", "hflip", "image", slice(None))
    build(manifest, out, priors, ["clean", "hflip"], device=CPU)
    resumed, whole = PriorStore.open(out), world.open_store()
    for split in manifest.splits:
        for view in ("clean", "hflip"):
            for field in FIELDS:
                a, b = (store.read(split, view, field, slice(None)) for store in (resumed, whole))
                assert np.array_equal(a, b), (split, view, field)
    assert not (out / ".commits").exists()


def test_units_already_committed_are_not_computed_again(world, priors: Remembering, tmp_path: Path) -> None:
    out, manifest = tmp_path / "store.zarr", world.load_manifest()
    stopping = Stopping(priors)
    stopping.said = priors.said
    stopping.batches = 4  # both views of the first unit
    with pytest.raises(Stop):
        build(manifest, out, stopping, ["clean", "hflip"], device=CPU)
    summary = build(manifest, out, priors, ["clean", "hflip"], device=CPU)
    assert summary.computed == 2 * (len(manifest.samples) - len(manifest.split("train")))


def test_a_view_is_added_without_touching_the_others(world, priors: Remembering, tmp_path: Path) -> None:
    out, manifest = tmp_path / "store.zarr", world.load_manifest()
    build(manifest, out, priors, ["clean"], device=CPU)
    before = {path: path.read_bytes() for path in out.rglob("clean/**/*") if path.is_file()}
    summary = build(manifest, out, priors, ["clean", "hflip"], device=CPU)
    assert summary.computed == len(manifest.samples)
    assert {path: path.read_bytes() for path in out.rglob("clean/**/*") if path.is_file()} == before
    assert PriorStore.open(out).views("train") == ("clean", "hflip")


def digests(folder: Path) -> dict[str, str]:
    """Every file below the folder -> digest of its bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_only_the_named_splits_are_computed(world, priors: Remembering, tmp_path: Path) -> None:
    out = tmp_path / "store.zarr"
    summary = build(world.load_manifest(), out, priors, ["clean"], device=CPU, splits=["test", "valid"])
    assert (summary.images, summary.computed) == (12, 12)
    assert set(summary.rejected) == {"test", "valid"}
    store = PriorStore.open(out)
    assert store.splits == ("test", "valid")
    assert not (out / "train").exists()
    for field in FIELDS:
        a, b = (s.read("test", "clean", field, slice(None)) for s in (store, world.open_store()))
        assert np.array_equal(a, b), field
    summary = build(world.load_manifest(), out, priors, ["clean"], device=CPU)  # the default: all
    assert (summary.images, summary.computed) == (26, 14)
    assert PriorStore.open(out).splits == ("test", "train", "valid")


def test_another_view_for_one_split_leaves_every_other_array_as_it_was(world, tmp_path: Path, one_thread) -> None:
    out, manifest, priors = tmp_path / "store.zarr", world.load_manifest(), world.load_priors()
    shutil.copytree(world.store, out)
    before = digests(out)
    summary = build(manifest, out, priors, ["erase-20"], device=CPU, splits=["test"])
    assert (summary.images, summary.computed) == (6, 6)
    after = digests(out)
    assert {name: digest for name, digest in after.items() if not name.startswith("test/erase-20/")} == before
    assert after.keys() > before.keys()
    store = PriorStore.open(out)
    assert {split: store.views(split) for split in store.splits} == {
        "test": ("clean", "erase-20", "hflip"),
        "train": ("clean", "hflip"),
        "valid": ("clean", "hflip"),
    }
    pixels = np.stack(
        [view_pixels(read_image(manifest.root / s.image).rgb, "erase-20") for s in manifest.split("test")]
    )
    assert np.array_equal(store.read("test", "erase-20", "image", slice(None)), pixels[:, ::2, ::2])
    said = priors(torch.from_numpy(pixels))  # the frozen networks see the square too
    assert np.array_equal(store.read("test", "erase-20", "segmentation_map", slice(None)), said.segmentation_map)
    np.testing.assert_array_equal(store.read("test", "erase-20", "landmarks", slice(None)), said.landmarks)


def test_a_split_that_the_manifest_lacks_is_refused_before_anything_is_written(
    world, priors: Remembering, tmp_path: Path
) -> None:
    with pytest.raises(OrsanetError, match="no split 'tset'; it has train, valid, test"):
        build(world.load_manifest(), tmp_path / "s", priors, ["clean"], device=CPU, splits=["tset"])
    assert not (tmp_path / "s").exists()


def test_another_recipe_is_refused_and_says_which_part(world, priors: Remembering, tmp_path: Path) -> None:
    copy = tmp_path / "store.zarr"
    shutil.copytree(world.store, copy)
    native = FrozenPriors.load(world.segmenter, world.landmarks, "native")
    with pytest.raises(OrsanetError, match=r'landmarks\.input: "published" before, "native" now'):
        build(world.load_manifest(), copy, native, ["clean"], device=CPU)
    with pytest.raises(OrsanetError, match="feature_dtype"):
        build(world.load_manifest(), copy, priors, ["clean"], device=CPU, feature_dtype="float32")


def test_unreadable_images_are_listed_and_marked_never_guessed(world, priors: Remembering, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "images", tmp_path / "images")
    for name in ("samples.csv", "dataset.toml"):
        shutil.copy(world.folder / name, tmp_path / name)
    whole = (tmp_path / "images" / "train_3.png").read_bytes()
    (tmp_path / "images" / "train_3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images" / "test_0.png").write_bytes(b"")
    out = tmp_path / "store.zarr"
    summary = build(load_manifest(tmp_path / "dataset.toml"), out, priors, ["clean", "hflip"], device=CPU)
    assert {split: list(rejected) for split, rejected in summary.rejected.items()} == {
        "train": ["images/train_3.png"],
        "valid": [],
        "test": ["images/test_0.png"],
    }
    store = PriorStore.open(out)
    assert "empty" in store.rejected("test", "clean")["images/test_0.png"]
    assert np.flatnonzero(~store.accepted("train", "hflip")).tolist() == [3]
    np.testing.assert_array_equal(  # its neighbours are untouched by it
        np.delete(store.read("train", "clean", "image", slice(None)), 3, axis=0),
        np.delete(world.open_store().read("train", "clean", "image", slice(None)), 3, axis=0),
    )


def test_a_split_without_a_usable_image_is_an_error(world, priors: Remembering, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"<html>")
    (tmp_path / "samples.csv").write_text("image,label,split\nimages/a.png,anger,train\n")
    manifest = load_manifest(tmp_path / "samples.csv", tmp_path, ["anger", "neutral"])
    with pytest.raises(OrsanetError, match=r"no image of split 'train' could be used:\n  'images/a\.png': "):
        build(manifest, tmp_path / "store.zarr", priors, ["clean"], device=CPU)


def test_outputs_that_overflow_the_stored_type_are_rejected_by_name(world, tmp_path: Path) -> None:
    priors = world.load_priors()
    with torch.no_grad():  # features of about 1e6 fit float32 and not float16
        priors.landmark_network.conv_6_sep.bn.weight *= 1e6
        priors.landmark_network.conv_6_sep.bn.bias += 1e6
    with pytest.raises(OrsanetError, match="landmark_features is not finite as float16"):
        build(world.load_manifest(), tmp_path / "half.zarr", priors, ["clean"], device=CPU, splits=["test"])
    full = {"feature_dtype": "float32", "splits": ["test"]}
    summary = build(world.load_manifest(), tmp_path / "full.zarr", priors, ["clean"], device=CPU, **full)
    assert summary.rejected == {"test": {}}


def test_half_precision_without_a_gpu_is_refused(world, priors: Remembering, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="needs a CUDA device"):
        build(world.load_manifest(), tmp_path / "s", priors, ["clean"], device=CPU, precision="fp16")


@pytest.mark.cuda
def test_half_precision_on_a_gpu_drifts_as_stated(world, tmp_path: Path) -> None:
    out = tmp_path / "store.zarr"
    build(world.load_manifest(), out, world.load_priors(), ["clean"], device=torch.device("cuda"), precision="fp16")
    a = PriorStore.open(out).read("train", "clean", "segmentation_features", slice(None)).astype(np.float32)
    b = world.open_store().read("train", "clean", "segmentation_features", slice(None)).astype(np.float32)
    assert np.linalg.norm(a - b) / np.linalg.norm(b) <= 5e-3  # three times the drift measured for Swin-B


def test_only_folders_with_our_mark_are_continued(world, priors: Remembering, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("do not touch")
    with pytest.raises(OrsanetError, match="not a store"):
        build(world.load_manifest(), tmp_path / "precious", priors, ["clean"], device=CPU)
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way_is_named(world, priors: Remembering, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OrsanetError, match="file"):
        build(world.load_manifest(), tmp_path / "file", priors, ["clean"], device=CPU)


def test_a_writer_never_serves_an_unsealed_view(world, tmp_path: Path) -> None:
    fields = schema(128, 512, "float16")
    with StoreWriter.open(tmp_path / "s", {"recipe": 1}, fields) as writer:
        writer.add_split("train", ["a.png"])
        assert not writer.is_sealed("train", "clean")
    with pytest.raises(OrsanetError, match="no view 'clean'"):
        PriorStore.open(tmp_path / "s").accepted("train", "clean")


def test_a_large_picture_is_seen_as_the_published_pipeline_sees_it(world, tmp_path: Path) -> None:
    """Any size and shape is squashed to 224x224 by Pillow's bilinear resize."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 301, 3), dtype=np.uint8))
    picture.save(tmp_path / "wide.png")
    expected = np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR))
    assert np.array_equal(view_pixels(read_image(tmp_path / "wide.png").rgb, "clean"), expected)


def test_a_unit_of_nothing_but_zeros_is_written_and_read(tmp_path: Path) -> None:
    """A black picture, or a map that is all background, must not look like a lost file."""
    fields = schema(128, 512, "float16")
    with StoreWriter.open(tmp_path / "s", {}, fields) as writer:
        writer.add_split("train", ["a.png"])
        writer.add_view("train", "clean")
        (unit,) = writer.missing("train", "clean")
        zeros = {field.name: np.zeros((1, *field.shape), field.dtype) for field in fields}
        writer.commit(unit, "clean", zeros, UnitRecord(["00" * 32], {}))
        assert writer.seal("train", "clean", {}) == []
    for field in fields:
        assert not PriorStore.open(tmp_path / "s").read("train", "clean", field.name, np.array([0])).any()


def test_a_kill_before_the_first_unit_leaves_a_store_that_goes_on(world, tmp_path: Path) -> None:
    out = tmp_path / "store.zarr"
    with StoreWriter.open(out, {}, schema(128, 512, "float16")) as writer:
        writer.add_split("train", ["a.png", "b.png"])
    (out / "train" / "zarr.json").unlink()  # as if killed before the last of the split's files
    with StoreWriter.open(out, {}, schema(128, 512, "float16")) as again:
        again.add_split("train", ["a.png", "b.png"])
    assert PriorStore.open(out).sample_ids("train") == ("a.png", "b.png")


def test_a_map_from_logits_that_are_not_finite_is_rejected(world, tmp_path: Path) -> None:
    priors = world.load_priors()
    with torch.no_grad():
        for layer in priors.segmenter.face_decoder.output_hypernetwork_mlps.layers:
            layer.weight *= 1e25
    with pytest.raises(OrsanetError, match="segmentation_map is not finite"):
        build(world.load_manifest(), tmp_path / "s", priors, ["clean"], device=CPU, splits=["test"])


def test_one_bad_split_does_not_keep_the_others_unsealed(world, priors: Remembering, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "images", tmp_path / "images")
    for name in ("samples.csv", "dataset.toml"):
        shutil.copy(world.folder / name, tmp_path / name)
    for path in (tmp_path / "images").glob("valid_*.png"):
        path.write_bytes(b"<html>")
    with pytest.raises(OrsanetError, match="no image of split 'valid'"):
        build(load_manifest(tmp_path / "dataset.toml"), tmp_path / "s", priors, ["clean"], device=CPU)
    assert PriorStore.open(tmp_path / "s").accepted("test", "clean").all()


def test_another_manifest_does_not_spoil_an_unfinished_store(world, priors: Remembering, tmp_path: Path) -> None:
    out, manifest = tmp_path / "store.zarr", world.load_manifest()
    build(manifest, out, priors, ["clean"], device=CPU, splits=["train"], part=Share(1, 2), rows_per_unit=4)
    before = digests(out)
    others = replace(manifest, samples=tuple(replace(one, split="train") for one in manifest.split("test")))
    with pytest.raises(OrsanetError, match=r"'train' is not finished and was begun from another list of images"):
        build(others, out, priors, ["clean"], device=CPU, splits=["train"])
    locks = (".commits/parts/1of1.lock",)  # of the part that was refused; empty
    assert {name: digest for name, digest in digests(out).items() if name not in locks} == before
    for wanted in (replace(manifest, samples=manifest.samples[:-13]), manifest):
        build(wanted, out, priors, ["clean"], device=CPU, splits=["train"])
        store = PriorStore.open(out)
        assert store.accepted("train", "clean").tolist() == [True] * len(wanted.split("train"))


def test_a_store_begun_on_a_gpu_is_not_continued_in_half_precision_on_a_cpu(
    world, priors: Remembering, tmp_path: Path
) -> None:
    recipe = world.open_store().recipe | {"precision": "fp16"}
    with StoreWriter.open(tmp_path / "s", recipe, schema(128, 512, "float16")):
        pass
    with pytest.raises(OrsanetError, match="fp16 needs a CUDA device; continue on a machine with one"):
        build(world.load_manifest(), tmp_path / "s", priors, ["clean"], device=CPU)
