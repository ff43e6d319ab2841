"""Ablations train what is missing and nothing else, change one thing at a time, and report the spread honestly."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pandas as pd
import pytest
import torch
from ablation_tables import table_cells
from command_lines import Ended, in_process

from orsanet_cache import FrozenPriors, OrsanetError, PriorStore, load_manifest
from orsanet_cache.builder.build import build
from orsanet_cache.durable import read_json
from orsanet_cache.outputs import held
from orsanet_train.cli import main
from orsanet_train.config import load_config
from orsanet_train.evaluation.predictions import Evaluation
from orsanet_train.experiments.ablate import ablate
from orsanet_train.experiments.table import collect, summary, write_summary
from orsanet_train.experiments.variants import CACHING, PARTS, chosen_variants, fits
from orsanet_train.run.train import train

pytestmark = pytest.mark.usefixtures("without_matplotlib")
CPU = torch.device("cpu")
SMALL = (
    "batch_size=6", "loss.warmup_epochs=0", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]",
    "model.backbone_units=[1,1,1]",
)  # fmt: skip
GROUPS = ["test", "test:occluded"]
RUNS = [(variant, seed) for seed in (0, 1) for variant in ("full", "no-dare")]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_all(
    world,
    out: Path,
    variants: Sequence[str] | None = ("full", "no-dare"),
    seeds: Sequence[int] = (0, 1),
    overrides: Sequence[str] = ("epochs=1",),
    groups: Sequence[str] = GROUPS,
    store: Path | None = None,
    landmark_store: Path | None = None,
) -> list[str]:
    return list(
        ablate(
            world.load_manifest(), PriorStore.open(store or world.store), out,
            preset="small", overrides=(*SMALL, *overrides), variants=variants, seeds=seeds, groups=groups, device=CPU,
            landmark_store=None if landmark_store is None else PriorStore.open(landmark_store),
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def ablated(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants with two seeds. Treat it as read-only."""
    out = tmp_path_factory.mktemp("ablate") / "out"
    said = run_all(world, out)
    assert said == ["full, seed 0", "no-dare, seed 0", "full, seed 1", "no-dare, seed 1"]
    return out


@pytest.fixture
def copy(ablated: Path, tmp_path: Path) -> Path:
    shutil.copytree(ablated, tmp_path / "out")
    return tmp_path / "out"


def trained_files(out: Path) -> dict[Path, tuple[bytes, int]]:
    """What training writes, in every run folder: its bytes and when they were written."""
    names = ("metrics.csv", "checkpoints/*/*", "last.safetensors", "best.safetensors")
    paths = [path for name in names for path in sorted(out.glob(f"*/*/{name}"))]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


# --- runs ---


@pytest.mark.parametrize(("variant", "seed"), RUNS)
def test_every_run_has_its_folder_with_its_configuration(ablated: Path, variant: str, seed: int) -> None:
    run = ablated / variant / f"seed-{seed}"
    config = load_config(str(run / "config.toml"))
    full = load_config("small", (*SMALL, "epochs=1", f"seed={seed}"))
    if variant == "no-dare":
        assert config != full
        full = full.model_copy(update={"loss": full.loss.model_copy(update={"dare": "none"})})
    assert config == full
    assert len(pd.read_csv(run / "metrics.csv")) == 1
    evaluation = Evaluation.read(run / "evaluation-last")
    assert evaluation.protocol == "last checkpoint (epoch 1), not chosen by any result"
    assert evaluation.weights == "last.safetensors"


def test_seeds_and_variants_train_other_weights(ablated: Path) -> None:
    assert len({path.read_bytes() for path in ablated.glob("*/*/last.safetensors")}) == 4


def test_a_run_of_an_ablation_is_the_run_of_that_configuration_alone(world, ablated: Path, tmp_path: Path) -> None:
    config = load_config("small", (*SMALL, "epochs=1", "loss.dare=none", "seed=1"))
    train(config, world.load_manifest(), world.open_store(), tmp_path / "alone", device=CPU)
    alone, ours = (pd.read_csv(run / "metrics.csv") for run in (tmp_path / "alone", ablated / "no-dare" / "seed-1"))
    clock = ["images_per_second", "waiting_share"]  # columns that no two runs share
    pd.testing.assert_frame_equal(alone.drop(columns=clock), ours.drop(columns=clock), check_exact=True)


