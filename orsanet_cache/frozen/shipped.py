"""The small networks of the embedded default: paths, digests and cards of their weights.

The two frozen ones use the code of SegFace and MobileFaceNet (`orsanet_cache.demo.training`). The
backbone is IR50 in the size of the presets `small` and `demo`, a start for `orsanet-train run --ir50 demo`
(`orsanet_train.pretrain`). All are trained on synthetic faces only. Real faces are outside their
domain and need the published weights.
"""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

import safetensors
import tomli_w

from orsanet_cache.durable import write_whole
from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.outputs import check_file
from orsanet_cache.reading import check_regular, json_of

NetworkName = Literal["segmenter", "landmarks"]

# The value of `--segmenter demo`, `--landmarks demo` and `--ir50 demo`.
DEMO = Path("demo")
_SHIPPED = Path(__file__).parent / "shipped_weights"
WEIGHTS = {"segmenter": "segmenter.safetensors", "landmarks": "landmarks.safetensors"}
BACKBONE = "backbone.safetensors"
# Digests, training and measured quality of the weights: of the frozen networks, and of the backbone.
CARD, BACKBONE_CARD = "networks.toml", "backbone.toml"
TRAINING_KEY = "training"  # of a weights file's header: the training's settings, as JSON
_PREFACE = "# Written by `orsanet-cache demo-quality --card`. Anyone may use these weights for anything.\n"
_BACKBONE_PREFACE = "# Written by `orsanet-train pretrain`: a backbone for `orsanet-train run --ir50`.\n"


def weights_path(given: Path, network: NetworkName | Literal["backbone"]) -> Path:
    """Return the given path, or the shipped weights for `demo`.

    Raises OrsanetError if the shipped weights are missing or damaged.
    """
    if given != DEMO:
        return given
    path = _SHIPPED / (BACKBONE if network == "backbone" else WEIGHTS[network])
    written = backbone_card() if network == "backbone" else card().get(network, {})
    if not path.is_file() or _sha256(path) != written.get("sha256"):
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


def write_backbone_card(folder: Path, quality: dict[str, Any]) -> None:
    """Write the card of the backbone in `folder`: digest, training settings, measured quality.

    Raises OrsanetError as `write_card` does.
    """
    check_backbone_card(folder)
    path = folder / BACKBONE
    content = {"sha256": _sha256(path), "training": trained_how(path), "quality": quality}
    text = _BACKBONE_PREFACE + tomli_w.dumps(content)
    write_whole(folder / BACKBONE_CARD, lambda path: path.write_text(text, encoding="utf-8"))


def check_backbone_card(folder: Path) -> None:
    """Raises OrsanetError if the folder has a file with the card's name that is not a card."""
    check_file(folder / BACKBONE_CARD, re.escape(_BACKBONE_PREFACE.encode()), "a card of `orsanet-train pretrain`")


def trained_how(path: Path) -> dict[str, Any]:
    """Return the training settings from the header of weights that `demo-train` or `pretrain` wrote.

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
        raise OrsanetError(
            f"{path}: has no training settings in its header; use weights of `demo-train` or `pretrain`"
        ) from error


def card() -> dict[str, Any]:
    """Return the frozen networks' card: digest and training settings per network, and quality."""
    return _read(_SHIPPED / CARD)


def backbone_card() -> dict[str, Any]:
    """Return the backbone's card: digest, training settings and quality."""
    return _read(_SHIPPED / BACKBONE_CARD)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: missing or damaged ({error}); install the package again") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
