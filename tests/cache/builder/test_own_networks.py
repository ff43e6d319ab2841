"""A network of one's own: its fields are stored, checked, copied, grown, fed and refused as those of the frozen networks are."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_store import CPU, content, save_picture
from torch import Tensor, nn

from orsanet_cache import Field, FrozenPriors, Manifest, OrsanetError, PriorNetwork, PriorStore, Sample
from orsanet_cache.builder.build import BuildSummary, build
from orsanet_cache.builder.repair import repair
from orsanet_cache.data.images import read_image, view_pixels
from orsanet_cache.frozen.added import installed_network
from orsanet_cache.store.units import Share
from orsanet_cache.store.verify import unfinished, verify
from orsanet_cache.writing.convert import convert
from orsanet_train import PriorDataset, load_config, prior_feed

FIELDS = (Field("colours_grid", (3, 4, 4), "float16"), Field("colours_mean", (3,), "float32"))


@dataclass
class Colours:
    """Mean colours of a picture and of its parts."""

    name: str = "colours"
    fields: tuple[Field, ...] = FIELDS
    size: int = 224
    scale: float = 1.0
    given: list[tuple[int, ...]] = field(default_factory=list)

    def recipe(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        self.given.append(tuple(images.shape))
        grid = nn.functional.adaptive_avg_pool2d(images.movedim(-1, 1).float() * self.scale, 4)
        return {"colours_grid": grid, "colours_mean": grid.mean((2, 3)), "left_out": grid}


INSTALLED = """
from torch.nn.functional import adaptive_avg_pool2d
from orsanet_cache import Field


class network:
    name = "colours"
    fields = [Field("colours_grid", (3, 4, 4), "float16"), Field("colours_mean", (3,), "float32")]

    def recipe(self):
        return {"scale": 1.0}

    def __call__(self, images):
        grid = adaptive_avg_pool2d(images.movedim(-1, 1).float(), 4)
        return {"colours_grid": grid, "colours_mean": grid.mean((2, 3))}
