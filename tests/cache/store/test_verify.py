"""Verifying names exactly the damaged units, and repairing computes exactly those again, to the same bytes."""

import hashlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from command_lines import Ended, in_process
from hdf5_stores import FIELDS

from orsanet_cache import OrsanetError, PriorStore, load_manifest
from orsanet_cache.builder.build import build
from orsanet_cache.builder.repair import repair
from orsanet_cache.cli import main
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.store.units import Share
from orsanet_cache.store.verify import progress, unfinished, verify
from orsanet_cache.writing.convert import convert
from orsanet_cache.writing.writer import StoreWriter

CPU = torch.device("cpu")
ROWS = 4  # of a unit: the world's 14, 6 and 6 images are 4 + 2 + 2 units


@pytest.fixture(scope="module")
def sound(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of small units."""
    out = tmp_path_factory.mktemp("verify") / "store.zarr"
    build(world.load_manifest(), out, world.priors, ["clean", "hflip"], device=CPU, rows_per_unit=ROWS)
    return out


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "store.zarr"))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_store_has_no_damage(sound: Path, deep: bool) -> None:
    assert verify(sound, deep) == (2 * (4 + 2 + 2), [])


def test_the_parts_of_a_sample_cover_every_unit_once(sound: Path) -> None:
    assert [verify(sound, sample=Share(index, 3))[0] for index in (1, 2, 3)] == [6, 5, 5]


def test_damage_is_named_by_unit_and_no_other_is(store: Path) -> None:
    (store / "train/clean/landmarks/c.2.0.0").unlink()
    shard = store / "test/hflip/image/c.0.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    _, damage = verify(store)
    assert [(one.split, one.view, one.unit.index) for one in damage if one.unit] == [("test", "hflip", 0), ("train", "clean", 2)]  # fmt: skip
    assert "test/hflip, rows 0 to 3: image: " in str(damage[0])


def test_only_a_deep_look_finds_a_bit_inside_a_unit(store: Path) -> None:
    row = 112 * 112 * 3 + 4
    flip(store / "train/clean/image/c.1.0.0.0", row + row // 2)  # inside the second of four rows
    assert verify(store) == (16, [])
    (damage,) = verify(store, deep=True)[1]
    assert damage.unit is not None
    assert (damage.split, damage.view, damage.unit.start) == ("train", "clean", 4)


def test_sound_shards_of_another_store_are_found(world, store: Path, tmp_path: Path) -> None:
    """Every record has its own checksum, every value is another's."""
    native = world.load_priors()
    native.landmark_input = "native"
    build(world.load_manifest(), tmp_path / "other", native, ["clean"], device=CPU, rows_per_unit=ROWS)
    name = "valid/clean/landmarks/c.1.0.0"
    shutil.copy(tmp_path / "other" / name, store / name)
    for deep in (False, True):
        (damage,) = verify(store, deep)[1]
        assert damage.what.startswith("landmarks: ")
        assert damage.what.endswith("(wrong checksum)")


def test_repair_computes_the_damaged_units_and_restores_the_bytes(world, sound: Path, store: Path) -> None:
    flip(store / "train/clean/segmentation_features/c.3.0.0.0", 1000)
    (store / "train/hflip/landmarks/c.0.0.0").unlink()
    (store / "valid/clean/image/c.1.0.0.0").write_bytes(b"")
    damage = verify(store, deep=True)[1]
    assert repair(store, damage, world.load_manifest(), world.segmenter, world.landmarks, CPU) == 2 + 4 + 2
    assert digests(store) == digests(sound)


@pytest.mark.parametrize("record", ["unit_sha256/c.0.0.0", "image_sha256/c.0.0", "image_sha256/zarr.json"])
def test_a_view_without_its_records_is_computed_again_whole(world, sound: Path, store: Path, record: str) -> None:
    (store / "valid/clean" / record).unlink()
    with pytest.raises(OrsanetError, match="orsanet-cache verify"):
        PriorStore.open(store).read("valid", "clean", "image", np.array([0]))
    damage = verify(store)[1]
    assert [(one.split, one.view, one.unit) for one in damage] == [("valid", "clean", None)]
    assert repair(store, damage, world.load_manifest(), world.segmenter, world.landmarks, CPU) == 6
    assert digests(store) == digests(sound)


def test_repair_refuses_other_weights_and_leaves_the_store_alone(world, store: Path, tmp_path: Path) -> None:
    (store / "valid/clean/image/c.1.0.0.0").unlink()
    before, damage = digests(store), verify(store)[1]
    torch.manual_seed(5)
    safetensors.torch.save_file(MobileFaceNet().state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(OrsanetError, match=r"another recipe.*\n.*landmarks\.weights_sha256"):
        repair(store, damage, world.load_manifest(), world.segmenter, tmp_path / "other.safetensors", CPU)
    assert digests(store) == before


def test_an_unfinished_view_is_held_against_its_markers(world, tmp_path: Path) -> None:
    out, manifest = tmp_path / "store.zarr", world.load_manifest()
    summary = build(
        manifest,
        out,
        world.priors,
        ["clean"],
        device=CPU,
        splits=["train"],
        part=Share(1, 2),
        rows_per_unit=ROWS,
    )
    assert summary.waiting == 2
    assert progress(out, "train", "clean") == (2, 4)
    assert verify(out, deep=True) == (2, [])
    flip(out / "train/clean/image/c.2.0.0.0", 5)
    (damage,) = verify(out, deep=True)[1]
    assert damage.unit is not None
    assert damage.unit.index == 2


def test_the_command_names_repairs_and_explains(world, sound: Path, store: Path) -> None:
    def verify_command(*arguments: object) -> Ended:
        return in_process(main, "verify", store, *arguments)

    result = verify_command()
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "no damage found")
    (store / "train/clean/landmarks/c.2.0.0").unlink()
    result = verify_command("--sample", "1/1")
    assert result.returncode == 1
    assert "1 unit(s) are damaged" in result.stderr
    assert "train/clean, rows 8 to 11: landmarks: " in result.stderr
    assert "--repair" in result.stderr
    assert "pass --manifest too" in verify_command("--repair").stderr
    result = verify_command("--deep", "--repair", "--manifest", world.manifest)
    assert result.returncode == 0, result.stderr
    assert "computed 4 views again" in result.stdout
    assert digests(store) == digests(sound)


@pytest.mark.parametrize("view", ["clean", "hflip"])
def test_repair_refuses_a_changed_image_and_leaves_the_view_sealed(
    world, store: Path, tmp_path: Path, view: str
) -> None:
    shutil.copytree(world.folder / "images", tmp_path / "images")
    for name in ("samples.csv", "dataset.toml"):
        shutil.copy(world.folder / name, tmp_path / name)
    shutil.copy(tmp_path / "images" / "train_1.png", tmp_path / "images" / "train_0.png")
    (store / "train" / view / "image" / "c.0.0.0.0").unlink()
    before, damage = digests(store), verify(store)[1]
    manifest = load_manifest(tmp_path / "dataset.toml")
    with pytest.raises(
        OrsanetError, match=r"differ from those that the store was built from.*\n.*train_0\.png': changed"
    ):
        repair(store, damage, manifest, world.segmenter, world.landmarks, CPU)
    assert digests(store) == before


@pytest.mark.parametrize("group", ["train", "train/clean"])
def test_a_view_that_no_reader_sees_any_more_is_damage(store: Path, group: str) -> None:
    (store / group / "zarr.json").unlink()
    damage = verify(store)[1]
    assert ("train", "clean", None) in [(one.split, one.view, one.unit) for one in damage]
    assert "zarr.json is missing" in str(damage[0])


def test_exchanged_shards_of_an_unfinished_view_are_found(world, tmp_path: Path) -> None:
    out = tmp_path / "store.zarr"
    build(
        world.load_manifest(), out, world.priors, ["clean"],
        device=CPU, splits=["train"], part=Share(1, 2), rows_per_unit=ROWS,
    )  # fmt: skip
    shutil.copy(out / "train/clean/landmarks/c.2.0.0", out / "train/clean/landmarks/c.0.0.0")
    (damage,) = verify(out)[1]
    assert str(damage).endswith("row 0 is damaged (wrong checksum)")
    with pytest.raises(OrsanetError, match="is not finished; run the same `orsanet-cache build` again"):
        repair(out, [damage], world.load_manifest(), world.segmenter, world.landmarks, CPU)


def test_exchanged_views_are_named_and_put_right(world, sound: Path, store: Path) -> None:
    for source, target in (("clean", "aside"), ("hflip", "clean"), ("aside", "hflip")):
        (store / "test" / source).rename(store / "test" / target)
    damage = verify(store)[1]
    assert [(one.split, one.view, one.unit) for one in damage] == [("test", "clean", None), ("test", "hflip", None)]
    assert "it is recorded as test/hflip" in str(damage[0])
    assert repair(store, damage, world.load_manifest(), world.segmenter, world.landmarks, CPU) == 2 * 6
    assert digests(store) == digests(sound)


def test_what_is_not_finished_is_named_with_how_to_finish_it(world, store: Path) -> None:
    assert unfinished(store) == []
    build(
        world.load_manifest(), store, world.load_priors(), ["erase-10"],
        device=CPU, splits=["train"], part=Share(1, 2),
    )  # fmt: skip
    ended = in_process(main, "verify", store)
    assert ended.returncode == 1
    assert "no damage found" not in ended.stdout
    assert "not finished; run the same `orsanet-cache build` again" in ended.stderr
    assert "  train/erase-10: 2 of 4 units of 4 images" in ended.stderr.splitlines()
    assert "clean" not in ended.stderr
    (store / "train/erase-10/zarr.json").unlink()  # as a kill leaves a view that has just been begun
    assert unfinished(store) == ["train/erase-10: no unit"]
    (store / "test/clean/landmarks/c.0.0.0").unlink()
    ended = in_process(main, "verify", store)
    assert ended.returncode == 1
    assert "1 unit(s) are damaged" in ended.stderr
    assert "  train/erase-10: no unit" in ended.stderr.splitlines()


def test_a_store_without_a_finished_view_is_not_finished(world, tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path / "store.zarr", {}, FIELDS) as writer:
        assert unfinished(writer.path) == ["no split"]
        writer.add_split("train", ["a.png"])
        assert unfinished(writer.path) == ["train: no view"]
        writer.add_view("train", "clean")
        assert unfinished(writer.path) == ["train/clean: 0 of 1 units of 256 images"]
        assert in_process(main, "verify", writer.path, "--deep").returncode == 1


def test_an_hdf5_file_whose_view_has_no_seal_is_not_finished(sound: Path, tmp_path: Path) -> None:
    path = convert(sound, tmp_path / "store.h5").path
    assert in_process(main, "verify", path).returncode == 0
    with h5py.File(path, "r+") as file:
        del file["valid/clean"].attrs["seal"]
    ended = in_process(main, "verify", path)
    assert ended.returncode == 1
    assert "an HDF5 file cannot be finished; convert the finished Zarr store again" in ended.stderr
    assert "  valid/clean: 0 of 2 units of 4 images" in ended.stderr.splitlines()
