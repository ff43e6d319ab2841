"""The set of variants that measures what caching costs: each arm sees what its name promises, and all go on after a stop."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ablation_tables import table_cells
from command_lines import in_process

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.builder.build import build
from orsanet_train.cli import main
from orsanet_train.config import load_config
from orsanet_train.evaluation.predictions import Evaluation
from orsanet_train.experiments.ablate import ablate
from orsanet_train.experiments.table import collect, summary
from orsanet_train.experiments.variants import CACHING, chosen_variants, reference_of, set_of

pytestmark = pytest.mark.usefixtures("without_matplotlib")
CPU = torch.device("cpu")
SMALL = (
    "batch_size=7", "epochs=1", "loss.warmup_epochs=0", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]",
    "model.backbone_units=[1,1,1]",
)  # fmt: skip
GROUPS = ["test", "test:occluded", "test@mask"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all views that the arms need. Treat it as read-only."""
    out = tmp_path_factory.mktemp("caching") / "store.zarr"
    manifest, priors = world.load_manifest(), world.load_priors()
    views = {
        "train": ["clean", "hflip", "augmented-4", "mask", "sunglasses"],
        "valid": ["clean"],
        "test": ["clean", "mask"],
    }
    for split, of_split in views.items():
        build(manifest, out, priors, of_split, splits=[split], device=CPU)
    return out


def run_all(
    world: Any, store: Path, out: Path, variants: Sequence[str], frozen_weights: tuple[Path | None, Path | None] = (None, None)
) -> list[str]:  # fmt: skip
    return list(
        ablate(
            world.load_manifest(), store, out,
            preset="small", overrides=SMALL, variants=variants, seeds=[0], groups=GROUPS, device=CPU, frozen_weights=frozen_weights,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(world: Any, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One seed of every arm, by the command. Treat it as read-only."""
    folder = tmp_path_factory.mktemp("arms") / "out"
    settings = [part for key in SMALL for part in ("--set", key)]
    data = ["--store", store, "--manifest", world.manifest, "--preset", "small", "--device", "cpu", "--seeds", "0"]
    networks = ["--segmenter", world.segmenter, "--landmarks", world.landmarks]
    ran = in_process(
        main, "ablate", *data, *settings, *networks, "--variants", "caching", "--splits", ",".join(GROUPS), "--out", folder
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert (folder / "ablation.md").read_text() in ran.stdout
    return folder


def test_one_command_trains_every_arm_and_the_table_has_them_all(out: Path) -> None:
    cells = table_cells((out / "ablation.md").read_text())
    assert cells[0] == ["variant", "seeds", *(cell for group in GROUPS for cell in (group, "− cached-clean"))]
    assert [row[0] for row in cells[1:]] == [*CACHING]
    assert all(cell for row in cells[2:] for cell in row)
    assert all(float(row[1]) > 0 for row in table_cells((out / "ablation.md").read_text(), 1)[1:])


@pytest.mark.parametrize(
    ("arm", "changes"),
    [
        ("cached-clean", {}),
        ("cached-augmented-4", {"augmentation.views": "augmented-4"}),
        ("online-erased", {"priors": "online", "online": "erased"}),
        ("online-published", {"priors": "online", "online": "published"}),
        ("no-erasing", {"augmentation.erasing": "0.0"}),
        ("cached-occluded", {"augmentation.views": "clean,mask,sunglasses"}),
    ],
)
def test_an_arm_changes_what_its_name_says_and_nothing_else(out: Path, arm: str, changes: dict[str, str]) -> None:
    config = load_config(str(out / arm / "seed-0" / "config.toml"))
    assert config == load_config("small", (*SMALL, "seed=0", *(f"{key}={value}" for key, value in changes.items())))


def test_the_published_arm_is_evaluated_with_the_landmark_network_that_it_changed(store: Path, out: Path) -> None:
    run = out / "online-published" / "seed-0"
    evaluation = Evaluation.read(run / "evaluation-last")
    own, given = PriorStore.open(run / "store.zarr"), PriorStore.open(store)
    assert evaluation.store == str((run / "store.zarr").absolute())
    assert evaluation.checkpoint.store_recipe == own.recipe
    assert own.recipe["landmarks"]["weights_sha256"] != given.recipe["landmarks"]["weights_sha256"]
    assert {**own.recipe, "landmarks": None} == {**given.recipe, "landmarks": None}
    assert (own.splits, own.views("test")) == (("test",), ("clean", "mask"))
    others = [arm for arm in CACHING if arm != "online-published"]
    assert {Evaluation.read(out / arm / "seed-0" / "evaluation-last").store for arm in others} == {str(store)}


def test_a_second_call_trains_and_builds_nothing(world: Any, store: Path, out: Path) -> None:
    def files() -> dict[Path, int]:
        kept = (*out.rglob("*.safetensors"), *out.rglob("metrics.csv"), *out.rglob("c.*"))
        return {path: path.stat().st_mtime_ns for path in kept}

    before, table = files(), summary(collect(out))
    run_all(world, store, out, ["caching"], (world.segmenter, world.landmarks))
    assert files() == before
    assert summary(collect(out)) == table


def test_online_arms_without_their_networks_are_refused_before_anything_is_trained(
    world: Any, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(OrsanetError, match="needs the frozen networks: pass --segmenter and --landmarks"):
        run_all(world, store, tmp_path / "out", ["cached-clean", "online-erased"])
    assert not (tmp_path / "out").exists()


def test_an_arm_without_its_views_is_refused_before_anything_is_trained(world: Any, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match=r"lacks the views augmented, .*add them with `orsanet-cache build"):
        list(
            ablate(
                world.load_manifest(), world.store, tmp_path / "out",
                preset="small", overrides=SMALL, variants=["cached-clean", "cached-augmented-4"], groups=["test"], device=CPU,
            )
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_two_sets_are_not_mixed(world: Any, store: Path, tmp_path: Path) -> None:
    opened = PriorStore.open(store)
    with pytest.raises(OrsanetError, match="variants full and cached-clean are of two sets"):
        chosen_variants(["full", "cached-clean"], load_config("small").model, opened, None)
    begun = tmp_path / "cached-augmented-4" / "seed-0"
    begun.mkdir(parents=True)
    (begun / "run.json").write_text("{}")
    with pytest.raises(OrsanetError, match=r"cached-augmented-4/seed-0: .* no variant has this name \(set 'parts'\)"):
        run_all(world, store, tmp_path, ["full"])
    assert chosen_variants(["caching", "no-erasing"], load_config("small").model, opened, None) == [*CACHING]
    assert [set_of("native-landmarks"), set_of("no-erasing")] == ["parts", "caching"]
    assert reference_of(["no-erasing", "online-erased"]) == "cached-clean"


def test_settings_of_the_other_set_may_be_set(world: Any, tmp_path: Path) -> None:
    """An ablation of the parts may be one without erasing; one of caching may be one without a part."""
    for variant, setting in (("full", "augmentation.erasing=0.0"), ("cached-clean", "loss.dare=none")):
        steps = ablate(
            world.load_manifest(), world.store, tmp_path / variant,
            preset="small", overrides=(*SMALL, setting), variants=[variant], groups=["test"], device=CPU,
        )  # fmt: skip
        assert next(steps) == f"{variant}, seed 0"
