"""An exported file computes what evaluation computed, says what it is, and is not left behind where it does not."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from card_examples import examples, printed
from forks import ForkServer
from PIL import Image

from orsanet_cache import OrsanetError, PriorStore, read_image, view_pixels
from orsanet_cache.builder.build import build
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_train.config import load_config
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.evaluation.predictions import Evaluation, probability_columns
from orsanet_train.export.export import MAX_DIFFERENCE, export_onnx, largest_difference, stored_rows
from orsanet_train.export.onnx_graph import (
    EXPRESSION,
    IR_VERSION,
    OPSET,
    stored_inputs,
)
from orsanet_train.model.checkpoint import load_weights, save_weights
from orsanet_train.run.train import train

pytestmark = pytest.mark.usefixtures("without_matplotlib")
CPU = torch.device("cpu")
TINY = (
    "epochs=1", "batch_size=6", "model.depth=1", "model.width=32", "model.multi_scale=false", "model.backbone_channels=[8,8,16]",
    "model.backbone_units=[1,1,1]",
)  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """A run that was trained and evaluated on an int8 store, and its export: treat as read-only."""

    store: PriorStore
    run: Path
    folder: Path
    said: str  # what the command printed
    evaluation: Evaluation
    pixels: np.ndarray  # of the test split, [6, 224, 224, 3]

    @property
    def expected(self) -> np.ndarray:
        """What evaluation said of the test split, [6, K]."""
        table = self.evaluation.table
        return table.loc[table["split"] == "test", probability_columns(self.evaluation.classes)].to_numpy()

    def session(self, name: str) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(self.folder / name)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tried(world, programs: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    folder = tmp_path_factory.mktemp("export")
    run, manifest = folder / "run", world.load_manifest()
    build(manifest, folder / "store", world.priors, ["clean", "hflip"], device=CPU, feature_dtype="int8")
    store = PriorStore.open(folder / "store")
    train(load_config("small", TINY), manifest, store, run, device=CPU)
    evaluation = evaluate(run / "best.safetensors", manifest, store, run / "evaluation-best", groups=None, device=CPU)
    done = programs.run(
        "orsanet-train", "export", run, "--segmenter", world.segmenter, "--landmarks", world.landmarks,
        "--check", world.folder / "images",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    pixels = [view_pixels(read_image(manifest.root / sample.image).rgb, "clean") for sample in manifest.split("test")]
    return Tried(store, run, run / "onnx-best", done.stdout, evaluation, np.stack(pixels))


def test_the_command_leaves_both_files_and_the_card_and_says_how_near_they_are(tried: Tried) -> None:
    assert {path.name for path in tried.folder.iterdir()} == {"trainable.onnx", "pipeline.onnx", "MODEL_CARD.md"}
    assert not [path for path in tried.run.iterdir() if path.name.startswith(".")]
    for name in ("trainable.onnx", "pipeline.onnx"):
        assert f"{name}: " in tried.said
    assert tried.said.count("on 26 pictures, in batches of 1 and 7") == 2


@pytest.mark.parametrize("size", [1, 4, 6])
def test_from_pixels_the_probabilities_are_those_of_evaluation(tried: Tried, size: int) -> None:
    difference = largest_difference(tried.folder / "pipeline.onnx", {"pixels": tried.pixels}, tried.expected, [size])
    assert difference <= MAX_DIFFERENCE


@pytest.mark.parametrize("size", [1, 4, 6])
def test_a_stores_rows_go_in_as_they_are_read_and_give_evaluations_probabilities(tried: Tried, size: int) -> None:
    ports = tried.session("trainable.onnx").get_inputs()
    rows = {port.name: tried.store.read("test", "clean", port.name, slice(None)) for port in ports}
    assert rows["landmark_features"].dtype == np.int8
    difference = largest_difference(tried.folder / "trainable.onnx", rows, tried.expected, [size])
    assert difference <= 1e-6  # the same sums of float32 in another order


def test_pytorch_is_given_what_the_store_has_to_the_last_bit(world, tried: Tried) -> None:
    names = (
        "image",
        "segmentation_features",
        "landmark_features",
        "segmentation_features_scale",
        "landmark_features_scale",
    )
    assert stored_inputs(tried.evaluation.checkpoint) == names
    assert tuple(port.name for port in tried.session("trainable.onnx").get_inputs()) == names
    given = stored_rows(tried.evaluation.checkpoint, world.load_priors(), torch.from_numpy(tried.pixels))
    for name in names:
        assert np.array_equal(given[name].numpy(), tried.store.read("test", "clean", name, slice(None))), name


def test_the_priors_that_come_out_are_the_stores(tried: Tried) -> None:
    store = tried.store
    names = ["landmarks", "segmentation_map", "segmentation_entropy"]
    landmarks, parts, entropy = tried.session("pipeline.onnx").run(names, {"pixels": tried.pixels})
    kept = {name: store.read("test", "clean", name, slice(None)) for name in names}
    np.testing.assert_allclose(landmarks, kept["landmarks"], rtol=0, atol=1e-5)  # of a crop: less than 0.003 pixels
    np.testing.assert_allclose(entropy, kept["segmentation_entropy"], rtol=0, atol=1e-5)
    assert parts.dtype == np.uint8
    assert (parts == kept["segmentation_map"]).mean() >= 0.9995  # random weights: some pixels' two best logits are ties


def test_probabilities_logits_and_features_belong_together(tried: Tried) -> None:
    probabilities, logits, features = tried.session("pipeline.onnx").run(list(EXPRESSION), {"pixels": tried.pixels})
    softmax = torch.from_numpy(logits).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities, softmax, rtol=0, atol=1e-6)
    model, _ = load_weights(tried.run / "best.safetensors")
    np.testing.assert_allclose(model.head(torch.from_numpy(features)).detach().numpy(), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["trainable.onnx", "pipeline.onnx"])
def test_a_file_is_valid_says_what_it_is_and_nothing_of_this_machine(tried: Tried, name: str) -> None:
    onnx.checker.check_model(str(tried.folder / name), full_check=True)
    model = onnx.load(tried.folder / name)
    assert (model.ir_version, model.opset_import[0].version, len(model.opset_import)) == (IR_VERSION, OPSET, 1)
    said = tried.session(name).get_modelmeta().custom_metadata_map
    identity = tried.evaluation.checkpoint
    assert json.loads(said["classes"]) == list(identity.classes)
    assert json.loads(said["store_recipe"]) == identity.store_recipe
    assert said["tensors_sha256"] == identity.tensors_sha256
    assert "224x224 bilinear antialiased" in said["preprocessing"]
    assert "MobileFaceNet" in said["licence"]
    content = (tried.folder / name).read_bytes()
    for path in (Path(torch.__file__).parent, Path(export_onnx.__code__.co_filename).parent, tried.run):
        assert str(path).encode() not in content
    for port in tried.session(name).get_inputs() + tried.session(name).get_outputs():
        assert port.shape[0] == "batch"


def test_the_cards_checksums_are_those_of_the_files(tried: Tried) -> None:
    card = (tried.folder / "MODEL_CARD.md").read_text()
    for name in ("trainable.onnx", "pipeline.onnx"):
        content = (tried.folder / name).read_bytes()
        assert f"| {name} | {len(content) / 1e6:.1f} |" in card
        assert hashlib.sha256(content).hexdigest() in card


def test_the_pipelines_example_prints_what_evaluation_said_of_a_picture(world, tried: Tried, tmp_path: Path) -> None:
    image = world.load_manifest().split("test")[2].image
    Image.open(world.folder / image).save(tmp_path / "face.jpg", format="PNG")  # without loss, whatever its name
    (tmp_path / "pipeline.onnx").symlink_to(tried.folder / "pipeline.onnx")
    lines = printed(examples(tried.folder)["pipeline.onnx"], tmp_path).splitlines()
    assert [line.split()[1] for line in lines] == ["anger", "happiness", "neutral"]
    shares = [float(line.split()[0]) for line in lines]
    np.testing.assert_allclose(shares, tried.expected[2], rtol=0, atol=1.5e-4)  # four digits, and 1e-4 between the two


def test_the_card_has_the_files_as_onnxruntime_sees_them_and_no_folder_of_this_machine(tried: Tried) -> None:
    card = (tried.folder / "MODEL_CARD.md").read_text()
    assert "| in | pixels | uint8 | batch x 224 x 224 x 3 | RGB, 0 … 255" in card
    assert card.count("| out | probabilities | float32 | batch x 3 |") == 2
    assert "| in | landmark_features | int8 | batch x 512 x 7 x 7 |" in card
    assert set(examples(tried.folder)) == {"trainable.onnx", "pipeline.onnx"}
    assert str(tried.run.parent) not in card


def test_the_card_has_the_settings_that_the_run_folder_keeps(tried: Tried) -> None:
    card = " ".join((tried.folder / "MODEL_CARD.md").read_text().split())
    assert (
        "Settings: seed 0, epochs 1, batch size 6, sampling balanced, learning rate 0.001 times 0.8 per epoch" in card
    )
    assert json.loads((tried.run / "run.json").read_text())["training_images_sha256"] in card


def test_frozen_networks_for_a_part_that_has_none_are_refused(world, tried: Tried, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match=r"^--part trainable has no frozen networks in it; leave out"):
        export_onnx(tried.run, "best", tmp_path / "out", part="trainable", segmenter=world.segmenter)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_in_one_sentence(tried: Tried) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in tried.folder.iterdir()}
    with pytest.raises(OrsanetError, match=f"^{tried.folder}: already exists; remove it, or choose another --out$"):
        export_onnx(tried.run, "best", tried.folder)
    assert {path.name: path.stat().st_mtime_ns for path in tried.folder.iterdir()} == before


def test_frozen_networks_that_are_not_found_are_asked_for_by_name(tried: Tried, tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="needs the SegFace that its store was built with"):
        export_onnx(tried.run, "best", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_say_what_pytorch_says_is_not_left(tried: Tried, tmp_path: Path) -> None:
    """A head whose logits are so large, and so alike, that the rounding of float32 decides among them; the smallest graph has one."""
    identity = tried.evaluation.checkpoint
    least = {"segmentation_prior": "none", "cross_interaction": False, "landmark_reintegration": False}
    identity = identity.model_copy(update={"model": identity.model.model_copy(update=least)})
    torch.manual_seed(0)
    model = identity.build()
    with torch.no_grad():
        model.head.linear.weight.copy_(1e6 * model.head.linear.weight[:1] + model.head.linear.weight)
    (tmp_path / "run").mkdir()
    save_weights(tmp_path / "run" / "best.safetensors", model, identity)
    with pytest.raises(
        OrsanetError, match=r"trainable\.onnx: onnxruntime's probabilities differ .* nothing was written"
    ):
        export_onnx(tmp_path / "run", "best", tmp_path / "out", part="trainable")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_difference_that_is_no_number_is_the_largest(tried: Tried) -> None:
    wrong = tried.expected.copy()
    wrong[0, 0] = np.nan
    assert np.isnan(largest_difference(tried.folder / "pipeline.onnx", {"pixels": tried.pixels}, wrong, [6]))


def test_other_frozen_networks_than_the_runs_are_refused_before_anything_is_computed(
    world, tried: Tried, tmp_path: Path
) -> None:
    other = tmp_path / "other.pt"
    torch.manual_seed(5)
    torch.save(MobileFaceNet().state_dict(), other)
    with pytest.raises(OrsanetError, match=r"landmarks\.weights_sha256"):
        export_onnx(tried.run, "best", tmp_path / "out", segmenter=world.segmenter, landmarks=other)
    assert [path.name for path in tmp_path.iterdir()] == ["other.pt"]
