"""An imported checkpoint of the published code says what its own networks say, and is evaluated on priors of no others."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from orsanet_cache import FrozenPriors, Manifest, OrsanetError, PriorStore, load_manifest, read_image, view_pixels
from orsanet_cache.builder.build import build
from orsanet_cache.data.images import ImageReading
from orsanet_cache.durable import read_json
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.pixels import imagenet_normalised, unit_range
from orsanet_cache.frozen.segface import SegFace, SegFaceConfig
from orsanet_train.cli import main
from orsanet_train.config import RunConfig, load_config
from orsanet_train.evaluation.compare import compare
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.evaluation.predictions import Evaluation
from orsanet_train.model.checkpoint import Identity, load_weights
from orsanet_train.model.model import build_model
from orsanet_train.model.orsanet import ORSANet, published_tokens, spatial_tokens
from orsanet_train.report.report import make_report
from orsanet_train.run.folder import check_folder
from orsanet_train.run.imported import import_checkpoint

pytestmark = pytest.mark.usefixtures("without_matplotlib")
CPU = torch.device("cpu")
CLASSES = ("anger", "happiness", "neutral")  # of the small world
SIZES = ("model.depth=1", "model.width=64", "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]")
ROUNDING = 1e-6  # of probabilities: float32, where other images are beside in a batch
SEVEN = "surprise,fear,disgust,happiness,sadness,anger,neutral"


@dataclass(frozen=True)
class Published:
    """A file as the published code saves it, small, and the networks that were saved."""

    path: Path
    segmenter: SegFace
    landmarks: MobileFaceNet  # drifted
    model: ORSANet
    config: RunConfig


@pytest.fixture(scope="module")
def published(world, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Made by what the published code does: the frozen networks are inside, training mode reaches them, DataParallel is saved."""
    torch.manual_seed(1)
    frozen = world.load_priors()
    config = load_config("rafdb", SIZES)
    model = build_model(config.model, len(CLASSES), frozen.segmenter.feature_channels)
    model.ir_back.add_module("output_layer", nn.Linear(4, 2))
    model.pyramid_fuse.register_parameter("cls_token", nn.Parameter(torch.zeros(1, 1, 64)))
    whole = nn.Module()
    for name, child in model.named_children():
        whole.add_module(name, child)
    whole.add_module("face_segment", frozen.segmenter)
    whole.add_module("face_landback", frozen.landmark_network)

    optimizer = Adam([parameter for parameter in whole.parameters() if parameter.requires_grad], lr=1e-3)
    whole.train()
    pixels = pictures(world.load_manifest(), "train")
    unit = unit_range(pixels)
    features, _ = frozen.landmark_network(frozen.landmark_crop(unit))
    segmentation = frozen.segmenter.encode(imagenet_normalised(unit))[-1].movedim(-1, 1)
    said = model(imagenet_normalised(unit)[..., ::2, ::2], segmentation, features)
    cross_entropy(said.logits, torch.arange(len(pixels)) % len(CLASSES)).backward()
    optimizer.step()
    whole.eval()

    path = tmp_path_factory.mktemp("published") / "orsanet.pth"
    state = nn.DataParallel(whole).state_dict()
    assert all(name.startswith("module.") for name in state)
    assert optimizer.state_dict()["state"]
    torch.save({"iter": 7, "model_state_dict": state, "optimizer_state_dict": optimizer.state_dict()}, path)
    return Published(path, frozen.segmenter, frozen.landmark_network, model.eval(), config)


