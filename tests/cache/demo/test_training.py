"""Training: stopped at any moment and started again it ends in the same weights; the files are what the build loads."""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from forks import Fork, ForkServer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.modules.module import register_module_forward_hook

from orsanet_cache import FrozenPriors, OrsanetError
from orsanet_cache.data.images import read_image, view_pixels
from orsanet_cache.demo.training import (
    SEGMENTER,
    Recipe,
    _centred,
    _Faces,
    _landmark_loss,
    _order,
    segmentation_loss,
    train_networks,
)
from orsanet_cache.frozen.mobilefacenet import MobileFaceNet
from orsanet_cache.frozen.priors import load_landmark_network, load_segmenter
from orsanet_cache.frozen.segface import SegFaceConfig
from orsanet_cache.store.schema import LAPA_CLASSES
from orsanet_cache.synthetic.dataset import GENERATOR_VERSION, image_name

STEPS = 6
RECIPE = Recipe(images=64, segmenter_steps=STEPS, landmarks_steps=STEPS, segmenter_batch=1, landmarks_batch=2)
SMALL = SegFaceConfig(
    embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), decoder_width=16, decoder_heads=2, decoder_mlp_width=16
)
FILES = ("segmenter.safetensors", "landmarks.safetensors")

# The command itself, at small sizes: it saves every second step, so a kill often loses a step that must be done again.
AT_SMALL_SIZES = f"""
from functools import partial
import orsanet_cache.cli
from orsanet_cache.demo import training
training.SAVE_STEPS = 2
training.Recipe = partial(training.Recipe, segmenter_batch={RECIPE.segmenter_batch}, landmarks_batch={RECIPE.landmarks_batch})
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    """Of one thread: sums of several threads have no fixed order."""
    server = ForkServer(AT_SMALL_SIZES)
    yield server
    server.close()


def start(forks: ForkServer, out: Path) -> Fork:
    """`orsanet-cache demo-train` in a process of its own."""
    arguments = ["demo-train", "--out", out, "--images", RECIPE.images]
    arguments += ["--segmenter-steps", STEPS, "--landmarks-steps", STEPS]
    return forks.start("orsanet-cache", *arguments)


def stop(process: Fork, when: Path, number: signal.Signals) -> str:
    """Send the signal as soon as the file is there. Returns all that it said."""
    deadline = time.monotonic() + 120
    while not when.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    return process.communicate(timeout=60)[0]


def content(path: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """A weights file's header and tensors, bit for bit."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def steps_done(state: Path) -> int:
    return int(torch.load(state, weights_only=True)["step"])


