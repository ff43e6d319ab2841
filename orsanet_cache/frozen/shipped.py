"""The small frozen networks of the embedded default: paths, digests and card of their weights.

They use the code of SegFace and MobileFaceNet and are trained on synthetic faces only
(`orsanet_cache.demo.training`). Real faces are outside their domain and need the published weights.
"""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

import safetensors
import tomli_w

from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import check_file
from orsanet_cache.reading import check_regular, json_of
from orsanet_cache.shortage import refuse_shortage

NetworkName = Literal["segmenter", "landmarks"]

# The value of `--segmenter demo` and `--landmarks demo`.
DEMO = Path("demo")
_SHIPPED = Path(__file__).parent / "shipped_weights"
WEIGHTS = {"segmenter": "segmenter.safetensors", "landmarks": "landmarks.safetensors"}
CARD = "networks.toml"  # digests, training and measured quality of the shipped weights
TRAINING_KEY = "training"  # of a weights file's header: the training's settings, as JSON
_PREFACE = "# Written by `orsanet-cache demo-quality --card`. Anyone may use these weights for anything.\n"


def weights_path(given: Path, network: NetworkName) -> Path:
    """Return the given path, or the shipped weights for `demo`.

    Raises OrsanetError if the shipped weights are missing or damaged.
    """
    if given != DEMO:
        return given
    path = _SHIPPED / WEIGHTS[network]
    if not path.is_file() or _sha256(path) != card().get(network, {}).get("sha256"):
        raise OrsanetError(f"{path}: the shipped demo weights are missing or damaged; install the package again")
    return path


def write_card(folder: Path, quality: dict[str, Any]) -> None:
    """Write the card of the weights in `folder`: digests, training settings, measured quality.

    Training settings are copied from the weights' headers. Raises OrsanetError for weights that
    `demo-train` did not write, and if another file has the card's name.
    """
    check_card(folder)
    content: dict[str, Any] = {}
    for network, file_name in WEIGHTS.items():
        path = folder / file_name
        content[network] = {"sha256": _sha256(path), "training": trained_how(path)}
    text = _PREFACE + tomli_w.dumps({**content, "quality": quality})
    write_whole(folder / CARD, lambda path: path.write_text(text, encoding="utf-8"))


def check_card(folder: Path) -> None:
    """Raises OrsanetError if the folder has a file with the card's name that is not a card."""
    check_file(folder / CARD, re.escape(_PREFACE.encode()), "a card of `orsanet-cache demo-quality`")


def trained_how(path: Path) -> dict[str, Any]:
    """Return the training settings from the header of weights that `demo-train` wrote.

    Raises OrsanetError for any other file.
    """
    try:
        check_regular(path)
        with safetensors.safe_open(path, framework="numpy") as file:
            settings = json_of((file.metadata() or {})[TRAINING_KEY].encode())
            if not isinstance(settings, dict) or "seed" not in settings:
                raise ValueError("no seed")
            return settings
    except OSError as error:
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: weights cannot be read ({error.strerror or error})") from error
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: has no training settings in its header; use weights of `demo-train`") from error


def card() -> dict[str, Any]:
    """Return the shipped networks' card: digest and training settings per network, and quality."""
    try:
        return tomllib.loads((_SHIPPED / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        refuse_shortage(error, _SHIPPED / CARD)
        raise OrsanetError(f"{_SHIPPED / CARD}: missing or damaged ({error}); install the package again") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