@pytest.fixture(scope="module")
def run(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder. The world's data set takes the place of the one that the checkpoint was trained with."""
    out = tmp_path_factory.mktemp("imported") / "run"
    imported(published, out)
    return out


@pytest.fixture(scope="module")
def store(world, run: Path, tmp_path_factory: pytest.TempPathFactory) -> PriorStore:
    """The test split by the exported networks, as the published code computes."""
    frozen = FrozenPriors.load(run / "segmenter.safetensors", run / "landmarks.safetensors")
    return built(world, frozen, tmp_path_factory.mktemp("store") / "store.zarr")


@pytest.fixture(scope="module")
def evaluation(world, run: Path, store: PriorStore) -> Evaluation:
    return evaluated(world, run, store)


def imported(
    published: Published, out: Path, path: Path | None = None, config: RunConfig | None = None, classes: Any = CLASSES
) -> Identity:
    return import_checkpoint(
        path or published.path, out, config or published.config, classes, "small", published.segmenter.config
    )


def built(
    world, frozen: FrozenPriors, out: Path, feature_dtype: str = "float32", image_reading: ImageReading = "published"
) -> PriorStore:
    build(
        world.load_manifest(), out, frozen, ["clean"], device=CPU, splits=["test"], precision="fp32",
        feature_dtype=feature_dtype, image_reading=image_reading,
    )  # fmt: skip
    return PriorStore.open(out)


def evaluated(world, run: Path, store: PriorStore) -> Evaluation:
    weights, out = run / "best.safetensors", run / "evaluation-best"
    return evaluate(weights, world.load_manifest(), store, out, groups=["test"], device=CPU)


def pictures(manifest: Manifest, split: str) -> Tensor:
    """uint8 [N, 224, 224, 3]: a split as every network sees it."""
    views = [view_pixels(read_image(manifest.root / sample.image).rgb, "clean") for sample in manifest.split(split)]
    return torch.from_numpy(np.stack(views))


def probabilities(table: pd.DataFrame) -> np.ndarray:
    return table.filter(like="p_").to_numpy()


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(OrsanetError) as caught:
        act()
    return str(caught.value)


def findings(message: str) -> list[str]:
    """What differs, by name."""
    return [line.strip().partition(":")[0] for line in message.splitlines()[1:]]


def test_import_build_evaluate_equals_running_its_networks(world, published: Published, evaluation: Evaluation) -> None:
    pixels = pictures(world.load_manifest(), "test")
    with torch.no_grad():
        priors = FrozenPriors(published.segmenter, published.landmarks, "published")(pixels)
        image = imagenet_normalised(unit_range(pixels))[..., ::2, ::2]
        said = published.model(image, priors.segmentation_features, priors.landmark_features)
    expected = said.logits.softmax(dim=1).numpy()
    assert np.ptp(expected, axis=0).max() > 100 * ROUNDING  # the images are told apart
    np.testing.assert_allclose(probabilities(evaluation.table), expected, rtol=0, atol=ROUNDING)


def test_the_original_networks_would_have_given_other_numbers(
    world, published: Published, evaluation: Evaluation
) -> None:
    """Why a store built from them is refused."""
    pixels = pictures(world.load_manifest(), "test")
    with torch.no_grad():
        priors = world.load_priors()(pixels)
        image = imagenet_normalised(unit_range(pixels))[..., ::2, ::2]
        said = published.model(image, priors.segmentation_features, priors.landmark_features)
    difference = np.abs(probabilities(evaluation.table) - said.logits.softmax(dim=1).numpy()).max()
    assert difference > 100 * ROUNDING


def test_a_store_built_from_the_original_networks_is_refused_by_name(world, run: Path, tmp_path: Path) -> None:
    store = built(world, world.priors, tmp_path / "store.zarr")
    message = refusal(lambda: evaluated(world, run, store))
    assert findings(message) == ["landmarks.weights_sha256"]  # the segmenter did not move
    assert f"--segmenter {run}/segmenter.safetensors --landmarks {run}/landmarks.safetensors" in message
    assert str(store.path) in message


def test_a_store_of_rounded_features_or_of_the_native_input_is_refused_by_name(
    world, published: Published, run: Path, tmp_path: Path
) -> None:
    frozen = FrozenPriors(published.segmenter, published.landmarks, "published")
    rounded = built(world, frozen, tmp_path / "rounded.zarr", "float16")
    message = refusal(lambda: evaluated(world, run, rounded))
    assert findings(message) == ["feature_dtype"]
    assert "--features float32" in message
    native = built(world, FrozenPriors(published.segmenter, published.landmarks, "native"), tmp_path / "native.zarr")
    assert findings(refusal(lambda: evaluated(world, run, native))) == ["landmarks.input"]


def test_the_folder_holds_the_networks_and_nothing_of_the_optimiser(world, published: Published, run: Path) -> None:
    names = {"best.safetensors", "segmenter.safetensors", "landmarks.safetensors", "config.toml", "run.json"}
    assert {path.name for path in run.iterdir()} - {"evaluation-best"} == names
    frozen = FrozenPriors.load(run / "segmenter.safetensors", run / "landmarks.safetensors")
    model, _ = load_weights(run / "best.safetensors")
    unused = ("ir_back.output_layer.", "pyramid_fuse.cls_token")
    trained = {name: value for name, value in published.model.state_dict().items() if not name.startswith(unused)}
    for read, saved in (
        (frozen.segmenter, published.segmenter.state_dict()),
        (frozen.landmark_network, published.landmarks.state_dict()),
        (model, trained),
    ):
        state = read.state_dict()
        assert state.keys() == saved.keys()
        assert [name for name, value in saved.items() if not torch.equal(state[name], value)] == []
    original = world.load_priors().landmark_network.state_dict()
    moved = [
        name for name, value in original.items() if not torch.equal(value, frozen.landmark_network.state_dict()[name])
    ]
    assert {name.rpartition(".")[2] for name in moved} == {"running_mean", "running_var", "num_batches_tracked"}


def test_the_choice_on_the_test_split_is_said_and_marked_everywhere(
    run: Path, evaluation: Evaluation, tmp_path: Path
) -> None:
    said = "published checkpoint, according to its authors the best epoch on split 'test' of 'small'"
    assert evaluation.protocol == f"{said}; * chosen on these images, so their numbers are optimistic"
    assert [report.chose_checkpoint for report in evaluation.groups] == [True]
    assert read_json(run / "evaluation-best" / "evaluation.json")["checkpoint"]["selection"] == "published"
    report, _ = make_report([run], "best", None, None)
    assert report.runs[0].stamp == "published checkpoint, best epoch on 'test', as published: optimistic"
    shutil.copytree(run, tmp_path / "other")
    assert compare([run, tmp_path / "other"], "best").protocols == (said, said)


def test_the_configuration_is_the_preset_trained_as_published_in_code(published: Published, run: Path) -> None:
    config = load_config(str(run / "config.toml"))
    assert config == published.config.model_copy(update={"priors": "online", "online": "published"})
    assert (config.selection_split, config.learning_rate) == ("test", 4e-5)


def test_an_imported_run_is_not_resumed(published: Published, run: Path) -> None:
    config = load_config(str(run / "config.toml"))
    message = refusal(lambda: check_folder(run, config, {"classes": list(CLASSES)}, resume=True))
    assert "published_checkpoint" in message


def test_the_run_names_the_file_it_came_from(published: Published, run: Path) -> None:
    assert read_json(run / "run.json")["published_checkpoint"] == {
        "file": "orsanet.pth",
        "sha256": hashlib.sha256(published.path.read_bytes()).hexdigest(),
    }


def without(*prefixes: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: value for name, value in tensors.items() if not name.startswith(prefixes)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("module.face_segment.", "module.face_landback."), "it lacks face_segment.*, face_landback.*"),
        (without("module.head."), "it lacks head.linear.weight"),
        (without("module.face_segment.face_decoder."), "missing: face_decoder."),
        (without("module.face_landback.conv1.bn.running_mean"), "missing: conv1.bn.running_mean [64]"),
        (without("module.seg_fusion.conv_0.weight_u"), "missing: seg_fusion.conv_0.weight_u [64]"),
        (lambda tensors: {**tensors, "module.head.linear.extra": torch.ones(2)}, "extra: head.linear.extra [2]"),
        (
            lambda tensors: {**tensors, "module.head.linear.bias": torch.full((3,), torch.nan)},
            "not finite: head.linear.bias",
        ),
    ],
)
def test_a_checkpoint_that_lacks_something_is_refused_by_name(
    published: Published, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str
) -> None:
    saved = torch.load(published.path, weights_only=True)
    torch.save({**saved, "model_state_dict": change(saved["model_state_dict"])}, tmp_path / "changed.pth")
    message = refusal(lambda: imported(published, tmp_path / "run", tmp_path / "changed.pth"))
    assert message.startswith(f"{tmp_path / 'changed.pth'}: ")
    assert said in message
    assert [path.name for path in tmp_path.iterdir()] == ["changed.pth"]


