"""Weights files: read safely, checked strictly, identified by a digest of their content.

Published files are pickles. They are always opened with torch's restricted unpickler and a fixed
allow-list. This package's files are safetensors. Their header has the network's sizes if they
differ from the published ones.
"""

import hashlib
import pickle
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from orsanet_cache.errors import OrsanetError, listed, refuse_shortage
from orsanet_cache.paths import StrPath, as_path
from orsanet_cache.reading import open_regular

# Keys under which the published training scripts keep the tensors, innermost last.
CONTAINERS = ("state_dict_backbone", "state_dict", "model_state_dict")


class Recorder:
    """Stands for the objects of POSTER V2's training script in its checkpoints, which are not used."""


# The published pickles' other contents: a Counter, numpy scalars and arrays. The functions that
# rebuild them have two names, one before and one since numpy 2.
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
_SAFE: list[Any] = [
    Counter,
    *((Recorder, f"__main__.{name}") for name in ("RecorderMeter", "RecorderMeter1")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    np.ndarray,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.bool_, np.int32, np.int64, np.float16, np.float32, np.float64)),
]

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Weights:
    """Named tensors of a file, and the strings of its safetensors header (empty for a pickle)."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def read_weights(path: StrPath) -> Weights:
    """Read a safetensors file or a published pickle container, on the CPU.

    Containers (`state_dict`, …) are opened and DataParallel's `module.` prefix is removed. Raises
    OrsanetError for a file that is missing, is damaged, contains types that are not allowed, or
    contains no tensors.
    """
    path = as_path(path, "weights")
    try:
        with open(open_regular(path), "rb") as file:
            start = file.read(9)
    except OSError as error:
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: weights cannot be read ({error.strerror})") from error
    metadata: dict[str, str] = {}
    if start[8:9] == b"{":  # eight bytes of header length (they may look like a pickle), then JSON
        tensors, metadata = _read_safetensors(path)
    elif start.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive or a bare pickle: torch.save, new and old
        tensors = _named_tensors(path, _unpickle(path))
    else:
        raise OrsanetError(
            f"{path}: neither a safetensors file nor one written by torch.save; check that the download is complete"
        )
    if not tensors:
        raise OrsanetError(f"{path}: no weights found; the file holds no tensors")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return Weights(path, tensors, metadata)


def load_strictly(network: nn.Module, weights: Weights) -> None:
    """Put the tensors into the network, in place.

    Raises OrsanetError, with every missing, extra or misshapen name, if they do not fit.
    """
    expected = network.state_dict()
    findings = [f"missing: {name} {list(expected[name].shape)}" for name in expected if name not in weights.tensors]
    findings += [f"extra: {name} {list(t.shape)}" for name, t in weights.tensors.items() if name not in expected]
    for name, tensor in weights.tensors.items():
        if name not in expected:
            continue
        if tensor.shape != expected[name].shape:
            findings.append(f"misshapen: {name} is {list(tensor.shape)}, the network has {list(expected[name].shape)}")
        elif tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
            findings.append(f"not plain numbers: {name}")
        elif not tensor.isfinite().all():
            findings.append(f"not finite: {name}")
    if findings:
        kind = type(network).__name__
        raise OrsanetError(f"{weights.path}: these are not weights of this {kind}:\n{listed(findings)}")
    network.load_state_dict(
        {name: tensor.detach().to(expected[name].dtype, copy=True) for name, tensor in weights.tensors.items()},
        strict=True,
        assign=True,
    )


def build_frozen(network_on_meta: Network, weights: Weights) -> Network:
    """Give a network on the meta device these weights; freeze it and set evaluation mode."""
    load_strictly(network_on_meta, weights)
    return network_on_meta.eval().requires_grad_(False)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, shapes, types and values.

    A pickle and the safetensors file made from it have the same digest.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _unpickle(path: Path) -> object:
    try:
        # An open file, because torch judges a path by its suffix. Torch's warnings about unusual
        # pickles do not concern this file.
        with path.open("rb") as file, torch.serialization.safe_globals(_SAFE), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = str(error).split("\n")[0].removeprefix("Weights only load failed. ")
        raise OrsanetError(
            f"{path}: refused, because it is damaged or holds more than tensors and plain values ({_offender(error) or what}); "
            f"ask its author for a safetensors file"
        ) from error
    except Exception as error:  # on damaged bytes the unpickler raises nearly every exception type
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: damaged weights file ({type(error).__name__}); download it again") from error


def _offender(error: pickle.UnpicklingError) -> str | None:
    """Return the forbidden type from torch's long message."""
    for line in str(error).splitlines():
        if "GLOBAL" in line:
            return line.strip()
    return None


def _named_tensors(path: Path, content: object, depth: int = 0) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for key in CONTAINERS:
            if isinstance(content.get(key), Mapping) and depth < 4:
                return _named_tensors(path, content[key], depth + 1)
        if content and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
            return dict(content)
        if content.keys() == {"state", "param_groups"}:
            raise OrsanetError(
                f"{path}: the state of an optimiser, not weights (POSTER V2's script writes it as model_best.pth); "
                "pass the script's other file, which has the model of the last epoch"
            )
        keys = ", ".join(repr(key) for key in list(content)[:8])
        raise OrsanetError(
            f"{path}: no weights found; expected tensors, or one of {', '.join(CONTAINERS)}; it has {keys}"
        )
    raise OrsanetError(f"{path}: holds a {type(content).__name__}, not named tensors")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return safetensors.torch.load_file(path), metadata
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:  # torch maps the file itself
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: damaged safetensors file ({error}); download or convert it again") from error
