"""A run goes to a hub and comes back the same; nothing goes there whose terms are others', unless the user says that they allow it.

The hub is a server on 127.0.0.1 (helpers/hub_server.py), asked by huggingface_hub itself in processes of their own, because it reads its
settings once.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, DENIED, REFUSED, ModelHub, model_hub

from orsanet_cache import OrsanetError, PriorStore
from orsanet_cache.frozen.shipped import weights_path
from orsanet_train import load
from orsanet_train.export.push import frozen_networks, push, terms
from orsanet_train.model.checkpoint import Identity, save_weights
from orsanet_train.model.frozen import demo_backbone_digest
from orsanet_train.model_config import ORSANetConfig
from orsanet_train.predict.hub import NAME, local_run, repository_name

TINY = ORSANetConfig(depth=1, width=32, multi_scale=False, backbone_channels=(8, 8, 16), backbone_units=(1, 1, 1))
# Both command lines, and the predictions of a loaded run, in one process that loads torch once.
CHILD = """
import json, os, sys
import orsanet_train.cli
from orsanet_train import load
from orsanet_cache import OrsanetError

for line in json.loads(sys.argv[1]):
    if line[0] == "token":
        os.environ["HF_TOKEN"] = line[1]
        continue
    if line[0] == "load":
        try:
            result = load(line[1], crop="none", segmenter=line[2], landmarks=line[3])(line[4])
            print(json.dumps(list(result.faces[0].probability.values())))
        except OrsanetError as error:
            print(json.dumps(str(error)))
        continue
    try:
        orsanet_train.cli.main(line, prog_name="orsanet-train")
    except SystemExit as ended:
        print(json.dumps(ended.code))
"""


# huggingface_hub's own way to upload a large file calls httpx2 so. With hf_xet it has another.
OF_THE_LIBRARY = "ignore:Use 'content=<...>' to upload raw bytes/text content.:DeprecationWarning"


def identity_of(recipe: dict, **changes: object) -> Identity:
    given = {
        "classes": ("anger", "happiness", "neutral"), "model": TINY, "segmentation_channels": 128, "landmark_channels": 512,
        "store_recipe": recipe, "ir50_sha256": None, "epoch": 3, "data_set": "demo-faces-0", "train_split": "train",
        "selection": "best", "selection_split": "valid", "selection_accuracy": 0.5, **changes,
    }  # fmt: skip
    return Identity.model_validate(given)


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two untrained models: one as if trained on drawn faces, one on a data set with terms of its own."""
    recipe = PriorStore.open(world.store).recipe
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, data_set in (("free", "demo-faces-0"), ("bound", "rafdb")):
        (folder / name).mkdir()
        identity = identity_of(recipe, data_set=data_set)
        torch.manual_seed(0)
        save_weights(folder / name / "best.safetensors", identity.build(), identity)
        found[name] = folder / name
    return found


@dataclass
class Visit:
    """What a process that talked to the hub printed, and what the hub has afterwards."""

    hub: ModelHub
    folder: Path
    picture: Path
    lines: list[str]
    errors: str


@pytest.fixture(scope="module")
def visit(world, runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Visit:
    folder = tmp_path_factory.mktemp("visit")
    picture = next((world.folder / "images").glob("*.png"))
    where = [world.segmenter, world.landmarks, picture]
    lines: list[list[object]] = [
        ["push", runs["free"], "somebody/faces", "--licence", "apache-2.0"],
        ["load", "somebody/faces", *where],
        ["load", f"somebody/faces@{COMMIT}", *where],
        ["load", "somebody/faces@no-such-tag", *where],
        ["load", "somebody/no-such-model", *where],
        [
            "predict",
            "somebody/faces",
            picture,
            "--crop",
            "none",
            "--segmenter",
            where[0],
            "--landmarks",
            where[1],
            "--out",
            "said",
        ],
        ["push", runs["bound"], "somebody/bound"],
        ["push", runs["bound"], "somebody/bound", "--yes", "--public"],
        ["push", runs["free"], "somebody/strange", "--licence", REFUSED],
        ["push", runs["free"], f"{DENIED}/faces"],
        ["push", runs["free"], "faces"],
        ["push", runs["free"], "somebody/--faces"],
        ["push", runs["free"], "somebody/fa..ces"],
        ["token", "hf_wrong"],
        ["push", runs["free"], "somebody/faces"],
    ]
    with model_hub() as hub:
        variables = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_TOKEN": hub.token,
            "PYTHONWARNINGS": f"{os.environ['PYTHONWARNINGS']},{OF_THE_LIBRARY}",
        }  # fmt: skip
        ended = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(lines, default=str)],
            cwd=folder, env=variables, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return Visit(hub, folder, picture, ended.stdout.splitlines(), ended.stderr)


def test_a_run_is_pushed_and_loaded_again_with_the_same_predictions(world, runs: dict[str, Path], visit: Visit) -> None:
    assert (
        visit.lines[0]
        == f"pushed best.safetensors, frozen.json, README.md: {visit.hub.url}/somebody/faces/commit/{COMMIT}"
    )
    local = load(runs["free"], crop="none", segmenter=world.segmenter, landmarks=world.landmarks)(visit.picture).faces[
        0
    ]
    for line in visit.lines[2:4]:
        assert json.loads(line) == pytest.approx(list(local.probability.values()), abs=1e-6)
    assert (visit.folder / "said" / "predictions.csv").is_file()
    assert visit.hub.models["somebody/faces"]["best.safetensors"] == (runs["free"] / "best.safetensors").read_bytes()