def test_a_file_that_is_no_checkpoint_is_refused_in_one_sentence(
    published: Published, run: Path, tmp_path: Path
) -> None:
    own = refusal(lambda: imported(published, tmp_path / "run", run / "best.safetensors"))
    assert own == (
        f"{run}/best.safetensors: not a checkpoint of ORSANet's published code, which has the whole network; "
        "it lacks face_segment.*, face_landback.*"
    )
    (tmp_path / "notes.pth").write_text("lr 4e-5\n")
    assert "neither a safetensors file nor one written by torch.save" in refusal(
        lambda: imported(published, tmp_path / "run", tmp_path / "notes.pth")
    )
    assert "cannot be read" in refusal(lambda: imported(published, tmp_path / "run", tmp_path / "absent.pth"))


def test_nothing_in_a_checkpoint_is_ever_run(published: Published, tmp_path: Path) -> None:
    class Surprise:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path / "written").touch, ()

    saved = torch.load(published.path, weights_only=True)
    torch.save({**saved, "optimizer_state_dict": Surprise()}, tmp_path / "surprise.pth")
    message = refusal(lambda: imported(published, tmp_path / "run", tmp_path / "surprise.pth"))
    assert "holds more than tensors and plain values" in message
    assert [path.name for path in tmp_path.iterdir()] == ["surprise.pth"]


