"""The small frozen networks of the embedded default: which they are and where their weights lie.

They are SegFace's and MobileFaceNet's own code, trained on nothing but synthetic faces (`orsanet_cache.demo.training`). On real
faces they are out of their domain; the published weights are for those.
"""

import hashlib
import json
import tomllib
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import safetensors
import tomli_w

from orsanet_cache.errors import OrsanetError

NetworkName = Literal["segmenter", "landmarks"]

# What `--segmenter demo` and `--landmarks demo` stand for.
DEMO = Path("demo")
WEIGHTS = {"segmenter": "segmenter.safetensors", "landmarks": "landmarks.safetensors"}
CARD = "networks.toml"  # digests, training and measured quality of the shipped weights
TRAINING_KEY = "training"  # of a weights file's header: how the network was trained, as JSON
_PREFACE = "# Written by `orsanet-cache demo-quality --card`. Anyone may use these weights for anything.\n"


def weights_path(given: Path, network: NetworkName) -> Path:
    """The path as given, or the shipped weights for `demo`. Raises OrsanetError where those are damaged."""
    if given != DEMO:
        return given
    with as_file(files("orsanet_cache.demo") / "weights" / WEIGHTS[network]) as path:
        expected = card()[network]["sha256"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise OrsanetError(f"{path}: the shipped demo weights are missing or damaged; install the package again")
        return path


def write_card(folder: Path, quality: dict[str, Any]) -> None:
    """Write the card of the weights in `folder`: their digests, what their headers say of their training, what was measured."""
    content: dict[str, Any] = {}
    for network, file_name in WEIGHTS.items():
        path = folder / file_name
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata()
        content[network] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "training": json.loads(header[TRAINING_KEY]),
        }
    (folder / CARD).write_text(_PREFACE + tomli_w.dumps({**content, "quality": quality}), encoding="utf-8")


def card() -> dict[str, Any]:
    """The shipped networks' card: per network its digest, how it was trained, what it was measured at."""
    return tomllib.loads((files("orsanet_cache.demo") / "weights" / CARD).read_text(encoding="utf-8"))
