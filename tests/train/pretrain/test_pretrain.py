"""Pretraining: killed and started again it ends in the same weights, which `run --ir50` starts from."""

import hashlib
import json
import re
import shutil
import signal
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command_lines import in_process
from forks import Fork, ForkServer

from orsanet_cache import OrsanetError, load_manifest
from orsanet_cache.frozen.shipped import TRAINING_KEY
from orsanet_cache.synthetic.dataset import write_people
from orsanet_train.cli import main
from orsanet_train.config import load_config
from orsanet_train.model.model import build_model, load_backbone, read_backbone
from orsanet_train.pretrain.people import People
from orsanet_train.pretrain.pretrain import Recipe, pretrain

STEPS, BATCH = 8, 6
SIZES = ("model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]")
MODEL = load_config("small", SIZES).model
OUTPUTS = ("backbone.safetensors", "backbone.toml")
# It saves every third step, so a kill nearly always loses steps that must be done again.
AT_SMALL_SIZES = "import orsanet_train.cli\nfrom orsanet_train.pretrain import pretrain\npretrain.SAVE_STEPS = 3\n"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("people") / "people"
    return write_people(out, 6, 20, 2, processes=1).manifest


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    """Of one thread: sums of several threads have no fixed order."""
    server = ForkServer(AT_SMALL_SIZES)
    yield server
    server.close()


def arguments(people: Path, out: Path) -> list[object]:
    sizes = [part for key in SIZES for part in ("--set", key)]
    return [
        "pretrain", people, "--preset", "small", *sizes, "--out", out, "--steps", STEPS, "--batch", BATCH,
    ]  # fmt: skip