@pytest.fixture(scope="module")
def trained(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one uninterrupted call leaves."""
    out = tmp_path_factory.mktemp("train") / "whole"
    process = start(forks, out)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert [line for line in said.splitlines() if line.startswith("wrote ")] == [
        f"wrote {out / name}" for name in FILES
    ]
    return out


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "copied")


def test_killed_and_interrupted_it_goes_on_to_the_same_weights(
    forks: ForkServer, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    shutil.copytree(trained / "faces", out / "faces")
    states = [out / "segmenter.state.pt", out / "landmarks.state.pt"]

    killed = start(forks, out)
    stop(killed, states[0], signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert 0 < steps_done(states[0]) < STEPS  # in the middle: otherwise this proves nothing
    assert not states[1].exists()

    interrupted = start(forks, out)
    said = stop(interrupted, states[1], signal.SIGINT)
    assert interrupted.returncode == 130, said
    assert "Run the same command again" in said
    assert "Traceback" not in said
    assert steps_done(states[0]) == STEPS
    assert 0 < steps_done(states[1]) < STEPS
    assert not (out / FILES[1]).exists()

    finished = start(forks, out)
    said, _ = finished.communicate(timeout=300)
    assert finished.returncode == 0, said
    for name in FILES:
        assert content(out / name) == content(trained / name), name


def test_a_finished_training_only_writes_its_weights_again(copied: Path, trained: Path) -> None:
    for name in FILES:
        (copied / name).unlink()  # as after a kill before they were written
    states = {path: path.read_bytes() for path in copied.glob("*.state.pt")}
    assert len(states) == 2
    assert train_networks(copied, ("segmenter", "landmarks"), RECIPE) == [copied / name for name in FILES]
    assert all(path.read_bytes() == before for path, before in states.items())
    for name in FILES:
        assert content(copied / name) == content(trained / name), name


@pytest.mark.parametrize("change", [{"weight_decay": 0.02}, {"landmarks_steps": STEPS + 2}, {"landmarks_batch": 8}])
def test_another_recipe_is_refused_and_nothing_touched(copied: Path, change: dict[str, int | float]) -> None:
    before = {path: path.read_bytes() for path in copied.glob("*.*")}
    with pytest.raises(
        OrsanetError, match=r"landmarks\.state\.pt: a training with other settings; choose another --out"
    ):
        train_networks(copied, ("landmarks",), replace(RECIPE, **change))  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in copied.glob("*.*")} == before


@pytest.mark.parametrize("file_name", FILES)
def test_weights_of_another_origin_are_refused_before_anything_is_drawn(tmp_path: Path, file_name: str) -> None:
    mine = tmp_path / file_name
    safetensors.torch.save_file({"weight": torch.zeros(1)}, mine)
    before = mine.read_bytes()
    with pytest.raises(OrsanetError, match=f"^{mine}: was not written by `orsanet-cache demo-train`, so it was not"):
        train_networks(tmp_path, ("segmenter", "landmarks"), RECIPE)
    assert mine.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file_name]


def test_other_faces_are_refused(copied: Path) -> None:
    with pytest.raises(OrsanetError, match="holds another data set"):
        train_networks(copied, ("landmarks",), replace(RECIPE, seed=RECIPE.seed + 1))


def test_a_diverged_training_says_so_and_leaves_no_weights(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "faces", tmp_path / "faces")
    with pytest.raises(OrsanetError, match=r"landmarks: the loss was not finite at step .* lower"):
        train_networks(tmp_path, ("landmarks",), replace(RECIPE, learning_rate=1e30))
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


@pytest.mark.parametrize("steps", [1, 9])
def test_any_number_of_steps_that_the_command_allows_trains(trained: Path, tmp_path: Path, steps: int) -> None:
    shutil.copytree(trained / "faces", tmp_path / "faces")
    train_networks(tmp_path, ("landmarks",), replace(RECIPE, landmarks_steps=steps))
    assert steps_done(tmp_path / "landmarks.state.pt") == steps


@pytest.mark.parametrize("supported", [False, True])
def test_bfloat16_only_on_processors_that_have_it(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    """Elsewhere torch emulates it, slower than float32."""
    for asked in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, asked, lambda: supported)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    shutil.copytree(trained / "faces", tmp_path / "faces")
    seen: set[torch.dtype] = set()

    def note(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            seen.add(output.dtype)

    hook = register_module_forward_hook(note)
    try:
        train_networks(tmp_path, ("landmarks",), replace(RECIPE, landmarks_steps=1, landmarks_batch=2))
    finally:
        hook.remove()
    assert seen == {torch.bfloat16 if supported else torch.float32}


def test_the_files_are_fp16_load_strictly_and_say_how_they_were_trained(trained: Path) -> None:
    for name in ("segmenter", "landmarks"):
        path = trained / f"{name}.safetensors"
        with safetensors.safe_open(path, framework="pt") as file:
            floating = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118  (not a mapping)
            floating = [tensor for tensor in floating if tensor.is_floating_point()]
            header = file.metadata()
        assert {tensor.dtype for tensor in floating} == {torch.float16}
        said = json.loads(header["training"])
        assert said == {"network": name, "generator": GENERATOR_VERSION, **vars(RECIPE)}
    assert load_segmenter(trained / FILES[0]).config == SEGMENTER
    state = torch.load(trained / "landmarks.state.pt", weights_only=True)["network"]
    loaded = load_landmark_network(trained / FILES[1]).state_dict()
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor), name


@pytest.mark.parametrize("name", ["segmenter", "landmarks"])
def test_training_feeds_a_network_what_the_build_will_feed_it(trained: Path, name: str) -> None:
    priors = FrozenPriors.load(trained / FILES[0], trained / FILES[1])
    seen: list[torch.Tensor] = []
    first = priors.segmenter if name == "segmenter" else next(priors.landmark_network.children())
    first.register_forward_pre_hook(lambda _network, inputs: seen.append(inputs[0]))
    index = np.array([5, 0, RECIPE.images - 1])
    views = np.stack([view_pixels(read_image(trained / "faces" / image_name(i)).rgb, "clean") for i in index.tolist()])
    priors(torch.from_numpy(views))
    images, truth = _Faces(trained / "faces", RECIPE.images, name).batch(index)  # type: ignore[arg-type]
    assert torch.equal(images, seen[0])
    with np.load(trained / "faces" / "truth.npz") as kept:
        expected = kept["segmentation_map" if name == "segmenter" else "landmarks"][index]
    assert np.array_equal(truth.numpy(), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(1, 12), st.integers(1, 8), st.integers(0, 7), st.integers(0, 5))
def test_each_pass_takes_every_face_once(seed: int, steps: int, batch_size: int, rest: int, passed: int) -> None:
    images = steps * batch_size + rest % batch_size  # a rest smaller than a batch waits for the next pass
    recipe = Recipe(seed=seed, images=images)
    taken = [_order(recipe, passed * steps + step, batch_size) for step in range(steps)]
    assert all(len(faces) == batch_size for faces in taken)
    together = np.concatenate(taken)
    assert len(set(together.tolist())) == steps * batch_size
    assert set(together.tolist()) <= set(range(images))


def test_every_pass_has_its_own_order_and_every_seed_too() -> None:
    whole = {
        tuple(_order(Recipe(seed=seed, images=64), passed, 64).tolist()) for seed in range(3) for passed in range(3)
    }
    assert len(whole) == 9


# Stripes of every class: 11 classes, [2, 11, 44, 44], four rows each.
TRUTH = torch.arange(11).repeat_interleave(4)[None, :, None].expand(2, 44, 44)


def logits_for(said: torch.Tensor) -> torch.Tensor:
    """Very sure of the map `said`: wrong costs 30, right nothing."""
    return 30.0 * one_hot(said, len(LAPA_CLASSES)).movedim(-1, 1).float()


def test_the_loss_is_nothing_for_right_and_grows_with_what_is_wrong() -> None:
    losses = []
    for wrong_columns in (0, 11, 22, 44):
        said = TRUTH.clone()
        said[..., :wrong_columns] = (TRUTH[..., :wrong_columns] + 1) % 11
        losses.append(segmentation_loss(logits_for(said), TRUTH).item())
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert losses == sorted(losses)
    # All wrong: cross-entropy 30, and Dice 1 but for its + 1, here one of 2 * 2 * 4 * 44 + 1.
    assert losses[-1] == pytest.approx(31, abs=0.01)
    undecided = segmentation_loss(torch.zeros(2, 11, 44, 44), TRUTH).item()
    assert losses[0] < undecided < losses[-1]


def test_dice_weighs_a_small_part_as_much_as_a_large_one() -> None:
    small, large = 20, 2000
    truth = torch.zeros(1, 100, 100, dtype=torch.long)
    truth.view(-1)[:small], truth.view(-1)[small : small + large] = 4, 1

    def terms(missed: int) -> tuple[float, float]:
        """Cross-entropy and Dice where all of class `missed` is taken for class 7, which is nowhere."""
        logits = logits_for(torch.where(truth == missed, 7, truth))
        entropy = cross_entropy(logits, truth).item()
        return entropy, segmentation_loss(logits, truth).item() - entropy

    (entropy_small, dice_small), (entropy_large, dice_large) = terms(4), terms(1)
    # The missed class and the one it is taken for each lose 1 - 1 / (n + 1) of their eleventh.
    assert dice_small == pytest.approx(2 / 11 * (1 - 1 / (small + 1)), abs=1e-5)
    assert dice_large == pytest.approx(2 / 11 * (1 - 1 / (large + 1)), abs=1e-5)
    assert entropy_large == pytest.approx(entropy_small * large / small, rel=1e-4)


def test_a_landmark_loss_is_in_per_cent_of_the_crop() -> None:
    truth = torch.rand(3, 68, 2)
    assert _landmark_loss(truth, truth).item() == 0
    assert _landmark_loss(truth + 0.02, truth).item() == pytest.approx(2, rel=1e-4)


def test_the_landmark_network_starts_at_the_mean_face_and_its_spread(trained: Path) -> None:
    with np.load(trained / "faces" / "truth.npz") as kept:
        faces = torch.from_numpy(kept["landmarks"])
    torch.manual_seed(0)
    network = _centred(MobileFaceNet(), faces).train()
    with torch.no_grad():
        said = network(torch.randn(16, 3, 112, 112))[1]
    # BatchNorm gives any batch mean 0 and deviation 1 (a little less, for its 1e-5 under the root); then its shift and scale.
    assert torch.allclose(said.mean(dim=0), faces.mean(dim=0), atol=1e-5)
    ratio = said.std(dim=0, correction=0) / faces.std(dim=0)
    assert ratio.max() < 1 + 1e-4
    assert ratio.median() > 0.99