def test_classes_that_do_not_fit_the_head_are_refused(published: Published, tmp_path: Path) -> None:
    four = refusal(lambda: imported(published, tmp_path / "run", classes=[*CLASSES, "fear"]))
    assert "its head has 3 classes, --classes has 4 (anger, happiness, neutral, fear)" in four
    twice = refusal(lambda: imported(published, tmp_path / "run", classes=["anger", "neutral", "anger"]))
    assert twice == "--classes anger,neutral,anger: name each class once, in label order"
    assert "name each class once" in refusal(lambda: imported(published, tmp_path / "run", classes=["anger", "", "b"]))
    assert list(tmp_path.iterdir()) == []


def test_another_depth_is_refused_with_the_option_that_mends_it(published: Published, tmp_path: Path) -> None:
    deeper = load_config("rafdb", (*SIZES, "model.depth=8"))
    message = refusal(lambda: imported(published, tmp_path / "run", config=deeper))
    assert "it has 1 levels (pyramid_fuse.blocks.), the configuration has 8" in message
    assert "pass --set model.depth=1" in message
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_would_read_the_same_tensors_otherwise_is_refused(published: Published, tmp_path: Path) -> None:
    assert {published_tokens, spatial_tokens} == {
        build_model(load_config("rafdb", (*SIZES, f"model.tokens={form}")).model, 3).image_tokens
        for form in ("published", "spatial")
    }  # the token form leaves no trace in the names
    spatial = load_config("rafdb", (*SIZES, "model.tokens=spatial"))
    message = refusal(lambda: imported(published, tmp_path / "run", config=spatial))
    assert 'model.tokens is "spatial", in published checkpoints "published"' in message
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(published: Published, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    assert "already exists" in refusal(lambda: imported(published, tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_at_the_published_sizes_the_recorded_probabilities_are_met(
    filler: ModuleType, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of the published names, filled as the recording's was, through the commands' own defaults."""
    with np.load(shared / "reference" / "golden" / "orsanet_large_7.npz") as arrays:
        salt, seeds, logits = int(arrays["salt"]), arrays["seeds"][:2], torch.from_numpy(arrays["logits"][:2])
    names = json.loads((shared / "reference" / "orsanet_state_dict.json").read_text())
    with torch.device("meta"):
        empty = {name: torch.empty(shape) for name, (shape, _) in names.items()}
    # Index tables are not filled; each is that of a 7x7 window.
    small = SegFace(
        SegFaceConfig(embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), decoder_width=16, decoder_heads=1)
    )
    table = next(value for name, value in small.state_dict().items() if name.endswith("relative_position_index"))
    tables = {name: table for name in names if name.endswith("relative_position_index")}
    state = filler.fill({**empty, **tables}, salt)
    saved = {
        "iter": 392,
        "model_state_dict": {f"module.{name}": value for name, value in state.items()},
        "optimizer_state_dict": {"state": {}, "param_groups": []},
    }
    torch.save(saved, tmp_path / "orsanet.pth")
    del saved, state

    images = []
    for seed in seeds:
        images.append(f"{seed}.png")
        Image.fromarray(filler.image(int(seed))).save(tmp_path / images[-1])
    lines = [f"{image},{label},test" for image, label in zip(images, SEVEN.split(","), strict=False)]
    (tmp_path / "rafdb.csv").write_text("\n".join(["image,label,split", *lines]) + "\n")

    run = tmp_path / "run"
    main(
        ["import", str(tmp_path / "orsanet.pth"), "--out", str(run), "--preset", "rafdb", "--classes", SEVEN],
        standalone_mode=False,
    )
    assert f"--segmenter {run}/segmenter.safetensors --landmarks {run}/landmarks.safetensors" in capsys.readouterr().out
    (tmp_path / "orsanet.pth").unlink()
    frozen = FrozenPriors.load(run / "segmenter.safetensors", run / "landmarks.safetensors")
    manifest = load_manifest(tmp_path / "rafdb.csv", root=tmp_path, classes=SEVEN.split(","))
    build(
        manifest,
        tmp_path / "store",
        frozen,
        ["clean"],
        device=CPU,
        precision="fp32",
        feature_dtype="float32",
        image_reading="published",
    )
    evaluation = evaluate(
        run / "best.safetensors", manifest, PriorStore.open(tmp_path / "store"), tmp_path / "e", groups=None, device=CPU
    )
    assert [group.name for group in evaluation.groups] == ["test"]
    assert evaluation.groups[0].chose_checkpoint
    # The recorded logits are met to 1e-4 (test_golden.py), and a probability moves by at most half as much as a logit.
    np.testing.assert_allclose(probabilities(evaluation.table), logits.softmax(dim=1).numpy(), rtol=0, atol=5e-5)
