"""The shipped networks: whole, small, described by their card, trained and measured on other faces than anyone's data set."""

import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import orsanet_cache
from orsanet_cache import OrsanetError
from orsanet_cache.commands.demo import PEOPLE, PICTURES, demo_faces, demo_people, demo_quality, demo_train
from orsanet_cache.demo.training import SEGMENTER, Recipe
from orsanet_cache.frozen.priors import load_landmark_network, load_segmenter
from orsanet_cache.frozen.shipped import (
    BACKBONE,
    BACKBONE_CARD,
    CARD,
    DEMO,
    TRAINING_KEY,
    WEIGHTS,
    NetworkName,
    backbone_card,
    card,
    weights_path,
    write_backbone_card,
    write_card,
)
from orsanet_cache.store.schema import LAPA_CLASSES
from orsanet_cache.synthetic.dataset import GENERATOR_VERSION

PACKAGE = Path(orsanet_cache.__file__).parent
NETWORKS: tuple[NetworkName, ...] = ("segmenter", "landmarks")

# In a process of its own, whose package is a copy beside it.
ASK = """
import sys
from orsanet_cache.frozen.shipped import DEMO, weights_path
from orsanet_cache.errors import OrsanetError
try:
    print("found", weights_path(DEMO, sys.argv[1]))
except OrsanetError as error:
    print("refused", error)
"""


def ask(folder: Path, network: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", ASK, network],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("given_path", ["a.safetensors", "none/at/all.pt", "weights/demo", "demo.safetensors"])
def test_a_path_stays_as_it_is(network: NetworkName, given_path: str) -> None:
    assert weights_path(Path(given_path), network) == Path(given_path)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_word_demo_is_the_shipped_file_that_the_card_names(network: NetworkName) -> None:
    path = weights_path(DEMO, network)
    assert path == PACKAGE / "frozen" / "shipped_weights" / WEIGHTS[network]
    assert card()[network]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_demo_backbone_is_the_shipped_file_that_its_card_names() -> None:
    path = weights_path(DEMO, "backbone")
    assert path == PACKAGE / "frozen" / "shipped_weights" / BACKBONE
    assert backbone_card()["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights_path(Path("mine.pth"), "backbone") == Path("mine.pth")


@pytest.fixture(scope="module")
def package_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `orsanet_cache` comes before the installed one."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(PACKAGE, folder / "orsanet_cache", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_a_copied_package_finds_its_own_weights(package_copy: Path) -> None:
    folder = package_copy / "orsanet_cache" / "frozen" / "shipped_weights"
    for network in NETWORKS:
        assert ask(package_copy, network) == f"found {folder / WEIGHTS[network]}\n"
    assert ask(package_copy, "backbone") == f"found {folder / BACKBONE}\n"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("damage", ["one bit", "cut", "the other network", "gone", "card gone"])
def test_damaged_weights_are_refused(package_copy: Path, network: NetworkName, damage: str) -> None:
    folder = package_copy / "orsanet_cache" / "frozen" / "shipped_weights"
    file, other = folder / WEIGHTS[network], folder / WEIGHTS[NETWORKS[1 - NETWORKS.index(network)]]
    kept, kept_card = file.read_bytes(), (folder / CARD).read_bytes()
    try:
        if damage == "one bit":
            file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        elif damage == "cut":
            file.write_bytes(kept[:-1])
        elif damage == "the other network":
            file.write_bytes(other.read_bytes())
        else:
            (file if damage == "gone" else folder / CARD).unlink()
        said = ask(package_copy, network)
    finally:
        file.write_bytes(kept)
        (folder / CARD).write_bytes(kept_card)
    assert said.startswith(f"refused {folder}")
    assert "missing or damaged" in said
    assert "install the package again" in said


@pytest.mark.parametrize("damaged", [BACKBONE, BACKBONE_CARD])
def test_a_damaged_backbone_or_card_is_refused(package_copy: Path, damaged: str) -> None:
    file = package_copy / "orsanet_cache" / "frozen" / "shipped_weights" / damaged
    kept = file.read_bytes()
    try:
        file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]) if damaged == BACKBONE else b"sha256 = ")
        said = ask(package_copy, "backbone")
    finally:
        file.write_bytes(kept)
    assert said.startswith(f"refused {file}")
    assert "install the package again" in said


def test_the_shipped_files_are_small_and_strictly_the_networks() -> None:
    paths = {network: weights_path(DEMO, network) for network in NETWORKS}
    assert sum(path.stat().st_size for path in (*paths.values(), weights_path(DEMO, "backbone"))) <= 5_000_000
    assert load_segmenter(paths["segmenter"]).config == SEGMENTER
    assert not load_landmark_network(paths["landmarks"]).training
    for path in paths.values():
        with safetensors.safe_open(path, framework="numpy") as file:
            types = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118  (not a mapping)
        assert {kind for kind in types if kind.kind == "f"} == {np.dtype(np.float16)}