def test_a_model_or_revision_that_is_not_there_is_one_sentence(visit: Visit) -> None:
    assert "no such revision" in json.loads(visit.lines[4])
    asked = "somebody/no-such-model: no such folder, and on the hub"
    assert json.loads(visit.lines[5]).startswith(f"{asked}: no model of this name, or it is private")


def test_weights_from_a_data_set_with_terms_are_pushed_with_the_users_statement_only(visit: Visit) -> None:
    assert "these parts have terms of their own" in visit.errors
    assert "the data set 'rafdb'" in visit.errors
    assert visit.hub.requests.count("POST /api/repos/create") == 4 + 1  # the last one was refused for its token
    assert visit.hub.visibility == {
        "somebody/faces": "private", "somebody/bound": "public", "somebody/strange": "private",
        f"{DENIED}/faces": "private",
    }  # fmt: skip


def test_refusals_of_the_hub_are_one_sentence_each(visit: Visit) -> None:
    assert (
        'the hub refused the card (Invalid metadata in README.md. - "license" must be one of the list)' in visit.errors
    )
    assert visit.hub.models["somebody/strange"] == {}
    assert visit.hub.models[f"{DENIED}/faces"] == {}
    assert f"Error: {DENIED}/faces: the server answered 403; log in with" in visit.errors
    assert "'faces' is not OWNER/NAME" in visit.errors
    assert "'somebody/--faces' is not OWNER/NAME" in visit.errors
    assert "somebody/fa..ces: is not a name for the hub (" in visit.errors
    assert "log in with `hf auth login`, or set HF_TOKEN" in visit.errors.splitlines()[-1]


def test_the_card_and_the_list_of_frozen_networks_name_digests_and_sources(world, visit: Visit) -> None:
    faces = visit.hub.models["somebody/faces"]
    frozen = json.loads(faces["frozen.json"])
    recipe = PriorStore.open(world.store).recipe
    assert {part: network["tensors_sha256"] for part, network in frozen.items()} == {
        part: recipe[part]["weights_sha256"] for part in ("segmenter", "landmarks")
    }
    assert all(network["source"].startswith("https://huggingface.co/") for network in frozen.values())
    card = faces["README.md"].decode()
    assert card.startswith('---\nlicense: "apache-2.0"\nlibrary_name: orsanet\n')
    assert 'model = load("somebody/faces")' in card
    assert recipe["segmenter"]["weights_sha256"] in card
    assert "pushed by orsanet" in card
    assert "onnx" not in card.lower()


def test_only_drawn_faces_and_free_starts_are_known_to_be_free(world, runs: dict[str, Path], tmp_path: Path) -> None:
    recipe = PriorStore.open(world.store).recipe
    run = runs["free"]
    assert terms(run, "best", identity_of(recipe)) == []
    assert terms(run, "best", identity_of(recipe, ir50_sha256=demo_backbone_digest())) == []
    for changes, word in (
        ({"data_set": "my-faces"}, "data set 'my-faces'"),
        ({"data_set": "demo-faces-of-mine"}, "data set"),
        ({"ir50_sha256": "0" * 64}, "--ir50"),
        ({"selection": "published", "epoch": None, "selection_accuracy": None}, "published checkpoint"),
    ):
        (line,) = terms(run, "best", identity_of(recipe, **changes))
        assert word in line
    (tmp_path / "best-landmarks.safetensors").touch()
    (line,) = terms(tmp_path, "best", identity_of(recipe))
    assert "the landmark network, which this run trained further" in line


def test_the_demos_networks_come_with_the_package_and_are_named_so(world) -> None:
    from orsanet_cache import FrozenPriors

    recipe = {**PriorStore.open(world.store).recipe, **FrozenPriors.load("demo", "demo").recipe()}
    assert weights_path(Path("demo"), "segmenter").exists()
    for part, network in frozen_networks(identity_of(recipe)).items():
        assert network["source"] == "comes with orsanet"
        assert network["option"] == f"--{part} demo"


def test_a_name_is_looked_for_on_the_hub_only_if_nothing_here_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, so that every look would be refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for local in (
        "here",
        "here/not-there",
        "run",
        "../run",
        "/run",
        "some/where/else",
        "here/run@v1",
        "a b/c",
        ".hidden/run",
    ):
        assert local_run(Path(local)) == Path(local)
    for name in ("owner/name", "owner/name@v1.0", "owner/name@" + "a" * 40):
        assert NAME.fullmatch(name)
    with pytest.raises(OrsanetError, match="is not OWNER/NAME"):
        repository_name("owner/name@v1")


def test_a_damaged_or_missing_run_is_refused_before_anything_is_asked(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OrsanetError, match="is not a run folder"):
        push(tmp_path, "a/b", yes=True)
    content = bytearray((runs["free"] / "best.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "best.safetensors").write_bytes(content)
    with pytest.raises(OrsanetError, match="damaged"):
        push(tmp_path, "a/b", yes=True)