def test_collecting_gives_the_numbers_of_every_evaluation(ablated: Path) -> None:
    runs = collect(ablated)
    assert list(zip(runs["variant"], runs["seed"], runs["group"], strict=True)) == [
        (variant, seed, group) for variant in ("full", "no-dare") for seed in (0, 1) for group in GROUPS
    ]
    for row in runs.itertuples():
        group = Evaluation.read(ablated / row.variant / f"seed-{row.seed}" / "evaluation-last").group(row.group)
        assert group is not None
        assert (row.images, row.accuracy, row.balanced_accuracy) == (
            group.images, group.accuracy.value, group.balanced_accuracy.value
        )  # fmt: skip


def test_an_unfinished_run_is_left_out_of_the_table(copy: Path) -> None:
    (copy / "no-dare" / "seed-1" / "evaluation-last" / "evaluation.json").unlink()
    assert [row[:2] for row in table_cells(summary(collect(copy)))[1:]] == [["full", "2"], ["no-dare", "1"]]


def test_the_written_files_hold_the_runs_and_the_table(copy: Path) -> None:
    table = write_summary(copy)
    assert (copy / "ablation.md").read_text() == table == summary(collect(copy))
    assert (copy / "ablation.csv").read_text() == collect(copy).to_csv(
        index=False
    )  # pandas before 3.1 misses last bits in reading


# --- called again ---


def test_a_second_call_trains_nothing(world, copy: Path) -> None:
    before, table = trained_files(copy), write_summary(copy)
    assert len(before) == 20  # four runs of five files: a run of one epoch has one state, of two files
    assert len(run_all(world, copy)) == 4
    assert trained_files(copy) == before
    assert write_summary(copy) == table


def test_a_further_variant_or_seed_trains_only_that(world, copy: Path) -> None:
    before = trained_files(copy)
    run_all(world, copy, ["full", "map"], [0], groups=["test"])
    run_all(world, copy, ["full"], [0, 2], groups=["test"])
    after = trained_files(copy)
    assert {path: after[path] for path in before} == before
    new = {"/".join(path.relative_to(copy).parts[:2]) for path in after.keys() - before.keys()}
    assert new == {"map/seed-0", "full/seed-2"}