def test_the_card_tells_training_and_quality() -> None:
    content = card()
    assert content.keys() == {"segmenter", "landmarks", "quality"}
    for network in NETWORKS:
        with safetensors.safe_open(weights_path(DEMO, network), framework="numpy") as file:
            assert content[network]["training"] == json.loads(file.metadata()[TRAINING_KEY])
        training = content[network]["training"]
        assert training["network"] == network
        assert {key: training[key] for key in vars(Recipe())} == vars(Recipe())  # what `demo-train` does by itself
        assert 1 <= training["generator"] <= GENERATOR_VERSION
    quality = content["quality"]
    assert quality["generator"] == GENERATOR_VERSION  # of the faces that a user draws today
    groups = [quality["unoccluded"], quality["occluded"]]
    assert sum(group["images"] for group in groups) >= 500
    for group in groups:
        assert list(group["part_f1"]) == list(LAPA_CLASSES[1:])
        mean = sum(group["part_f1"].values()) / len(group["part_f1"])
        assert group["mean_part_f1"] == pytest.approx(mean, abs=1e-4)  # both are rounded to four places
        assert 0 < group["landmark_error_visible"] <= group["landmark_error"]


def test_the_backbones_card_tells_training_and_quality() -> None:
    content = backbone_card()
    with safetensors.safe_open(weights_path(DEMO, "backbone"), framework="numpy") as file:
        assert content["training"] == json.loads(file.metadata()[TRAINING_KEY])
        types = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118  (not a mapping)
    assert {kind for kind in types if kind.kind == "f"} == {np.dtype(np.float16)}
    training, quality = content["training"], content["quality"]
    assert training["data_set"] == f"demo-people-{default_of(demo_people, 'seed')}"
    assert training["people"] + quality["people"] == PEOPLE
    assert training["pictures"] + quality["pictures"] == PEOPLE * PICTURES
    assert quality["by_chance"] < 0.1 < quality["rank_one"] <= 1


def default_of(command: click.Command, option: str) -> object:
    return next(parameter.default for parameter in command.params if parameter.name == option)


def test_trainings_quality_and_data_set_have_seeds_of_their_own() -> None:
    content = card()
    trained = {content[network]["training"]["seed"] for network in NETWORKS}
    assert trained == {default_of(demo_train, "seed")} == {Recipe().seed}
    assert content["quality"]["seed"] == default_of(demo_quality, "seed")
    assert default_of(demo_faces, "seed") == 0
    others = default_of(demo_people, "seed")  # of the backbone's people
    assert len({0, *trained, content["quality"]["seed"], others}) == 4


plain = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8))


@settings(max_examples=25, deadline=None)
@given(training=st.dictionaries(st.text(max_size=8), plain, max_size=4), quality=st.dictionaries(st.text(), plain))
def test_a_card_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, training: dict[str, object], quality: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("card")
    for number, file_name in enumerate(WEIGHTS.values()):
        header = {TRAINING_KEY: json.dumps({**training, "seed": 0, "number": number})}
        save_file({"weight": np.full(3, number, np.float16)}, folder / file_name, metadata=header)
    write_card(folder, quality)
    text = (folder / CARD).read_bytes()
    content = tomllib.loads(text.decode())
    assert content["quality"] == quality
    for number, (network, file_name) in enumerate(WEIGHTS.items()):
        assert content[network]["training"] == {**training, "seed": 0, "number": number}
        assert content[network]["sha256"] == hashlib.sha256((folder / file_name).read_bytes()).hexdigest()
    write_card(folder, quality)
    assert (folder / CARD).read_bytes() == text


def test_a_backbones_card_replaces_no_other_file_and_comes_back_as_written(tmp_path: Path) -> None:
    header = {TRAINING_KEY: json.dumps({"seed": 0, "channels": [8, 16, 32]})}
    save_file({"weight": np.full(3, 1, np.float16)}, tmp_path / BACKBONE, metadata=header)
    write_backbone_card(tmp_path, {"rank_one": 0.5})
    content = tomllib.loads((tmp_path / BACKBONE_CARD).read_text())
    assert content == {
        "sha256": hashlib.sha256((tmp_path / BACKBONE).read_bytes()).hexdigest(),
        "training": {"seed": 0, "channels": [8, 16, 32]},
        "quality": {"rank_one": 0.5},
    }
    (tmp_path / BACKBONE_CARD).write_text("mine")
    with pytest.raises(OrsanetError, match="is not a card of `orsanet-train pretrain`, so it was not replaced"):
        write_backbone_card(tmp_path, {})


def test_weights_that_do_not_say_how_they_were_trained_get_no_card(tmp_path: Path) -> None:
    for file_name in WEIGHTS.values():
        save_file({"weight": np.zeros(3, np.float16)}, tmp_path / file_name)
    with pytest.raises(OrsanetError, match=r"segmenter\.safetensors"):
        write_card(tmp_path, {})
    assert not (tmp_path / CARD).exists()
