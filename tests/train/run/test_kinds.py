"""A run of every kind of model goes through everything that takes a run, on one store with the optional fields."""

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from forks import ForkServer, as_torchrun_tells
from torch import nn

from orsanet_cache import FrozenPriors, OrsanetError, PriorStore, read_image, view_pixels
from orsanet_cache.builder.build import build
from orsanet_cache.cli import main as cache
from orsanet_cache.inspection.tiles import GAP, TILE
from orsanet_cache.store.container import open_container
from orsanet_cache.store.schema import OPTIONAL
from orsanet_cache.store.verify import verify
from orsanet_train import load
from orsanet_train.config import RunConfig, load_config
from orsanet_train.drawing.plots import NotDrawable
from orsanet_train.engine.distributed import ONE
from orsanet_train.engine.engine import build_engine
from orsanet_train.engine.graph import GraphedStep
from orsanet_train.engine.precision import Arithmetic
from orsanet_train.engine.step import Sums, TrainingStep
from orsanet_train.evaluation.compare import compare
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.evaluation.predictions import Evaluation, probability_columns
from orsanet_train.experiments.ablate import ablate
from orsanet_train.experiments.variants import PARTS
from orsanet_train.export.export import export_onnx
from orsanet_train.feed.feed import Feed, PriorBatch
from orsanet_train.feed.split import join, training_split
from orsanet_train.model.checkpoint import load_weights
from orsanet_train.model.inputs import random_inputs
from orsanet_train.model.model import build_model
from orsanet_train.model_config import PosterV2Config, kinds
from orsanet_train.predict.predictor import CropPredictor
from orsanet_train.report.album import _attention, compared_attention
from orsanet_train.report.report import make_report
from orsanet_train.run.imported import import_checkpoint
from orsanet_train.run.train import train

pytestmark = pytest.mark.usefixtures("without_matplotlib")
CPU = torch.device("cpu")
SIZES = {
    "depth": "model.depth=1", "width": "model.width=32", "backbone_channels": "model.backbone_channels=[8,8,16]",
    "backbone_units": "model.backbone_units=[1,1,1]", "hidden": "model.hidden=8",
}  # fmt: skip


def tiny(kind: str, *more: str) -> RunConfig:
    sizes = [size for key, size in SIZES.items() if key in kinds()[kind].model_fields]
    settings = ("epochs=2", "batch_size=14", "loss.warmup_epochs=1", f"model.kind={kind}")
    return load_config("small", [*settings, *sizes, *more])


@dataclass(frozen=True)
class Tried:
    kind: str
    run: Path
    evaluation: Evaluation


@pytest.fixture(scope="module")
def store(world, tmp_path_factory: pytest.TempPathFactory) -> PriorStore:
    """The small world's store, to which the optional fields were added."""
    out = tmp_path_factory.mktemp("fields") / "store.zarr"
    shutil.copytree(world.store, out)
    build(world.load_manifest(), out, world.priors, ["clean", "hflip"], fields=list(OPTIONAL), device=CPU)
    return PriorStore.open(out)


