"""The small frozen networks of the embedded default: which they are and where their weights lie.

They are SegFace's and MobileFaceNet's own code, trained on nothing but synthetic faces (`orsanet_cache.demo.training`). On real
faces they are out of their domain; the published weights are for those.
"""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, Literal

import safetensors
import tomli_w

from orsanet_cache.errors import OrsanetError

NetworkName = Literal["segmenter", "landmarks"]

# What `--segmenter demo` and `--landmarks demo` stand for.
DEMO = Path("demo")
_SHIPPED = Path(__file__).parent / "shipped_weights"
WEIGHTS = {"segmenter": "segmenter.safetensors", "landmarks": "landmarks.safetensors"}
CARD = "networks.toml"  # digests, training and measured quality of the shipped weights
TRAINING_KEY = "training"  # of a weights file's header: how the network was trained, as JSON
_PREFACE = "# Written by `orsanet-cache demo-quality --card`. Anyone may use these weights for anything.\n"


def weights_path(given: Path, network: NetworkName) -> Path:
    """The path as given, or the shipped weights for `demo`. Raises OrsanetError where those are damaged."""
    if given != DEMO:
        return given
    path = _SHIPPED / WEIGHTS[network]
    if not path.is_file() or _sha256(path) != card().get(network, {}).get("sha256"):
        raise OrsanetError(f"{path}: the shipped demo weights are missing or damaged; install the package again")
    return path


def write_card(folder: Path, quality: dict[str, Any]) -> None:
    """Write the card of the weights in `folder`: their digests, what their headers say of their training, what was measured.

    Raises OrsanetError for weights that were not written by `demo-train`.
    """
    content: dict[str, Any] = {}
    for network, file_name in WEIGHTS.items():
        path = folder / file_name
        content[network] = {"sha256": _sha256(path), "training": trained_how(path)}
    (folder / CARD).write_text(_PREFACE + tomli_w.dumps({**content, "quality": quality}), encoding="utf-8")


def trained_how(path: Path) -> dict[str, Any]:
    """What the header of weights by `demo-train` says of their training. Raises OrsanetError for any other file."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return json.loads((file.metadata() or {})[TRAINING_KEY])
    except OSError as error:
        raise OrsanetError(f"{path}: weights cannot be read ({error.strerror or error})") from error
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise OrsanetError(f"{path}: does not say how it was trained; `demo-train` writes weights that do") from error


def card() -> dict[str, Any]:
    """The shipped networks' card: per network its digest, how it was trained, what it was measured at."""
    try:
        return tomllib.loads((_SHIPPED / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OrsanetError(f"{_SHIPPED / CARD}: missing or damaged ({error}); install the package again") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