"""


@dataclass(frozen=True)
class Faces:
    root: Path
    priors: FrozenPriors

    def manifest(self, names: str) -> Manifest:
        return Manifest("faces", ("a", "b"), self.root, tuple(_sample(name) for name in names))

    def build(self, names: str, out: Path, **options: Any) -> BuildSummary:
        return build(self.manifest(names), out, self.priors, ["clean", "hflip"], device=CPU, rows_per_unit=4, **options)


def _sample(name: str) -> Sample:
    return Sample(f"{name}.png", "abcdefgh".index(name) % 2, "train", frozenset())


@pytest.fixture(scope="module")
def faces(priors: FrozenPriors, tmp_path_factory: pytest.TempPathFactory) -> Faces:
    folder = tmp_path_factory.mktemp("own")
    for number, name in enumerate("abcdefgh"):
        save_picture(folder / f"{name}.png", number)
    return Faces(folder, priors)


@pytest.fixture(scope="module")
def plain(faces: Faces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "faces.zarr"
    faces.build("abcdef", out)
    return out


@pytest.fixture
def old(plain: Path, tmp_path: Path) -> Path:
    out = tmp_path / "faces.zarr"
    shutil.copytree(plain, out)
    return out


def test_its_fields_are_those_of_every_view_and_nothing_else_changes(faces: Faces, old: Path) -> None:
    before, network = content(old), Colours()
    assert isinstance(network, PriorNetwork)
    summary = faces.build("abcdef", old, networks=[network])
    assert (summary.computed, summary.added) == (0, 12)
    assert {*network.given} == {(4, 224, 224, 3)}
    now = content(old)
    assert all(now[name] == data for name, data in before.items())
    store = PriorStore.open(old)
    for view in ("clean", "hflip"):
        pixels = np.stack(
            [view_pixels(read_image(faces.root / image).rgb, view) for image in store.sample_ids("train")]
        )
        expected = network(torch.from_numpy(pixels))
        for one in FIELDS:
            stored = store.read("train", view, one.name, slice(None))
            assert (stored.shape[1:], str(stored.dtype)) == (one.shape, one.dtype)
            torch.testing.assert_close(torch.from_numpy(stored).float(), expected[one.name], rtol=1e-3, atol=1e-3)
    assert verify(old, deep=True)[1] == []
    convert(old, old.with_suffix(".h5"))
    convert(old.with_suffix(".h5"), old.with_name("back.zarr"))
    assert content(old.with_name("back.zarr")) == now


def test_from_the_stored_images_no_picture_is_read_and_parts_end_in_the_same_store(
    faces: Faces, old: Path, tmp_path: Path
) -> None:
    nowhere = Faces(tmp_path / "nowhere", faces.priors)
    shutil.copytree(old, tmp_path / "other.zarr")
    network = Colours(size=112)
    assert nowhere.build("abcdef", old, networks=[network], part=Share(2, 2)).waiting == 1
    assert unfinished(old) == [f"train/{view}.colours: 1 of 2 units of 4 images" for view in ("clean", "hflip")]
    nowhere.build("abcdef", old, networks=[network], part=Share(1, 2))
    nowhere.build("abcdef", tmp_path / "other.zarr", networks=[network])
    assert content(old) == content(tmp_path / "other.zarr")
    assert {*network.given} == {(4, 112, 112, 3)}


def test_training_is_fed_with_them_from_both_feeds(faces: Faces, old: Path) -> None:
    faces.build("abcdef", old, networks=[Colours()])
    manifest, store = faces.manifest("abcdef"), PriorStore.open(old)
    data = PriorDataset(store, manifest, "train", fields=["colours_mean", "colours_grid"])
    item = data[2]
    assert item.keys() == {"colours_mean", "colours_grid", "label"}
    assert item["colours_grid"].dtype == torch.float32  # float16 in the store
    assert {"colours_mean", "image"} <= PriorDataset(store, manifest, "train")[0].keys()
    config = load_config("small", ["batch_size=3"])
    read: set[str] = set()
    for resident in ("stream", "host"):
        feed = prior_feed(
            store, manifest, "train", config, fields=["colours_grid", "landmarks"], device=CPU, resident=resident
        )  # type: ignore[arg-type]
        (batch, _) = feed.in_order(3)
        assert torch.equal(batch.inputs[0][2], item["colours_grid"])
        assert len(list(feed.epoch(config, 0))) == 2
        read |= feed._fields.keys()
    assert read == {"colours_grid", "landmarks"}
    with pytest.raises(
        OrsanetError, match=r"no colours_grad, which the feed reads; it has .*did you mean 'colours_grid'"
    ):
        prior_feed(store, manifest, "train", config, fields=["colours_grad"], device=CPU)


def test_a_picture_without_finite_values_is_left_out_by_its_readers_alone(faces: Faces, old: Path) -> None:
    pixels = view_pixels(read_image(faces.root / "b.png").rgb, "clean")

    class Failing(Colours):
        def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
            found = super().__call__(images)
            same = (images == torch.from_numpy(pixels)).flatten(1).all(1)
            return {**found, "colours_mean": found["colours_mean"].where(~same[:, None], torch.nan)}

    summary = faces.build("abcdef", old, networks=[Failing()])
    assert [*summary.rejected["train"]] == ["b.png"]
    store, manifest = PriorStore.open(old), faces.manifest("abcdef")
    assert store.rejected("train", "clean") == {}
    assert [*store.rejected("train", "clean", ["colours_grid"])] == ["b.png"]
    assert len(PriorDataset(store, manifest, "train", fields=["landmarks"])) == 6
    data = PriorDataset(store, manifest, "train", fields=["colours_mean"])
    assert (len(data), "colours_mean is not finite" in data.rejected["b.png"]) == (5, True)


def test_another_recipe_is_refused_with_the_differences(faces: Faces, old: Path) -> None:
    faces.build("abcdef", old, networks=[Colours()])
    with pytest.raises(
        OrsanetError,
        match=r"another network 'colours'; give this one another name(.|\n)*recipe.scale: 1.0 before, 2.0 now",
    ):
        faces.build("abcdef", old, networks=[Colours(scale=2.0)])
    with pytest.raises(
        OrsanetError, match=r"has the field 'colours_grid' of the network 'colours'; rename the field of 'mine'"
    ):
        faces.build("abcdef", old, networks=[Colours(name="mine")])


def test_new_rows_and_repairs_need_the_network_which_an_installed_package_offers(
    faces: Faces, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces.build("abcdef", old, networks=[Colours()])
    assert faces.build("abcdef", old).added == 0  # nothing lacks
    sealed = content(old)
    with pytest.raises(
        OrsanetError, match=r"train\.2/clean\.colours has fields of the network 'colours', which is needed"
    ):
        faces.build("abcdefgh", old)
    assert PriorStore.open(old).sample_ids("train")[-1] == "f.png"
    (shard,) = (old / "train" / "hflip.colours" / "colours_mean").glob("c.1.*")
    with pytest.raises(OrsanetError, match=r"no installed package offers the network 'colours'.*: none\)"):
        installed_network("colours")

    package = tmp_path / "site" / "mine-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[orsanet_cache.networks]\ncolours = mine_colours:network\nbroken = mine_colours:none\n"
    )
    (package.parent / "mine_colours.py").write_text(INSTALLED)
    monkeypatch.syspath_prepend(package.parent)
    with pytest.raises(OrsanetError, match=r"network 'broken' \(mine_colours:none\) cannot be loaded: "):
        installed_network("broken")
    assert faces.build("abcdefgh", old).added == 4
    assert PriorStore.open(old).read("train", "hflip", "colours_mean", [7]).shape == (1, 3)
    data = shard.read_bytes()
    shard.write_bytes(b"\0" * len(data))
    assert repair(old, verify(old)[1], faces.manifest("abcdefgh"), *_files(faces), device=CPU) == 2
    assert shard.read_bytes() == data
    assert all(content(old)[name] == before for name, before in sealed.items() if name != "zarr.json")


def _files(faces: Faces) -> tuple[Path, Path]:
    return Path(faces.priors.files["segmenter_file"]), Path(faces.priors.files["landmarks_file"])


class _Lacking:
    name = "lacking"


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        ([_Lacking()], "is no network: it needs the attributes name, fields and recipe"),
        ([Colours], "is no network"),
        ([Colours(name="Mine.net")], "cannot be named 'Mine.net'"),
        ([Colours(name="landmark_features_28")], "cannot be named 'landmark_features_28'"),
        ([Colours(size=64)], "size is 64; pictures have 112 or 224"),
        ([Colours(fields=())], "fields must be a list of orsanet_cache.Field, at least one"),
        ([Colours(fields=(Field("landmarks", (3,), "float32"),))], "a field cannot be named 'landmarks'"),
        ([Colours(fields=(Field("colours_mean", (3,), "float64"),))], "has the type float64; choose from uint8"),
        ([Colours(fields=(Field("colours_mean", (0,), "float32"),))], r"has the shape \(0,\); sizes are whole numbers"),
        ([Colours(fields=FIELDS[:1] * 2)], "two fields are named 'colours_grid'"),
        ([Colours(), Colours()], "two networks are named 'colours'"),
        ([Colours(), Colours(name="mine")], "'colours_grid' is a field of the networks 'colours' and 'mine'"),
        ([Colours(scale={1})], "its recipe must be a dictionary of plain JSON"),  # type: ignore[arg-type]
        ([Colours(fields=(Field("hue", (3,), "float32"),))], "network 'colours' returned no 'hue'"),
        ([Colours(fields=(Field("colours_mean", (4,), "float32"),))], r"of the shape \(4, 3\); its fields say \(4, 4\)"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_refused_by_name(
    faces: Faces, plain: Path, tmp_path: Path, networks: Any, said: str
) -> None:
    shutil.copytree(plain, tmp_path / "faces.zarr")
    with pytest.raises(OrsanetError, match=said):
        faces.build("abcdef", tmp_path / "faces.zarr", networks=networks)