@pytest.fixture(scope="module")
def longer(world, ablated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `full` with seed 0, called again with one epoch more."""
    out = tmp_path_factory.mktemp("longer")
    shutil.copytree(ablated / "full" / "seed-0", out / "full" / "seed-0")
    run_all(world, out, ["full"], [0], ["epochs=2"])
    return out


def test_more_epochs_go_on_from_those_that_are_done(ablated: Path, longer: Path) -> None:
    before, after = (pd.read_csv(out / "full" / "seed-0" / "metrics.csv") for out in (ablated, longer))
    assert after["epoch"].tolist() == [1, 2]
    pd.testing.assert_frame_equal(after[:1], before, check_exact=True)
    assert Evaluation.read(longer / "full" / "seed-0" / "evaluation-last").checkpoint.epoch == 2


def test_fewer_epochs_than_are_done_are_refused_and_the_run_stays_what_it_was(world, longer: Path) -> None:
    before = {path: path.read_bytes() for path in longer.rglob("*") if path.is_file()}
    with pytest.raises(OrsanetError, match=r"full/seed-0: already trained for 2 epochs, not 1; set epochs to at"):
        run_all(world, longer, ["full"], [0], ["epochs=1"])
    assert {path: path.read_bytes() for path in longer.rglob("*") if path.is_file()} == before


def test_another_setting_in_the_same_folder_is_refused(world, copy: Path) -> None:
    before = trained_files(copy)
    with pytest.raises(OrsanetError, match=r"full/seed-0: trained with other settings or data.*\n.*learning_rate"):
        run_all(world, copy, ["map"], overrides=["epochs=1", "learning_rate=1e-2"])
    assert trained_files(copy) == before


def test_other_images_in_the_same_folder_are_refused(world, copy: Path, tmp_path: Path) -> None:
    before = trained_files(copy)
    table = (
        world.manifest.with_name("samples.csv")
        .read_text()
        .replace("images/train_3.png,anger", "images/train_3.png,neutral")
    )
    assert table != world.manifest.with_name("samples.csv").read_text()
    (tmp_path / "samples.csv").write_text(table)
    shutil.copy(world.manifest, tmp_path)
    relabelled = load_manifest(tmp_path / "dataset.toml", check_files=False)
    with pytest.raises(OrsanetError, match=r"trained with other settings or data.*\n.*training_images_sha256"):
        list(
            ablate(
                relabelled, world.open_store(), copy,
                preset="small", overrides=(*SMALL, "epochs=1"), variants=["map"], seeds=[0], groups=GROUPS, device=CPU,
            )
        )  # fmt: skip
    assert trained_files(copy) == before


@pytest.mark.parametrize("override", ["loss.dare=none", "seed=7", "model.tokens=spatial"])
def test_what_the_variants_decide_cannot_be_set(world, tmp_path: Path, override: str) -> None:
    with pytest.raises(OrsanetError, match=f"--set {override.split('=')[0]}: the variants and --seeds set these keys"):
        run_all(world, tmp_path / "out", overrides=["epochs=1", override])
    assert not (tmp_path / "out").exists()


def test_a_folder_of_an_unknown_variant_is_refused(world, copy: Path) -> None:
    (copy / "no-dare").rename(copy / "no-dares")
    with pytest.raises(OrsanetError, match=r"no-dares/seed-0: with .*store\.zarr no variant has this name"):
        run_all(world, copy)


def test_a_kill_before_the_first_epoch_does_not_keep_a_run_from_starting(world, ablated: Path, tmp_path: Path) -> None:
    """The configuration is the first file of a run, and the only one for a moment."""
    run = tmp_path / "full" / "seed-0"
    run.mkdir(parents=True)
    shutil.copy(ablated / "full" / "seed-0" / "config.toml", run)
    run_all(world, tmp_path, ["full"], [0])
    assert len(collect(tmp_path)) == len(GROUPS)


def test_the_help_names_every_variant() -> None:
    (option,) = [each for each in main.commands["ablate"].params if each.name == "variants"]
    assert isinstance(option, click.Option)
    assert f" parts: {', '.join(PARTS)}. caching: {', '.join(CACHING)}. " in str(option.help)


def test_an_unknown_variant_is_named_before_anything_is_trained(world, tmp_path: Path) -> None:
    with pytest.raises(
        OrsanetError,
        match=r"no variant fulll, dare with .*store\.zarr and model\.kind = \"orsanet\"; choose from full, no-segmentation, .*; did you mean 'full'\?",
    ):
        run_all(world, tmp_path / "out", ["full", "fulll", "dare"])
    assert not (tmp_path / "out").exists()


def test_an_unknown_group_is_named_before_anything_is_trained(world, tmp_path: Path) -> None:
    """Training takes hours: a slip in --splits must not wait for it."""
    with pytest.raises(OrsanetError, match="no split 'tset'"):
        run_all(world, tmp_path / "out", ["full"], [0], groups=["test", "tset"])
    assert not list(tmp_path.rglob("metrics.csv"))


@pytest.mark.parametrize("kind", ["orsanet", "poster", "poster-v2"])
@pytest.mark.parametrize("variants", [PARTS, CACHING], ids=["parts", "caching"])
def test_every_variant_of_a_kind_is_a_valid_configuration_of_its_own_and_the_first_changes_nothing(
    variants: dict[str, tuple[str, ...]], kind: str
) -> None:
    for preset in ("rafdb", "small"):
        chosen = f"model.kind={kind}"
        model = load_config(preset, [chosen]).model
        configs = [load_config(preset, [chosen, *changes]) for name, changes in variants.items() if fits(name, model)]
        assert all(one != other for number, one in enumerate(configs) for other in configs[:number])
    assert [name for name, settings in variants.items() if settings == ()] == [next(iter(variants))]
    own = {"orsanet": "no-mcm", "poster": "no-mixing", "poster-v2": "plain-residual"}
    assert {name for name in own.values() if fits(name, model)} == {own[kind]}


# --- what the landmark network is fed: a second store ---


@pytest.fixture(scope="module")
def native(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world's store with the other input of the landmark network. Treat it as read-only."""
    out = tmp_path_factory.mktemp("native") / "native.zarr"
    priors = FrozenPriors.load(world.segmenter, world.landmarks, "native")
    build(world.load_manifest(), out, priors, ["clean", "hflip"], device=CPU)
    return out


@pytest.fixture(scope="module")
def with_landmarks(world, native: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`full` and `native-landmarks` with seed 0. Treat it as read-only."""
    out = tmp_path_factory.mktemp("landmarks") / "out"
    said = run_all(world, out, ["full", "native-landmarks"], [0], landmark_store=native)
    assert said == ["full, seed 0", "native-landmarks, seed 0"]
    return out


def test_the_landmark_variant_is_full_trained_and_evaluated_on_the_second_store(
    world, native: Path, with_landmarks: Path, tmp_path: Path
) -> None:
    ours = with_landmarks / "native-landmarks" / "seed-0"
    assert load_config(str(ours / "config.toml")) == load_config(
        str(with_landmarks / "full" / "seed-0" / "config.toml")
    )
    assert read_json(ours / "run.json")["store"] == PriorStore.open(native).recipe
    config = load_config("small", (*SMALL, "epochs=1", "seed=0"))
    train(config, world.load_manifest(), PriorStore.open(native), tmp_path / "alone", device=CPU)
    assert (tmp_path / "alone" / "last.safetensors").read_bytes() == (ours / "last.safetensors").read_bytes()
    evaluation = Evaluation.read(ours / "evaluation-last")
    assert (evaluation.store, evaluation.checkpoint.store_recipe) == (str(native), PriorStore.open(native).recipe)


def test_the_landmark_variant_is_the_last_row_of_the_table(with_landmarks: Path) -> None:
    assert [row[0] for row in table_cells(summary(collect(with_landmarks)))[1:]] == ["full", "native-landmarks"]


@pytest.mark.parametrize("given", [False, True], ids=["without its store", "with it"])
def test_runs_of_the_landmark_variant_are_kept(
    world, native: Path, with_landmarks: Path, tmp_path: Path, given: bool
) -> None:
    """Also when other variants go on without its store: its runs are known by what that store's recipe must be."""
    out = shutil.copytree(with_landmarks, tmp_path / "out")
    before = trained_files(out)
    variants = ["full", "native-landmarks", "no-dare"] if given else ["full", "no-dare"]
    run_all(world, out, variants, [0], landmark_store=native if given else None)
    after = trained_files(out)
    assert {path: after[path] for path in before} == before
    assert [row[0] for row in table_cells(summary(collect(out)))[1:]] == ["full", "no-dare", "native-landmarks"]


def test_runs_of_the_landmark_variant_with_other_weights_are_refused(
    world, native: Path, with_landmarks: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(with_landmarks / "native-landmarks", out / "native-landmarks")
    path = out / "native-landmarks" / "seed-0" / "run.json"
    digest = PriorStore.open(native).recipe["landmarks"]["weights_sha256"]
    path.write_text(path.read_text().replace(digest, "0" * 64))
    with pytest.raises(OrsanetError, match=r"trained with other settings or data.*\n.*landmarks\.weights_sha256"):
        run_all(world, out, ["full"], [0])


def test_all_variants_are_those_that_there_is_a_store_for(world, native: Path) -> None:
    store, other = world.open_store(), PriorStore.open(native)
    model = load_config("small").model
    own = [name for name in PARTS if fits(name, model)]
    assert chosen_variants(None, model, store, None) == own
    assert chosen_variants(None, model, store, other) == [*own, "native-landmarks"]
    assert chosen_variants(None, model, other, store) == [*own, "published-landmarks"]


def test_beside_a_native_store_the_other_is_the_published(world, native: Path, tmp_path: Path) -> None:
    said = run_all(world, tmp_path / "out", ["published-landmarks"], [0], store=native, landmark_store=world.store)
    assert said == ["published-landmarks, seed 0"]
    recipe = read_json(tmp_path / "out" / "published-landmarks" / "seed-0" / "run.json")["store"]
    assert recipe == world.open_store().recipe
    with pytest.raises(
        OrsanetError,
        match=r"no variant native-landmarks with .*native\.zarr and model\.kind = \"orsanet\"; choose from full, ",
    ):
        run_all(world, tmp_path / "out", ["native-landmarks"], [0], store=native, landmark_store=world.store)


def test_without_its_store_the_landmark_variant_is_refused_with_the_command_that_makes_it(
    world, tmp_path: Path
) -> None:
    with pytest.raises(
        OrsanetError, match=r"native-landmarks needs a second store.*orsanet-cache build.*--landmark-input native"
    ):
        run_all(world, tmp_path / "out", ["full", "native-landmarks"], [0])
    assert not (tmp_path / "out").exists()


def test_the_same_input_is_no_second_store(world, tmp_path: Path) -> None:
    with pytest.raises(
        OrsanetError, match=r'landmarks\.input alone.*\n  landmarks\.input: "native" before, "published" now$'
    ):
        run_all(world, tmp_path / "out", ["full"], [0], landmark_store=world.store)


def test_a_second_store_that_differs_in_more_is_refused_by_name(world, tmp_path: Path) -> None:
    priors = FrozenPriors.load(world.segmenter, world.landmarks, "native")
    build(world.load_manifest(), tmp_path / "n.zarr", priors, ["clean", "hflip"], device=CPU, feature_dtype="float32")
    with pytest.raises(
        OrsanetError, match=r'n\.zarr: must differ.*\n  feature_dtype: "float16" before, "float32" now$'
    ):
        run_all(world, tmp_path / "out", ["full"], [0], landmark_store=tmp_path / "n.zarr")
    assert not (tmp_path / "out").exists()


def test_a_second_store_of_other_pictures_is_refused_by_name(world, tmp_path: Path) -> None:
    """The same names, one picture changed: a manifest cannot tell."""
    shutil.copytree(world.manifest.parent / "images", tmp_path / "images")
    for name in ("dataset.toml", "samples.csv"):
        shutil.copy(world.manifest.with_name(name), tmp_path)
    shutil.copy(tmp_path / "images" / "test_1.png", tmp_path / "images" / "test_4.png")
    priors = FrozenPriors.load(world.segmenter, world.landmarks, "native")
    changed = load_manifest(tmp_path / "dataset.toml")
    build(changed, tmp_path / "n.zarr", priors, ["clean", "hflip"], device=CPU)
    with pytest.raises(
        OrsanetError, match=r"n\.zarr: other pictures than in .*'test', view clean.*\n  images/test_4\.png$"
    ):
        run_all(world, tmp_path / "out", ["full"], [0], landmark_store=tmp_path / "n.zarr")


# --- the command ---


def command(*arguments: object) -> Ended:
    return in_process(main, "ablate", *arguments)


def arguments(world, out: Path) -> list[object]:
    settings = [part for setting in (*SMALL, "epochs=1") for part in ("--set", setting)]
    return ["--store", world.store, "--manifest", world.manifest, "--preset", "small", *settings, "--out", out]


def test_the_command_trains_prints_and_writes_the_table(world, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = command(*arguments(world, out), "--variants", "full, spatial-map", "--seeds", "3", "--splits", "test,valid")
    assert ran.returncode == 0, ran.stderr
    assert "full, seed 3\n" in ran.stderr
    assert "spatial-map, seed 3\n" in ran.stderr
    assert (out / "ablation.md").read_text() in ran.stdout
    assert f"wrote {out}/ablation.md" in ran.stdout
    cells = table_cells((out / "ablation.md").read_text())
    assert cells[0] == ["variant", "seeds", "test", "− full", "valid", "− full"]
    assert [row[:2] for row in cells[1:]] == [["full", "1"], ["spatial-map", "1"]]
    assert len(pd.read_csv(out / "ablation.csv")) == 4


def test_the_command_takes_the_second_store(world, native: Path, tmp_path: Path) -> None:
    options = ("--landmark-store", native, "--variants", "native-landmarks", "--seeds", "0", "--splits", "test")
    ran = command(*arguments(world, tmp_path / "out"), *options)
    assert ran.returncode == 0, ran.stderr
    assert [row[:2] for row in table_cells(ran.stdout)[1:]] == [["native-landmarks", "1"]]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--seeds", "0,one", "--seeds 0,one: write numbers separated by commas"),
        ("--seeds", "0,-1", "--seeds 0,-1: write numbers separated by commas"),
        ("--variants", "full,no-dares", "choose from full, no-segmentation"),
    ],
)
def test_mistakes_end_in_one_sentence(world, tmp_path: Path, option: str, value: str, said: str) -> None:
    result = command(*arguments(world, tmp_path / "out"), option, value)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


# --- several processes ---


def test_two_processes_share_a_folder_and_the_table_has_the_runs_of_both(world, tmp_path: Path) -> None:
    """Each begins before the other has a run. With the same variant, one of them would be refused."""
    out = tmp_path / "out"

    def begun(variant: str, *settings: str) -> Iterator[str]:
        steps = ablate(
            world.load_manifest(), world.open_store(), out,
            preset="small", overrides=(*SMALL, "epochs=1", *settings), variants=[variant], seeds=[0], groups=["test"], device=CPU,
        )  # fmt: skip
        assert next(steps) == f"{variant}, seed 0"
        return steps

    first, second, same = begun("full"), begun("no-dare"), begun("full")
    with held(out / "full" / "seed-0"), pytest.raises(OrsanetError, match="full/seed-0: another command is writing"):
        next(same)
    assert [*first, *second] == []
    table = write_summary(out)
    assert [row[:2] for row in table_cells(table)[1:]] == [["full", "1"], ["no-dare", "1"]]
    assert not list(out.rglob(".*"))
    third = begun("map")
    with pytest.raises(OrsanetError, match="out: another command is writing"), held(out):
        pass
    assert third is not None


def test_a_table_that_is_not_ours_is_refused_before_training(world, tmp_path: Path) -> None:
    (tmp_path / "ablation.md").write_text("my notes")
    with pytest.raises(OrsanetError, match=r"ablation\.md: is not a table of `orsanet-train ablate`, so it was not"):
        run_all(world, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ablation.md"]