def finished(process: Fork) -> str:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def trained(forks: ForkServer, people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What one uninterrupted call leaves and says."""
    out = tmp_path_factory.mktemp("pretrain") / "whole"
    return out, finished(forks.start("orsanet-train", *arguments(people, out)))


def test_it_prints_and_records_how_well_unseen_people_are_told_apart(trained: tuple[Path, str]) -> None:
    out, said = trained
    card = tomllib.loads((out / "backbone.toml").read_text())
    assert card["sha256"] == hashlib.sha256((out / "backbone.safetensors").read_bytes()).hexdigest()
    assert (card["training"]["people"], card["training"]["pictures"], card["training"]["steps"]) == (18, 36, STEPS)
    quality = card["quality"]
    assert (quality["split"], quality["people"], quality["pictures"]) == ("valid", 2, 4)
    assert quality["by_chance"] == pytest.approx(1 / 3, abs=1e-4)  # one of the three other pictures
    assert quality["rank_one"] in (0, 0.25, 0.5, 0.75, 1)
    assert f"for {quality['rank_one']:.1%} the nearest other picture shows the same person (by chance 33.3%)" in said
    with safetensors.safe_open(out / "backbone.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()[TRAINING_KEY]) == card["training"]
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16, torch.int64}


def test_killed_it_goes_on_to_the_same_weights(
    forks: ForkServer, people: Path, trained: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    for number in (signal.SIGKILL, signal.SIGINT):
        process, state = forks.start("orsanet-train", *arguments(people, out)), out / "backbone.state.pt"
        written = state.stat().st_mtime_ns if state.exists() else 0
        until = time.monotonic() + 60
        while time.monotonic() < until and (not state.exists() or state.stat().st_mtime_ns == written):
            time.sleep(0.005)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 130), said
        assert not (out / OUTPUTS[0]).exists()
    finished(forks.start("orsanet-train", *arguments(people, out)))
    whole = safetensors.torch.load_file(trained[0] / OUTPUTS[0])
    again = safetensors.torch.load_file(out / OUTPUTS[0])
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_run_starts_from_the_weights(trained: tuple[Path, str]) -> None:
    weights = read_backbone(trained[0] / OUTPUTS[0])
    model = build_model(MODEL, 7, 64, 512)
    load_backbone(model, weights, MODEL)
    for name, value in model.ir_back.state_dict().items():
        assert torch.equal(value, weights.tensors[name].to(value.dtype)), name


def test_a_backbone_of_another_size_is_refused_in_words(trained: tuple[Path, str]) -> None:
    other = load_config("small").model
    refusal = (
        "a backbone with channels and units [[8, 8, 16], [1, 1, 1]], the configuration has "
        f"[{list(other.backbone_channels)}, {list(other.backbone_units)}]; choose the preset that it was trained for"
    )
    with pytest.raises(OrsanetError, match=re.escape(refusal)):
        load_backbone(build_model(other, 7, 64, 512), read_backbone(trained[0] / OUTPUTS[0]), other)


def test_another_recipe_is_refused_and_nothing_touched(people: Path, trained: tuple[Path, str], tmp_path: Path) -> None:
    out = shutil.copytree(trained[0], tmp_path / "copied")
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OrsanetError, match="a training with other settings; choose another --out"):
        pretrain(people, out, MODEL, Recipe(steps=STEPS, batch=BATCH + 1))
    with pytest.raises(OrsanetError, match=f"{STEPS} steps are done; pass --steps {STEPS} or more"):
        pretrain(people, out, MODEL, Recipe(steps=STEPS - 1, batch=BATCH))
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_shorter_training_is_lengthened_to_the_same_weights(
    forks: ForkServer, people: Path, trained: tuple[Path, str], tmp_path: Path
) -> None:
    shorter = arguments(people, tmp_path)
    shorter[shorter.index("--steps") + 1] = STEPS - 3
    finished(forks.start("orsanet-train", *shorter))
    assert tomllib.loads((tmp_path / "backbone.toml").read_text())["training"]["steps"] == STEPS - 3
    finished(forks.start("orsanet-train", *arguments(people, tmp_path)))
    assert (tmp_path / OUTPUTS[0]).read_bytes() == (trained[0] / OUTPUTS[0]).read_bytes()


@pytest.mark.parametrize("name", OUTPUTS)
def test_files_of_another_origin_are_not_replaced(people: Path, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OrsanetError, match="so it was not replaced"):
        pretrain(people, tmp_path, MODEL, Recipe(steps=STEPS, batch=BATCH))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_batch_is_a_function_of_seed_and_step_and_a_pass_takes_each_picture_once(people: Path) -> None:
    trained = People(load_manifest(people), "train")
    first, again = trained.training_batch(1, 2, BATCH), trained.training_batch(1, 2, BATCH)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], trained.training_batch(2, 2, BATCH)[0])
    persons = torch.cat([trained.training_batch(1, step, BATCH)[1] for step in range(6)])
    assert torch.bincount(persons).tolist() == [2] * 18


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({",valid,": ",train,"}, "has no split 'valid'; it has train"),
        ({"person-00004,valid": "person-00003,valid"}, "1 people are in train and in valid, person-00003 for example"),
        ({}, "has 36 pictures to train on, a batch 48; lower --batch"),
        ({"-": "-"}, "--steps 8 is beyond the learning rate's cycle; pass --cycle 8 too"),
    ],
)
def test_data_that_cannot_be_used_is_refused(
    people: Path, change: dict[str, str], refusal: str, tmp_path: Path
) -> None:
    text = people.with_name("samples.csv").read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "samples.csv").write_text(text)
    shutil.copytree(people.parent / "images", tmp_path / "images")
    shutil.copy(people, tmp_path / "faces.toml")
    command = [*arguments(people, tmp_path / "out")[:-2], "--batch", 48]
    command[1] = tmp_path / "faces.toml"
    if "--cycle" in refusal:
        command += ["--cycle", STEPS - 1]
    result = in_process(main, *command)
    assert (result.returncode, result.stdout) == (1, "")
    assert refusal in result.stderr
    assert not (tmp_path / "out").exists()