@pytest.fixture(scope="module", params=list(kinds()))
def tried(request: pytest.FixtureRequest, world, store: PriorStore, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """A run, trained and evaluated: treat as read-only."""
    run, manifest = tmp_path_factory.mktemp(request.param) / request.param, world.load_manifest()
    train(tiny(request.param), manifest, store, run, device=CPU)
    evaluation = evaluate(run, manifest, store, groups=["test"], device=CPU)
    return Tried(request.param, run, evaluation)


# The store


def test_a_store_with_the_optional_fields_has_the_same_others_and_verifies(world, store: PriorStore) -> None:
    plain = world.open_store()
    assert store.fields("train", "clean").keys() - plain.fields("train", "clean").keys() == set(OPTIONAL)
    assert store.recipe == plain.recipe
    for field in plain.fields("test", "hflip"):
        rows = slice(None)
        assert np.array_equal(store.read("test", "hflip", field, rows), plain.read("test", "hflip", field, rows))
    assert verify(store.path, deep=True)[1] == []


def test_its_values_are_the_landmark_networks_grids(world, store: PriorStore) -> None:
    manifest, frozen = world.load_manifest(), world.load_priors()
    pixels = np.stack([view_pixels(read_image(manifest.root / s.image).rgb, "clean") for s in manifest.split("test")])
    priors = frozen(torch.from_numpy(pixels))
    for name, (channels, side) in OPTIONAL.items():
        stored = store.read("test", "clean", name, slice(None))
        assert stored.shape[1:] == (channels, side, side)
        torch.testing.assert_close(torch.from_numpy(stored), getattr(priors, name).half(), rtol=1e-3, atol=1e-3)


def test_an_unknown_field_is_refused_and_those_that_there_are_need_no_name(world, store: PriorStore) -> None:
    manifest, priors = world.load_manifest(), world.priors
    with pytest.raises(OrsanetError, match=r"no optional field 'landmark_features_7'; choose from .*did you mean"):
        build(manifest, world.store, priors, fields=["landmark_features_7"], device=CPU)
    again = build(manifest, store.path, priors, device=CPU)
    assert (again.computed, again.added) == (0, 0)


@pytest.mark.parametrize("landmark_input", ["published", "native"])
def test_a_model_whose_fields_a_store_lacks_is_refused_with_the_command_that_adds_them(
    world, tmp_path: Path, landmark_input: str
) -> None:
    """Word for word, with the manifest in its place, also of a store that was built with other options than the default."""
    out, manifest = tmp_path / "store.zarr", world.load_manifest()
    if landmark_input == "published":
        shutil.copytree(world.store, out)
    else:
        networks = FrozenPriors.load(world.segmenter, world.landmarks, "native")
        build(manifest, out, networks, ["clean"], device=CPU, splits=["train", "test"], feature_dtype="int8")
    config = tiny("poster-v2", "augmentation.hflip=0.0", "epochs=1", "selection_split=held-out")
    with pytest.raises(OrsanetError, match="has no landmark_features_28 and no landmark_features_14, which") as refused:
        train(config, manifest, PriorStore.open(out), tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()
    assert 'model.kind = "poster-v2" reads; add it, which computes nothing else: `' in str(refused.value)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    program, *command = shlex.split(str(refused.value).split("`")[1])
    assert program == "orsanet-cache"
    result = CliRunner().invoke(cache, [str(world.manifest) if word == "MANIFEST" else word for word in command])
    assert result.exit_code == 0, result.output
    assert all(path.read_bytes() == data for path, data in before.items())
    assert training_split(config, manifest, PriorStore.open(out)).name == "train"
    train(config, manifest, PriorStore.open(out), tmp_path / "run", device=CPU, images=7)


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("resident", ["stream", "host"])
def test_a_feed_reads_the_models_fields_and_no_others(world, store: PriorStore, kind: str, resident: str) -> None:
    read = set()

    class Watched(PriorStore):
        def read(self, split: str, view: str, field: str, *rest: Any, **options: Any) -> np.ndarray:
            read.add(field)
            return super().read(split, view, field, *rest, **options)

    watched = Watched(open_container(store.path))
    config = tiny(kind).model
    feed = Feed(watched, join(world.load_manifest(), watched, "test", ["clean"]), config, CPU, resident)  # type: ignore[arg-type]
    (batch,) = feed.in_order(8)
    assert read == set(config.fields)
    assert len(batch.inputs) == len(config.reads)
    assert build_model(config, 3, 128, 512)(*batch.inputs).logits.shape == (6, 3)


# A run


def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(
    world, store: PriorStore, tried: Tried, tmp_path: Path
) -> None:
    run, manifest = tmp_path / "run", world.load_manifest()
    train(tiny(tried.kind, "epochs=1"), manifest, store, run, device=CPU)
    train(tiny(tried.kind), manifest, store, run, device=CPU, resume=True)
    ours, theirs = (safetensors.torch.load_file(folder / "last.safetensors") for folder in (run, tried.run))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("kind", kinds())
def test_half_precision_trains_every_kind(kind: str) -> None:
    """Not every processor has bfloat16 for `precision = "fast"`: the step itself is taken."""
    torch.manual_seed(0)
    config = tiny(kind)
    model = build_model(config.model, 3).train()
    step = TrainingStep(model, model, config, Arithmetic(torch.bfloat16, False, "bfloat16"), CPU)
    step.begin_epoch(0, Sums())
    draws = torch.rand(3, 2, *config.model.drop_path_shape)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    step(PriorBatch(*random_inputs(config.model, 3), torch.arange(3), draws), 3)
    assert Sums(*step.sums.tolist()).stopped == 0
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


def test_two_processes_share_a_run_of_the_kind_that_reads_added_fields(
    world, store: PriorStore, programs: ForkServer, tmp_path: Path
) -> None:
    """In float32 the losses agree to rounding as Adam enlarges it."""
    config = tiny("poster-v2", "epochs=1", "batch_size=6")
    train(config, world.load_manifest(), store, tmp_path / "one", device=CPU)
    arguments = (
        "run",
        "--store",
        store.path,
        "--manifest",
        world.manifest,
        "--preset",
        tmp_path / "one" / "config.toml",
    )
    two = [
        programs.start(
            "orsanet-train", *arguments, "--device", "cpu", "--out", tmp_path / "two", environment=environment
        )
        for environment in as_torchrun_tells(2)
    ]
    for process in two:
        said, _ = process.communicate(240)
        assert process.returncode == 0, said
    alone, shared = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    for column in ("loss", "perturbed_loss"):
        assert alone[column].iloc[0] == pytest.approx(shared[column].iloc[0], rel=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", kinds())
def test_on_a_gpu_a_recorded_step_of_every_kind_is_the_launched_one(kind: str) -> None:
    config = tiny(kind, "precision=exact")
    gpu = torch.device("cuda")
    states = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model = build_model(config.model, 3).train().to(gpu)
        engine = build_engine(model, model, config, gpu, ONE, compiled=False)
        engine.step.begin_epoch(0, Sums())
        for seed in range(3):
            torch.manual_seed(seed)
            draws = torch.rand(4, 2, *config.model.drop_path_shape, device=gpu)
            batch = PriorBatch(*random_inputs(config.model, 4, device=gpu), torch.arange(4, device=gpu) % 3, draws)
            (engine.take if recorded else engine.step)(batch, 4)
        states.append(engine.state())
        if recorded:
            assert isinstance(engine.take, GraphedStep)
            assert not engine.take.refused
    launched, replayed = states
    assert [name for name in launched if not torch.equal(launched[name], replayed[name])] == []


def test_the_frozen_networks_can_run_in_the_step(world, store: PriorStore, tmp_path: Path) -> None:
    """What POSTER V2 reads comes from the drifting network too; the run's landmark network is kept beside it."""
    config, run = tiny("poster-v2", "epochs=1", "priors=online", "online=published"), tmp_path / "run"
    train(
        config,
        world.load_manifest(),
        store,
        run,
        device=CPU,
        images=7,
        frozen_weights=(world.segmenter, world.landmarks),
    )
    assert (run / "last-landmarks.safetensors").is_file()
    assert load_weights(run / "last.safetensors")[1].model == config.model


def test_the_report_has_its_attention_or_the_reason(tried: Tried) -> None:
    report, (source,) = make_report([tried.run])
    assert report.runs[0].config.model.kind == tried.kind
    model, _ = load_weights(tried.run / "best.safetensors")
    rows, labels = np.arange(3), np.zeros(3, np.int64)
    if tried.kind == "landmarks":
        with pytest.raises(NotDrawable, match="the model reads no image"):
            _attention(source, model, rows, labels, CPU)
    else:
        found = _attention(source, model, rows, labels, CPU)
        assert found.with_prior.shape == (3, 14, 14)
        assert (found.without_prior is not None) == (tried.kind == "orsanet")


def test_an_evaluation_records_the_seals_of_the_added_fields_that_were_read(
    store: PriorStore, tried: Tried, tmp_path: Path
) -> None:
    groups = store.groups_of("test", "clean", tiny(tried.kind).model.fields)
    assert tried.evaluation.seals == {f"test/{group}": store.sealed("test", group).seal for group in groups}
    assert len(groups) == (3 if tried.kind == "poster-v2" else 1)
    if len(groups) > 1:  # built again since, with other values
        shutil.copytree(tried.run, tmp_path / "run")
        file = tmp_path / "run" / "evaluation-best" / "evaluation.json"
        file.write_text(file.read_text().replace(store.sealed("test", groups[1]).seal, "0" * 64))
        with pytest.raises(OrsanetError, match="split 'test' is not the one that was evaluated"):
            make_report([tmp_path / "run"])


def test_predictions_on_pictures_are_those_of_the_evaluation(world, tried: Tried) -> None:
    manifest = world.load_manifest()
    predictor = CropPredictor.load(tried.run, "best", world.segmenter, world.landmarks, CPU)
    pixels = np.stack([view_pixels(read_image(manifest.root / s.image).rgb, "clean") for s in manifest.split("test")])
    found = np.stack([one.probabilities for one in predictor.predict(pixels)])
    table = tried.evaluation.table
    expected = table.loc[table["split"] == "test", probability_columns(manifest.classes)].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    model = load(tried.run, segmenter=world.segmenter, landmarks=world.landmarks, crop="none", device="cpu")
    result = model(manifest.root / "images" / "test_0.png")
    (face,) = result.faces
    columns = round(result.overlay().width / (TILE + GAP))
    if tried.kind == "landmarks":
        assert face.attention is None
        assert columns == 3
    else:
        assert face.attention.shape == (14, 14)
        assert columns == 4


def test_kinds_are_compared_image_by_image(world, store: PriorStore, tried: Tried, tmp_path: Path) -> None:
    other = "landmarks" if tried.kind == "backbone" else "backbone"
    run = tmp_path / "other"
    train(tiny(other, "epochs=1"), world.load_manifest(), store, run, device=CPU)
    evaluate(run, world.load_manifest(), store, groups=["test"], device=CPU)
    comparison = compare([run, tried.run])
    assert [each.group for each in comparison.differences] == ["test"]
    assert any("model.kind" in str(line) for line in comparison.differing)
    _, sources = make_report([run, tried.run])
    picture = compared_attention(sources, None, CPU)
    if "landmarks" in (tried.kind, other):
        name = tried.run.name if tried.kind == "landmarks" else "other"
        assert picture.caption == (
            f"Not drawn: fewer than two of the runs have attention. Without {name}: the model reads no image."
        )
        assert picture.source is None
    else:
        assert picture.source is not None
        assert f"other (IR50), {tried.run.name} ({tiny(tried.kind).model.title})" in picture.caption


def test_ablations_are_those_whose_keys_the_kind_has(world, store: PriorStore, tmp_path: Path) -> None:
    manifest = world.load_manifest()
    options = {"preset": "small", "device": CPU, "seeds": [0], "groups": ["test"]}
    settings = [*[*SIZES.values()][:4], "epochs=1", "batch_size=7", "model.kind=poster"]
    with pytest.raises(OrsanetError, match=r"no variant no-mcm with .* model\.kind = \"poster\"; choose from full, "):
        list(ablate(manifest, store, tmp_path, variants=["no-mcm"], overrides=settings, **options))
    begun = list(ablate(manifest, store, tmp_path, variants=["full", "no-mixing"], overrides=settings, **options))
    assert begun == ["full, seed 0", "no-mixing, seed 0"]
    assert PARTS["no-mixing"] == ("model.mixing=false",)
    assert not load_config(tmp_path / "no-mixing" / "seed-0" / "config.toml").model.mixing


@pytest.mark.parametrize("kind", ["poster-v2", "landmarks"])
def test_an_exported_model_reads_the_fields_of_its_kind_and_agrees(
    world, store: PriorStore, kind: str, tmp_path: Path
) -> None:
    """The two whose inputs and layers differ most from ORSANet's; a trace takes seconds."""
    run, manifest = tmp_path / "run", world.load_manifest()
    train(tiny(kind, "epochs=1"), manifest, store, run, device=CPU, images=7)
    exported = export_onnx(run, "best", tmp_path / "onnx", part="trainable")
    (graph,) = exported.graphs
    assert {port.name for port in graph.inputs} == set(tiny(kind).model.fields)
    card = (exported.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith(
        {"poster-v2": "# POSTER V2, trained on small", "landmarks": "# Landmarks, trained on small"}[kind]
    )
    assert "not a published size" in card


# Published checkpoints


def published_file(path: Path, config: RunConfig, frozen: FrozenPriors, key: str) -> nn.Module:
    """A checkpoint as the published code saves it, small: DataParallel's names, the drifted landmark network, what is not read."""
    torch.manual_seed(1)
    model = build_model(config.model, 3).eval()
    tensors = {**model.state_dict()}
    tensors |= {f"face_landback.{name}": value for name, value in frozen.landmark_network.state_dict().items()}
    tensors["ir_back.output_layer.3.bias"] = torch.zeros(4)
    tensors["attn1.relative_position_index" if key == "state_dict" else "pyramid_fuse.cls_token"] = torch.zeros(1)
    torch.save({key: {f"module.{name}": value for name, value in tensors.items()}, "epoch": 3}, path)
    return model


@pytest.mark.parametrize(("preset", "key"), [("poster-rafdb", "model_state_dict"), ("poster-v2-rafdb", "state_dict")])
def test_an_imported_checkpoint_says_what_its_own_networks_say(world, preset: str, key: str, tmp_path: Path) -> None:
    frozen = world.load_priors()
    for buffer in frozen.landmark_network.buffers():
        if buffer.dtype.is_floating_point:
            buffer.mul_(1.01)  # drifted
    config = load_config(preset, [*SIZES.values()][:4])
    published = published_file(tmp_path / "it.pth", config, frozen, key)
    run, manifest = tmp_path / "run", world.load_manifest()
    import_checkpoint(tmp_path / "it.pth", run, config, manifest.classes, "small", segmenter_file=world.segmenter)
    own = FrozenPriors.load(run / "segmenter.safetensors", run / "landmarks.safetensors")
    fields = list(OPTIONAL) if isinstance(config.model, PosterV2Config) else None
    build(
        manifest, tmp_path / "store", own, ["clean"], fields=fields, device=CPU, splits=["test"], precision="fp32",
        feature_dtype="float32", image_reading="published",
    )  # fmt: skip
    store = PriorStore.open(tmp_path / "store")
    evaluation = evaluate(run, manifest, store, groups=["test"], device=CPU)
    (batch,) = Feed(store, join(manifest, store, "test", ["clean"]), config.model, CPU).in_order(8)
    with torch.no_grad():
        expected = published(*batch.inputs).logits.softmax(dim=1).numpy()
    found = evaluation.table[probability_columns(manifest.classes)].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(OrsanetError, match="was trained on priors of another recipe"):
        evaluate(run, manifest, world.open_store(), groups=["test"], device=CPU)


def test_a_checkpoint_of_the_other_variant_and_one_without_weights_are_named(world, tmp_path: Path) -> None:
    sizes = [*SIZES.values()][:4]
    published_file(tmp_path / "it.pth", load_config("poster-rafdb", sizes), world.load_priors(), "model_state_dict")

    def refused(preset: str, said: str, path: Path = tmp_path / "it.pth") -> None:
        with pytest.raises(OrsanetError, match=said):
            import_checkpoint(
                path,
                tmp_path / "run",
                load_config(preset, sizes),
                ("a", "b", "c"),
                "small",
                segmenter_file=world.segmenter,
            )
        assert not (tmp_path / "run").exists()

    refused("poster-affectnet", r"the variant published for RAF-DB; pass --set model\.mixing=true")
    refused("poster-v2-rafdb", r"not a checkpoint of POSTER V2's published code.*it lacks VIT\.blocks\.")
    torch.save({"state": {}, "param_groups": [{"lr": 1.0}]}, tmp_path / "model_best.pth")
    refused("poster-v2-rafdb", r"the state of an optimiser, not weights .*other file", tmp_path / "model_best.pth")
    with pytest.raises(OrsanetError, match=r'model\.kind = "backbone" has no published code'):
        import_checkpoint(tmp_path / "it.pth", tmp_path / "run", tiny("backbone"), ("a", "b", "c"), "small")
